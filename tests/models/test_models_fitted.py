"""How published models are fitted to data, how forwards are called, and parts of networks: rules by tables or slow versions."""

from __future__ import annotations

import hashlib
import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from expected import refused
from tutelage.models import huggingface, pruning, reused, weights_files
from tutelage.models.average import Average, loaded, stored
from tutelage.models.convnet import Block, ConvNet
from tutelage.models.counts import counted
from tutelage.models.fcn import FCN
from tutelage.models.folding import _pairs
from tutelage.models.forward_calls import Call, undisturbed
from tutelage.models.frozen import channels_last, image_size, recorded
from tutelage.models.heads import HeadInput, find_head
from tutelage.models.lora import with_lora
from tutelage.models.mobile import MobileNetV2, _Inverted, _Shuffle2, _Shuffle2Down, he_normal, shuffle
from tutelage.models.pretrained import timm_model
from tutelage.models.sequence import input_width, pool
from tutelage.models.transformer import Transformer, TransformerBlock, sinusoidal

# --- models of transformers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "vocabulary", "per_position", "next_token", "kind"), [
    ((5,), 9, False, False, "text"), ((5,), 9, False, True, "text"), ((5,), 9, True, True, "causal"), ((5,), 9, True, False, "masked"),
    ((3, 8, 8), None, False, False, "image"), ((5,), None, False, False, None), ((5, 2), 9, False, False, None),
    ((3, 8, 8), 9, False, False, None),
])  # fmt: skip
def test_the_kind_of_model_that_data_ask_for(shape, vocabulary, per_position, next_token, kind):
    if kind:
        assert huggingface._kind("m", shape, vocabulary, per_position, next_token) == kind
        return
    said = f"m takes images (channels, height, width) or tokens (length,), got inputs of shape {shape}"
    ends = "" if vocabulary is None else " of tokens"
    assert refused(huggingface._kind, "m", shape, vocabulary, per_position, next_token) == said + ends


@pytest.mark.parametrize(("own", "shape", "pretrained", "size", "set_to"), [
    (8, (1, 16, 16), False, None, 16), (8, (1, 16, 20), False, None, (16, 20)), (None, (1, 16, 16), False, None, None),
    (8, (2, 8, 8), True, None, 8), (8, (2, 8, 9), True, (8, 8), 8), ([4, 6], (2, 4, 6), True, None, [4, 6]),
    ([4, 6], (2, 6, 4), True, (4, 6), [4, 6]), (None, (2, 6, 4), True, None, None),
])  # fmt: skip
def test_the_size_of_images(own, shape, pretrained, size, set_to):
    config = SimpleNamespace(num_channels=2, image_size=own)
    assert huggingface._fit_images("m", config, shape, pretrained) == size
    assert (config.image_size, config.num_channels) == (set_to, 2 if pretrained else shape[0])


def test_the_channels_of_images():
    said = "m knows images of 2 channels, the data have 3: read them so (data=image_folder data.channels=2), or use weights: scratch"
    assert refused(huggingface._fit_images, "m", SimpleNamespace(num_channels=2), (3, 4, 4), True) == said
    assert huggingface._fit_images("m", SimpleNamespace(), (3, 4, 4), True) is None


def test_the_vocabulary_of_tokens(tmp_path, caplog):
    def fit(vocabulary=None, pretrained=True, size=10, padding=None, **own):
        config = SimpleNamespace(vocab_size=10, bos_token_id=8, eos_token_id=9, pad_token_id=None, **own)
        huggingface._fit_tokens(config, tmp_path, "m", size, padding, vocabulary, pretrained)
        return config

    fresh = fit(pretrained=False, size=9, padding=3)
    assert (fresh.vocab_size, fresh.bos_token_id, fresh.eos_token_id, fresh.pad_token_id) == (9, 8, None, 3)
    assert not caplog.records
    kept = fit()
    assert (kept.vocab_size, kept.bos_token_id, kept.eos_token_id, kept.pad_token_id) == (10, 8, 9, None)
    assert [one.getMessage().partition(", so")[0] for one in caplog.records] == [
        "m: its folder holds no tokenizer.json"
    ]
    assert "of 10 tokens in place of 11; its folder holds no tokenizer.json" in refused(fit, size=11)
    (tmp_path / "tokenizer.json").write_bytes(b"words")
    assert fit(hashlib.sha256(b"words").hexdigest(), size=11, padding=0).pad_token_id == 0
    assert "would mean another word to it. Give the data its tokeniser, data.tokenizer=" in refused(
        fit, "other"
    )
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("said", "shape", "found"), [
    ({"image_mean": [0.5], "image_std": [0.25]}, (1, 4, 4), ((0.5,), (0.25,))),
    ({"image_mean": [0.5], "image_std": [0.25], "do_normalize": True}, (1, 4, 4), ((0.5,), (0.25,))),
    ({"image_mean": [0.5], "image_std": [0.25], "do_normalize": False}, (1, 4, 4), None),
    ({"image_mean": [0.5], "image_std": [0.25]}, (3, 4, 4), None), ({"image_mean": [0.5], "image_std": [0.25]}, (1,), None),
    ({"image_mean": [0.5]}, (1, 4, 4), None), ({"image_std": [0.5]}, (1, 4, 4), None), ([1], (1, 4, 4), None), (None, (1, 4, 4), None),
])  # fmt: skip
def test_the_normalisation_that_a_folder_says(tmp_path, said, shape, found):
    if said is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    network = nn.Identity()
    huggingface._note_normalization(network, tmp_path, shape)
    assert getattr(network, "pretrained_normalization", None) == found


