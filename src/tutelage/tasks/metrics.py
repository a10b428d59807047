"""Metrics by name: what each is, which tasks it is for, and which way is better. torchmetrics' own wherever it has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol

import torchmetrics.classification as of_classes
import torchmetrics.regression as of_values
from torchmetrics import Metric

from tutelage.errors import UserError, choices
from tutelage.tasks.means import RowMean
from tutelage.tasks.own_metrics import R2, Brier, MeanOfOutputs, OfPresent, Recalls, Root

ECE_BINS = 15  # Guo et al. 2017, arXiv 1706.04599
FEW_TOKENS = 100
"""Of larger vocabularies, no metric is computed token by token."""
_FAMILIES = {"classes": "Multiclass", "tokens": "Multiclass", "binary": "Binary", "labels": "Multilabel"}


class Measured(Protocol):
    """What metrics see of a task; see `base.Task`, which each is."""

    name: ClassVar[str]
    kind: ClassVar[str]
    usual: ClassVar[tuple[str, ...]]
    monitor: str
    mode: Literal["max", "min"]
    output_size: int
    asked: tuple[str, ...]
    class_names: Sequence[str] | None

    def metric_parts(self) -> list[tuple[str, Metric]]:
        """Return the streaming metrics beside the loss, by name."""

    def derive(self, values: dict[str, float]) -> dict[str, float]:
        """Add the metrics that are functions of others."""


@dataclass(frozen=True)
class Named:
    """One metric. mode: which way is better; None: it is no one number, and selects nothing. make: builds it for a task of `kinds`."""

    mode: Literal["max", "min"] | None
    kinds: tuple[str, ...]
    make: Callable[[Measured], Metric]


def _classes_of(task: Measured) -> dict[str, int]:
    return {
        "classes": {"num_classes": task.output_size},
        "tokens": {"num_classes": task.output_size},
        "labels": {"num_labels": task.output_size},
    }.get(task.kind, {})


def _standard(name: str, average: str | None = None, **options: Any) -> Callable[[Measured], Metric]:
    def make(task: Measured) -> Metric:
        how = {"average": average} if average and task.kind != "binary" else {}
        kind = getattr(of_classes, f"{_FAMILIES[task.kind]}{name}")
        return kind(**_classes_of(task), **how, **options, validate_args=False)

    return make


def _ranking(name: str) -> Callable[[Measured], Metric]:
    def make(task: Measured) -> Metric:
        average = {} if task.kind == "binary" else {"average": None}
        kind = getattr(of_classes, f"{_FAMILIES[task.kind]}{name}")
        ranking = kind(**_classes_of(task), **average, validate_args=False)
        size = 2 if task.kind == "binary" else task.output_size
        return OfPresent(ranking, size, one_of=task.kind != "labels")

    return make


def _recalls(task: Measured, *, each: bool) -> Metric:
    size = 2 if task.kind == "binary" else task.output_size
    names = (
        task.class_names
        if task.class_names and len(task.class_names) == size
        else [str(i) for i in range(size)]
    )
    return Recalls(size, list(map(str, names)) if each else None)


_SINGLE, _ONE = ("classes", "binary"), ("classes", "binary", "tokens")
_ANY = (*_ONE, "labels")
METRICS: dict[str, Named] = {
    "f1": Named("max", _ANY, _standard("F1Score", "macro")),
    "f1_micro": Named("max", ("classes", "labels"), _standard("F1Score", "micro")),
    "f1_weighted": Named("max", ("classes", "labels"), _standard("F1Score", "weighted")),
    "precision": Named("max", _ANY, _standard("Precision", "macro")),
    "recall": Named("max", _ANY, _standard("Recall", "macro")),
    "specificity": Named("max", _ANY, _standard("Specificity", "macro")),
    "jaccard": Named("max", _ANY, _standard("JaccardIndex", "macro")),
    "balanced_accuracy": Named("max", _ONE, partial(_recalls, each=False)),
    "class_accuracy": Named(None, _ANY, partial(_recalls, each=True)),
    "top5_accuracy": Named("max", ("classes", "tokens"), _standard("Accuracy", "micro", top_k=5)),
    "exact_match": Named("max", ("labels",), _standard("ExactMatch")),
    "auroc": Named("max", (*_SINGLE, "labels"), _ranking("AUROC")),
    "average_precision": Named("max", (*_SINGLE, "labels"), _ranking("AveragePrecision")),
    "mcc": Named("max", _SINGLE, _standard("MatthewsCorrCoef")),
    "kappa": Named("max", _SINGLE, _standard("CohenKappa")),
    "ece": Named("min", _ONE, _standard("CalibrationError", n_bins=ECE_BINS, norm="l1")),
    "brier": Named("min", _ANY, lambda task: Brier()),
    "confusion_matrix": Named(None, _ANY, _standard("ConfusionMatrix")),
    "mse": Named("min", ("values",), lambda task: RowMean(squared=True)),
    "mae": Named("min", ("values",), lambda task: RowMean(squared=False)),
    "rmse": Named("min", ("values",), lambda task: Root(squared=True)),
    "r2": Named("max", ("values",), lambda task: R2(task.output_size)),
    "mape": Named("min", ("values",), lambda task: MeanOfOutputs(of_values.MeanAbsolutePercentageError())),
    "smape": Named(
        "min", ("values",), lambda task: MeanOfOutputs(of_values.SymmetricMeanAbsolutePercentageError())
    ),
    "pearson": Named(
        "max", ("values",), lambda task: MeanOfOutputs(of_values.PearsonCorrCoef(_outputs(task)))
    ),
    "spearman": Named(
        "max", ("values",), lambda task: MeanOfOutputs(of_values.SpearmanCorrCoef(_outputs(task)))
    ),
}
"""Every metric that can be asked for. Of classes and labels: macro averages where the name does not say otherwise; of two classes by one
output: of the positive class. A ranking metric keeps every probability of a split in memory."""
_EVERY_TOKEN = (
    "f1",
    "precision",
    "recall",
    "specificity",
    "jaccard",
    "balanced_accuracy",
    "class_accuracy",
    "confusion_matrix",
)
_OWN = {
    "loss": "min",
    "accuracy": "max",
    "top5_accuracy": "max",
    "perplexity": "min",
    "mse": "min",
    "mae": "min",
}
"""Which way what tasks compute anyway is better."""


def _outputs(task: Measured) -> int:
    return task.output_size


def ask(task: Measured, names: Sequence[str], monitor: str | None) -> None:
    """See `Task.ask`."""
    own = list(_own(task))
    for name in names:
        if name in own:
            continue
        _check(task, name, own)
    named = [name for name in dict.fromkeys(names) if name not in own]
    if monitor is not None:
        if monitor not in own and monitor not in named:
            _check(task, monitor, own)
            named.append(monitor)
        mode = _OWN.get(monitor) if monitor in own else METRICS[monitor].mode
        mode = mode or (METRICS[monitor].mode if monitor in METRICS else None)
        if mode is None:
            one = [name for name, metric in METRICS.items() if metric.mode and task.kind in metric.kinds]
            raise UserError(
                f"`monitor`={monitor} is no one number, so it cannot select; {choices(monitor, [*own, *one])}"
            )
        task.monitor, task.mode = monitor, "max" if mode == "max" else "min"
    task.asked = tuple(named)


def _own(task: Measured) -> list[str]:
    """The metrics that a task computes anyway."""
    names = ["loss", *(name for name, _ in task.metric_parts()), *task.usual]
    return [*names, *(name for name in task.derive(dict.fromkeys(names, 0.0)) if name not in names)]


def directions(task: Measured) -> dict[str, str]:
    """See `Task.directions`."""
    names = dict.fromkeys((*_own(task), *task.asked))
    found = {name: (METRICS[name].mode if name in METRICS else None) or _OWN.get(name) for name in names}
    return {name: mode for name, mode in found.items() if mode} | {task.monitor: task.mode}


def _check(task: Measured, name: str, own: Sequence[str]) -> None:
    fitting = [*own] + [one for one, metric in METRICS.items() if task.kind in metric.kinds]
    if name not in METRICS:
        raise UserError(f"there is no metric '{name}'; {choices(name, fitting, limit=40)}")
    if task.kind not in METRICS[name].kinds:
        raise UserError(
            f"the metric '{name}' does not fit a task of {task.name}; {choices(name, fitting, limit=40)}"
        )
    if name == "top5_accuracy" and task.output_size < 5:
        raise UserError(f"the metric 'top5_accuracy' needs at least 5 classes, there are {task.output_size}")
    if task.kind == "tokens" and name in _EVERY_TOKEN and task.output_size > FEW_TOKENS:
        raise UserError(
            f"the metric '{name}' is taken class by class, which {task.output_size} tokens are too many for"
        )
