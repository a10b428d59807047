"""What a batch's targets mean: the loss, the loss against a teacher, the metrics, and which metric selects.

A method never asks whether the data are images or text: it asks the task. Imports nothing else of Tutelage but errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from tutelage.errors import UserError


class Batch(NamedTuple):
    """One mini-batch.

    inputs: images (n, C, H, W), tokens (n, length) int64, or series (n, length, channels).
    targets: classes (n,), tokens (n, length), or series (n, horizon, channels).
    index: (n,) int64, the position of each sample in its underlying data set.
    mask: (n, length) bool, True where an input position is real; None means all are.
    target_mask: (n,) or (n, length) bool for classes and tokens, (n, horizon, channels) for series, True where a target counts in loss
    and metrics; None means as `mask`.
    """

    inputs: Tensor
    targets: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    mask: Tensor | None = None
    target_mask: Tensor | None = None


class Metrics(nn.Module):
    """Streaming metrics of one split: update per batch, compute once, each sample counted once over all ranks."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.mean_loss = _Mean()
        self.parts = nn.ModuleDict(dict(task.metric_parts()))

    @torch.no_grad()
    def update(self, output: Tensor, batch: Batch) -> None:
        """Add one batch: output of the network, and the batch it was computed on."""
        predictions, targets = self.task.select(output, batch)
        if len(targets) == 0:
            return
        self.mean_loss.update(self.task.pointwise(predictions, targets))
        for part in self.parts.values():
            part.update(predictions, targets)  # type: ignore[operator]

    def compute(self) -> dict[str, float]:
        """Return every metric of the task by name, as plain floats."""
        values = {"loss": float(self.mean_loss.compute())}
        values |= {name: float(part.compute()) for name, part in self.parts.items()}  # type: ignore[operator]
        return self.task.derive(values)

    def reset(self) -> None:
        """Forget every batch seen."""
        self.mean_loss.reset()
        for part in self.parts.values():
            part.reset()  # type: ignore[operator]


class Task(ABC):
    """The meaning of a batch's targets. `output_size` is the width the network's output must have."""

    name: ClassVar[str]
    per_position: ClassVar[bool] = False  # whether the network answers at every position of a sequence
    monitor: str
    mode: Literal["max", "min"]
    output_size: int

    @abstractmethod
    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the predictions (m, ...) and targets (m, ...) that count; UserError where the shapes cannot fit."""

    @abstractmethod
    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each selected prediction, (m,)."""

    @abstractmethod
    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """Return the loss of the output against a teacher's output on the same batch."""

    @abstractmethod
    def metric_parts(self) -> list[tuple[str, Metric]]:
        """Return the streaming metrics beside the loss, by name."""

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean task loss of one batch, see `mean_of_counted`."""
        points = self.pointwise(*self.select(output, batch))
        return mean_of_counted(points, batch)

    def metrics(self) -> Metrics:
        """Return fresh streaming metrics of this task."""
        return Metrics(self)

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Add the metrics that are functions of others, such as perplexity."""
        return values


def mean_of_counted(values: Tensor, batch: Batch) -> Tensor:
    """Return the mean over the first axis of values (m, ...) at what counts in a batch; 0, with a gradient of zeros, where nothing does.

    Ranks count different numbers of targets where targets are masked. In training each then divides by their mean number, so that
    the mean of the ranks' losses, and of their gradients, is that of one process on the whole batch.
    """
    is_masked = batch.mask is not None or batch.target_mask is not None
    if is_masked and torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        count = torch.full((), float(len(values)), device=values.device)
        dist.all_reduce(count)
        return values.sum(dim=0) * (dist.get_world_size() / count.clamp(min=1))
    return values.mean(dim=0) if len(values) else values.sum(dim=0)


def _kl_at_temperature(output: Tensor, teacher_output: Tensor, temperature: float, batch: Batch) -> Tensor:
    """KL(teacher || output) of the softened distributions, times T^2, mean over rows (Hinton et al. 2015, arXiv 1503.02531)."""
    log_p = F.log_softmax(output.float() / temperature, dim=-1)
    log_q = F.log_softmax(teacher_output.float() / temperature, dim=-1)
    rows = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=-1)
    return mean_of_counted(rows, batch) * temperature**2


