"""A network's section of the configuration: advice where weights do not fit, room to the last byte, arguments."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from expected import refused
from tutelage.engine import networks
from tutelage.engine.instantiate import construct, parameters_of
from tutelage.errors import UnknownArgument
from tutelage.models.weights_files import WeightsMismatch


class Small(nn.Module):
    """Two layers, of which the second is the final one."""

    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.out(self.body(inputs))


SIZES = {"input_shape": (6,), "vocab_size": None}


def mismatch(layer, classes=7):
    error = WeightsMismatch("does not fit")
    error.layer, error.classes = layer, classes
    return error


FRESH = "starts it afresh"
KEEPS = "Only the final layer 'out' differs: a frozen network keeps the classes that it knows: "


@pytest.mark.parametrize(("where", "layer", "sizes", "of_classes", "advice"), [
    ("model", "", SIZES, [], ""), ("teacher", "body", SIZES, [], ""),
    ("model", "out", SIZES, [], f"Only the final layer 'out' differs: model.new_head=true {FRESH}"),
    ("model", "body", SIZES, [], "Only the layer 'body' differs; the final layer is 'out'. If 'body' is what decides on the classes, "
                                 f"model.head=body model.new_head=true {FRESH}"),
    ("model", "body", {"input_shape": (5,)}, [], "Only the layer 'body' differs; which layer is the final one was not found. If 'body' is "
                                                 f"what decides on the classes, model.head=body model.new_head=true {FRESH}"),
    ("teacher", "out", SIZES, ["output_size", "num_classes"], KEEPS + "teacher.output_size=7"),
    ("teacher", "out", SIZES, [], KEEPS + "its class takes neither num_classes nor output_size, so build it with 7"),
])  # fmt: skip
def test_what_to_write_where_one_layer_differs(where, layer, sizes, of_classes, advice):
    assert networks._advice(Small(), where, sizes, of_classes, mismatch(layer)) == advice


@pytest.mark.parametrize(("where", "theirs", "ours", "size"), [
    ("teacher", [3, 8, 6], (3, 4, 4), "[8,6]"), ("teacher", [3, 8, 8], (3, 4, 4), "8"), ("teacher", [1, 4, 4], (3, 4, 4), None),
    ("teacher", [8, 6], (3, 4, 4), None), ("teacher", [3, 8, 8], (4, 4), None), ("model", [3, 8, 8], (3, 4, 4), None),
    ("teacher", [3, 8, 4], (3, 4, 4), "[8,4]"), ("teacher", [3, 4, 8], (3, 4, 4), "[4,8]"),
])  # fmt: skip
def test_a_frozen_network_of_another_resolution(monkeypatch, where, theirs, ours, size):
    monkeypatch.setattr(networks, "recorded_data", lambda where, config: {"input_shape": theirs})
    found = networks._resolution(where, {}, {"input_shape": ours})
    assert found == ("" if size is None else (
        f"It was trained on images of {theirs[1]} x {theirs[2]}, these are {ours[1]} x {ours[2]}: teacher.input_size={size} has it see "
        "them at its own size"
    ))  # fmt: skip


def test_two_samples_of_the_datas_shape():
    found = networks._blank({"input_shape": (3, 5), "vocab_size": None})
    assert found.shape == (2, 3, 5) and found.dtype == torch.float32 and not found.any()
    assert networks._blank({"input_shape": (7,), "vocab_size": 9}).dtype == torch.long
    assert refused(networks._blank, {}) == "no data tell the shape of the inputs"


@pytest.mark.parametrize(("copies", "room", "said_"), [
    (1, 4 * (24 + 4), None), (1, 4 * (24 + 4) - 1, "its weights need"), (2, 8 * (24 + 4), None),
    (2, 8 * (24 + 4) - 1, "its weights and their gradients need"),
    (2, None, None),
])  # fmt: skip
def test_a_network_has_room_to_the_last_byte(monkeypatch, copies, room, said_):
    monkeypatch.setattr(networks, "room_bytes", lambda: room)

    def build():
        with networks._in_room("model", copies):
            nn.LazyLinear(99999)
            nn.Linear(10**6, 10**6, device="meta")
            layer = nn.Linear(6, 4)
            layer.weight = nn.Parameter(torch.zeros(4, 6))  # in the place of the other, not beside it
            layer.register_parameter("none", None)

    if said_ is None:
        build()
    else:
        assert refused(build) == (
            f"model: {said_} more than 0.0 GB of memory, where 0.0 GB are all there is: make it smaller, or train on a larger machine"
        )
    nn.Linear(1000, 1000)  # afterwards nothing is counted


def test_a_size_that_is_no_room_is_said_in_gigabytes(monkeypatch):
    monkeypatch.setattr(networks, "room_bytes", lambda: int(1.5 * 2**30))

    def build():
        with networks._in_room("teacher", 1):
            module = nn.Module()
            module.register_parameter("w", nn.Parameter(torch.empty(1).expand(2**29), requires_grad=False))

    assert refused(build).startswith(
        "teacher: its weights need more than 2.0 GB of memory, where 1.5 GB are all there is"
    )


class Options:
    """Takes numbers, and keywords that go on."""

    def __init__(self, size: int, rate: float = 0.5, *, weight: float = 1.0):
        self.given = size, rate, weight


class More(Options):
    """Passes what it does not know on."""

    def __init__(self, depth: int = 2, **rest):
        super().__init__(**rest)
        self.depth = depth


def test_what_a_class_takes_with_what_its_base_takes():
    parameters, hints, open_ended = parameters_of(More)
    assert list(parameters) == ["depth", "size", "rate", "weight"] and not open_ended
    assert hints["size"] is int and hints["depth"] is int


def test_of_ours_nothing_counts_backwards_and_a_missing_argument_is_named():
    target = "tutelage.models.fcn.FCN"
    base = {"_target_": target, "depth": 1, "width": 4}
    assert (
        refused(construct, "model", base)
        == f"model: {target} needs input_shape, output_size; give it in the configuration"
    )
    sizes = {"input_shape": (6,), "output_size": 3, "unknown": 1}
    assert construct("model", base, **sizes) is not None
    assert (
        refused(construct, "model", base | {"depth": -1}, **sizes)
        == "model.depth must not be negative, got -1"
    )
    found = refused(construct, "model", base | {"dept": 1}, **sizes)
    assert (
        found.startswith(f"model: {target} takes no 'dept'; did you mean 'depth'?")
        and "input_shape" not in found
    )
    assert refused(construct, "model", {}).startswith("model has no _target_: it must name a class")


FCN = {"_target_": "tutelage.models.fcn.FCN", "depth": 1, "width": 4}
TO_BUILD = {"input_shape": (6,), "output_size": 3, "num_classes": 3, "vocab_size": None}


def built(where="model", **node):
    config = {"seed": 5, "hardware": {"accelerator": "cpu"}, where: FCN | node}
    return networks.build_network(where, config, TO_BUILD)


def test_settings_of_a_network_are_held_against_its_constructor_without_data():
    said = partial(refused, networks.check_network)
    config = {"model": FCN | {"head": "layers", "weights": None}, "guide": FCN | {"input_size": 8}}
    networks.check_network("model", config)
    networks.check_network("guide", config)
    for where, more, wrong in (
        ("model", {"stages": 2, "blocks": 1}, "model: tutelage.models.fcn.FCN takes no 'stages'; known: activation, batch_norm, depth"),
        ("model", {"input_size": 8}, "model: tutelage.models.fcn.FCN takes no 'input_size'; known: "),
        ("guide", {"depth": -1}, "guide.depth must not be negative, got -1"),
        ("guide", {"depth": "many"}, "guide.depth must be "),
    ):  # fmt: skip
        found = said(where, config | {where: FCN | more})
        assert found.startswith(wrong) and "output_size" not in found
    with pytest.raises(UnknownArgument) as error:
        networks.check_network("model", {"model": FCN | {"stages": 2, "blocks": 1}})
    assert error.value.settings == ["model.stages", "model.blocks"]
    nested = {"_target_": "tutelage.models.reused.ReusedClassifier", "width": 4}
    assert said("model", {"model": nested | {"student": FCN | {"dept": 1}}}).startswith("model.student: ")
    networks.check_network("model", {"model": nested | {"student": FCN}})


def test_what_data_give_a_network_is_what_it_may_ask_them_for():
    task = SimpleNamespace(output_size=3, per_position=False)
    data = SimpleNamespace(input_shape=(6,), task=task, vocab_size=None, facts={}, tables=None)
    assert set(networks.sizes_of(data)) == set(networks.FROM_DATA)


def zeros(network):
    return sum(int((p == 0).sum()) for p in network.parameters() if p.ndim > 1)


def test_what_a_section_says_is_done_to_its_network():
    plain = built()
    weights = sum(p.numel() for p in plain.parameters() if p.ndim > 1)
    assert zeros(plain) == 0 and not any("Int8" in type(one).__name__ for one in plain.modules())
    assert zeros(built(pruned=0.5)) == round(0.5 * weights) == zeros(built(pruned=0.5, pruned_by="random"))
    assert any("Int8" in type(one).__name__ for one in built(quantised="int8").modules())
    named = networks.head_of(built(head="layers.0.linear"), torch.zeros(2, 6))
    assert named.layers == ("layers.0.linear",)
    said = "model.pruned_by=weights needs model.pruned, the share that goes"
    assert refused(built, pruned_by="weights") == said
    assert refused(built, head="nope").startswith("model.head=nope: FCN has no such layer with weights")
    said = "model.weights=pretrained: tutelage.models.fcn.FCN has no published weights. Expected "
    assert refused(built, weights="pretrained").startswith(said)


def test_each_network_draws_its_own_initialisation_from_the_seed_or_its_own():
    first = [p.sum().item() for p in built().parameters()]
    assert first == [p.sum().item() for p in built().parameters()]
    assert first != [p.sum().item() for p in built("teacher").parameters()]
    assert (
        first
        == [p.sum().item() for p in built(init_seed=5).parameters()]
        != [p.sum().item() for p in built(init_seed=0).parameters()]
    )


class Rule(networks.FeatureGuide):
    """A guide that is a rule."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, inputs):
        return inputs

    def features(self, inputs):
        return []


