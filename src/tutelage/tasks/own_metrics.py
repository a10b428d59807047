"""Metrics that torchmetrics has not, or not so: over what is present, from counts, in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tutelage.tasks.means import Mean, RowMean


class OfPresent(Metric):
    """The mean of a ranking metric over the classes (or labels) that have both positive and negative samples; NaN where none has."""

    full_state_update = False
    positives: Tensor
    count: Tensor

    def __init__(self, ranking: Metric, size: int, *, one_of: bool) -> None:
        super().__init__()
        self.ranking, self.size, self.one_of = ranking, size, one_of
        self.add_state("positives", default=torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        self.ranking.update(probabilities, targets)
        rows = torch.bincount(targets, minlength=self.size) if self.one_of else targets.sum(dim=0)
        self.positives += rows
        self.count += len(targets)

    def compute(self) -> Tensor:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of absent classes, which are left out
            values = self.ranking.compute().reshape(-1)
        there = (self.positives > 0) & (self.positives < self.count)
        there = there[-1:] if len(values) == 1 else there
        return values[there].mean() if bool(there.any()) else torch.tensor(torch.nan)

    def reset(self) -> None:
        super().reset()
        self.ranking.reset()


class Recalls(Metric):
    """Recall of each class that has samples, from counts: as their mean (balanced accuracy), or each by the name of its class."""

    full_state_update = False
    right: Tensor
    of: Tensor

    def __init__(self, size: int, names: Sequence[str] | None) -> None:
        super().__init__()
        self.size, self.names = size, names
        self.add_state("right", default=torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("of", default=torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        if probabilities.ndim == 1:  # of the second of two classes
            answer = (probabilities > 0.5).long()
        elif targets.ndim == 1:
            answer = probabilities.argmax(dim=1)
        else:  # labels: the share of samples on which each is right
            self.right += ((probabilities > 0.5) == (targets > 0)).sum(dim=0)
            self.of += len(targets)
            return
        self.of += torch.bincount(targets, minlength=self.size)
        self.right += torch.bincount(targets[answer == targets], minlength=self.size)

    def compute(self) -> Any:
        there = self.of > 0
        values = self.right[there].double() / self.of[there]
        if self.names is None:
            return values.mean()
        return dict(
            zip(
                [n for n, t in zip(self.names, there.tolist(), strict=True) if t],
                values.tolist(),
                strict=True,
            )
        )


class Brier(Mean):
    """Squared distance of the probabilities from what came (Brier 1950): summed over classes, of one probability or labels their mean."""

    def update(self, probabilities: Tensor, targets: Tensor) -> None:  # type: ignore[override]
        if probabilities.ndim == targets.ndim:
            super().update((probabilities - targets).square())
            return
        there = probabilities.gather(1, targets[:, None]).squeeze(1)
        super().update(probabilities.square().sum(dim=1) - 2 * there + 1)


class R2(Metric):
    """1 - squared error / variance, mean over outputs that vary; in double precision where the device has it, against the first sample."""

    full_state_update = False
    sums: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.add_state("seen", default=[], dist_reduce_fx="cat")
        self.seen: list[Tensor]

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.seen.append(torch.stack([predictions, targets], dim=1).cpu())

    def compute(self) -> Tensor:
        rows = torch.cat(list(self.seen)) if isinstance(self.seen, list) else self.seen
        predictions, targets = rows.double().unbind(dim=1)
        error = (predictions - targets).square().sum(dim=0)
        spread = (targets - targets.mean(dim=0)).square().sum(dim=0)
        there = spread > 0
        return (1 - error[there] / spread[there]).mean() if bool(there.any()) else torch.tensor(torch.nan)


class Root(RowMean):
    """The root of the mean squared error."""

    def compute(self) -> Tensor:
        return super().compute().sqrt()


class MeanOfOutputs(Metric):
    """The mean over outputs of a metric that gives one value for each."""

    full_state_update = False

    def __init__(self, inner: Metric) -> None:
        super().__init__()
        self.inner = inner

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        if predictions.shape[1] == 1:
            predictions, targets = predictions[:, 0], targets[:, 0]
        self.inner.update(predictions, targets)

    def compute(self) -> Tensor:
        return self.inner.compute().mean()

    def reset(self) -> None:
        super().reset()
        self.inner.reset()
