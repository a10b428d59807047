"""Tasks and metrics at their bounds: sizes and shapes, what counts, absent classes, ties, which metric may select."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.classification import BinaryAUROC, MulticlassAUROC

from tutelage.errors import UserError
from tutelage.tasks import Batch, Binary, Classification, Forecasting, MultiLabel, Regression, Tokens
from tutelage.tasks.base import kl_at_temperature, mean_of_counted
from tutelage.tasks.means import Mean, RowMean
from tutelage.tasks.own_metrics import R2, Brier, MeanOfOutputs, OfPresent, Recalls, Root


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(targets, mask=None, counts=None):
    return Batch(torch.zeros(len(targets), 1), targets, torch.arange(len(targets)), mask, counts)


CLASSES = torch.tensor([0, 2, 1])


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Classification(1), "at least 2 classes, got 1"),
        (lambda: MultiLabel(0), "at least 1 label, got 0"),
        (lambda: Regression(0), "got 0 and None"),
        (lambda: Regression(2, [1.0]), r"got 2 and \[1.0\]"),
        (lambda: Regression(2, [1.0, 0.0]), "each with a positive scale"),
        (lambda: Tokens(5, "loss"), "selected by 'accuracy' or 'perplexity', got 'loss'"),
    ],
)
def test_a_task_of_nothing_is_refused(made, says):
    with pytest.raises(UserError, match=says):
        made()


def test_the_smallest_tasks_and_their_metrics():
    assert [[name for name, _ in Classification(n).metric_parts()] for n in (2, 10, 11)] == [
        ["accuracy"], ["accuracy"], ["accuracy", "top5_accuracy"],
    ]  # fmt: skip
    assert MultiLabel(1).output_size == 1 and Regression(1, [2.0]).scale.tolist() == [2]
    assert [(Tokens(3, name).monitor, Tokens(3, name).mode) for name in ("accuracy", "perplexity")] == [
        ("accuracy", "max"), ("perplexity", "min"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "targets", "fits", "wrong"),
    [
        (Classification(3), CLASSES, (3, 3), [(3,), (3, 2), (3, 3, 3)]),
        (Binary(), CLASSES.clamp(max=1), (3, 1), [(3,), (3, 2), (3, 1, 1)]),
        (MultiLabel(2), torch.ones(3, 2), (3, 2), [(3, 1), (3,)]),
        (Regression(2), torch.ones(3, 2), (3, 2), [(3, 1), (3, 3)]),
        (Forecasting(2, 2), torch.ones(3, 2, 2), (3, 2, 2), [(3, 3), (3, 5)]),
        (Tokens(4), torch.ones(3, 2, dtype=torch.long), (3, 2, 4), [(3, 4), (3, 2, 5), (3, 3, 4)]),
    ],
)
def test_outputs_have_the_shape_that_the_task_needs(task, targets, fits, wrong):
    predictions, found = task.select(random(*fits), batch(targets))
    assert len(predictions) == len(found)
    for shape in wrong:
        with pytest.raises(UserError, match=r"the network must return .*got \(3"):
            task.select(random(*shape), batch(targets))


def test_only_what_counts_is_selected():
    keep = torch.tensor([True, False, True])
    output = random(3, 3)
    assert torch.equal(Classification(3).select(output, batch(CLASSES, counts=keep))[0], output[[0, 2]])
    logits, targets = Binary().select(output[:, :1], batch(CLASSES, counts=keep))
    assert torch.equal(logits, torch.stack([torch.zeros(2), output[[0, 2], 0]], 1)) and targets.tolist() == [
        0,
        1,
    ]
    words, tokens = random(3, 2, 4), torch.arange(6).reshape(3, 2) % 4
    real, counts = (
        torch.tensor([[True, False], [True, True], [False, False]]),
        torch.tensor([[True, False]] * 3),
    )
    for mask, target_mask, kept in ((real, None, real), (real, counts, counts), (None, counts, counts)):
        found = Tokens(4).select(words, batch(tokens, mask, target_mask))
        assert torch.equal(found[0], words[kept]) and torch.equal(found[1], tokens[kept])
    series, ahead = random(3, 2, 2), random(3, 2, 2, seed=1)
    holes = ahead > 0
    found = Forecasting(2, 2).select(series, batch(ahead, counts=holes))
    assert torch.equal(found[0], series[holes][:, None]) and torch.equal(found[1], ahead[holes][:, None])
    whole = Forecasting(2, 2).select(series, batch(ahead))
    assert torch.equal(whole[0], series.flatten(1)) and torch.equal(whole[1], ahead.flatten(1))


def softmax(row, heat):
    powers = [math.exp(float(v) / heat) for v in row]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_soft_losses_are_those_written_by_hand():
    mine, theirs, heat = random(3, 4), random(3, 4, seed=1), 2.5
    slow = (
        heat**2 * sum(kl(softmax(t, heat), softmax(m, heat)) for m, t in zip(mine, theirs, strict=True)) / 3
    )
    given = batch(CLASSES)
    assert float(kl_at_temperature(mine, theirs, heat, given)) == pytest.approx(slow, rel=1e-5)
    assert float(Classification(4).soft_loss(mine, theirs, given, heat)) == pytest.approx(slow, rel=1e-5)
    words = Tokens(4).soft_loss(mine[:, None], theirs[:, None], batch(CLASSES[:, None]), heat)
    assert float(words) == pytest.approx(slow, rel=1e-5)
    with pytest.raises(UserError, match="the network returns 4, the teacher 3"):
        Classification(4).soft_loss(mine, theirs[:, :3], given, heat)
    one, other = mine[:, :1], theirs[:, :1]
    both = [([0, float(m)], [0, float(t)]) for m, t in zip(one, other, strict=True)]
    slow = heat**2 * sum(kl(softmax(t, heat), softmax(m, heat)) for m, t in both) / 3
    assert float(Binary().soft_loss(one, other, given, heat)) == pytest.approx(slow, rel=1e-5)
    each = [
        (softmax([0, t], heat), softmax([0, m], heat))
        for m, t in zip(mine.flatten(), theirs.flatten(), strict=True)
    ]
    slow = heat**2 * sum(kl(t, m) for t, m in each) / 12
    assert float(MultiLabel(4).soft_loss(mine, theirs, batch(torch.ones(3, 4)), heat)) == pytest.approx(
        slow, rel=1e-5
    )


def test_means_of_what_counts():
    values = random(4).requires_grad_()
    plain = batch(torch.zeros(4))
    assert float(mean_of_counted(values, plain)) == pytest.approx(float(values.sum()) / 4)
    assert float(mean_of_counted(values[:0], plain)) == 0
    mean = Mean()
    for part in (values[:1], values[1:]):
        mean.update(part.detach())
    assert float(mean.compute()) == pytest.approx(float(values.mean().detach()))
    x, y = random(3, 2), random(3, 2, seed=1)
    scale = torch.tensor([2.0, 0.5])
    for squared, kind in ((True, RowMean), (False, RowMean), (True, Root)):
        metric = kind(squared=squared, scale=scale)
        metric.update(x, y)
        apart = [
            [abs(float(a - b)) * s for a, b, s in zip(*rows, scale.tolist(), strict=True)]
            for rows in zip(x, y, strict=True)
        ]
        slow = sum(d**2 if squared else d for row in apart for d in row) / 6
        assert float(metric.compute()) == pytest.approx(math.sqrt(slow) if kind is Root else slow, rel=1e-5)


def test_a_perplexity_beyond_all_numbers_is_infinite():
    assert Tokens(3).derive({"loss": 0.5}) == {"loss": 0.5, "perplexity": pytest.approx(math.exp(0.5))}
    assert Tokens(3).derive({"loss": 1e4})["perplexity"] == math.inf


def test_a_logit_of_nothing_is_no_label_and_one_half_no_second_class():
    task = MultiLabel(2)
    (_, accuracy), *_ = task.metric_parts()
    accuracy.update(torch.tensor([[0.0, 0.1], [-0.1, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert float(accuracy.compute()) == 0.5
    recalls = Recalls(2, ["no", "yes"])
    recalls.update(torch.tensor([0.5, 0.6, 0.4]), torch.tensor([0, 1, 1]))
    assert recalls.compute() == {"no": 1.0, "yes": 0.5}
    recalls = Recalls(3, ["a", "b", "c"])  # of labels, the share of samples on which each is right
    p = torch.tensor([[0.5, 0.9, 0.1], [0.6, 0.2, 0.1], [0.2, 0.8, 0.1]])
    recalls.update(p, torch.tensor([[0, 1, 0], [0, 1, 1], [0, 1, 0]]))
    assert recalls.compute() == pytest.approx(dict.fromkeys("abc", 2 / 3))
    recalls = Recalls(3, ["a", "b", "c"])
    recalls.update(torch.eye(3)[[0, 1, 0]], torch.tensor([0, 0, 2]))
    assert recalls.compute() == {"a": 0.5, "c": 0.0}
    balanced = Recalls(3, None)
    balanced.update(torch.eye(3)[[0, 1, 0]], torch.tensor([0, 0, 2]))
    assert float(balanced.compute()) == 0.25


def test_a_ranking_is_a_mean_over_classes_that_some_have_and_some_have_not():
    p = torch.tensor([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.5, 0.3, 0.2]])
    ranking = OfPresent(MulticlassAUROC(3, average=None), 3, one_of=True)
    ranking.update(p, torch.tensor([0, 1, 1]))  # nobody is of the third
    assert float(ranking.compute()) == pytest.approx((1.0 + 0.75) / 2)
    for targets, wanted in (([0, 0, 0], math.nan), ([1, 1, 1], math.nan), ([1, 0, 0], 1.0)):
        ranking = OfPresent(BinaryAUROC(), 2, one_of=True)
        ranking.update(p[:, 0], torch.tensor(targets))
        assert float(ranking.compute()) == pytest.approx(wanted, nan_ok=True)
    ranking.reset()
    ranking.update(p[:2, 0], torch.tensor([0, 1]))
    assert float(ranking.compute()) == 0


def test_brier_is_the_squared_distance_from_what_came():
    p = random(3, 4).softmax(1)
    for probabilities, targets, slow in (
        (
            p,
            CLASSES,
            sum((float(p[i, c]) - int(c == CLASSES[i])) ** 2 for i in range(3) for c in range(4)) / 3,
        ),
        (
            p[:, 0],
            torch.tensor([0, 1, 1]),
            sum((float(p[i, 0]) - t) ** 2 for i, t in enumerate((0, 1, 1))) / 3,
        ),
        (p, torch.ones(3, 4), sum((float(v) - 1) ** 2 for v in p.flatten()) / 12),
    ):
        metric = Brier()
        metric.update(probabilities, targets)
        assert float(metric.compute()) == pytest.approx(slow, rel=1e-5)


def test_the_explained_share_is_of_outputs_that_vary():
    x, y = random(5, 3), random(5, 3, seed=1)
    y[:, 1] = 7
    metric = R2(3)
    metric.update(x[:2], y[:2])
    metric.update(x[2:], y[2:])
    shares = [
        1 - float((x[:, k] - y[:, k]).square().sum() / (y[:, k] - y[:, k].mean()).square().sum())
        for k in (0, 2)
    ]
    assert float(metric.compute()) == pytest.approx(sum(shares) / 2, rel=1e-5)
    metric = R2(1)
    metric.update(x[:, :1], y[:, 1:2])
    assert math.isnan(float(metric.compute()))


def test_a_metric_of_one_output_sees_a_row_and_of_several_the_mean():
    seen = []

    class Inner(Mean):
        def update(self, predictions, targets):
            seen.append(predictions.shape)

        def compute(self):
            return torch.tensor([1.0, 3.0])

    for outputs in (1, 2):
        metric = MeanOfOutputs(Inner())
        metric.update(random(4, outputs), random(4, outputs))
        assert float(metric.compute()) == 2
    assert [tuple(shape) for shape in seen] == [(4,), (4, 2)]


@pytest.mark.parametrize(
    ("task", "names", "monitor", "wanted"),
    [
        (Classification(5), ["top5_accuracy"], None, ("accuracy", "max", ("top5_accuracy",))),
        (Classification(3), ["accuracy", "f1", "f1"], "f1", ("f1", "max", ("f1",))),
        (Classification(3), [], "ece", ("ece", "min", ("ece",))),
        (Classification(3), ["f1"], "loss", ("loss", "min", ("f1",))),
        (Classification(11), [], "top5_accuracy", ("top5_accuracy", "max", ())),
        (Regression(1), [], "mae", ("mae", "min", ())),
        (Regression(1), ["rmse"], "r2", ("r2", "max", ("rmse",))),
        (Tokens(100), ["f1"], "perplexity", ("perplexity", "min", ("f1",))),
        (Tokens(101), ["ece"], None, ("accuracy", "max", ("ece",))),
    ],
)
def test_what_is_asked_for_and_what_selects(task, names, monitor, wanted):
    task.ask(names, monitor)
    assert (task.monitor, task.mode, task.asked) == wanted
    assert task.directions()[task.monitor] == task.mode
    assert set(wanted[2]) <= set(task.named_metrics()) and "confusion_matrix" not in task.directions()


@pytest.mark.parametrize(
    ("task", "names", "monitor", "says"),
    [
        (Classification(4), ["top5_accuracy"], None, "needs at least 5 classes, there are 4"),
        (Tokens(101), ["f1"], None, "class by class, which 101 tokens are too many for"),
        (Classification(3), ["f2"], None, "there is no metric 'f2'; did you mean 'f1'"),
        (Classification(3), ["rmse"], None, "'rmse' does not fit a task of classification"),
        (Regression(1), [], "f1", "'f1' does not fit a task of regression"),
        (Classification(3), [], "confusion_matrix", "`monitor`=confusion_matrix is no one number"),
        (
            Classification(3),
            ["class_accuracy"],
            "class_accuracy",
            "`monitor`=class_accuracy is no one number",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_told(task, names, monitor, says):
    with pytest.raises(UserError, match=says):
        task.ask(names, monitor)


def test_what_can_select_instead_is_listed():
    with pytest.raises(UserError) as error:
        MultiLabel(3).ask([], "confusion_matrix")
    listed = str(error.value).partition("; ")[2]
    assert all(name in listed for name in ("loss", "accuracy", "exact_match", "auroc"))
    assert not any(name in listed for name in ("rmse", "kappa", "class_accuracy"))


def test_all_metrics_of_a_split_by_name():
    task = Classification(3)
    task.class_names = ["a", "b", "c"]
    task.ask(["f1", "class_accuracy", "confusion_matrix"])
    metrics = task.metrics()
    logits = torch.tensor([[3.0, 0, 0], [0, 3, 0], [3, 0, 0]])
    metrics.update(logits, batch(torch.tensor([0, 1, 1])))
    metrics.update(logits[:1], batch(torch.tensor([2]), counts=torch.tensor([False])))
    found = metrics.compute()
    right, wrong = (-math.log(softmax([3, 0, 0], 1)[k]) for k in (0, 1))
    assert {name: round(value, 4) for name, value in found.items()} == {
        "loss": round((2 * right + wrong) / 3, 4), "accuracy": 0.6667, "f1": round((2 / 3 + 2 / 3) / 2, 4),
        "class_accuracy/a": 1.0, "class_accuracy/b": 0.5,
    }  # fmt: skip
    assert metrics.arrays() == {"confusion_matrix": [[1, 0, 0], [1, 1, 0], [0, 0, 0]]}
    assert set(task.metrics(asked=False).asked) == set()
    metrics.reset()
    metrics.update(logits[:1], batch(torch.tensor([0])))
    assert metrics.compute()["accuracy"] == 1.0
    task.class_names = ["a", "b"]  # of other data: classes go by their numbers
    task.ask(["class_accuracy"])
    metrics = task.metrics()
    metrics.update(logits[:1], batch(torch.tensor([0])))
    assert "class_accuracy/0" in metrics.compute()
