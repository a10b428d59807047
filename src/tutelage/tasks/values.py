"""Values as targets: numbers of a sample, or of series ahead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from tutelage.errors import UserError
from tutelage.tasks.base import Batch, Task, counted, mean_of_counted
from tutelage.tasks.means import RowMean


class _Values(Task):
    """Squared error in the scaled unit of the data, mean over a row."""

    kind = "values"

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: the mean squared error of each row."""
        return (predictions - targets).square().mean(dim=1)

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: mean squared distance from the teacher's values where targets count; a temperature has no meaning here."""
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        return mean_of_counted(self.pointwise(mine, theirs), batch)


class Regression(_Values):
    """One or several numbers of each sample: squared error, mean over `outputs`.

    outputs: how many. scale: of each output, by which targets were divided: loss in the scaled unit, metrics in the targets' own; None:
    they were not. Targets are (n, outputs).
    """

    name = "regression"
    usual = ("r2",)

    def __init__(self, outputs: int = 1, scale: Sequence[float] | None = None) -> None:
        if outputs < 1 or (scale is not None and (len(scale) != outputs or min(scale) <= 0)):
            raise UserError(
                f"a regression needs outputs >= 1, each with a positive scale, got {outputs} and {scale}"
            )
        self.output_size = outputs
        self.scale = None if scale is None else torch.tensor(list(scale), dtype=torch.float32)
        self.monitor, self.mode = "mse", "min"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: both as (m, outputs)."""
        predictions = output.reshape(len(output), -1)
        if predictions.shape != batch.targets.shape:
            raise UserError(
                f"the network must return {tuple(batch.targets.shape)} values, got {tuple(output.shape)}"
            )
        return counted(predictions, batch)

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        return [
            ("mse", RowMean(squared=True, scale=self.scale)),
            ("mae", RowMean(squared=False, scale=self.scale)),
        ]

    def measured(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `Task.measured`: in the targets' own unit, up to a shift."""
        scale = 1.0 if self.scale is None else self.scale.to(predictions.device)
        return predictions.float() * scale, targets.float() * scale


class Forecasting(_Values):
    """Values of `channels` series over `horizon` steps ahead: mean squared error, and mean absolute error beside."""

    name = "forecasting"

    def __init__(self, horizon: int, channels: int) -> None:
        self.horizon, self.channels = horizon, channels
        self.output_size = horizon * channels
        self.monitor, self.mode = "mse", "min"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: both as (windows, horizon * channels); with a mask as (values, 1), those that count."""
        predictions = output.reshape(len(output), -1)
        if predictions.shape[1] != self.output_size:
            raise UserError(
                f"the network must return horizon x channels = {self.horizon} x {self.channels} values per window, "
                f"got {tuple(output.shape)}"
            )
        targets = batch.targets.reshape(len(output), -1)
        if batch.target_mask is None:
            return predictions, targets
        keep = batch.target_mask.reshape(len(output), -1)
        return predictions[keep][:, None], targets[keep][:, None]

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        return [("mse", RowMean(squared=True)), ("mae", RowMean(squared=False))]