Rule.__abstractmethods__ = frozenset()


@pytest.mark.parametrize(("where", "kind", "size", "shape", "said"), [
    ("guide", Rule, None, (3, 8, 8), None), ("guide", nn.Flatten, None, (3, 8, 8), None), ("guide", nn.Flatten, 4, (3, 8, 8), None),
    ("guide", Rule, 4, (3, 8, 8), "guide.input_size: Rule is a rule, which looks at the data as they are"),
    ("guide", nn.Flatten, 4, (8,), "guide.input_size is of images (channels, height, width), these data are of shape (8,)"),
])  # fmt: skip
def test_a_frozen_network_at_a_size_of_its_own(monkeypatch, where, kind, size, shape, said):
    given = {}
    monkeypatch.setattr(networks, "build_network", lambda where, config, sizes: given.update(sizes) or kind())
    monkeypatch.setattr(networks, "sizes_of", lambda data: {"input_shape": shape, "output_size": 3})
    monkeypatch.setattr(
        networks, "recorded_sizes", lambda where, config: {"input_shape": (9,), "output_size": 7}
    )
    data = SimpleNamespace(input_shape=shape, normalization=None)
    config = {where: {"input_size": size}, "teacher": {"input_size": size}}
    if said is not None:
        assert refused(networks.build_frozen, where, config, data) == said
        return
    found = networks.build_frozen(where, config, data)
    assert found.network.__class__ is kind and found.input_size == (None if size is None else (4, 4))
    assert given == {"input_shape": shape if size is None else (3, 4, 4), "output_size": 3}
    if kind is nn.Flatten:
        networks.build_frozen("teacher", config, data)  # which may know other classes than the data
        assert given["output_size"] == 7 and given["input_shape"] != (9,)


