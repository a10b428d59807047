"""FrozenNetwork: never changes, never shows up, never learns."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.models.convnet import ConvNet
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.recurrent import Recurrent
from tutelage.models.resnet import resnet
from tutelage.models.weights_files import digest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Student(nn.Module):
    def __init__(self, frozen):
        super().__init__()
        self.layer = nn.Linear(10, 10)
        self.guide = frozen

    def forward(self, inputs):
        return self.layer(self.guide(inputs))


def convnet(**options):
    torch.manual_seed(0)
    return ConvNet((3, 8, 8), 10, width=4, **options)


@pytest.mark.parametrize("norm_mode", ["eval", "batch"])
def test_bit_identical_after_training_around_it(norm_mode):
    frozen = FrozenNetwork(convnet(), norm_mode=norm_mode)
    before, state = frozen.digest(), copy.deepcopy(frozen.network.state_dict())
    student = Student(frozen)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.1)
    for _ in range(3):
        student.train()
        frozen.train()
        frozen.requires_grad_(True)
        inputs = torch.randn(6, 3, 8, 8, requires_grad=True)
        student(inputs).sum().backward()
        optimizer.step()
        assert inputs.grad is None
    student.apply(lambda module: [nn.init.zeros_(p) for p in module.parameters(recurse=False)])
    assert frozen.digest() == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in frozen.network.state_dict().items())
    assert not frozen.training and not any(p.requires_grad for p in frozen.network.parameters())
    assert all(p.grad is None for p in frozen.network.parameters())


def test_norm_modes_use_running_or_batch_statistics():
    torch.manual_seed(1)
    inputs = torch.randn(16, 3, 8, 8) * 3 + 1
    reference = convnet()
    expected_eval, expected_batch = reference.eval()(inputs), reference.train()(inputs)
    assert not torch.allclose(expected_eval, expected_batch, atol=1e-2)
    assert torch.equal(FrozenNetwork(convnet())(inputs), expected_eval)
    assert torch.equal(FrozenNetwork(convnet(), norm_mode="batch")(inputs), expected_batch)


def test_even_its_own_network_cannot_be_woken():
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    frozen = FrozenNetwork(network)
    before = frozen.digest()
    network.train()
    inputs = torch.randn(8, 4)
    assert torch.equal(frozen(inputs), frozen(inputs)) and frozen.digest() == before


def test_it_is_no_part_of_a_surrounding_state():
    student = Student(FrozenNetwork(convnet(), expects=IMAGENET))
    assert set(student.state_dict()) == {"layer.weight", "layer.bias"}
    assert len(list(student.parameters())) == 2 and not list(student.guide.parameters())
    assert not list(student.guide.buffers())
    before = student.guide.digest()
    student.load_state_dict({"layer.weight": torch.zeros(10, 10), "layer.bias": torch.zeros(10)}, strict=True)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        student.load_state_dict(student.state_dict() | {"guide.head.bias": torch.zeros(10)}, strict=True)
    assert student.guide.digest() == before


@pytest.mark.parametrize("norm_mode", ["eval", "batch"])
def test_copies_and_pickles_are_the_same_and_independent(norm_mode):
    networks = [convnet(), resnet((3, 32, 32), 10)] if norm_mode == "eval" else [convnet()]
    for network in networks:
        frozen = FrozenNetwork(network, norm_mode=norm_mode, expects=IMAGENET)
        inputs = torch.randn(4, 3, 32, 32)
        for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
            assert other.digest() == frozen.digest()
            assert torch.equal(other(inputs), frozen(inputs))
            assert other.network is not frozen.network
            other.train()
            assert not other.training and not list(other.parameters())


def test_it_moves_with_a_surrounding_module():
    student = Student(FrozenNetwork(convnet(), expects=IMAGENET)).double()
    assert student.guide.network.head.weight.dtype == torch.float64
    assert student(torch.randn(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


def test_inputs_are_renormalised():
    images = torch.rand(4, 3, 8, 8)
    (mean, std), given = IMAGENET, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))

    def normalise(values, normalization):
        shift, scale = (torch.tensor(part).view(3, 1, 1) for part in normalization)
        return (values - shift) / scale

    expected = convnet().eval()(normalise(images, (mean, std)))
    torch.testing.assert_close(FrozenNetwork(convnet(), expects=IMAGENET)(images), expected)
    batch = normalise(images, given)
    torch.testing.assert_close(FrozenNetwork(convnet(), expects=IMAGENET, given=given)(batch), expected)
    seen = []
    for frozen in (
        FrozenNetwork(convnet(), expects=given, given=given),
        FrozenNetwork(convnet(), given=given),
    ):
        frozen.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        frozen(batch)
    assert all(inputs is batch for inputs in seen)


def test_the_mask_reaches_a_network_that_takes_one():
    torch.manual_seed(0)
    network = Recurrent((5,), 3, vocab_size=4, depth=1, width=8, per_position=False)
    frozen = FrozenNetwork(network)
    tokens, mask = torch.randint(4, (2, 5)), torch.tensor([[True] * 5, [True, True, False, False, False]])
    assert torch.equal(frozen(tokens, mask), network(tokens, mask))
    assert not torch.equal(frozen(tokens), network(tokens, mask))
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(FrozenNetwork(convnet())(images, None), convnet().eval()(images))


def test_the_digest_names_the_weights():
    assert digest(convnet()) == digest(convnet())
    assert FrozenNetwork(convnet()).digest() == digest(convnet()) and len(digest(convnet())) == 64
    for change in ("head.bias", "stem.norm.running_mean"):
        other = convnet()
        with torch.no_grad():
            other.state_dict()[change][0] += 1e-6
        assert digest(other) != digest(convnet())
    renamed, same = nn.Sequential(), nn.Sequential()
    renamed.add_module("a", nn.Linear(2, 2))
    same.add_module("b", renamed.a)
    assert digest(renamed) != digest(same)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_mode": "train"}, "unknown norm_mode 'train'"),
        ({"expects": IMAGENET, "given": ((0.5,), (0.5,))}, "3 channels .* over 1"),
        ({"expects": ((0.5,), (0.0,))}, "must be above 0"),
        (
            {"expects": ((0.5,), (0.5,)), "given": ((0.5,), (0.0,))},
            r"must be above 0, got \[0.5\] and \[0.0\]",
        ),
        ({"expects": ((0.5, 0.5), (0.5, 0.0)), "given": ((0.5, 0.5), (0.5, 0.5))}, "must be above 0"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FrozenNetwork(convnet(), **options)


class Flattening(nn.Module):
    """A network that cannot run with channels last: `view` needs contiguous activations."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, inputs):
        return self.conv(inputs).view(len(inputs), -1)


