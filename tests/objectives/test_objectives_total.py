"""The sum of objectives on toy terms: who counts when, what each is given, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.objectives.base import OWN_INPUT, NotPrepared, Objective, Start
from tutelage.objectives.mean_teacher import MeanTeacher
from tutelage.objectives.schedule import Schedule
from tutelage.objectives.total import Objectives
from tutelage.tasks import Batch

X = torch.arange(15.0).reshape(5, 3) / 7 - 0.8


class Term(Objective):
    """`number` times the sum of the output; it may tap layers, own a part, add inputs to the batch, or say a shared layer."""

    def __init__(
        self, number=1.0, *, taps=(), adds=(), own=False, shared=None, apart=False, reaches=True, **common
    ):
        super().__init__(**common)
        self.number, self.adds, self.shared, self.reaches_output = number, adds, shared, reaches
        self.network_layers, self.norms_apart = tuple(taps), apart
        self.own = nn.Linear(1, 1) if own else None
        self.seen, self.calls = [], []

    def loss(self, step):
        self.seen.append(step)
        return self.number * step.output.sum()

    def extra_inputs(self, batch, draw, average):
        self.calls.append((draw, average))
        return [batch.inputs[:1].expand(len(batch.inputs), -1) * k for k in self.adds]

    def shared_layer(self):
        return self.shared

    def start(self, start):
        self.calls.append(start)


class Reads(Term):
    """One that reads a frozen network's output, on the batch or on what it shows."""

    reads_frozen = True

    def __init__(self, number=1.0, *, input="batch", shares=False, times=1.0, **common):
        super().__init__(number, network=common.pop("network", "teacher"), **common)
        self.input, self.shares_input, self.times, self.wants_output = input, shares, times, True

    def shows(self, batch, draw):
        return batch if self.times == 1 else batch._replace(inputs=batch.inputs * self.times)


class Net(nn.Module):
    """Two linear layers; counts its forwards and keeps what they were given."""

    def __init__(self, width=4, norm=False):
        super().__init__()
        torch.manual_seed(width)
        self.first, self.last = nn.Linear(3, width), nn.Linear(width, 2)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.given = []

    def forward(self, inputs, mask=None):
        self.given.append((inputs, mask))
        return self.last(self.norm(self.first(inputs)))


def total(terms, network=None, **options):
    frozen = {name: Net(6 + k) for k, name in enumerate(options.pop("frozen", ("teacher",)))}
    made = Objectives(network or Net(), terms, frozen=frozen, example=X[:2], **options)
    made._network[0].given.clear()
    for one in frozen.values():
        one.given.clear()
    return made


def taken(made, batch=None, **at):
    network = made._network[0]
    return made.take(batch or Batch(X, torch.zeros(5, dtype=torch.long), torch.arange(5)), network, **at)


def scheduled(name, steps, **more):
    return Schedule(name=name, steps=steps, **more)


def test_weights_schedules_and_one_that_comes_first_alone():
    terms = {
        "a": Term(weight=2.0),
        "b": Term(weight=3.0, schedule=scheduled("until", 2)),
        "c": Term(weight=0.5, schedule=scheduled("from", 3, watched=True)),
        "d": Term(weight=0.0),
    }
    made = total(terms)
    wanted = [{"a": 2, "b": 3, "c": 0, "d": 0}] * 2 + [
        {"a": 2, "b": 0, "c": 0, "d": 0},
        {"a": 2, "b": 0, "c": 0.5, "d": 0},
    ]
    assert [made.factors(step, 9) for step in range(4)] == wanted
    computed = [[one.name for one in made.computed(step, 9)] for step in range(4)]
    assert computed == [["a", "b", "c"], ["a", "b", "c"], ["a", "c"], ["a", "c"]]
    alone = {"e": Term(weight=4.0, schedule=scheduled("alone_first", 2))}
    made = total({**alone, **terms})
    assert [made.factors(step, 9)["e"] for step in range(4)] == [4, 4, 0, 0]
    assert [made.factors(step, 9)["a"] for step in range(4)] == [0, 0, 2, 2]
    assert [[one.name for one in made.computed(step, 9)] for step in (1, 2)] == [["e", "c"], ["a", "c"]]


def test_a_step_at_which_nothing_counts_is_one_message():
    made = total({"a": Term(schedule=scheduled("from", 2)), "b": Term(weight=0.0)})
    made.computed(2, 9)
    with pytest.raises(
        UserError, match="no objective counts at step 1: their weights are 0, or their schedules off"
    ):
        made.computed(1, 9)


