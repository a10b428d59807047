"""What every method shares, at its bounds: seeds of steps, averages, what is recorded and when it is refused, ranges of images."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from made_methods import made
from tutelage.errors import UserError
from tutelage.methods import generation, history
from tutelage.methods.base import own_name, step_seed
from tutelage.methods.fitnets import FitNets
from tutelage.methods.gan import Gan
from tutelage.methods.generation import Generation, check_range
from tutelage.methods.history import NonFiniteLoss
from tutelage.methods.optim import OptimizerSpec
from tutelage.methods.self_supervised import SelfSupervised, _MeanLoss
from tutelage.methods.supervised import Supervised
from tutelage.models.fcn import FCN
from tutelage.objectives.base import Objective
from tutelage.objectives.schedule import Schedule
from tutelage.objectives.task import Task
from tutelage.objectives.views import TwoViews
from tutelage.tasks import Batch, Classification, Regression


class Term(Objective):
    """`number` times the sum of the output, as one number or one for each sample."""

    def __init__(self, number=1.0, rows=False, **common):
        super().__init__(**common)
        self.number, self.rows = number, rows

    def loss(self, step):
        return self.number * (step.output.sum(1) if self.rows else step.output.sum())

    def record(self):
        return {"own": 3.0}


X = torch.arange(12.0).reshape(4, 3) / 7 - 0.8
BATCH = Batch(X, torch.tensor([0, 1, 1, 0]), torch.arange(4))


def supervised(terms=None, kind=Supervised, task=None, **options):
    torch.manual_seed(0)
    network = FCN((3,), 2, depth=1, width=4, batch_norm=False)
    return made(
        kind,
        network,
        terms or {"task": Task()},
        task=task or Classification(2),
        example=BATCH,
        options=options,
    )


def test_the_seed_of_a_step_is_splitmix64_of_run_step_and_rank():
    for seed, step, rank in ((0, 0, 0), (3, 5, 2), (2**40, 10**9, 7)):
        x = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7 + 1) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        assert step_seed(seed, step, rank) == (x ^ (x >> 31)) >> 1
    assert step_seed(3, 5) == step_seed(3, 5, 0)
    assert [own_name(n) for n in ("network.head.bias", "objectives.terms.hint.map.weight", "x")] == [
        "head.bias",
        "objectives.hint.map.weight",
        "x",
    ]


@pytest.mark.parametrize(
    ("decay", "fits"), [(None, True), (0, True), (0.999, True), (1, False), (-0.1, False)]
)
def test_a_share_of_the_average_is_from_0_to_below_1(decay, fits):
    if not fits:
        with pytest.raises(UserError, match="ema_decay must be at least 0"):
            supervised(ema_decay=decay)
        return
    method = supervised(ema_decay=decay)
    assert (method.average is not None) is bool(decay)
    assert method.evaluated is (method.average.network if decay else method.network)


def test_a_training_step_is_the_weighted_sum_and_draws_by_its_place():
    method = supervised({"a": Term(2.0, weight=5.0), "b": Term(3.0, weight=0.5)})
    method.seed, method.accumulate = 7, 3
    for index in (0, 4, 5):
        total = method.training_step(BATCH, index)
        assert float(total.detach()) == pytest.approx(11.5 * float(method.network(X).sum()), rel=1e-5)
        assert torch.initial_seed() == step_seed(7, index % 3, 0)
    assert len(method.history) == 3
    output = float(method.network(X).sum().detach())
    found = method.flush(BATCH)
    answers = method.network(X).argmax(1)
    assert found == pytest.approx(
        {"train/loss": 11.5 * output, "train/a": 2 * output, "train/b": 3 * output, "train/own": 3.0,
         "train/accuracy": float((answers == BATCH.targets).float().mean())}, rel=1e-5
    )  # fmt: skip
    assert method.flush(BATCH) == {} and not method.history
    method.training_step(BATCH, 0)
    assert "train/accuracy" not in method.flush()
    with pytest.raises(UserError, match=r"an objective's loss must be one number, got b \(4,\)"):
        supervised({"a": Term(), "b": Term(rows=True)}).training_step(BATCH, 0)


def test_what_a_step_draws_is_told_by_update_and_place(monkeypatch):
    method = supervised()
    method.accumulate, method._place = 3, 2
    monkeypatch.setattr(Supervised, "step", 5)
    seen = {}
    monkeypatch.setattr(method.objectives, "take", lambda batch, predict, **at: seen.update(at))
    method.take(BATCH)
    assert (seen["step"], seen["draw"]) == (5, 17)


@pytest.mark.parametrize(("task", "maximise"), [(Classification(2), True), (Regression(2), False)])
def test_a_plateau_sees_the_validations_of_a_fit_alone(monkeypatch, task, maximise):
    method = supervised({"own": Term()}, task=task)
    method.optimizer_spec = OptimizerSpec(name="sgd", lr=0.1, schedule="plateau", patience=9)
    method.max_steps = 10
    scheduler = method.configure_optimizers()["lr_scheduler"]["scheduler"]
    (plateau,) = scheduler.lr_lambdas
    assert plateau.maximise is maximise
    monkeypatch.setattr(method, "lr_schedulers", lambda: scheduler)
    for split, trainer, best in (
        ("validation", None, None),
        ("validation", SimpleNamespace(state=SimpleNamespace(fn="validate")), None),
        ("test", SimpleNamespace(state=SimpleNamespace(fn="fit")), None),
        ("validation", SimpleNamespace(state=SimpleNamespace(fn="fit")), 0.25),
    ):
        monkeypatch.setattr(method, "_trainer", trainer)
        monkeypatch.setattr(Supervised, "trainer", trainer)
        found = SimpleNamespace(compute=lambda: {task.monitor: 0.25})
        monkeypatch.setattr(method, "metrics_of", {split: found})
        method._finish(split)
        assert plateau.best == best and method.values[split] == {task.monitor: 0.25}


def test_a_batch_that_lies_where_it_is_to_be_is_not_touched():
    method = supervised()
    assert method.transfer_batch_to_device(BATCH, torch.device("cpu"), 0) is BATCH
    for batch in (BATCH, BATCH._replace(inputs=X.to("meta")), [X]):
        moved = method.transfer_batch_to_device(batch, torch.device("meta"), 0)
        assert {part.device.type for part in moved if part is not None} == {"meta"}


def test_hooks_of_a_step_that_a_method_does_not_write_are_not_called():
    class Resting(Supervised):
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)

    method = supervised(kind=Resting)
    method.on_before_optimizer_step(None)
    assert method.on_before_backward is None and supervised().on_before_optimizer_step is None


def test_a_name_is_set_at_once_and_never_over_what_is_registered():
    method = supervised()
    for value in ("training_step", None, "another"):
        method._current_fx_name = value
        assert method.__dict__["_current_fx_name"] == value
    for value in ("word", None):
        for name in ("network", "seed"):
            taken = supervised()
            if name == "network" and value:
                with pytest.raises(TypeError, match="network"):
                    setattr(taken, name, value)
            else:
                setattr(taken, name, value)
                assert getattr(taken, name) == value and name not in dict(taken.named_children())
    method.seed = torch.nn.Parameter(X)
    assert "seed" in dict(method.named_parameters())


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_a_step_seeds_the_generator_of_its_device_too(monkeypatch, kind):
    method, seeded = supervised(), []
    for name, module in (("cuda", torch.cuda), ("mps", torch.mps)):
        monkeypatch.setattr(module, "manual_seed", lambda seed, name=name: seeded.append((name, seed)))
    monkeypatch.setattr(Supervised, "device", SimpleNamespace(type=kind))
    method.training_step(BATCH, 0)
    assert seeded == ([] if kind == "cpu" else [(kind, step_seed(0, 0, 0))])


@pytest.mark.parametrize(
    ("step", "advice"), [(0, "No update came before"), (1, "Lower optimizer.lr or clip gradients")]
)
def test_a_loss_that_is_not_finite_says_what_to_do(step, advice):
    method = supervised({"a": Term(), "b": Term()})
    method.history.rows = [(step, ("a", "b"), torch.tensor([math.inf, 2.0, math.inf]))]
    with pytest.raises(
        NonFiniteLoss, match=rf"not finite at step {step}: b \(terms: {{'a': 2\.0, 'b': inf}}\)\. {advice}"
    ):
        method.flush()
    assert not method.history


def test_terms_that_come_and_go_are_means_over_the_steps_that_had_them():
    method = supervised({"a": Term(), "b": Term()})
    method.history.rows = [
        (0, ("a",), torch.tensor([1.0, 2.0])),
        (1, ("a", "b"), torch.tensor([3.0, 4.0, 10.0])),
    ]
    assert method.flush() == {"train/loss": 2.0, "train/a": 3.0, "train/b": 10.0, "train/own": 3.0}


def test_what_no_answer_is_has_no_training_metrics():
    method = supervised({"a": Term()})
    mixed = BATCH._replace(targets=torch.full((4, 2), 0.5))
    method.losses(mixed)
    assert method._last_output is None
    method.losses(BATCH)
    assert method._last_output is not None
    values = supervised({"a": Term()}, task=Regression(2))
    values.losses(BATCH._replace(targets=torch.zeros(4, 2)))
    assert values._last_output is not None


def test_a_network_that_cannot_take_the_data_is_named_before_its_first_step(monkeypatch):
    method = supervised()
    with pytest.raises(
        UserError, match=r"FCN cannot be run on these data, inputs of shape \(4, 5\) and float32: "
    ):
        method.run(method.network, torch.zeros(4, 5), None)
    monkeypatch.setattr(Supervised, "step", 1)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        method.run(method.network, torch.zeros(4, 5), None)


def test_what_rests_stays_in_evaluation():
    method = supervised()
    method.resting = (method.network.layers[0],)
    method.train()
    assert method.training and method.network.training and not method.network.layers[0].training


@pytest.mark.parametrize(
    ("steps", "schedules"),
    [(3, {"feature": "until", "task": "from"}), (0, {"feature": "always", "task": "warm_up"})],
)
def test_the_first_stage_is_its_hints_alone(steps, schedules):
    terms = {"task": Term(schedule=Schedule(name="warm_up", steps=9)), "feature": Term(weight=2.0)}
    method = supervised(terms, FitNets, hint_steps=steps)
    assert {one.name: one.schedule.name for one in method.objectives} == schedules
    assert all(one.schedule.steps == 3 and one.schedule.watched for one in method.objectives if steps)
    assert (
        method.objectives["feature"].weight == (2.0 if steps else 0.0)
        and method.objectives["task"].weight == 1.0
    )
    assert method.all_parameters_get_gradients is (steps == 0)
    for wrong, says in (
        ({"hint_steps": -1}, "hint_steps must not be negative"),
        ({"hint_steps": 1, "hints": "featur"}, "did you mean 'feature'"),
    ):
        with pytest.raises(UserError, match=says):
            supervised({"task": Term(), "feature": Term()}, FitNets, **wrong)


def test_a_pretext_stands_alone_but_for_guidance():
    with pytest.raises(
        UserError, match=r"takes one objective that reads no labels .* alignment beside it; drop 'task'$"
    ):
        supervised(kind=SelfSupervised)
    for objectives in ([], [TwoViews(), TwoViews()]):
        with pytest.raises(
            UserError, match=r"takes one objective that reads no labels .* alignment beside it$"
        ):
            SelfSupervised(network=FCN((3,), 2), objectives=objectives)
    mean = _MeanLoss("views_loss", "test")
    mean.add(torch.tensor(2.0), 3)
    mean.add(torch.tensor(6.0), 1)
    assert mean.compute() == {"views_loss": 3.0} and mean.arrays() == {}
    mean.reset()
    assert math.isnan(
        mean.compute()["views_loss"]
    )  # of a test split; without a validation nothing can select
    with pytest.raises(UserError, match="views_loss: the validation samples hold nothing to judge by"):
        _MeanLoss("views_loss", "validation").compute()


HALVES = ((0.5,), (0.5,))


@pytest.mark.parametrize(
    ("low", "high", "normalization", "says"),
    [
        (-1.0, 1.0, HALVES, ""),
        (-0.2, 0.3, HALVES, ""),
        (-1.0, 1.0, ((0.5009,), (0.5009,)), ""),
        (-0.9, 0.9, ((0.5011,), (0.5,)), "values from -1 to 0.998"),
        (-0.9, 0.9, ((0.5,), (0.4989,)), "values from -1 to 1"),
        (-0.5, 2.0, ((0.2,), (0.4,)), "values from -0.5 to 2"),
        (0.0, 1.0, None, "values from 0 to 1"),
        (-1.0, 1.0, None, ""),
        (-1.0009, 1.0009, None, ""),
        (-1.0011, 1.0, None, "values from -1 to 1"),
        (-1.001, 1.0, None, "values from -1 to 1"),
        (-1.0, 1.001, None, "values from -1 to 1"),
        (-1.0, 1.0011, None, "values from -1 to 1"),
        (-3.0, 0.5, None, "values from -3 to 0.5"),
    ],
)
def test_images_of_generators_are_black_at_minus_1_and_white_at_1(low, high, normalization, says):
    images = torch.tensor([low, high], dtype=torch.float64).view(2, 1, 1, 1)
    if not says:
        check_range(images, normalization)
        return
    with pytest.raises(
        UserError, match=rf"in \[-1, 1\], got {says}: set data\.normalization=\[\[0\.5\],\[0\.5\]\]"
    ):
        check_range(images, normalization)


def test_terms_are_means_over_ranks(monkeypatch):
    method = supervised({"a": Term(), "b": Term()})
    method.history.rows = [
        (0, ("a", "b"), torch.tensor([1.0, 2.0, 3.0])),
        (1, ("a",), torch.tensor([5.0, 6.0])),
    ]
    alone = method.history._over_ranks()
    monkeypatch.setattr(history, "world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda values, op: values.mul_(2)
    )  # the other rank has the same
    assert method.history._over_ranks().tolist() == alone.tolist() == [[1, 2, 3], [5, 6, 0]]


def test_features_are_what_enters_the_final_layer_or_the_answers_and_are_put_together_over_ranks(monkeypatch):
    answers, features = torch.ones(3, 2), torch.arange(12.0).reshape(3, 2, 2)
    for seen, wanted in ((features, features.flatten(1)), (None, answers)):
        fake = SimpleNamespace(
            frozen={"source": lambda images: answers}, _features=SimpleNamespace(take=lambda seen=seen: seen)
        )
        found, output = Generation._read(fake, torch.zeros(3, 1, 2, 2))
        assert torch.equal(found, wanted) and output is answers

    def gather(parts, rows):
        parts[:] = [rows, rows + 1]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    for ranks, wanted in ((2, torch.cat([answers, answers + 1])), (1, answers)):
        monkeypatch.setattr(generation, "world_size", lambda ranks=ranks: ranks)
        assert torch.equal(Generation._over_ranks(SimpleNamespace(), answers), wanted)


def test_the_range_of_images_channel_by_channel():
    halves = ((0.5,) * 3, (0.5,) * 3)
    check_range(torch.rand(2, 3, 4, 5) * 2 - 1, halves)
    for place in range(3):
        mean, deviation = list(halves[0]), list(halves[1])
        mean[place], deviation[place] = 0.25, 0.2
        images = (torch.rand(2, 3, 4, 5) - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(
            deviation
        ).view(1, 3, 1, 1)
        with pytest.raises(
            UserError,
            match=r"got values from -1 to 1: set data.normalization=\[\[0.5,0.5,0.5\],\[0.5,0.5,0.5\]\]",
        ):
            check_range(images, (tuple(mean), tuple(deviation)))


def test_the_terms_of_a_critic_are_those_of_the_hinge():
    real, fake = torch.tensor([-0.5, 0.25, 3.0]), torch.tensor([-2.0, 0.5, 1.5])
    images, labels = torch.zeros(3, 1, 2, 2), torch.eye(3)
    method = object.__new__(Gan)
    torch.nn.Module.__init__(method)
    scores = iter([torch.cat([real, fake]), fake])

    class Scoring(torch.nn.Module):
        def forward(self, *_):
            return next(scores)

    class Making(torch.nn.Module):
        noise_shape = (2,)

        def forward(self, noise, given):
            assert noise.shape == (3, 2) and given is labels
            return images + 1

    method.network, method.critic, method._updates_critic = Making(), Scoring(), False
    method.label_weights = lambda batch: labels
    terms = method.take(Batch(images, torch.tensor([0, 1, 2]), torch.arange(3))).made
    assert terms["critic"].item() == pytest.approx((1.5 + 0.75 + 0) / 3 + (0 + 1.5 + 2.5) / 3)
    assert terms["generator"].item() == pytest.approx(-fake.mean().item())
