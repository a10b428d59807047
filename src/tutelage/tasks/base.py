"""What a batch's targets mean: the loss, the loss against a teacher, the metrics, and which metric selects.

A method never asks whether the data are images or text: it asks the task. Imports nothing else of Tutelage but errors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from tutelage.tasks import metrics as by_name
from tutelage.tasks.means import Mean


class Batch(NamedTuple):
    """One mini-batch.

    inputs: images (n, C, H, W), tokens (n, length) int64, series (n, length, channels), or rows of a table (n, features).
    targets: classes (n,), tokens (n, length), series (n, horizon, channels), labels (n, labels) or values (n, outputs), both float32.
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

    def __init__(self, task: Task, *, asked: bool = True) -> None:
        super().__init__()
        self.task = task
        self.mean_loss = Mean()
        self.parts = nn.ModuleDict(dict(task.metric_parts()))
        named = task.named_metrics() if asked else {}
        self.asked = nn.ModuleDict({name: metric.make(task) for name, metric in named.items()})

    @torch.no_grad()
    def update(self, output: Tensor, batch: Batch) -> None:
        """Add one batch: output of the network, and the batch it was computed on."""
        predictions, targets = self.task.select(output, batch)
        if len(targets) == 0:
            return
        self.mean_loss.update(self.task.pointwise(predictions, targets))
        for part in self.parts.values():
            part.update(predictions, targets)  # type: ignore[operator]
        if self.asked:
            seen = self.task.measured(predictions, targets)
            for part in self.asked.values():
                part.update(*seen)  # type: ignore[operator]

    def compute(self) -> dict[str, float]:
        """Return every metric of the task by name, as plain floats; of one for each class, `<name>/<class>`."""
        values = {"loss": float(self.mean_loss.compute())}
        values |= {name: float(part.compute()) for name, part in self.parts.items()}  # type: ignore[operator]
        for name, part in self.asked.items():
            value = part.compute()  # type: ignore[operator]
            if isinstance(value, dict):
                values |= {f"{name}/{key}": float(one) for key, one in value.items()}
            elif value.ndim == 0:
                values[name] = float(value)
        return self.task.derive(values)

    def arrays(self) -> dict[str, Any]:
        """Return what was asked for that is no number, such as a confusion matrix, as nested lists."""
        found = {}
        for name, part in self.asked.items():
            value = part.compute()  # type: ignore[operator]
            if isinstance(value, Tensor) and value.ndim:
                found[name] = value.tolist()
        return found

    def reset(self) -> None:
        """Forget every batch seen."""
        self.mean_loss.reset()
        for part in (*self.parts.values(), *self.asked.values()):
            part.reset()  # type: ignore[operator]


class Task(ABC):
    """The meaning of a batch's targets. `output_size` is the width the network's output must have."""

    name: ClassVar[str]
    kind: ClassVar[str] = ""
    """What metrics by name are chosen by: "classes", "binary", "labels", "values", "tokens"; "": there are none."""
    usual: ClassVar[tuple[str, ...]] = ()
    """Metrics by name that are always computed on validation and test."""
    per_position: ClassVar[bool] = False  # whether the network answers at every position of a sequence
    monitor: str
    mode: Literal["max", "min"]
    output_size: int
    asked: tuple[str, ...] = ()
    class_names: Sequence[str] | None = None
    class_counts: Sequence[int] | None = None  # training samples of each class, where the data know

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

    def metrics(self, *, asked: bool = True) -> Metrics:
        """Return fresh streaming metrics of this task; asked: with those by name, which may cost more than the others."""
        return Metrics(self, asked=asked)

    def ask(self, names: Sequence[str], monitor: str | None = None) -> None:
        """Have metrics computed on validation and test by name, and one of them select. UserError for what does not exist or fit.

        names: see `tasks.metrics.METRICS`. monitor: one of them, or of what the task computes anyway; None: as the task has it.
        """
        by_name.ask(self, names, monitor)

    def named_metrics(self) -> Mapping[str, by_name.Named]:
        """Return the metrics by name that are computed beside `metric_parts`."""
        return {name: by_name.METRICS[name] for name in dict.fromkeys((*self.usual, *self.asked))}

    def directions(self) -> dict[str, str]:
        """Return "max" or "min" for each metric that is one number: which way is better."""
        return by_name.directions(self)

    def measured(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what metrics by name see of selected predictions and targets: probabilities, or values in the targets' own unit."""
        return predictions, targets

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Add the metrics that are functions of others, such as perplexity."""
        return values


def counted(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the rows of an output (n, ...), and their targets, that count in a batch."""
    keep = batch.target_mask
    return (output, batch.targets) if keep is None else (output[keep], batch.targets[keep])


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


def kl_at_temperature(output: Tensor, teacher_output: Tensor, temperature: float, batch: Batch) -> Tensor:
    """KL(teacher || output) of the softened distributions, times T^2, mean over rows (Hinton et al. 2015, arXiv 1503.02531)."""
    rows = softened_divergence(output.float(), teacher_output.float(), temperature)
    return mean_of_counted(rows, batch) * temperature**2


def softened_divergence(output: Tensor, teacher_output: Tensor, temperature: float) -> Tensor:
    """KL(teacher || output) of the distributions along the last axis, softened, of each row; in float32 or float64."""
    log_p = F.log_softmax(output / temperature, dim=-1)
    log_q = F.log_softmax(teacher_output / temperature, dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(dim=-1)