def test_what_is_only_watched_has_its_value_and_no_gradient():
    made = total({"a": Term(2.0), "b": Term(3.0, schedule=scheduled("from", 5, watched=True))})
    step = taken(made)
    found = made.losses(step, step=0, max_steps=9)
    output = float(step.output.sum())
    assert {name: round(float(value.detach()) / output, 4) for name, value in found.items()} == {
        "a": 2,
        "b": 3,
    }
    assert found["a"].requires_grad and not found["b"].requires_grad
    assert made.losses(step, step=5, max_steps=9)["b"].requires_grad


def test_the_forward_is_the_weighted_sum_and_counts_updates():
    made = total({"a": Term(2.0, weight=5.0), "b": Term(3.0, schedule=scheduled("linear", 4))})
    output = float(made._network[0](X).sum())
    made.max_steps = 8
    assert [float(made(X).detach()) / output for _ in range(5)] == pytest.approx([13, 12.25, 11.5, 10.75, 10])
    assert made.step == 5 and made["a"].calls == [(draw, None) for draw in range(5)]


def test_learned_weights_go_on_top_of_the_given_ones_in_the_order_of_names():
    made = total({"a": Term(2.0, weight=5.0), "b": Term(3.0, weight=0.5)}, balance="uncertainty")
    with torch.no_grad():
        made.balance.log_variances.copy_(torch.tensor([0.3, -0.7]))
    weights = made.weights(0, 9)
    wanted = 5 * torch.exp(torch.tensor(-0.3)), 0.5 * torch.exp(torch.tensor(0.7))
    torch.testing.assert_close(torch.stack([weights["a"], weights["b"]]), torch.stack(wanted))
    assert made.record() == pytest.approx(
        {"weight/a": float(wanted[0]) / 5, "weight/b": float(wanted[1]) / 0.5}
    )
    found = made.losses(taken(made), max_steps=9)
    (weights["a"] * found["a"] + weights["b"] * found["b"]).backward()
    # of 5 (exp(-s) L + s / 2)
    slope = -wanted[0] * float(found["a"].detach()) + 0.5 * 5
    torch.testing.assert_close(made.balance.log_variances.grad[0], slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": 0.0}, "got weight 0.0 and schedule always"),
        ({"schedule": scheduled("until", 4)}, "got weight 1.0 and schedule until"),
        ({"schedule": scheduled("warm_up", 4)}, ""),
    ],
)
def test_a_balance_needs_every_objective_at_every_step(options, said):
    terms = {"a": Term(), "b": Term(**options)}
    if not said:
        total(terms, balance="uncertainty")
        return
    with pytest.raises(UserError, match=f"method.balance learns .* 'b' must have a weight above 0.*{said}"):
        total(terms, balance="uncertainty")


@pytest.mark.parametrize(
    ("first", "second", "layer"),
    [(None, None, "last"), ("first", None, "first"), ("last", "first", "first"), ("norm", "last", "last")],
)
def test_gradients_are_compared_on_the_earliest_of_the_layers_that_each_reaches_last(first, second, layer):
    network = Net(norm=True)
    made = total({"a": Term(shared=first), "b": Term(shared=second)}, network, balance="gradient_norm")
    assert made._shared[0] is network.get_submodule(layer).weight
    assert total({"a": Term()}, balance="uncertainty")._shared == (None,)


def test_gradients_of_objectives_that_reach_the_output_are_compared_on_the_last_layer():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    made = Objectives(network, {"a": Term(), "b": Term()}, example=X[:2], balance="gradient_norm")
    assert made._shared[0] is network[2].weight
    alone = nn.Linear(3, 2)  # a network that is one layer has no layer by name
    made = Objectives(alone, {"a": Term(), "b": Term()}, example=X[:2], balance="gradient_norm")
    assert made._shared[0] is alone.weight


class Consumes(Reads):
    """One that takes activations of the frozen network as they appear."""

    consumes = True

    def __init__(self, layers):
        super().__init__()
        self.frozen_layers, self.wants_output, self.taken = layers, False, []

    def consume(self, name, activation):
        self.taken.append(name)


def test_each_objective_is_passed_its_own_layers_alone():
    made = total({"a": Consumes(("first",)), "b": Consumes(("norm", "last")), "c": Term()})
    step = taken(made)
    assert (made["a"].taken, made["b"].taken) == (["first"], ["norm", "last"])
    assert step.frozen["teacher"].output is not None or step.frozen["teacher"].activations == {}
    reader = made._readers[0]
    reader._asked = [made["a"], made["b"]]
    given = dict.fromkeys(("first", "norm", "last"), X)
    assert list(reader._distribute(given)) == ["first", "norm", "last"] and made["a"].taken == ["first"] * 2
    for few, shown in (({}, "none"), ({"first": X, "last": X}, "first, last")):
        with pytest.raises(
            UserError, match=f"the frozen network 'teacher' returned no feature '.*', only {shown}$"
        ):
            reader._distribute(few)


