"""Means that count each value once, whatever the batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """Mean of values, each counted once: the same for any batch split and number of ranks.

    torchmetrics' own MeanMetric drops the weights of its batches where it is told to leave NaN alone.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values of any shape."""
        self.total += values.float().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """Return their mean."""
        return self.total / self.count


class RowMean(Mean):
    """Mean over rows of the mean squared (or absolute) error. scale (outputs,): what errors are multiplied by first."""

    scale: Tensor | None

    def __init__(self, *, squared: bool, scale: Tensor | None = None) -> None:
        super().__init__()
        self.squared = squared
        self.register_buffer("scale", scale, persistent=False)

    def update(self, predictions: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        """Add rows (m, outputs)."""
        error = predictions.float() - targets.float()
        if self.scale is not None:
            error = error * self.scale
        super().update((error.square() if self.squared else error.abs()).mean(dim=1))
