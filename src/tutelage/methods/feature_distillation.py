"""Distillation of a teacher's inner features, jointly with the task."""

from __future__ import annotations

from tutelage.methods.base import Method


class FeatureDistillation(Method):
    """The task's objective and one between paired layers of the network and a frozen teacher, see `objectives.paired_features`."""
