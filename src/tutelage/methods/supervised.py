"""Plain training on the task's loss: the baseline, pseudo pre-training and fine-tuning."""

from __future__ import annotations

from tutelage.methods.base import Method


class Supervised(Method):
    """The task's objective alone. Where the data are pseudo samples this is pseudo pre-training; from given weights, fine-tuning."""
