"""Which weights of a file are meant, what does not fit, "
"what is pruned and how stored shapes are taken: each rule and message as it stands."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from expected import refused
from tutelage.models import pretrained, pruning, weights_files
from tutelage.models.heads import Head, named_head
from tutelage.models.weights_files import WeightsMismatch, load_weights, read_states


class Small(nn.Module):
    """Two layers and a norm."""

    def __init__(self, classes=3):
        super().__init__()
        self.body, self.norm, self.out = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes)

    def forward(self, inputs):
        return self.out(self.norm(self.body(inputs)))


STATE = Small().state_dict()
NEEDED = [name for name in STATE if not name.endswith("num_batches_tracked")]


def under(prefix, state=STATE):
    return {f"{prefix}{name}": value for name, value in state.items()}


# --- states in a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "places"), [
    (STATE, [""]), ({"state_dict": STATE, "epoch": 3}, ["state_dict"]), ({**STATE, "epoch": 3, "score": None, "best": "yes"}, [""]),
    ({**STATE, "args": [1]}, []), ({"weight": torch.ones(1), "epoch": 3}, []), ({"weight": torch.ones(1)}, [""]),
    ({"a": {"b": {"c": STATE}}}, ["a.b.c"]), ({"a": {"b": {"c": {"d": STATE}}}}, []),
    ({"optimizer": STATE, "Optim": STATE, "model": STATE}, ["model"]),
    ({1: torch.ones(1)}, []), ({}, []), ([STATE], []), ({"model": STATE, "ema": STATE}, ["model", "ema"]),
])  # fmt: skip
def test_states_are_found_where_they_stand(content, places):
    assert [at for at, _ in weights_files._states(content)] == places


def pick(states, entry=None, where="model"):
    return weights_files._chosen("f", states, entry, NEEDED, where=where)


OTHER = {"x": torch.ones(1)}


@pytest.mark.parametrize(("states", "entry", "place"), [
    ({"": STATE}, None, ""), ({"a": STATE}, None, "a"), ({"a": STATE, "b": OTHER}, None, "a"),
    ({"a": OTHER, "b": under("net.")}, None, "b"),
    ({"model": STATE, "ema": STATE}, None, "ema"), ({"model": STATE, "model_ema": STATE}, None, "model_ema"),
    ({"model": STATE, "averaged.x": STATE}, None, "averaged.x"), ({"a": STATE, "b": STATE}, "b", "b"),
    ({"a": OTHER, "model": OTHER}, None, "model"),
    ({"a": OTHER}, None, "a"), ({"": under("net.")}, "net", ""),
])  # fmt: skip
def test_which_state_is_meant(states, entry, place):
    assert pick(states, entry) == place


@pytest.mark.parametrize(("states", "entry", "where", "said"), [
    ({"a": STATE, "b": STATE}, None, "teacher", "f holds 2 states, a, b: say which: teacher.entry=a"),
    ({"a": STATE, "b": STATE}, None, "", "f holds 2 states, a, b: save the one that is meant by itself"),
    ({"a": STATE, "ema": STATE, "swa": STATE}, None, "model", "f holds 3 states, a, ema, swa: say which: model.entry=a"),
    ({"schema": STATE, "b": STATE}, None, "model", "f holds 2 states, schema, b: say which: model.entry=schema"),
    ({"a": STATE}, "c", "model", "model.entry=c: f holds no such state or network; known: a"),
    ({"": under("net.")}, "nett", "model", "model.entry=nett: f holds no such state or network; did you mean 'net'? Known: net"),
])  # fmt: skip
def test_states_that_could_all_be_meant(states, entry, where, said):
    assert refused(pick, states, entry, where) == said


def test_what_was_taken_is_said(caplog):
    caplog.set_level(logging.INFO, "tutelage")
    pick({"a": STATE, "b": OTHER})
    pick({"a": STATE})
    pick({"a": STATE}, where="")
    pick({"": STATE})
    assert [one.getMessage() for one in caplog.records] == [
        "model.weights=f: taken are those under 'a', not b (model.entry=... takes another)",
        "model.weights=f: taken are those under 'a'",
    ]


@pytest.mark.parametrize(
    ("names", "listed"),
    [(6, "n0, n1, n2, n3, n4, n5"), (7, "n0, n1, n2, n3, n4, n5, ... (7 in all)"), (0, "")],
)
def test_the_first_names(names, listed):
    assert weights_files._some([f"n{place}" for place in range(names)]) == listed


@pytest.mark.parametrize(("state", "prefixes"), [
    (STATE, [""]), (under("a."), ["a."]), ({**under("a."), **under("b.")}, ["a.", "b."]), ({**STATE, **under("b.")}, [""]), (OTHER, []),
    ({name: value for name, value in under("a.").items() if "out" not in name}, []),
])  # fmt: skip
def test_prefixes_under_which_a_whole_network_lies(state, prefixes):
    assert weights_files._prefixes(state, NEEDED) == prefixes
    assert weights_files._prefixes(state, []) == [""]


def test_the_part_of_a_state_that_is_the_network():
    both = {**under("network."), **under("average.")}
    assert set(weights_files._without_prefix(both, NEEDED, "f", None, "model")) == set(STATE)
    assert weights_files._without_prefix(both, NEEDED, "f", "average", "model").keys() == STATE.keys()
    two = {**under("a."), **under("b.")}
    assert weights_files._without_prefix(two, NEEDED, "f", "b.", "model").keys() == STATE.keys()
    said = "f holds such a network 2 times, under a., b.: "
    assert (
        refused(weights_files._without_prefix, two, NEEDED, "f", None, "model")
        == said + "say which: model.entry=a"
    )
    assert (
        refused(weights_files._without_prefix, two, NEEDED, "f", None, "")
        == said + "save the one that is meant by itself"
    )
    assert weights_files._without_prefix(OTHER, NEEDED, "f", None, "") == OTHER


HEAD = Head(("out",), ("out",), ("out.weight", "out.bias"))
NOT_OF = "the weights of the given state are not of this Small. "
BUILD = " Build the network with the sizes it had when its weights were saved, or choose others"


def without(*names):
    return {name: value for name, value in STATE.items() if name not in names}


@pytest.mark.parametrize(("state", "said", "layer", "classes"), [
    (without("body.bias"), f"{NOT_OF}missing: body.bias.{BUILD}", "", None),
    ({**STATE, "more.x": torch.ones(1)}, f"{NOT_OF}unexpected: more.x.{BUILD}", "", None),
    ({**STATE, "out.weight": torch.ones(7, 5), "out.bias": torch.ones(7)},
     f"{NOT_OF}of another shape: out.weight is (7, 5) there, (3, 5) here, out.bias is (7,) there, (3,) here.", "out", 7),
    ({**STATE, "out.bias": torch.ones(7), "body.bias": torch.ones(6)},
     f"{NOT_OF}of another shape: body.bias is (6,) there, (5,) here, out.bias is (7,) there, (3,) here.{BUILD}", "", None),
    ({**without("norm.weight"), "out.bias": torch.ones(7), "z": torch.ones(1)},
     f"{NOT_OF}missing: norm.weight; unexpected: z; of another shape: out.bias is (7,) there, (3,) here.{BUILD}", "", None),
])  # fmt: skip
def test_weights_that_are_of_another_network(state, said, layer, classes):
    network = Small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsMismatch) as error:
        load_weights(network, state)
    assert (str(error.value), error.value.layer, error.value.classes) == (said, layer, classes)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_final_layer_that_starts_afresh_takes_nothing_of_the_file():
    network, theirs = (
        Small(),
        {**STATE, "out.weight": torch.ones(7, 5), "out.bias": torch.ones(7), "out.scale": torch.ones(1)},
    )
    kept = network.out.weight.clone()
    assert load_weights(network, theirs, head=HEAD) == ["out.bias", "out.weight"]
    assert torch.equal(network.out.weight, kept) and torch.equal(network.body.weight, STATE["body.weight"])
    assert load_weights(Small(), without("out.weight", "out.bias"), head=HEAD) == ["out.bias", "out.weight"]
    assert load_weights(Small(), without("norm.num_batches_tracked")) == []
    tied = Head(("out",), ("out",), ("out.weight",), ("body.weight",))
    assert refused(load_weights, Small(), STATE, head=tied) == (
        "the final layer 'out' of Small shares body.weight with other layers: it cannot start afresh alone. Build the network with weights "
        "of its own there"
    )


def test_files_that_are_no_weights(tmp_path):
    assert refused(read_states, tmp_path) == f"expected a weights file at {tmp_path}, found a folder"
    path = tmp_path / "a.npz"
    assert refused(read_states, path) == f"expected a weights file at {path}, found nothing"
    path.write_bytes(b"x" * 20)
    assert refused(read_states, path) == (
        f"unknown kind of weights file {path}: expected .safetensors, or one that torch.save wrote (.ckpt, .pt, .pth, .bin, .tar)"
    )
    torch.save({"epoch": 3, "args": [1]}, path)
    assert (
        refused(read_states, path)
        == f"the weights file {path} holds no state_dict (names to tensors), but a dictionary of epoch, args"
    )
    torch.save([1], path)
    assert (
        refused(read_states, path)
        == f"the weights file {path} holds no state_dict (names to tensors), but list"
    )


@pytest.mark.parametrize(("head", "is_one"), [(b"\x05\0\0\0\0\0\0\0{", True), (b"\xff\0\0\0\0\0\0\0{", False),
(b"\x05\0\0\0\0\0\0\0[", False),
                                              (b"\x05\0\0\0\0\0\0\0", False), (b"\x0e\0\0\0\0\0\0\0{", False),
    (b"\x0d\0\0\0\0\0\0\0{", True)])  # fmt: skip
def test_a_safetensors_file_by_its_beginning(tmp_path, head, is_one):
    path = tmp_path / "a"
    path.write_bytes(head + b"xxxxx" * (len(head) == 9))
    assert weights_files._looks_like_safetensors(path) == is_one


def test_digests_know_names_kinds_shapes_and_bytes():
    one = nn.Linear(2, 3)
    same = nn.Linear(2, 3)
    same.load_state_dict(one.state_dict())
    assert weights_files.digest(one) == weights_files.digest(same) != weights_files.digest(nn.Linear(3, 2))
    with torch.no_grad():
        same.bias[0] += 1
    assert weights_files.digest(one) != weights_files.digest(same) and weights_files.digest(
        one.half()
    ) != weights_files.digest(one.float())
    values = {
        "a": torch.tensor([1.0, float("inf")]),
        "b": torch.tensor([1]),
        "c": torch.ones(2),
        "d": torch.tensor([float("nan")]).half(),
    }
    assert weights_files.not_finite(values) == ["a", "d"]


@pytest.mark.parametrize(("wanted", "layers", "names"), [
    ("out", ("out",), ("out.weight", "out.bias")),
    (["norm", "out.bias"], ("norm",), (*(n for n in STATE if n.startswith("norm.")), "out.bias")),
    (["out", "out.bias"], ("out",), ("out.weight", "out.bias")),
])  # fmt: skip
def test_a_named_final_layer(wanted, layers, names):
    found = named_head(Small(), wanted)
    assert (found.layers, found.names) == (layers, names)


@pytest.mark.parametrize(("wanted", "said"), [
    ("oout", "head=oout: Small has no such layer with weights; did you mean 'out'? Known: body, norm, out"),
    ("", "head=: Small has no such layer with weights; known: body, norm, out"),
    ([], "head must name a layer, or be a list of names, got []"), ([3], "head must name a layer, or be a list of names, got [3]"),
    (3, "head must name a layer, or be a list of names, got 3"),
])  # fmt: skip
def test_a_name_that_is_no_final_layer(wanted, said):
    assert refused(named_head, Small(), wanted) == said


# --- pruning and stored shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("by", ["weights", "random"])
def test_a_share_of_the_weights_is_zero_and_stays_so(share, by):
    network = Small()
    sizes = torch.cat(
        [network.body.weight.detach().abs().flatten(), network.out.weight.detach().abs().flatten()]
    )
    if by == "random":
        sizes = torch.rand(35, generator=torch.Generator().manual_seed(3))
    gone = set(sizes.argsort(stable=True)[: round(share * 35)].tolist())
    bias = network.out.bias.clone()
    pruning.prune(
        network, share, by, inputs=torch.zeros(2, 4), head=(), seed=3, where="model"
    ) if share else None
    if share:
        flat = torch.cat([network.body.weight.detach().flatten(), network.out.weight.detach().flatten()])
        assert set((flat == 0).nonzero().flatten().tolist()) == gone
        network.train()(torch.randn(8, 4)).square().sum().backward()
        gradients = torch.cat([network.body.weight.grad.flatten(), network.out.weight.grad.flatten()])
        assert not gradients[list(gone)].any()
    assert torch.equal(network.out.bias, bias)
    assert list(pruning.prunable(network)) == ["body.weight", "out.weight"]


@pytest.mark.parametrize(("layer", "shape", "sizes"), [
    (nn.Linear(6, 4), [3, 5], {"out_features": 3, "in_features": 5}),
    (nn.Conv2d(6, 4, 3), [3, 5, 3, 3], {"out_channels": 3, "in_channels": 5, "groups": 1}),
    (nn.Conv2d(6, 4, 3, groups=2), [2, 2, 3, 3], {"out_channels": 2, "in_channels": 4, "groups": 2}),
    (nn.Conv2d(6, 6, 3, groups=6), [4, 1, 3, 3], {"out_channels": 4, "in_channels": 4, "groups": 4}),
    (nn.ConvTranspose2d(6, 4, 3), [5, 3, 3, 3], {"out_channels": 3, "in_channels": 5, "groups": 1}),
    (nn.BatchNorm1d(6), [4], {"num_features": 4}), (nn.LayerNorm(6), [4], {"normalized_shape": (4,)}),
    (nn.GroupNorm(2, 6), [4], {"num_channels": 4}),
    (nn.PReLU(6), [4], {"num_parameters": 4}),
])  # fmt: skip
def test_a_layer_takes_the_smaller_shape_of_its_stored_weights(layer, shape, sizes):
    network = nn.Sequential(layer)
    layer.weight.requires_grad_(False)
    pruning.take_shapes(network, {"0.weight": shape})
    assert {name: getattr(layer, name) for name in sizes} == sizes and list(layer.weight.shape) == shape
    out = sizes.get("out_channels", shape[0])
    assert all(tuple(value.shape) == (out,) for name, value in layer.named_parameters() if name == "bias")
    assert all(value.shape in ((out,), ()) for value in layer.buffers()) and not layer.weight.requires_grad
    assert weights_files.shrunk(network) == {"shrunk": "true"} and weights_files.shrunk(layer) == {}
    if not isinstance(layer, nn.PReLU | nn.LayerNorm | nn.GroupNorm):
        network.eval()(
            torch.ones(
                2,
                sizes.get("in_features") or sizes.get("in_channels") or 4,
                *(() if layer.weight.ndim < 3 else (5, 5)),
            )
        )


@pytest.mark.parametrize("shape", [[4, 6], [5, 6], [3, 7], [4], [3, 5, 1]])
def test_a_layer_that_would_grow_or_is_of_another_kind_stays(shape):
    network = nn.Sequential(nn.Linear(6, 4))
    before = network[0].weight
    pruning.take_shapes(network, {"0.weight": shape, "other.weight": [1]})
    assert network[0].weight is before


def test_of_a_layer_that_starts_afresh_the_outputs_stay():
    network = nn.Sequential(nn.Linear(6, 4))
    pruning.take_shapes(network, {"0.weight": [9, 5]}, ["0.weight"])
    assert tuple(network[0].weight.shape) == (4, 5)


# --- published networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_first_convolution_for_other_channels(channels):
    weight = torch.randn(4, 3, 2, 2)
    found = pretrained._conv_for_channels(weight, channels)
    for place in range(channels):
        slow = (
            weight[:, 0] + weight[:, 1] + weight[:, 2]
            if channels == 1
            else weight[:, place % 3] * 3 / channels
        )
        assert torch.allclose(found[:, place], slow)
    assert found.shape == (4, channels, 2, 2)
    network = SimpleNamespace()
    pretrained._note_normalization(network, SimpleNamespace(mean=(0.1, 0.2, 0.6), std=(1, 2, 3)), channels)
    mean, std = network.pretrained_normalization
    assert mean == (
        (pytest.approx(0.3),)
        if channels == 1
        else tuple((0.1, 0.2, 0.6)[place % 3] for place in range(channels))
    )
    assert std == (
        (2.0,) if channels == 1 else tuple((1.0, 2.0, 3.0)[place % 3] for place in range(channels))
    )


def test_a_replaced_first_convolution_is_as_the_one_before_but_for_its_channels():
    network = nn.Sequential(
        nn.ReLU(), nn.Conv2d(3, 4, 5, stride=2, padding=1, bias=False), nn.Conv2d(4, 4, 1)
    )
    assert pretrained._first_conv(network) == "1"
    pretrained._replace_first_conv(network, 7)
    made = network[1]
    assert (made.in_channels, made.out_channels, made.kernel_size, made.stride, made.padding) == (
        7,
        4,
        (5, 5),
        (2, 2),
        (1, 1),
    )
    assert made.bias is None
    biased = nn.Sequential(nn.Conv2d(3, 4, 1))
    biased.transform_input = True
    pretrained._replace_first_conv(biased, 1)
    assert biased[0].bias is not None and biased.transform_input is False


@pytest.mark.parametrize(("known", "said"), [
    (["resnet18", "vgg"], "timm has no image classifier 'resnet19': nearest: resnet18 (2 in all)"),
    (["abc"], "timm has no image classifier 'resnet19': no name is near (1 in all)"),
])  # fmt: skip
def test_an_unknown_network(known, said):
    assert pretrained._unknown("timm", "resnet19", iter(known)) == said


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg", "weights", "cache_dir"])
def test_options_that_would_fetch_weights(key):
    said = f"it: options.{key} is refused: weights are given by weights: <file> or pretrained"
    assert refused(pretrained._check_options, "it", {"dropout": 1, key: 1}) == said
    pretrained._check_options("it", {"dropout": 1})
    pretrained._check_options("it", None)


@pytest.mark.parametrize(("output", "said"), [
    (torch.zeros(1, 3), None), (torch.zeros(1, 4), "got (1, 4)"), (torch.zeros(2, 3), "got (2, 3)"), ((torch.zeros(1, 3),), "got tuple"),
])  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_a_network_answers_one_image_with_its_classes(output, said, training):
    network = nn.Dropout().train(training)
    network.forward = lambda images: (
        output if tuple(images.shape) == (1, 2, 5, 6) and not network.training else None
    )
    if said is None:
        pretrained._check_fit("it", network, (2, 5, 6), 3)
        assert network.training == training
        return
    whole = f"it is no classifier here: expected an output of shape (1, 3), {said}"
    assert refused(pretrained._check_fit, "it", network, (2, 5, 6), 3) == whole