def test_extra_inputs_go_through_one_forward_and_come_back_by_name_and_part():
    network = Net()
    made = total({"a": Term(taps=["first"]), "b": Term(adds=(2.0, 3.0)), "c": Term(adds=(-1.0,))}, network)
    step = taken(made, draw=7)
    (inputs, mask), one = network.given[0], X[:1].expand(5, 3)
    assert len(network.given) == 1 and mask is None
    assert torch.equal(inputs, torch.cat([X, 2 * one, 3 * one, -one]))
    torch.testing.assert_close(step.output, network(X))
    assert set(step.extra) == {"b", "c"} and [len(step.extra[name]) for name in "bc"] == [2, 1]
    for found, scale in zip((*step.extra["b"], *step.extra["c"]), (2.0, 3.0, -1.0), strict=True):
        torch.testing.assert_close(found, network(scale * one))
    torch.testing.assert_close(step.activations["first"], network.first(X))
    assert made["b"].calls == [(7, None)]
    masked = Batch(X, torch.zeros(5), torch.arange(5), mask=torch.arange(15).reshape(5, 3) % 2 == 0)
    network.given.clear()
    taken(made, masked)
    assert torch.equal(network.given[0][1], torch.cat([masked.mask] * 4))


@pytest.mark.parametrize("apart", [True, False])
def test_batch_norms_treat_added_inputs_apart_where_one_asks_for_it(apart):
    network = Net(norm=True)
    made = total({"a": Term(), "b": Term(adds=(2.0,), apart=apart)}, network.train())
    hidden, added = network.first(X), network.first(2 * X[:1].expand(5, 3))
    step = taken(made)
    alike = torch.allclose(
        step.output, network.last(nn.functional.batch_norm(hidden, None, None, training=True)), atol=1e-5
    )
    assert alike is apart
    seen = hidden if apart else torch.cat([hidden, added])
    torch.testing.assert_close(network.norm.running_mean, 0.1 * seen.mean(0))


def test_frozen_networks_run_once_for_those_who_ask_and_are_given_by_name():
    terms = {
        "a": Reads(),
        "b": Reads(),
        "c": Reads(network="other"),
        "d": Reads(network="idle", weight=0.0),
        "e": Term(),
    }
    made = total(terms, frozen=("teacher", "other", "idle"))
    step = taken(made)
    runs = {name: len(one.network.given) for name, one in made.frozen.items()}
    assert runs == {"teacher": 1, "other": 1, "idle": 0} and set(step.frozen) == {"teacher", "other"}
    for name in ("teacher", "other"):
        torch.testing.assert_close(step.frozen[name].output, made.frozen[name](X))
    assert step.of("a") is step and step.otherwise == {}


def test_who_shows_something_else_has_it_to_itself_unless_it_is_alone():
    made = total({"a": Reads(), "b": Reads(input=OWN_INPUT, times=2.0), "c": Reads(input=OWN_INPUT)})
    network, teacher = made._network[0], made.frozen["teacher"]
    step = taken(made)
    torch.testing.assert_close(step.of("a").frozen["teacher"].output, teacher(X))
    torch.testing.assert_close(step.of("b").frozen["teacher"].output, teacher(2 * X))
    torch.testing.assert_close(step.of("c").frozen["teacher"].output, teacher(X))
    assert torch.equal(
        network.given[0][0], torch.cat([X, 2 * X])
    )  # of c, who shows the batch, nothing is added
    torch.testing.assert_close(step.extra["b"][0], network(2 * X))
    alone = total({"b": Reads(input=OWN_INPUT, times=2.0), "off": Reads(weight=0.0)})
    step = taken(alone)
    assert torch.equal(alone._network[0].given[0][0], 2 * X) and step.extra == {}
    assert torch.equal(step.batch.inputs, 2 * X)


@pytest.mark.parametrize("shares", [True, False])
def test_noise_is_the_networks_own_input_where_it_is_shared(shares):
    made = total({"a": Reads(input="gaussian", shares=shares)})
    step = taken(made)
    noise, mine = made.frozen["teacher"].network.given[0][0], made._network[0].given[0][0]
    assert not torch.equal(noise, X) and torch.equal(mine, noise if shares else X)
    assert step.frozen == {} and set(step.otherwise) == {"a"} and set(step.of("a").frozen) == {"teacher"}


@pytest.mark.parametrize(
    ("terms", "reaches"),
    [
        ({"a": Term()}, True),
        ({"a": Term(weight=0.0)}, False),
        ({"a": Term(reaches=False)}, False),
        ({"a": Term(reaches=False), "b": Term()}, True),
        ({"a": Term(), "b": Term(own=True)}, True),
        ({"a": Term(), "b": Term(own=True, weight=0.0)}, False),
        ({"a": Term(), "b": Term(weight=0.0)}, True),
        ({"a": Term(schedule=scheduled("until", 2))}, False),
        ({"a": Term(), "b": Term(schedule=scheduled("until", 2))}, True),
        ({"a": Term(), "b": Term(schedule=scheduled("alone_first", 2))}, False),
    ],
)
def test_whether_every_trained_parameter_is_reached_at_every_step(terms, reaches):
    assert total(terms).reaches_all is reaches


