"""The objects of a run out of its configuration, with builders that are made up: which are asked, for what, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tutelage.engine import build
from tutelage.errors import UserError


class Given(build.Method):
    """A method that keeps what it is given."""

    def __init__(self, **given: Any) -> None:
        nn.Module.__init__(self)
        self.given = given
        self.layer = nn.Linear(1, 1)


class Named(build.Tokens):
    """A task on tokens."""

    def __init__(self, next_token: bool) -> None:
        self.next_token, self.output_size = next_token, 11


class Plain:
    """A network at rest, or a setting of the optimiser."""

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)
        self.inputs: list[Any] = []

    def prefer_channels_last(self, inputs: Any) -> None:
        self.inputs.append(inputs)


def objective(*networks, trained=False, classes=False, layers=()):
    return SimpleNamespace(
        networks=networks, expects_trained=trained, compares_classes=classes, frozen_layers=layers
    )


class Bench:
    """What `build` is made of, each part noting what it was asked."""

    def __init__(self, monkeypatch, own=(), **facts: Any) -> None:
        self.asked: dict[str, Any] = {}
        self.places: list[Any] = []
        self.checked: list[Any] = []
        self.kind: Any = Given
        self.objectives: dict[str, Any] = {"task": objective()}
        self.frozen = {name: Plain(network=SimpleNamespace(**facts)) for name in ("teacher", "second")}
        self.spec: Any = object.__new__(build.OptimizerSpec)
        object.__setattr__(self.spec, "frozen", "patterns")
        object.__setattr__(self.spec, "lr_factors", "factors")
        self.data: Any = SimpleNamespace(
            task=SimpleNamespace(), batch_size=8, splits={"train": [3, 1]}, mixes_targets="mixes", normalization="normal",
            facts={"train_class_counts": "counts"}, fixed_samples="samples",
        )  # fmt: skip
        self.config: dict[str, Any] = {
            "method": {"_target_": "mine.Given", "objectives": {}, "unlabelled": None, "rate": 2}, "seed": 4,
            "optimizer": {"name": "adam"}, "fit": {"gradient_clip": None},
            "hardware": {"accelerator": "cpu", "precision": "32"},
        }  # fmt: skip
        put, places = self.asked.update, self.places

        def construct(where, node, **context):
            put({where: (node, context)})
            return self.spec if where == "optimizer" else self.kind(**context)

        for name, part in {
            "parameters_of": lambda function: (dict.fromkeys(own), {}, False),
            "resolve": lambda target, where: self.kind,
            "check_frozen": lambda config, own: put(own=own) or list(self.frozen),
            "build_objectives": lambda config: self.objectives,
            "check_network": lambda where, config: self.checked.append(where),
            "check_arguments": lambda where, kind, node, supplied: self.checked.append((where, [*node])),
            "build_data": lambda config: self.checked.append("data") or self.data,
            "sizes_of": lambda data: "sizes",
            "build_network": lambda where, config, sizes: put({where: sizes}) or "network",
            "where_of": lambda name: name if name == "teacher" else f"frozen.{name}",
            "build_frozen": lambda where, config, data: self.frozen[where.removeprefix("frozen.")],
            "check_code": lambda where, config: places.append(("code", where)),
            "check_architecture": lambda where, config: None,
            "check_vocabulary": lambda where, config, data: places.append(("words", where)),
            "check_unseen": lambda where, config, data: places.append(("unseen", where)),
            "check_teacher": lambda where, config, data, same_classes: places.append((where, same_classes)),
            "check_causal": lambda network, example, vocabulary: put(causal=vocabulary),
            "example_of": lambda data: SimpleNamespace(inputs="inputs", mask=None),
            "_on_accelerator": lambda name: name == "gpu",
            "_channels_last": lambda network, example: put(channels_last=network),
            "construct": construct,
            "freeze": lambda network, patterns: put(freeze=patterns) or "resting",
            "_prepared": lambda network, objectives, **context: put(prepared=context) or "total",
            "build_unlabelled": lambda config, data: "unlabelled",
            "checked": lambda key, value, hint: f"{key}={value}",
            "_fold_norms": lambda networks, example: put(folded=sorted(networks)),
            "recompute": lambda network: put(recompute=network),
            "warn_of_conflicts": lambda data, objectives: put(warned=True),
            "check_patterns": lambda factors, names, where: put(patterns=(factors, names, where)),
            "warn_of_resting": lambda factors, named: put(resting_of=factors),
            "_heads": lambda method, example: {"model": "head"},
        }.items():  # fmt: skip
            monkeypatch.setattr(build, name, part)
        monkeypatch.setattr(
            Given, "check_objectives", lambda objectives: put(objectives=objectives), raising=False
        )
        monkeypatch.setattr(Given, "network", "its network", raising=False)

    def __call__(self, **more: Any) -> Any:
        for section, values in more.items():
            self.config[section] |= values
        return build.build(self.config)

    def refused(self, **more: Any) -> str:
        with pytest.raises(UserError) as error:
            self(**more)
        return str(error.value)


def test_a_method_is_given_what_it_names(monkeypatch):
    bench = Bench(monkeypatch, own=["teacher", "example", "normalization", "rate"])
    found = bench(method={"balance": "x", "cache": ["teacher"]})
    assert found.data is bench.data and found.heads == {"model": "head"}
    assert found.method.resting == "resting"
    node, context = bench.asked["method"]
    assert node == {"_target_": "mine.Given", "rate": 2}
    assert context["teacher"] is bench.frozen["teacher"] and context["example"].inputs == "inputs"
    assert {key: context[key] for key in ("network", "objectives", "seed", "normalization")} == {
        "network": "network", "objectives": "total", "seed": 4, "normalization": "normal",
    }  # fmt: skip
    assert context["optimizer"] is bench.spec and context["task"] is bench.data.task and len(context) == 8
    prepared = bench.asked["prepared"]
    assert prepared.pop("index").tolist() == [3, 1] and prepared.pop("frozen") == bench.frozen
    assert prepared.pop("example").inputs == "inputs" and prepared.pop("task") is bench.data.task
    assert prepared == {
        "batch_size": 8, "class_counts": "counts", "unlabelled": "unlabelled", "mixed_targets": "mixes", "normalization": "normal",
        "samples": "samples", "balance": "method.balance=x", "cache": "method.cache=['teacher']",
    }  # fmt: skip
    assert bench.asked["own"] == ["teacher"] and bench.asked["objectives"] is bench.objectives
    assert bench.asked["patterns"] == ("factors", ["layer.weight", "layer.bias"], "optimizer.lr_factors")
    assert bench.places == [
        (what, where)
        for where in ("model", "teacher", "frozen.second")
        for what in ("code", "words", "unseen")
    ]
    assert [one.inputs for one in bench.frozen.values()] == [["inputs"], ["inputs"]]  # of a run on the CPU
    assert not {"channels_last", "folded", "recompute", "causal"} & set(bench.asked) and bench.asked["warned"]
    assert bench.asked["optimizer"] == ({"_target_": build.OPTIMIZER, "name": "adam"}, {})
    assert bench.asked["freeze"] == "patterns"


def test_settings_are_looked_at_before_data_are_loaded(monkeypatch):
    bench = Bench(monkeypatch)
    bench(method={"cache": ["teacher"]})
    assert bench.checked == ["model", "teacher", "frozen.second", ("method", ["_target_", "rate"]), "data"]


def test_a_method_that_names_nothing_is_given_the_least(monkeypatch):
    bench = Bench(monkeypatch)
    bench(hardware={"accelerator": "gpu", "channels_last": True, "recompute": True})
    assert set(bench.asked["method"][1]) == {"network", "task", "optimizer", "objectives", "seed"}
    assert bench.asked["prepared"]["samples"] is None and "balance" not in bench.asked["prepared"]
    assert (bench.asked["channels_last"], bench.asked["recompute"]) == ("network", "its network")
    assert [one.inputs for one in bench.frozen.values()] == [[], []]
    other: Any = SimpleNamespace(**vars(bench.data))
    assert build.build(bench.config, other).data is other


def test_random_numbers_are_those_of_the_seed(monkeypatch):
    drawn = []
    for seed in (4, 5, 4):
        bench = Bench(monkeypatch)
        monkeypatch.setattr(build, "step_seed", lambda *words: sum(words))
        monkeypatch.setattr(build, "_prepared", lambda *_, **more: drawn.append(torch.rand(1).item()))
        bench.config["seed"] = seed
        bench()
    assert drawn[0] == drawn[2] != drawn[1]
    torch.manual_seed(4 + 0 + 1)
    assert torch.rand(1).item() == drawn[0]


@pytest.mark.parametrize(("fused", "clip", "precision", "found"), [
    (True, 1.0, "16-mixed", False), (True, 0.0, "bf16-mixed", False), (True, None, "16-mixed", True), (True, 1.0, "32", True),
    (False, 1.0, "16-mixed", False), (None, 1.0, "16-mixed", None),
])  # fmt: skip
def test_an_update_in_one_kernel_where_it_can_be_clipped(monkeypatch, fused, clip, precision, found):
    bench = Bench(monkeypatch)
    bench(optimizer={"fused": fused}, fit={"gradient_clip": clip}, hardware={"precision": precision})
    assert bench.asked["optimizer"][0]["fused"] is found
    assert bench.config["optimizer"]["fused"] is fused


@pytest.mark.parametrize(("task", "reads", "said"), [
    ("none", True, "refused"), ("none", False, None), ("none", None, "refused"), ("next", True, 11), ("next", False, None),
    ("tokens", True, None),
    ("other", True, None),
])  # fmt: skip
def test_methods_that_foretell_need_what_they_foretell(monkeypatch, task, reads, said):
    bench = Bench(monkeypatch)
    tasks: Any = {
        "none": object.__new__(build.NoTargets), "next": Named(True), "tokens": Named(False), "other": SimpleNamespace(next_token=True),
    }  # fmt: skip
    bench.data.task = tasks[task]
    if reads is not None:
        monkeypatch.setattr(Given, "reads_targets", reads, raising=False)
    if said == "refused":
        if reads is None:
            monkeypatch.delattr(build.Method, "reads_targets", raising=False)
        assert bench.refused().startswith("these data have no classes, and method Given learns from classes")
    else:
        bench()
        assert bench.asked.get("causal") == said


@pytest.mark.parametrize(
    ("objectives", "fresh", "places", "said"),
    [
        ([objective("teacher", trained=True)], ("head",), [("teacher", False)], None),
        ([objective("teacher", classes=True)], ("head",), [], None),
        ([objective("teacher", trained=True), objective("teacher", classes=True)], (), [("teacher", True)], None),
        ([objective("teacher", trained=True, classes=True)], ("head", "body"), None, "teacher"),
        ([objective("second", trained=True), objective("teacher", classes=True)], ("x",), [("frozen.second", False)], None),
    ],
)  # fmt: skip
def test_a_teacher_of_classes_has_weights_for_them(monkeypatch, objectives, fresh, places, said):
    bench = Bench(monkeypatch, drawn_afresh=fresh)
    bench.objectives = {str(number): one for number, one in enumerate(objectives)}
    if said is not None:
        assert bench.refused().startswith(
            "the teacher has no weights of its own for these classes (head, body would be drawn afresh)"
        )
        return
    bench()
    assert bench.places[9:] == places


@pytest.mark.parametrize(
    ("own", "layers", "folded"),
    [
        ((), (), ["second", "teacher"]),
        (("teacher",), (), ["second"]),
        ((), ("a",), ["teacher"]),
        (("teacher",), ("a",), []),
    ],
)
def test_norms_are_folded_of_networks_that_nobody_looks_into(monkeypatch, own, layers, folded):
    bench = Bench(monkeypatch, own=own)
    bench.objectives = {"hint": objective("second", layers=layers), "soft": objective("teacher")}
    bench(hardware={"fold_norms": True})
    assert bench.asked["folded"] == folded


def test_what_is_no_method_and_no_optimiser(monkeypatch):
    bench = Bench(monkeypatch)
    bench.kind = lambda **given: 3
    assert bench.refused() == "method._target_ must be a tutelage Method, got int"
    bench.spec = "adam"
    assert bench.refused() == f"optimizer._target_={build.OPTIMIZER} {build.BY_NAME}"
    assert "objectives" not in bench.asked  # a function is asked for no objectives
