"""A regulariser without any guide: the intrinsic dimension of the network's layers."""

from __future__ import annotations

from tutelage.methods.base import Method


class IntrinsicDimension(Method):
    """The task's objective and the mean intrinsic dimension of the network's layers, see `objectives.dimension`."""
