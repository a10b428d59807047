"""Guided learning: the network learns its task and aligns its layers with those of a frozen guide."""

from __future__ import annotations

from tutelage.methods.base import Method


class Guidance(Method):
    """The task's objective and alignment (arXiv 2410.20035), see `objectives.alignment`."""