@pytest.mark.parametrize("where", ["model", "teacher", "source"])
def test_a_rule_guides_alone(monkeypatch, where):
    monkeypatch.setattr(networks, "construct", lambda *_, **more: Rule())
    config = {"seed": 0, "hardware": {"accelerator": "cpu"}, where: FCN}
    said = f"{where}: Rule is a rule, no network: it can only guide (model@guide=...)"
    assert refused(networks.build_network, where, config, TO_BUILD) == said
    config = {"seed": 0, "hardware": {"accelerator": "cpu"}, "guide": FCN}
    assert isinstance(networks.build_network("guide", config, TO_BUILD), Rule)
    monkeypatch.setattr(networks, "construct", lambda *_, **more: 3)
    assert (
        refused(networks.build_network, "guide", config, TO_BUILD)
        == "guide._target_ must build a torch.nn.Module, got int"
    )


@pytest.mark.parametrize("where", ["model", "teacher"])
def test_weights_are_loaded_into_a_network_but_for_a_layer_that_starts_afresh(monkeypatch, caplog, where):
    given = []
    weights = SimpleNamespace(where=where, said="w.pt", new_head=False, path=lambda: "path")
    monkeypatch.setattr(networks, "load_weights", lambda network, path, **more: given.append((path, more)))
    monkeypatch.setattr(networks, "_advice", lambda *words: words[3][0] if words[3] else "")
    monkeypatch.setattr(networks, "_resolution", lambda *words: "another size")
    caplog.set_level("INFO", "tutelage")
    network = Small()

    def load(of_classes=()):
        return networks._load(network, weights, SIZES, {}, "entry", list(of_classes))

    load()
    weights.new_head = True
    load()
    (_, plain), (path, fresh) = given
    assert plain == {"head": None, "entry": "entry", "where": where} and path == "path"
    assert str(fresh["head"]) == "out" and caplog.messages == [
        f"{where}.new_head=true: the layer 'out' starts afresh"
    ]
    with torch.no_grad():
        network.out.bias[:] = float("nan")
    assert refused(load) == (
        f"{where}.weights=w.pt: 1 of 4 tensors hold values that are no finite numbers (NaN or infinite), such as out.bias. What wrote them "
        "had diverged: choose other weights"
    )

    def fails(*_, **more):
        raise mismatch("out")

    monkeypatch.setattr(networks, "load_weights", fails)
    assert (
        refused(load) == "does not fit another size"
        and refused(load, ["build it anew"]) == "does not fit build it anew"
    )
    monkeypatch.setattr(networks, "_resolution", lambda *words: "")
    assert refused(load) == "does not fit"


