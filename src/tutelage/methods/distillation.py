"""Distillation of a teacher's outputs: soft targets, logit matching, decoupled; also across label spaces."""

from __future__ import annotations

from tutelage.methods.base import Method


class Distillation(Method):
    """The task's objective and one on a frozen teacher's output on the same batch, see `objectives.compared_outputs`."""
