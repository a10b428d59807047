"""Classes as targets: one of many, one of two by a single output, or any number of labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from tutelage.errors import UserError
from tutelage.tasks.base import Batch, Task, counted, kl_at_temperature, mean_of_counted
from tutelage.tasks.means import Mean


class Classification(Task):
    """One class for each sample: cross-entropy, accuracy, and top-5 accuracy beyond ten classes.

    num_classes: number of classes, at least 2. label_smoothing: 0 to 1, applied to the loss alone.
    """

    name = "classification"
    kind = "classes"

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
        return counted(output, batch)

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: cross-entropy in nats."""
        return F.cross_entropy(predictions, targets, reduction="none", label_smoothing=self.label_smoothing)

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: KL divergence at the temperature, times its square."""
        if output.shape != teacher_output.shape:
            raise UserError(
                f"soft targets need a teacher of the same classes: the network returns {output.shape[1]}, "
                f"the teacher {teacher_output.shape[1]}"
            )
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        return kl_at_temperature(mine, theirs, temperature, batch)

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        parts: list[tuple[str, Metric]] = [
            ("accuracy", MulticlassAccuracy(self.output_size, average="micro", validate_args=False))
        ]
        if self.output_size > 10:
            top5 = MulticlassAccuracy(self.output_size, average="micro", top_k=5, validate_args=False)
            parts.append(("top5_accuracy", top5))
        return parts

    def measured(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `Task.measured`: probabilities (m, classes)."""
        return predictions.float().softmax(dim=1), targets


class NoTargets(Task):
    """Samples alone, such as a folder of images without classes: for what reads no targets. A network's output has one number."""

    name = "no targets"
    kind = ""

    def __init__(self) -> None:
        self.output_size = 1
        self.monitor, self.mode = "loss", "min"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: nothing counts."""
        raise UserError("these data have no targets")

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`."""
        raise UserError("these data have no targets")

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`."""
        raise UserError("these data have no targets")

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`: none."""
        return []


class Binary(Task):
    """One of two classes, 0 or 1, by one output, the logit of class 1 (the positive one): binary cross-entropy, accuracy.

    Losses and metrics see the two logits (0, output), of which cross-entropy is the same, so that what compares classes works here too.
    label_smoothing: as of `Classification`.
    """

    name = "binary classification"
    kind = "binary"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.output_size, self.num_classes = 1, 2
        self.label_smoothing = label_smoothing
        self.monitor, self.mode = "accuracy", "max"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: logits (m, 2), of which the first is 0, and targets (m,)."""
        if output.ndim != 2 or output.shape[1] != 1:
            raise UserError(
                f"the network must return ({len(batch.targets)}, 1), the logit of the second class, got {tuple(output.shape)}"
            )
        return counted(F.pad(output, (1, 0)), batch)

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: binary cross-entropy in nats."""
        return F.cross_entropy(predictions, targets, reduction="none", label_smoothing=self.label_smoothing)

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: KL divergence of the two Bernoulli distributions at the temperature, times its square."""
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        return kl_at_temperature(mine, theirs, temperature, batch)

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`."""
        return [("accuracy", MulticlassAccuracy(2, average="micro", validate_args=False))]

    def measured(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `Task.measured`: the probability (m,) of class 1."""
        return predictions.float().softmax(dim=1)[:, 1], targets


class MultiLabel(Task):
    """Any number of `labels`, each there or not: binary cross-entropy as a mean over labels; selected by the mean average precision.

    labels: how many, at least 1. Targets are (n, labels) of 0 and 1.
    """

    name = "multi-label classification"
    kind = "labels"
    usual = ("average_precision", "f1")

    def __init__(self, labels: int) -> None:
        if labels < 1:
            raise UserError(f"a multi-label task needs at least 1 label, got {labels}")
        self.output_size = labels
        self.monitor, self.mode = "average_precision", "max"

    def select(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Task.select`: logits and targets (m, labels) of the samples that count."""
        if output.shape != batch.targets.shape:
            raise UserError(
                f"the network must return {tuple(batch.targets.shape)} logits, one for each label, got {tuple(output.shape)}"
            )
        return counted(output, batch)

    def pointwise(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """See `Task.pointwise`: binary cross-entropy in nats, mean over labels."""
        return F.binary_cross_entropy_with_logits(predictions, targets, reduction="none").mean(dim=1)

    def soft_loss(self, output: Tensor, teacher_output: Tensor, batch: Batch, temperature: float) -> Tensor:
        """See `Task.soft_loss`: KL divergence of each label's Bernoulli distribution at the temperature, mean over labels, times T^2."""
        mine, _ = self.select(output, batch)
        theirs, _ = self.select(teacher_output, batch)
        z, q = mine.float() / temperature, theirs.float() / temperature
        # with p = sigmoid(q): KL = p (log p - log s) + (1 - p) (log (1 - p) - log (1 - s))
        p = q.sigmoid()
        points = p * (F.logsigmoid(q) - F.logsigmoid(z)) + (1 - p) * (F.logsigmoid(-q) - F.logsigmoid(-z))
        return mean_of_counted(points.mean(dim=1), batch) * temperature**2

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """See `Task.metric_parts`: the share of labels that are right."""
        return [("accuracy", _RightLabels())]

    def measured(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `Task.measured`: probabilities (m, labels), and targets as whole numbers."""
        return predictions.float().sigmoid(), targets.long()


class _RightLabels(Mean):
    def update(self, predictions: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        super().update((predictions > 0) == (targets > 0.5))