class Takes(nn.Module):
    """Takes what some of a section's words say itself."""

    def __init__(
        self, width: int = 2, num_classes: int = 3, entry: str = "", head: str = "", pruned: float = 0.0
    ):
        super().__init__()
        self.given = width, num_classes, entry, head, pruned
        self.out = nn.Linear(6, num_classes)

    def forward(self, inputs):
        return self.out(inputs)


class Leaves(nn.Module):
    """Takes none of them."""

    def __init__(self, output_size: int = 3):
        super().__init__()
        self.out = nn.Linear(6, output_size)

    def forward(self, inputs):
        return self.out(inputs)


@pytest.mark.parametrize(
    ("kind", "entry", "of_classes"), [(Takes, None, ["num_classes"]), (Leaves, "ema", ["output_size"])]
)
def test_words_of_a_section_go_to_the_constructor_where_it_takes_them(
    monkeypatch, tmp_path, kind, entry, of_classes
):
    loaded = []
    monkeypatch.setattr(networks, "resolve", lambda target, where: kind)
    monkeypatch.setattr("tutelage.engine.instantiate.resolve", lambda target, where: kind)
    monkeypatch.setattr(networks, "_load", lambda *words: loaded.append(words[4:]))
    (tmp_path / "w.pt").touch()
    node = {"_target_": "mine.Net", "weights": str(tmp_path / "w.pt"), "entry": "ema", "num_classes": None}
    if kind is Leaves:
        del node["num_classes"]
    config = {"seed": 5, "hardware": {"accelerator": "cpu"}, "model": node}
    found = networks.build_network("model", config, TO_BUILD)
    assert loaded == [(entry, of_classes)] and found.out.out_features == 3
    assert kind is Leaves or found.given == (2, 3, "ema", "", 0.0)
    kept = config | {"model": node | {"head": "out", "pruned": 0.5}}
    found = networks.build_network("model", kept, TO_BUILD)
    if kind is Takes:
        assert found.given == (2, 3, "ema", "out", 0.5) and zeros(found) == 0
    else:
        assert zeros(found) == 9
