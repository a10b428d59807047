"""Taps: the layers found, activations equal to the network's own, and every way in which a tap could lie."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tutelage.alignment.taps import Taps, activations, probe, weight_layers
from tutelage.errors import UserError


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.ReLU(inplace=True),
        nn.Linear(6, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(inplace=True),
        nn.Linear(6, 2),
    )


def test_resnet18_has_21_weight_layers_in_order_with_shapes() -> None:
    network = torchvision.models.resnet18()
    layers = weight_layers(probe(network, torch.zeros(2, 3, 64, 64)))
    assert len(layers) == 21
    assert [layers[0].name, layers[5].name, layers[-1].name] == ["conv1", "layer2.0.conv1", "fc"]
    assert layers[0].shape == (64, 32, 32)
    assert {layer.kind for layer in layers} == {"conv", "linear"}


def test_probe_leaves_modes_buffers_and_random_state() -> None:
    network = small().train()
    network[3].eval()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    probe(network, torch.randn(4, 4, generator=torch.Generator()))
    assert torch.equal(torch.rand(3), expected)
    assert network.training
    assert not network[3].training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_hooks for module in network.modules())


class Odd(nn.Module):
    """Every obstacle at once: a shared layer, attention with a child, a recurrent tuple, an unused layer, no batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.unused = nn.Linear(8, 8)
        self.flat = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(x))
        x = self.attention(x, x, x)[0]
        x = self.norm(self.recurrent(x)[0])
        return x + self.flat(x.flatten(0, 1)).view(*x.shape[:2], 1)


def test_layers_that_cannot_be_tapped_say_why() -> None:
    layers = {layer.name: layer for layer in probe(Odd(), torch.randn(3, 5, 8))}
    assert "more than once" in layers["shared"].obstacle
    assert "leading batch axis" in layers["flat"].obstacle
    assert "unused" not in layers
    assert "attention.out_proj" not in layers
    assert layers["recurrent"].shape == (5, 8)
    assert [x.kind for x in weight_layers(list(layers.values()))] == ["attention", "recurrent", "layer_norm"]


def test_vit_and_transformer_encoder_layers_are_found() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    kinds = [layer.kind for layer in weight_layers(probe(encoder, torch.randn(3, 5, 8)))]
    assert kinds == ["attention", "layer_norm", "linear", "linear", "layer_norm"] * 2


def test_a_module_that_cannot_take_the_input_is_told_with_shapes() -> None:
    with pytest.raises(UserError, match=r"Sequential cannot run on inputs of shape \(4, 7\)"):
        probe(small(), torch.zeros(4, 7))


def test_unknown_layer_lists_the_nearest() -> None:
    with pytest.raises(UserError, match="no layer 'conv2'; did you mean 'conv1'"):
        Taps(nn.Sequential(nn.Linear(2, 2)).append(nn.Identity()), ["0"]) and Taps(_named_conv(), ["conv2"])


def _named_conv() -> nn.Module:
    module = nn.Module()
    module.conv1 = nn.Conv2d(1, 1, 1)
    return module


def test_inplace_relu_does_not_overwrite_a_held_tap() -> None:
    network, x = small().eval(), torch.randn(5, 4)
    safe = copy.deepcopy(network)
    for module in safe.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    expected = {"0": safe[0](x), "2": safe[:3](x)}
    with Taps(network, ["0", "2"]) as taps:
        with taps.recording():
            output = network(x)
        got = taps.collect()
    assert torch.equal(output, safe(x))
    for name, value in expected.items():
        assert torch.equal(got[name], value)
    assert network[1].inplace  # removal gives the flag back


def test_consumed_taps_see_the_value_before_an_inplace_relu_and_keep_nothing() -> None:
    network, x, seen = small().eval(), torch.randn(5, 4), {}
    with Taps(network, ["0"], consume=lambda name, value: seen.update({name: value.clone()})) as taps:
        with taps.recording():
            network(x)
        assert network[1].inplace
        assert not taps._held
    assert torch.equal(seen["0"], F.linear(x, network[0].weight, network[0].bias))


class FunctionalInplace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.view = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        held = self.view(self.first(x))
        return F.relu(held, inplace=True)


@pytest.mark.parametrize("name", ["first", "view"])
def test_functional_inplace_writes_are_detected_also_through_views(name: str) -> None:
    network = FunctionalInplace()
    taps = Taps(network, [name])
    with torch.no_grad(), taps.recording():
        network(torch.randn(3, 4))
    with pytest.raises(UserError, match=f"'{name}' was overwritten in place"):
        taps.collect()