class Classification(Task):
    """One class for each sample: cross-entropy, accuracy, and top-5 accuracy beyond ten classes.

    num_classes: number of classes, at least 2. label_smoothing: 0 to 1, applied to the loss alone.
    """

    name = "classification"

    def __init__(self, num_classes: int, label_smoothing: float = 0.0) -> None:
        if num_classes < 2:
            raise UserError(f"classification needs at least 2 classes, got {num_classes}")
        self.output_size = num_classes
        self.label_smoothing = label_smoothing
        self.monitor, self.mode = "accuracy", "max"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: logits (m, classes) and targets (m,) of the samples that count."""
        if output.ndim != 2 or output.shape[1] != self.output_size:
            raise UserError(
                f"the network must return ({len(batch.targets)}, {self.output_size}) logits for {self.output_size} classes, "
                f"got {tuple(output.shape)}"
            )
        keep = batch.target_mask
        return (output, batch.targets) if keep is None else (output[keep], batch.targets[keep])

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: cross-entropy in nats."""
        return F.cross_entropy(predictions, targets, reduction="none", label_smoothing=self.label_smoothing)

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: KL divergence at the temperature, times its square."""
        if output.shape != teacher_output.shape:
            raise UserError(
                f"soft targets need a teacher of the same classes: the network returns {output.shape[-1]}, "
                f"the teacher {teacher_output.shape[-1]}"
            )
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        return _kl_at_temperature(mine, theirs, temperature, batch)

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        parts: list[tuple[str, Metric]] = [
            ("accuracy", MulticlassAccuracy(self.output_size, average="micro", validate_args=False))
        ]
        if self.output_size > 10:
            top5 = MulticlassAccuracy(self.output_size, average="micro", top_k=5, validate_args=False)
            parts.append(("top5_accuracy", top5))
        return parts


class Tokens(Task):
    """One token for each position: language modelling, copying. Loss in nats per counted token.

    vocab_size: number of tokens the network chooses from. monitor: "accuracy" (max) or "perplexity" (min).
    next_token: each target is the token after, so that a network must not look ahead.
    """

    name = "tokens"
    per_position = True

    def __init__(
        self,
        vocab_size: int,
        monitor: Literal["accuracy", "perplexity"] = "accuracy",
        *,
        next_token: bool = False,
    ) -> None:
        if monitor not in ("accuracy", "perplexity"):
            raise UserError(f"a token task is selected by 'accuracy' or 'perplexity', got {monitor!r}")
        self.output_size, self.next_token = vocab_size, next_token
        self.monitor, self.mode = monitor, "max" if monitor == "accuracy" else "min"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: logits (m, vocabulary) and targets (m,) at the counted positions."""
        if output.shape != (*batch.targets.shape, self.output_size):
            raise UserError(
                f"the network must return one row of {self.output_size} logits per position, "
                f"{(*batch.targets.shape, self.output_size)}, got {tuple(output.shape)}"
            )
        keep = batch.mask if batch.target_mask is None else batch.target_mask
        if keep is None:
            return output.flatten(0, 1), batch.targets.flatten()
        return output[keep], batch.targets[keep]

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: cross-entropy in nats."""
        return F.cross_entropy(predictions, targets, reduction="none")

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: KL divergence at the counted positions."""
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        return _kl_at_temperature(mine, theirs, temperature, batch)

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        return [("accuracy", MulticlassAccuracy(self.output_size, average="micro", validate_args=False))]

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Add perplexity = exp(mean loss per token); beyond float range it is infinite, not an error."""
        return values | {"perplexity": float(torch.tensor(values["loss"], dtype=torch.float64).exp())}


class Forecasting(Task):
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

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: mean squared error of each row, in the scaled units of the data."""
        return (predictions - targets).square().mean(dim=1)

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: mean squared error to the teacher's forecast where targets count; the temperature has no meaning here."""
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        return mean_of_counted(self.pointwise(mine, theirs), batch)

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        return [("mse", _RowMean(squared=True)), ("mae", _RowMean(squared=False))]


class _Mean(Metric):
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
        self.total += values.float().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        return self.total / self.count


class _RowMean(_Mean):
    """Mean over rows of the mean squared (or absolute) error."""

    def __init__(self, *, squared: bool) -> None:
        super().__init__()
        self.squared = squared

    def update(self, predictions: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        error = predictions.float() - targets.float()
        super().update((error.square() if self.squared else error.abs()).mean(dim=1))