@pytest.mark.parametrize(
    ("terms", "max_steps", "fits"),
    [
        ({"a": Term(schedule=scheduled("from", 5))}, 5, False),
        ({"a": Term(schedule=scheduled("from", 5))}, 6, True),
        ({"a": Term(schedule=scheduled("from", 5))}, 0, True),  # as long as anybody likes
        ({"a": Term(schedule=scheduled("from", 5))}, -1, True),
        ({"a": Term(schedule=scheduled("alone_first", 5)), "b": Term()}, 5, False),
        ({"a": Term(schedule=scheduled("alone_first", 5)), "b": Term()}, 6, True),
        ({"a": Term(schedule=scheduled("until", 5)), "b": Term()}, 5, True),
        ({"a": Term(schedule=scheduled("from", 5)), "b": Term()}, 5, False),
        (
            {"a": Term(schedule=scheduled("from", 5, watched=True)), "b": Term()},
            5,
            True,
        ),  # there to be watched
        ({"a": Term(schedule=scheduled("from", 5, watched=True)), "b": Term(weight=0.0)}, 5, False),
        (
            {
                "a": Term(schedule=scheduled("from", 5, watched=True)),
                "b": Term(schedule=scheduled("until", 2)),
            },
            5,
            False,
        ),
        ({"a": Term(schedule=scheduled("alone_first", 5, watched=True)), "b": Term()}, 5, False),
    ],
)
def test_a_schedule_leaves_something_for_what_follows(terms, max_steps, fits):
    made = total(terms)
    start = Start(max_steps, 1, 0, 1, torch.device("cpu"), 3)
    if fits:
        made.start(start)
        assert all(one.calls == [start] for one in made)
        return
    with pytest.raises(
        UserError, match=r"objective 'a': schedule.steps=5 .* leaves none of fit.max_steps=5 for what follows"
    ):
        made.start(start)


@pytest.mark.parametrize(("name", "steps", "said"), [
    ("until", 5, "never ends"), ("until", 4, ""), ("warm_up", 6, "never counts whole"), ("ramp_up", 5, "never counts whole"),
    ("cosine", 9, ""), ("always", None, ""),
])  # fmt: skip
def test_a_schedule_longer_than_the_training_is_said(caplog, name, steps, said):
    made = total({"a": Term(schedule=scheduled(name, steps)), "b": Term()})
    for rank in (0, 1):
        made.start(Start(5, 1, rank, 2, torch.device("cpu"), 3))
    assert caplog.messages == [
        f"objective 'a': schedule.name={name} with schedule.steps={steps} {said} in a training of 5 steps"
    ] * bool(said)


@pytest.mark.parametrize("name", ["loss", "a b", "2a", "", "training", "forward"])
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(UserError, match=f"an objective cannot be named '{name}'"):
        total({name: Term()})


def test_what_does_not_fit_together_is_one_message():
    with pytest.raises(UserError, match="there is no objective"):
        total({})
    with pytest.raises(UserError, match=r"the objective 'a' must be .*Objective, got Linear"):
        total({"a": nn.Linear(1, 1)})
    with pytest.raises(NotPrepared) as error:
        total({"a": Reads(network="guide")})
    assert str(error.value) == (
        "the objective 'a' reads the frozen network 'guide', which is not there (given: teacher): add model@guide=<model>, for instance "
        "model@guide=resnet18 (`tutelage list models` shows all)"
    )
    with pytest.raises(NotPrepared, match=r"'second', which is not there: add model@frozen\.second=<model>"):
        total({"a": Reads(network="second")}, frozen=())
    with pytest.raises(UserError, match=r"method\.cache: no objective reads a frozen network 'teachers'"):
        total({"a": Reads()}, cache=["teachers"])
    assert error.value.objective == "a"


def test_the_average_of_the_network_is_for_those_that_need_it():
    made, average = total({"a": Term()}), Net()
    made.use_average(None)
    made.use_average(average)
    taken(made, draw=2)
    assert made["a"].calls == [(2, average)]
    made.terms["a"] = MeanTeacher()
    made.use_average(average)
    with pytest.raises(
        UserError, match=r"learns from the average of the network: set method\.ema_decay above 0"
    ):
        made.use_average(None)


def test_an_image_of_two_classes_has_no_true_one():
    class Singles(Term):
        singles_out_class = True

    total({"a": Singles()})
    total({"a": Term()}, mixed_targets=True)
    with pytest.raises(NotPrepared, match=r"the objective 'a' \(Singles\) singles out the true class"):
        total({"a": Singles()}, mixed_targets=True)
