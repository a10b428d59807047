"""Output distillation: which loss, on which rows, through which head."""

import math

import pytest
import torch

from made_methods import made
from small_runs import TEACHER
from tutelage.errors import UserError
from tutelage.losses import distillation as losses
from tutelage.losses.logit_variants import correlation, multi_level, normalised, standardised
from tutelage.methods.distillation import Distillation
from tutelage.models.convnet import ConvNet
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.recurrent import Recurrent
from tutelage.objectives.decoupled import Decoupled
from tutelage.objectives.dist import DIST
from tutelage.objectives.logits import Logits
from tutelage.objectives.mlkd import MLKD
from tutelage.objectives.nkd import NKD
from tutelage.objectives.plain import as_task
from tutelage.objectives.soft_targets import SoftTargets
from tutelage.objectives.task import Task
from tutelage.tasks import Batch, Classification, Forecasting, Tokens

CLASSES = 3


def mean_of(loss):
    return lambda *outputs, **options: loss(*outputs, **options).mean()


decoupled, logit_matching, soft_target = (
    mean_of(loss) for loss in (losses.decoupled, losses.logit_matching, losses.soft_target)
)


def images(n=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 1, 8, 8, generator=generator)
    return Batch(inputs, torch.randint(CLASSES, (n,), generator=generator), torch.arange(n))


LOSSES = {
    "soft": SoftTargets,
    "logits": Logits,
    "decoupled": Decoupled,
    "dist": DIST,
    "nkd": NKD,
    "mlkd": MLKD,
}
OPTIONS = {
    "soft": {"temperature": 3.0},
    "logits": {},
    "decoupled": {"temperature": 3.0, "target_weight": 0.5, "other_weight": 2.0},
    "dist": {"temperature": 3.0, "between_classes": 2.0, "between_samples": 0.5},
    "nkd": {"temperature": 3.0, "other_weight": 0.7},
    "mlkd": {"temperatures": [1.0, 3.0], "single": 0.5, "samples": 2.0, "classes": 3.0},
}


def expected_term(loss, mine, theirs, targets):
    """Each loss with its `OPTIONS`, by the pure function."""
    if loss == "dist":
        return correlation(mine, theirs, **OPTIONS[loss])
    if loss == "mlkd":
        levels = multi_level(mine, theirs, temperatures=[1.0, 3.0])
        return 0.5 * levels[0] + 2 * levels[1] + 3 * levels[2]
    if loss == "nkd":
        return normalised(mine, theirs, targets, **OPTIONS[loss]).mean()
    if loss == "decoupled":
        return decoupled(mine, theirs, targets, **OPTIONS[loss])
    return (soft_target if loss == "soft" else logit_matching)(mine, theirs, **OPTIONS[loss])