def test_images_are_resized_where_they_are_of_another_size():
    images = torch.rand(2, 1, 4, 6)
    assert huggingface._resize(None, (images, 3), (4, 6)) is None
    made, rest = huggingface._resize(None, (images.half(), 3), (2, 3))
    assert made.shape == (2, 1, 2, 3) and made.dtype == torch.float16 and rest == 3


class Positions(nn.Module):
    """Answers what it is told to, on inputs up to five positions."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.config = answer, SimpleNamespace(max_position_embeddings=5)

    def forward(self, inputs):
        if inputs.shape[1] > 5:
            raise ValueError("too long")
        assert not self.training
        return torch.zeros(self.answer)


def test_a_model_answers_two_samples_with_the_shape_of_its_data():
    check = huggingface._check_fit
    for answer, shape, classes, vocabulary, per_position in (
        ((2, 3), (4,), 3, 9, False), ((2, 4, 9), (4,), 9, 9, True), ((2, 3), (1, 4, 4), 3, None, False),
    ):  # fmt: skip
        for mode in (True, False):
            network = Positions(answer).train(mode)
            check("m", network, shape, classes, vocabulary, per_position)
            assert network.training is mode
    assert refused(check, "m", Positions((2, 3)), (4,), 4, 9, False) == (
        "m should answer with the shape (2, 4) here, got (2, 3)"
    )
    said = "m does not run on inputs of shape (6,): ValueError: too long"
    assert (
        refused(check, "m", Positions((2, 3)), (6,), 3, 9, False)
        == f"{said}; it has 5 positions, see data.length"
    )
    images = refused(check, "m", Positions((2, 3)), (6, 4, 4), 3, None, False)
    assert images.endswith("inputs of shape (6, 4, 4): ValueError: too long")


@pytest.mark.parametrize("alpha", [0, -1.0, "2", None, math.nan])
def test_the_size_of_low_rank_updates_is_above_zero(alpha):
    said = refused(with_lora, nn.Sequential(nn.Linear(2, 2)), "m", {"alpha": alpha}, torch.zeros(2, 2))
    assert said == f"`lora`.alpha must be a number above 0, got {alpha!r}"


def test_low_rank_updates_have_twice_their_rank_as_size_and_leave_the_rest_frozen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.other, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.other(self.query(x)))

    made = with_lora(Net(), "m", {"rank": 2}, torch.zeros(2, 4))
    assert (
        made.query.scaling == {"default": 2.0} and made.query.lora_dropout["default"].__class__ is nn.Identity
    )
    assert {name.partition(".")[0] for name, p in made.named_parameters() if p.requires_grad} == {
        "query",
        "out",
    }
    assert not made.query.base_layer.weight.requires_grad
    named = with_lora(
        Net(), "m", {"rank": 2, "alpha": 3, "dropout": 0.5, "layers": "other"}, torch.zeros(2, 4)
    )
    assert named.other.scaling == {"default": 1.5} and named.other.lora_dropout["default"].p == 0.5
    assert type(named.query) is nn.Linear and not named.query.weight.requires_grad


# --- forwards ---------------------------------------------------------------------------------------------------


def forwards():
    def positional(x, /, mask=None): ...
    def only(mask, /): ...
    def keywords(*, scale=1.0, pixels, extra, attention_mask=None): ...
    def defaults(*, a=1, b=2): ...
    def many(*inputs, lengths, **more): ...
    def both(x, attention_mask, mask): ...
    def nothing(**more): ...

    return positional, only, keywords, defaults, many, both, nothing  # fmt: skip


@pytest.mark.parametrize(("place", "expected"), [
    (0, Call(None, "mask")), (1, Call(None, None)), (2, Call("pixels", "attention_mask", ("extra",))), (3, Call("a", None)),
    (4, Call(None, None, ("lengths",))), (5, Call(None, "attention_mask")), (6, Call(None, None)),
])  # fmt: skip
def test_how_a_forward_takes_a_batch(place, expected):
    found = Call.of(SimpleNamespace(forward=forwards()[place]))
    assert found == expected and found.takes_mask == (expected.mask is not None)
    assert Call.of(SimpleNamespace(forward=3)) == Call(None, None)


@pytest.mark.parametrize("training", [False, True])
def test_a_network_is_as_before_once_it_was_run(training):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    network[1].train(not training)
    network[0].train(training)
    modes = [module.training for module in network.modules()]
    state, random = [b.clone() for b in network.buffers()], torch.get_rng_state()
    with undisturbed(network, training=training):
        assert all(module.training == training for module in network.modules())
        assert torch.is_grad_enabled() == training
        network(torch.randn(4, 2))
        network[1].running_mean = torch.ones(2)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(state, network.buffers(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_sizes_and_records_of_frozen_networks():
    assert [image_size("f", size) for size in (None, 7, [3, 4], (5, 6))] == [None, (7, 7), (3, 4), (5, 6)]
    assert recorded(None, like=([1, 2], [3, 4])) == ([0.0, 0.0], [1.0, 1.0])
    assert recorded(None, like=None) is None and recorded(([1], [2]), like=([1, 2], [3, 4])) == ([1], [2])
    for network, fits in ((nn.Linear(2, 2), False), (nn.Conv2d(1, 2, 1), True)):
        assert channels_last(network, lambda: None) == fits


# --- parts of networks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "share"), [(1, 2 / 11), (8, 0.5), (9, 0.5), (1000, 0.5)])
def test_an_average_moves_by_a_growing_share(count, share):
    network, kept = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    average = Average(kept, 0.5)
    with torch.no_grad():
        network.weight.fill_(3.0)
    network.running_mean += 7
    average.train().update(network, count)
    assert average.network.weight.tolist() == pytest.approx([share * 1 + (1 - share) * 3.0] * 2)
    assert (
        average.network.running_mean.tolist() == [7, 7]
        and not average.training
        and not average.network.training
    )


def test_names_under_which_an_average_is_stored():
    state = {"average.network.a": 1, "network.a": 2, "criterion.network.b": 3}
    assert stored(state) == {"network.a": 1, "trained.a": 2, "criterion.network.b": 3}
    assert loaded(stored(state)) == state


def test_states_are_reduced_over_the_real_positions():
    states = torch.arange(24.0).reshape(3, 4, 2)
    mask = torch.tensor([[False, True, True, False], [True, False, False, False], [False] * 4])
    assert pool(states, None, "mean").tolist() == states.mean(1).tolist()
    assert [pool(states, None, how)[:, 0].tolist() for how in ("last", "first")] == [[6, 14, 22], [0, 8, 16]]
    assert [pool(states, mask, how)[:, 0].tolist() for how in ("last", "first", "mean")] == [
        [4, 8, 16],
        [2, 8, 16],
        [3, 8, 0],
    ]


@pytest.mark.parametrize(("shape", "vocabulary", "width"), [
    ((5,), 3, None), ((5, 2), None, 2), ((5,), None, "got"), ((5, 2), 3, "got"), ((0, 2), None, "length"), ((5, 0), None, "channels"),
    ((5,), 0, "vocab_size"), ((0,), 3, "length"),
])  # fmt: skip
def test_the_channels_of_a_sequence(shape, vocabulary, width):
    if isinstance(width, str):
        assert width in refused(input_width, "R", shape, vocabulary)
    else:
        assert input_width("R", shape, vocabulary) == width


@pytest.mark.parametrize("width", [4, 5])
def test_sines_and_cosines_of_positions(width):
    slow = [
        [(math.sin if k % 2 == 0 else math.cos)(t / 10_000 ** (k // 2 * 2 / width)) for k in range(width)]
        for t in range(7)
    ]
    torch.testing.assert_close(sinusoidal(7, width), torch.tensor(slow), atol=1e-5, rtol=1e-5)


def test_a_transformer_sees_what_is_real_and_what_came_before():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    plain = Transformer((3, 2), 2, depth=1, width=4, heads=2)._visible(mask)
    assert plain[:, 0, 0].tolist() == [[True, True, False], [True, True, True]]
    causal = Transformer((3, 2), 2, depth=1, width=4, heads=2, causal=True)
    assert causal._visible(mask)[:, 0].int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ]  # fmt: skip
    assert causal._visible(None) is None
    assert "built for 3 positions, got inputs of 4" in refused(causal, torch.zeros(1, 4, 2))
    assert "heads must divide width, got 3 heads for width 4" in refused(
        Transformer, (3, 2), 2, width=4, heads=3
    )
    assert Transformer((3, 2), 2, depth=1, width=4, heads=2).blocks[0].mlp.hidden.out_features == 16


@pytest.mark.parametrize(
    ("depth", "widths", "sizes"),
    [(0, None, [6]), (2, None, [6, 9, 9]), (2, [4], [6, 4]), (0, [4, 5], [6, 4, 5])],
)
def test_the_layers_of_a_fully_connected_network(depth, widths, sizes):
    network = FCN((2, 3), 7, depth=depth, width=9, widths=widths)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linear] == sizes and linear[-1].out_features == 7
    assert "depth must be a whole number" in refused(FCN, (2,), 3, depth=-1)
    assert "depth must be a whole number" in refused(FCN, (2,), 3, depth=1.0)
    assert "at least one layer, got an empty list" in refused(FCN, (2,), 3, widths=[])


@pytest.mark.parametrize(("stages", "blocks"), [(1, 2), (3, 2)])
def test_the_stages_of_a_small_convolutional_network(stages, blocks):
    network = ConvNet((2, 8, 8), 5, width=4, stages=stages, blocks=blocks)
    found = [(block.conv1.in_channels, block.conv1.out_channels, block.stride) for block in network.blocks]
    expected = [(4, 4, 1), (4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1)]
    assert found == expected[: stages * blocks] and network.head.in_features == 4 * 2 ** (stages - 1)
    weight = ConvNet((2, 8, 8), 5, width=64, stages=1).blocks[0].conv1.weight
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert "at least 4" in refused(ConvNet, (1, 3, 3), 5, stages=3)
    block = Block(2, 5, 2, "relu", True).eval()
    nn.init.zeros_(block.norm2.weight)
    images = torch.rand(2, 2, 5, 6)
    assert torch.equal(block(images), nn.functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 0, 3)))
    plain = Block(2, 5, 2, "relu", False).eval()
    nn.init.zeros_(plain.norm2.weight)
    assert not plain(images).any()


def test_parts_of_mobile_networks():
    images = torch.arange(12.0).reshape(1, 6, 1, 2)
    assert shuffle(images, 3)[0, :, 0, 0].tolist() == [0, 4, 8, 2, 6, 10]
    x = torch.randn(2, 4, 6, 6)
    for mine, theirs, stride, adds in ((4, 4, 1, True), (4, 4, 2, False), (4, 5, 1, False)):
        block = _Inverted(mine, theirs, stride, 3).eval()
        nn.init.zeros_(block.conv[-1].weight)
        nn.init.constant_(block.conv[-1].bias, 0.5)
        side = -(-6 // stride)
        expected = x + 0.5 if adds else torch.full((2, theirs, side, side), 0.5)
        torch.testing.assert_close(block(x), expected)
        assert block.conv[0].out_channels == 12 and block.conv[3].groups == 12
    v2 = _Shuffle2(4).eval()
    nn.init.zeros_(v2.bn3.weight)
    assert torch.equal(v2(x), shuffle(torch.cat([x[:, :2], torch.zeros(2, 2, 6, 6)], 1), 2))
    assert _Shuffle2Down(4, 6).eval()(x).shape == (2, 6, 3, 3)
    assert [len(stage) for stage in MobileNetV2(3, 5).blocks] == [1, 2, 3, 4, 3, 3, 1]
    wide = nn.Sequential(nn.Conv2d(32, 40, (3, 5)))
    he_normal(wide)
    assert (
        float(wide[0].weight.std()) == pytest.approx(math.sqrt(2 / (3 * 5 * 40)), rel=0.02)
        and not wide[0].bias.any()
    )


def test_the_largest_map_whose_mean_is_what_the_final_layer_sees():
    maps = torch.rand(2, 3, 4, 6)
    features = maps.mean((2, 3))
    pooled = maps.mean((2, 3), keepdim=True)
    seen = {
        "small": pooled, "first": maps, "again": maps + 0, "other": torch.rand(2, 3, 4, 6), "wide": torch.rand(2, 4, 9, 9),
        "flat": features, "more": (maps,), "late": pooled,
    }  # fmt: skip
    assert reused._map_of(nn.Identity(), seen, features) == "again"
    assert reused._map_of(nn.Identity(), {"small": pooled, "late": pooled + 0}, features) == "late"
    assert "is no mean over the positions of a layer's map" in refused(
        reused._map_of, nn.Identity(), {"flat": features}, features
    )
    assert [layer.padding for layer in (reused._layer(2, 3, 1)[0], reused._layer(2, 3, 3)[0])] == [
        (0, 0),
        (1, 1),
    ]


def test_a_final_layer_gives_what_it_was_given_once():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
    inputs = torch.randn(5, 2, 2)
    one = HeadInput(network, find_head(network, inputs))
    assert one.take() is None
    network(inputs)
    assert torch.equal(one.take(), network[1](inputs.flatten(1))) and one.take() is None


def test_norms_that_read_one_convolution_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.na = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)
            self.b, self.nb = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)
            self.c, self.nc = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)
            self.d, self.nd = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2, track_running_stats=False)

        def forward(self, x):
            x = self.nb(self.b(self.na(self.a(x)))) + self.nb(x)  # its norm is called twice
            self.c(x)
            return self.nd(self.d(self.nc(self.c(x))))  # one convolution twice, one norm on the batch

    network = Net().eval()
    assert _pairs(network, lambda net: net(torch.randn(2, 2, 3))) == [("a", "na")]
    network.na.train()
    assert _pairs(network, lambda net: net(torch.randn(2, 2, 3))) == []


@pytest.mark.parametrize(("error", "said"), [
    (RuntimeError(), "RuntimeError"), (ValueError("\n \nfirst\nsecond"), "first"), (KeyError("x" * 300), "'" + "x" * 199),
])  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_channels_that_cannot_be_taken_out_leave_a_network_as_it_was(monkeypatch, error, said, training):
    def fails(*given, **more):
        raise error

    monkeypatch.setattr("torch_pruning.pruner.BasePruner", fails)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).train(training)
    network[0].bias.requires_grad_(False)
    whole = refused(pruning.prune, network, 0.5, "channels", inputs=torch.zeros(1, 2))
    assert (
        whole
        == f"model.pruned_by=channels cannot take channels out of Sequential ({said}): model.pruned_by=weights"
    )
    assert (
        network.training == training and not network[0].bias.requires_grad and network[1].bias.requires_grad
    )


@pytest.mark.parametrize("share", [-0.1, 1.0, True, "x", None])
def test_a_share_that_is_none(share):
    said = f"model.pruned must be the share that goes, at least 0 and below 1, got {share!r}"
    assert refused(pruning.prune, nn.Linear(2, 2), share, inputs=torch.zeros(1, 2)) == said
    network = nn.Linear(2, 2)
    pruning.prune(network, 0, inputs=torch.zeros(1, 2))
    assert network.weight.all()
    said = "model.pruned: ReLU has no linear, convolutional or recurrent weights"
    assert refused(pruning.prune, nn.ReLU(), 0.5, inputs=torch.zeros(1, 2)) == said


def test_operations_are_those_of_one_sample_with_its_mask():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.seen = []

        def forward(self, x, mask=None):
            self.seen.append((x.shape[0], None if mask is None else mask.tolist(), self.training))
            return self.linear(x)

    network = Net()
    found = counted(network, torch.zeros(4, 3), torch.tensor([[True], [False], [True], [True]]))
    nonzero = int(network.linear.weight.count_nonzero() + network.linear.bias.count_nonzero())
    assert found == {"parameters": 8, "nonzero": nonzero, "operations": 12}
    assert network.seen == [(1, [[True]], False)] and network.training
    counted(network, torch.zeros(4, 3))
    assert network.seen[1] == (1, None, False)


class Partly(nn.Module):
    """A layer of which one number comes before what mixes."""

    def __init__(self):
        super().__init__()
        self.scale, self.weight = nn.Parameter(torch.ones(6)), nn.Parameter(torch.randn(4, 6))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        return nn.functional.linear((x * self.scale).sin(), self.weight)


class Lent(nn.Module):
    """A layer that is given its weight."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, weight):
        return nn.functional.linear(x, weight)


