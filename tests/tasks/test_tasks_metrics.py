"""Metrics by name are those of scikit-learn, for any batches; what does not exist or fit is refused with the choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as of
from torch import Tensor

from tutelage.errors import UserError
from tutelage.tasks import Batch, Binary, Classification, Forecasting, MultiLabel, Regression, Task, Tokens
from tutelage.tasks.metrics import METRICS

ROWS, CLASSES = 61, 4


def ece(confidence: np.ndarray, right: np.ndarray) -> float:
    """Gap of confidence and accuracy in 15 bins of equal width, weighted by their sizes (Guo et al. 2017)."""
    bins = np.minimum((confidence * 15).astype(int), 14)
    parts = [(bins == b) for b in range(15)]
    return float(sum(abs(confidence[p].mean() - right[p].mean()) * p.mean() for p in parts if p.any()))


def classes(generator: torch.Generator) -> tuple[Task, Tensor, Tensor, dict[str, Callable[[], float]]]:
    output = torch.randn(ROWS, CLASSES, generator=generator) * 2
    targets = torch.randint(CLASSES - 1, (ROWS,), generator=generator)  # the last class has no sample
    y, p = targets.numpy(), output.softmax(1).double().numpy()
    answer, there = p.argmax(1), range(CLASSES - 1)
    one_hot = np.eye(CLASSES)[y]
    return Classification(CLASSES), output, targets, {
        "f1": lambda: of.f1_score(y, answer, average="macro"),
        "f1_micro": lambda: of.f1_score(y, answer, average="micro"),
        "f1_weighted": lambda: of.f1_score(y, answer, average="weighted"),
        "precision": lambda: of.precision_score(y, answer, average="macro", zero_division=0),
        "balanced_accuracy": lambda: np.mean([(answer[y == c] == c).mean() for c in there]),
        "auroc": lambda: np.mean([of.roc_auc_score(y == c, p[:, c]) for c in there]),
        "average_precision": lambda: np.mean([of.average_precision_score(y == c, p[:, c]) for c in there]),
        "mcc": lambda: of.matthews_corrcoef(y, answer),
        "kappa": lambda: of.cohen_kappa_score(y, answer),
        "brier": lambda: ((p - one_hot) ** 2).sum(1).mean(),
        "ece": lambda: ece(p.max(1), answer == y),
    }  # fmt: skip


def binary(generator: torch.Generator) -> tuple[Task, Tensor, Tensor, dict[str, Callable[[], float]]]:
    output, targets = (
        torch.randn(ROWS, 1, generator=generator),
        torch.randint(2, (ROWS,), generator=generator),
    )
    y, p = targets.numpy(), output[:, 0].sigmoid().double().numpy()
    answer = p > 0.5
    return Binary(), output, targets, {
        "f1": lambda: of.f1_score(y, answer),
        "precision": lambda: of.precision_score(y, answer),
        "recall": lambda: of.recall_score(y, answer),
        "balanced_accuracy": lambda: of.balanced_accuracy_score(y, answer),
        "auroc": lambda: of.roc_auc_score(y, p),
        "average_precision": lambda: of.average_precision_score(y, p),
        "mcc": lambda: of.matthews_corrcoef(y, answer),
        "brier": lambda: of.brier_score_loss(y, p),
        "accuracy": lambda: (answer == y).mean(),
        "loss": lambda: of.log_loss(y, p),
    }  # fmt: skip


def labels(generator: torch.Generator) -> tuple[Task, Tensor, Tensor, dict[str, Callable[[], float]]]:
    output = torch.randn(ROWS, 3, generator=generator)
    targets = (torch.rand(ROWS, 3, generator=generator) < torch.tensor([0.5, 0.2, 0.0])).float()
    y, p = targets.int().numpy(), output.sigmoid().double().numpy()
    answer = p > 0.5
    return MultiLabel(3), output, targets, {
        "accuracy": lambda: (answer == y).mean(),
        "f1": lambda: of.f1_score(y, answer, average="macro", zero_division=0),
        "f1_micro": lambda: of.f1_score(y, answer, average="micro"),
        "exact_match": lambda: of.accuracy_score(y, answer),
        "auroc": lambda: np.mean([of.roc_auc_score(y[:, k], p[:, k]) for k in range(2)]),
        "average_precision": lambda: np.mean([of.average_precision_score(y[:, k], p[:, k]) for k in range(2)]),
        "brier": lambda: ((p - y) ** 2).mean(),
        "loss": lambda: np.mean([of.log_loss(y[:, k], p[:, k], labels=[0, 1]) for k in range(3)]),
    }  # fmt: skip


def values(generator: torch.Generator) -> tuple[Task, Tensor, Tensor, dict[str, Callable[[], float]]]:
    output, targets = torch.randn(2, ROWS, 2, generator=generator)
    targets = targets + 0.5 * output
    y, p = (x.double().numpy() * [100.0, 1.0] for x in (targets, output))
    return Regression(2, scale=[100.0, 1.0]), output, targets, {
        "mse": lambda: of.mean_squared_error(y, p),
        "mae": lambda: of.mean_absolute_error(y, p),
        "rmse": lambda: of.mean_squared_error(y, p) ** 0.5,
        "r2": lambda: of.r2_score(y, p),
        "pearson": lambda: np.mean([stats.pearsonr(y[:, k], p[:, k])[0] for k in range(2)]),
        "spearman": lambda: np.mean([stats.spearmanr(y[:, k], p[:, k])[0] for k in range(2)]),
        "loss": lambda: of.mean_squared_error(targets, output),
    }  # fmt: skip


@pytest.mark.parametrize("size", [ROWS, 7, 1])
@pytest.mark.parametrize("make", [classes, binary, labels, values])
def test_they_are_those_of_scikit_learn_for_any_batches(make: Any, size: int) -> None:
    task, output, targets, reference = make(torch.Generator().manual_seed(1))
    task.ask([name for name in reference if name in METRICS])
    metrics = task.metrics()
    for _ in range(2):  # a second evaluation starts afresh
        metrics.reset()
        for rows in torch.arange(ROWS).split(size):
            metrics.update(output[rows], Batch(output[rows], targets[rows], rows))
        found = metrics.compute()
    assert found == pytest.approx(
        {**found, **{k: float(f()) for k, f in reference.items()}}, rel=2e-4, abs=1e-5
    )


def test_classes_are_named_and_a_matrix_is_no_number() -> None:
    task, output, targets, _ = classes(torch.Generator().manual_seed(1))
    task.class_names = ["a", "b", "c", "d"]
    task.ask(["class_accuracy", "confusion_matrix"])
    metrics = task.metrics()
    metrics.update(output, Batch(output, targets, targets))
    answer = output.argmax(1)
    assert metrics.compute()["class_accuracy/b"] == pytest.approx(
        float((answer[targets == 1] == 1).float().mean())
    )
    assert "class_accuracy/d" not in metrics.compute()  # it has no sample
    assert metrics.arrays() == {
        "confusion_matrix": of.confusion_matrix(targets, answer, labels=range(4)).tolist()
    }


def test_every_metric_can_be_built_for_every_kind_that_it_names() -> None:
    tasks: list[Task] = [
        Classification(3),
        Binary(),
        MultiLabel(3),
        Regression(2),
        Forecasting(3, 2),
        Tokens(7),
    ]
    assert {kind for metric in METRICS.values() for kind in metric.kinds} == {task.kind for task in tasks}
    for task in tasks:
        fitting = [name for name, metric in METRICS.items() if task.kind in metric.kinds]
        if task.output_size < 5:
            fitting = [name for name in fitting if name != "top5_accuracy"]
        task.ask(fitting)
        assert {name for name in task.metrics().asked if METRICS[name].mode} <= set(task.directions())


@pytest.mark.parametrize(
    "task, monitor, mode",
    [(Classification(3), "ece", "min"), (Classification(3), "loss", "min"), (Regression(), "r2", "max"), (Regression(), "mae", "min"),
     (Tokens(9), "perplexity", "min"), (MultiLabel(2), "auroc", "max"), (Forecasting(2, 2), "rmse", "min")],
)  # fmt: skip
def test_any_of_them_selects_in_its_own_direction(task: Task, monitor: str, mode: str) -> None:
    task.ask([], monitor)
    assert (task.monitor, task.mode, task.directions()[monitor]) == (monitor, mode, mode)


@pytest.mark.parametrize(
    "task, names, monitor, said",
    [(Classification(3), ["f2"], None, "there is no metric 'f2'; did you mean 'f1'"),
     (Classification(3), ["r2"], None, "'r2' does not fit a task of classification"),
     (Regression(), ["f1"], None, "'f1' does not fit a task of regression.*mae"),
     (Classification(3), ["top5_accuracy"], None, "needs at least 5 classes"),
     (Tokens(5000), ["f1"], None, "5000 tokens are too many"),
     (Classification(3), [], "confusion_matrix", "`monitor`=confusion_matrix is no one number")],
)  # fmt: skip
def test_what_does_not_exist_or_fit_is_refused_with_the_choices(
    task: Task, names: list[str], monitor: str | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        task.ask(names, monitor)


def test_training_batches_are_not_judged_by_what_was_asked_for() -> None:
    task = Classification(3)
    task.ask(["auroc"])
    assert list(task.metrics(asked=False).asked) == [] and list(task.metrics().asked) == ["auroc"]