@pytest.mark.parametrize("norm_mode", ["eval", "batch"])
def test_channels_last_changes_the_layout_and_nothing_else(norm_mode):
    inputs, frozen = torch.randn(6, 3, 8, 8), FrozenNetwork(convnet(), norm_mode=norm_mode)
    expected, weights, random = frozen(inputs), frozen.digest(), torch.random.get_rng_state()
    state = copy.deepcopy(frozen.network.state_dict())
    frozen.prefer_channels_last(inputs[:4])
    kernels = [m.weight for m in frozen.network.modules() if isinstance(m, nn.Conv2d)]
    assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)
    torch.testing.assert_close(frozen(inputs), expected)
    assert frozen.digest() == weights and torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in frozen.network.state_dict().items())


def test_a_network_that_cannot_run_with_channels_last_keeps_its_layout():
    inputs, frozen = torch.randn(6, 3, 8, 8), FrozenNetwork(Flattening())
    expected = frozen(inputs)
    frozen.prefer_channels_last(inputs[:4])
    assert torch.equal(frozen(inputs), expected) and frozen.network.conv.weight.is_contiguous()


@pytest.mark.parametrize("count", [1, 4, 7])
def test_series_are_converted_channel_by_channel(count):
    """As many windows as channels must not be taken for channels."""
    expects, given = ([1.0] * 7, [2.0] * 7), ([float(c) for c in range(7)], [1.0 + c for c in range(7)])
    frozen = FrozenNetwork(nn.Identity(), expects=expects, given=given)
    inputs = torch.randn(count, 5, 7)
    raw = inputs * torch.tensor(given[1]) + torch.tensor(given[0])
    torch.testing.assert_close(frozen(inputs), (raw - 1) / 2)


@pytest.mark.parametrize("size", [16, (12, 20), 5])
def test_images_are_seen_at_the_network_s_own_size(size):
    """Against a bilinear interpolation written out: half-pixel centres; where images get smaller, a triangle as wide as the step."""

    def weights(old, new):
        step = old / new
        reach = max(step, 1.0)
        centres = (np.arange(new) + 0.5) * step - 0.5
        table = np.maximum(0, 1 - np.abs(np.arange(old)[None] - centres[:, None]) / reach)
        return table / table.sum(1, keepdims=True)

    class Sees(nn.Module):
        def forward(self, x):
            return x

    height, width = size if isinstance(size, tuple) else (size, size)
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in IMAGENET)
    rows, columns = weights(8, height), weights(8, width)
    expected = np.einsum("hy,ncyx,wx->nchw", rows, ((images - mean) / std).double().numpy(), columns)
    frozen = FrozenNetwork(Sees(), expects=IMAGENET, input_size=size)
    seen = frozen(images)
    assert seen.shape == (2, 3, height, width)
    np.testing.assert_allclose(seen.double().numpy(), expected, atol=1e-5)
    assert FrozenNetwork(Sees(), input_size=size)(images.bfloat16()).dtype == torch.bfloat16
    own = torch.rand(2, 3, height, width)
    assert FrozenNetwork(Sees(), input_size=size)(own) is own


def test_a_size_that_is_none_or_of_no_images_is_refused():
    for size in (0, -3, 2.5, [4], [4, 4, 4], "8"):
        with pytest.raises(UserError, match="input_size"):
            FrozenNetwork(convnet(), input_size=size)
    with pytest.raises(UserError, match=r"is of images .* got inputs of shape \(2, 7, 3\)"):
        FrozenNetwork(nn.Identity(), input_size=8)(torch.rand(2, 7, 3))
