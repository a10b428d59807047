"""A network's section of the configuration: advice where weights do not fit, room to the last byte, arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.engine import networks
from tutelage.engine.instantiate import construct, parameters_of
from tutelage.errors import UserError
from tutelage.models.weights_files import WeightsMismatch


def refused(function, *words, **more):
    with pytest.raises(UserError) as error:
        function(*words, **more)
    return str(error.value)


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