def distillation(
    network=None, teacher_classes=CLASSES, task=None, teacher=None, example=None, loss="soft", **options
):
    torch.manual_seed(1)
    return made(
        Distillation,
        network or ConvNet((1, 8, 8), CLASSES, width=4, stages=2),
        {"task": Task(), "soft": LOSSES[loss](network="teacher", **options)},
        frozen={"teacher": FrozenNetwork(teacher or ConvNet((1, 8, 8), teacher_classes, width=6, stages=2))},
        task=task or Classification(CLASSES),
        example=example or images(4),
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_is_the_pure_function_on_both_outputs(loss):
    batch = images()
    method = distillation(loss=loss, **OPTIONS[loss]).eval()
    mine, theirs = method(batch.inputs), method.frozen["teacher"](batch.inputs)
    expected = expected_term(loss, mine, theirs, batch.targets)
    torch.testing.assert_close(method.losses(batch)["soft"], expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_standardised_logits_are_what_every_loss_sees(loss):
    batch = images()
    method = distillation(loss=loss, standardise=True, **OPTIONS[loss]).eval()
    raw = method(batch.inputs), method.frozen["teacher"](batch.inputs)
    expected = expected_term(loss, *map(standardised, raw), batch.targets)
    if loss == "mlkd":  # its relations see the logits as they are, as released
        plain = expected_term(loss, *raw, batch.targets)
        first = [multi_level(*pair, temperatures=[1.0, 3.0])[0] for pair in (map(standardised, raw), raw)]
        expected = plain + 0.5 * (first[0] - first[1])
    torch.testing.assert_close(method.losses(batch)["soft"], expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_samples_whose_targets_do_not_count_are_left_out(loss):
    batch = images()
    counts = torch.tensor([True, False, True, True, False, True])
    method = distillation(loss=loss, **OPTIONS[loss]).eval()
    mine, theirs = (x[counts] for x in (method(batch.inputs), method.frozen["teacher"](batch.inputs)))
    expected = expected_term(loss, mine, theirs, batch.targets[counts])
    torch.testing.assert_close(method.losses(batch._replace(target_mask=counts))["soft"], expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_where_nothing_counts_there_is_nothing_to_match(loss):
    batch = images()
    batch = batch._replace(target_mask=torch.zeros(len(batch.targets), dtype=torch.bool))
    method = distillation(loss=loss)
    term = method.losses(batch)["soft"]
    term.backward()
    assert float(term.detach()) == 0
    assert all(not p.grad.any() for p in method.network.parameters() if p.grad is not None)


def test_tokens_are_matched_at_the_counted_positions_alone():
    def network(width):
        return Recurrent((5,), 4, cell="gru", vocab_size=4, depth=1, width=width, per_position=True)

    tokens = torch.randint(4, (3, 5), generator=torch.Generator().manual_seed(0))
    counted = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [1, 0, 1, 0, 1]], dtype=torch.bool)
    batch = Batch(tokens, tokens, torch.arange(3), None, counted)
    for loss in ("logits", "decoupled"):
        method = distillation(network(6), teacher=network(8), task=Tokens(4), example=batch, loss=loss).eval()
        mine, theirs = (net(tokens)[counted] for net in (method.network, method.frozen["teacher"]))
        by_hand = {
            "logits": logit_matching(mine, theirs),
            "decoupled": decoupled(
                mine, theirs, tokens[counted], temperature=4.0, target_weight=1.0, other_weight=8.0
            ),
        }
        torch.testing.assert_close(method.losses(batch)["soft"], by_hand[loss])


@pytest.mark.parametrize("teacher_classes", [7, CLASSES])  # equal in number, the classes may still be others
@pytest.mark.parametrize("loss", ["soft", "logits", "dist", "mlkd"])
def test_across_label_spaces_an_extra_head_on_the_same_forward_meets_the_teacher(loss, teacher_classes):
    method = distillation(teacher_classes=teacher_classes, loss=loss, label_space="other", **OPTIONS[loss])
    calls = []
    method.network.register_forward_hook(lambda *_: calls.append(1))
    batch = images()
    terms = method.losses(batch)
    assert len(calls) == 1
    gradient = torch.autograd.grad(
        terms["soft"], method.network.head.weight, allow_unused=True, retain_graph=True
    )
    assert gradient == (None,)  # the teacher's other classes never reach the network's own head
    sum(terms.values()).backward()
    extra_head = method.objectives["soft"].extra_head
    assert extra_head.linear.weight.shape == (teacher_classes, method.network.head.in_features)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in extra_head.parameters())
    assert method.network.stem.conv.weight.grad.abs().sum() > 0
    method.eval()
    mine = extra_head.linear(method.network.blocks(method.network.stem(batch.inputs)).mean(dim=(2, 3)))
    theirs = method.frozen["teacher"](batch.inputs)
    torch.testing.assert_close(method.losses(batch)["soft"], expected_term(loss, mine, theirs, batch.targets))
    kept = [name for name in method.state_dict() if name.startswith("network.")]
    assert not any("extra" in name for name in kept)


def test_the_teacher_learns_nothing():
    method = distillation()
    sum(method.losses(images()).values()).backward()
    assert all(p.grad is None for p in method.frozen["teacher"].network.parameters())


def test_mistakes_are_named():
    with pytest.raises(UserError, match="same classes"):
        distillation(teacher_classes=7).losses(images())
    with pytest.raises(UserError, match="label_space"):
        distillation(label_space="else")
    with pytest.raises(UserError, match="temperature"):
        distillation(temperature=0.0)
    for loss in ("decoupled", "nkd"):
        with pytest.raises(UserError, match="singles out the true class"):
            distillation(loss=loss, label_space="other")
    for loss in ("dist", "nkd", "decoupled"):
        with pytest.raises(UserError, match="`temperature` must be above 0"):
            distillation(loss=loss, temperature=0)
    with pytest.raises(UserError, match="must not be negative"):
        distillation(loss="nkd", other_weight=-1.0)
    with pytest.raises(UserError, match="must not be negative"):
        distillation(loss="dist", between_samples=-1.0)
    for temperatures in ([], [0.0], "4", 4.0):
        with pytest.raises(UserError, match="`temperatures` must be"):
            distillation(loss="mlkd", temperatures=temperatures)
    with pytest.raises(UserError, match="`standardise` must be true or false"):
        distillation(standardise="yes")
    for options in (
        {"loss": "decoupled"},
        {"loss": "logits"},
        {"label_space": "other"},
        {"loss": "dist"},
        {"standardise": True},
    ):
        with pytest.raises(UserError, match="which a forecast has not: choose soft_targets"):
            distillation(task=Forecasting(3, 1), **options)


def test_several_teachers_are_a_term_each_and_each_runs_once():
    torch.manual_seed(1)
    teachers = {
        name: FrozenNetwork(ConvNet((1, 8, 8), CLASSES, width=w, stages=2))
        for name, w in (("one", 5), ("two", 7))
    }
    network = ConvNet((1, 8, 8), CLASSES, width=4, stages=2)
    terms = {name: SoftTargets(network=name, temperature=3.0, weight=0.5) for name in teachers}
    method = made(
        Distillation,
        network,
        {"task": Task(), **terms, "again": Logits(network="two")},
        frozen=teachers,
        task=Classification(CLASSES),
        example=images(4),
    ).eval()
    batch, calls = images(), []
    for teacher in teachers.values():
        teacher.network.register_forward_hook(lambda *_: calls.append(1))
    found = method.losses(batch)
    assert len(calls) == 2
    mine = method(batch.inputs)
    for name, teacher in teachers.items():
        torch.testing.assert_close(found[name], soft_target(mine, teacher(batch.inputs), temperature=3.0))


def test_a_term_that_is_no_single_number_is_told(monkeypatch):
    method = distillation()
    monkeypatch.setattr(method, "losses", lambda batch: {"task": torch.ones(()), "soft": torch.ones(6)})
    with pytest.raises(UserError, match=r"must be one number, got soft \(6,\)"):
        method.training_step(images(), 0)


def test_the_record_has_the_metrics_of_the_latest_batch_where_it_is_given():
    method, batch = distillation(), images()
    method.training_step(batch, 0)
    row = method.flush(batch)
    right = method._last_output.argmax(dim=1) == batch.targets
    assert row["train/accuracy"] == pytest.approx(float(right.float().mean()))
    method.training_step(batch, 0)
    assert row.keys() - method.flush().keys() == {"train/accuracy"}


@pytest.mark.parametrize(
    "wrong", [{"target_weight": -1.0}, {"other_weight": -1.0}, {"other_weight": math.inf}]
)
def test_each_weight_of_decoupled_distillation_is_checked(wrong):
    with pytest.raises(UserError, match="must not be negative"):
        Decoupled(network="teacher", **wrong)


def test_a_function_of_rows_is_a_task_whose_loss_is_their_mean():
    outputs, targets = torch.randn(5, 3), torch.randn(5, 3)
    batch = Batch(outputs, targets, torch.arange(5))
    task = as_task(lambda mine, wanted: (mine - wanted).square().mean(dim=1))
    assert task.pointwise(outputs, targets).shape == (5,)
    torch.testing.assert_close(task.loss(outputs, batch), (outputs - targets).square().mean())


@pytest.mark.parametrize("split", ["validation", "test"])
def test_agreement_is_the_share_of_answers_that_are_those_of_the_mean_of_the_teachers_and_selects(split):
    torch.manual_seed(1)
    names = ["teacher", "second"]
    method = made(
        Distillation,
        ConvNet((1, 8, 8), CLASSES, width=4, stages=2),
        {"task": Task(), "soft": SoftTargets(network=names)},
        frozen={name: FrozenNetwork(ConvNet((1, 8, 8), CLASSES, width=6, stages=2)) for name in names},
        task=Classification(CLASSES),
        example=images(4),
        options={"select_by": "agreement"},
    ).eval()
    assert (method.task.monitor, method.task.mode) == ("agreement", "max")
    whole, right = images(25), 0
    for one, _ in zip(whole.inputs, range(25), strict=True):
        logits = [method.frozen[name](one[None])[0].tolist() for name in names]
        wanted = max(range(CLASSES), key=lambda c: sum(row[c] for row in logits))
        answer = method.network(one[None])[0].tolist()
        right += answer.index(max(answer)) == wanted
    assert 0 < right < 25
    for _ in range(2):  # nothing is left of a former look
        method._start(split)
        for part in (slice(0, 7), slice(7, 25)):
            getattr(method, f"{split}_step")(Batch(*(x[part] for x in whole[:3])), 0)
        method._finish(split)
        assert method.values[split]["agreement"] == pytest.approx(right / 25)
        assert set(method.values[split]) == {"loss", "accuracy", "agreement"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method.select_by=labels"], "unknown select_by 'labels'"),
        (
            ["method.objectives.soft.label_space=other"],
            "method.select_by=agreement compares the network's class",
        ),
        (["fit.monitor=f1"], "in place of fit.monitor"),
    ],
)
def test_where_there_is_no_agreement_it_is_one_message(command, words, said):
    with pytest.raises(UserError, match=said):
        command("method=distillation", *TEACHER, "method.select_by=agreement", *words)