class Lends(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(4, 6)), Lent()

    def forward(self, x):
        return self.last(x.sin(), self.weight)


def test_buffers_belong_to_a_final_layer_that_is_it_whole():
    whole = find_head(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), torch.randn(3, 6))
    assert "1.running_mean" in whole.names
    assert find_head(nn.Sequential(nn.Linear(6, 6), Partly()), torch.randn(3, 6)).names == ("1.weight",)
    assert find_head(Lends(), torch.randn(3, 6)).names == ("weight",)


@pytest.mark.parametrize(
    "config",
    [None, SimpleNamespace(has_weights=False, fixed_input_size=False, mean=(0.5,) * 3, std=(0.5,) * 3)],
)
def test_a_network_without_published_weights(monkeypatch, config):
    import timm

    made = []
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, **more: made.append(more) or nn.Sequential(nn.Flatten(), nn.Linear(12, 5)),
    )
    network = timm_model("resnet18", (3, 2, 2), 5)
    assert made == [{"num_classes": 5, "in_chans": 3}]
    assert getattr(network, "pretrained_normalization", None) == (
        None if config is None else ((0.5,) * 3, (0.5,) * 3)
    )
    said = "timm's resnet18 has no pretrained weights; use weights: scratch, or the path of a weights file"
    assert refused(timm_model, "resnet18", (3, 2, 2), 5, pretrained=True) == said