def test_each_tap_fills_exactly_once_per_recording() -> None:
    network, x = small(), torch.randn(5, 4)
    taps = Taps(network, ["0", "2"])
    network(x)  # outside of a recording: unseen
    with pytest.raises(UserError, match="no activation is recorded for: 0, 2"):
        taps.collect()
    with pytest.raises(UserError, match="'0' ran twice"), taps.recording():
        network(x)
        network(x)
    with pytest.raises(UserError, match="did not run in the forward: 2"), taps.recording():
        network[0](x)
    with taps.recording():
        network(x)
    assert list(taps.collect()) == ["0", "2"]
    with pytest.raises(UserError, match="no activation"):
        taps.collect()
    with pytest.raises(RuntimeError, match="from the network"), taps.recording():
        network(x)
        raise RuntimeError("from the network")
    assert not taps._held


class Cautious(nn.Module):
    """Has a module that hides errors of its children, and counts how far a forward comes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.finished = 0

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.second(self.first(x))
        except Exception:
            x = torch.zeros_like(x)
        self.finished += 1
        return self.third(x)


def test_a_stopping_tap_ends_the_forward_with_the_last_tapped_layer() -> None:
    module, x, seen = Cautious(), torch.randn(4, 3), {}
    expected = module.second(module.first(x))
    with Taps(module, ["second", "first"], consume=seen.__setitem__, stop=True) as taps:
        for _ in range(2):
            with taps.recording():
                module(x)
    assert torch.equal(seen["second"], expected)
    assert module.finished == 0
    module(x)  # outside a recording nothing is stopped
    assert module.finished == 1
    with (
        Taps(module, ["third"], consume=seen.__setitem__, stop=True) as taps,
        pytest.raises(UserError, match="did not run in the forward: third"),
        taps.recording(),
    ):
        module.first(x)


def test_gradients_flow_through_taps_and_copies_have_their_own() -> None:
    network, x = small(), torch.randn(5, 4)
    taps = Taps(network, ["0"])
    twin = copy.deepcopy(network)
    with taps.recording():
        twin(x)  # a copy (as an average of weights is) must not fill the original's taps
        network(x)
    taps.collect()["0"].square().sum().backward()
    assert network[0].weight.grad is not None
    assert network[2].weight.grad is None


def test_bf16_autocast_gives_the_low_precision_activation() -> None:
    network = small()
    with Taps(network, ["0"]) as taps, torch.autocast("cpu", dtype=torch.bfloat16):
        with taps.recording():
            network(torch.randn(5, 4))
        assert taps.collect()["0"].dtype == torch.bfloat16


def test_inference_tensors_can_be_tapped() -> None:
    network = small().eval()
    with Taps(network, ["0"]) as taps, torch.inference_mode():
        with taps.recording():
            network(torch.randn(5, 4))
        assert taps.collect()["0"].shape == (5, 6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_taps_made_before_compile_work_in_both_states(backend: str) -> None:
    torch._dynamo.reset()
    network, x = small(), torch.randn(5, 4)
    taps = Taps(network, ["0", "2"])
    expected = F.linear(x, network[0].weight, network[0].bias)
    network.compile(backend=backend)
    for _ in range(3):
        with taps.recording():
            output = network(x)
        held = taps.collect()
        assert torch.allclose(held["0"], expected)
        (output.sum() + held["2"].square().sum()).backward()
        network(x)
        network.eval()
        network(x)
        network.train()
    assert network[2].weight.grad is not None


def test_activations_leave_no_hook_behind() -> None:
    network, x = small().eval(), torch.randn(5, 4)
    got = activations(network, ["2", "5"], x)
    assert torch.equal(got["5"], network(x))
    assert not got["2"].requires_grad
    assert not any(module._forward_hooks for module in network.modules())


def test_a_first_element_is_tapped_and_packed_sequences_are_refused() -> None:
    class Packs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            lengths = torch.full((len(x),), x.shape[1])
            return self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[0].data

    layers = {layer.name: layer for layer in probe(Packs(), torch.randn(2, 5, 3))}
    assert "PackedSequence" in layers["rnn"].obstacle
    recurrent = nn.Sequential(nn.RNN(3, 4, batch_first=True))
    x = torch.randn(2, 5, 3)
    assert torch.equal(activations(recurrent, ["0"], x)["0"], recurrent[0](x)[0])


def test_a_forward_that_is_ended_early_leaves_its_activations_to_no_garbage_collection():
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 1000), nn.Linear(1000, 4)

        def forward(self, x):
            wide = self.first(x)
            return self.second(wide + wide)

    module, seen = Doubled(), []
    taps = Taps(module, ["first"], consume=lambda _, x: seen.append(weakref.ref(x)), stop=True)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with torch.no_grad(), taps.recording():
                module(torch.randn(2, 4))
        assert len(seen) == 3 and all(x() is None for x in seen)
    finally:
        gc.enable()