@pytest.mark.parametrize(("text", "said"), [
    ("Weights only load failed: GLOBAL os.system was not", "more (os.system)"),
    ("use weights_only=False for TorchScript", "more (TorchScript)"),
    ("weights_only", "more (an unknown pickle)"), ("bad magic. Then\nmore", "is damaged or not a PyTorch file (ValueError: bad magic)"),
])  # fmt: skip
def test_why_a_weights_file_is_refused(text, said):
    found = weights_files._refusal("f", ValueError(text))
    more = "holds more than tensors and plain values ("
    assert found.startswith("the weights file f " + said.replace("more (", more))


@pytest.mark.parametrize(
    ("given", "bound"), [({"num_heads": 2}, True), ({"num_attention_heads": 2}, True), ({}, False)]
)
def test_attention_by_its_heads(given, bound):
    assert pruning._is_attention(SimpleNamespace(**given)) == bound


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_block_of_a_transformer_adds_its_branches(pre_norm):
    torch.manual_seed(0)
    block, x = TransformerBlock(8, 2, 12, False, pre_norm, "gelu", 0.5).eval(), torch.randn(2, 3, 8)
    nn.init.normal_(block.norm1.weight), nn.init.normal_(block.norm2.bias)
    if pre_norm:
        middle = x + block.attention(block.norm1(x))
        expected = middle + block.mlp(block.norm2(middle))
    else:
        middle = block.norm1(x + block.attention(x))
        expected = block.norm2(middle + block.mlp(middle))
    torch.testing.assert_close(block(x), expected)


class Known:
    """A configuration of two settings, one of them an attribute alone."""

    use_cache, own = True, 1

    def to_dict(self):
        return {"width": 3}


@pytest.mark.parametrize("said", [{"auto_map": {}}, {"width": 3}, ["auto_map"]])
def test_the_configuration_of_a_folder(tmp_path, monkeypatch, caplog, said):
    caplog.set_level("INFO")
    (tmp_path / "config.json").write_text(json.dumps(said))
    kinds = SimpleNamespace(AutoConfig=SimpleNamespace(from_pretrained=lambda folder, **more: Known()))
    monkeypatch.setattr(huggingface, "_transformers", lambda: kinds)
    found = huggingface._configuration(tmp_path, "m", {"width": 5, "own": 2})
    assert (found.width, found.own, found.use_cache) == (5, 2, False)
    told = [record.getMessage() for record in caplog.records]
    assert told == (["m brings code of its own, which is not run"] if said == {"auto_map": {}} else [])
    said = refused(huggingface._configuration, tmp_path, "m", {"with": 5})
    assert said.startswith("m: its configuration has no `options`.with; ")
