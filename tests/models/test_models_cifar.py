"""The benchmark's networks: sizes as published in their tables of parameters, names of their files, shapes, and no memory of the batch."""

import pytest
import torch

from tutelage.errors import UserError
from tutelage.models.cifar import cifar
from tutelage.models.mobile import _Shuffle1

# Parameters at 100 classes, counted on the benchmark's own networks (mdistiller, 2023-11); WRN-28-2's by hand, which it lacks.
PARAMETERS = {
    "resnet8": 83_892, "resnet14": 181_108, "resnet20": 278_324, "resnet32": 472_756, "resnet44": 667_188,
    "resnet56": 861_620, "resnet110": 1_736_564, "resnet8x4": 1_233_540, "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916, "wrn_16_2": 703_284, "wrn_28_2": 1_479_220, "wrn_40_1": 569_780, "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028, "vgg11": 9_277_284, "vgg13": 9_462_180, "vgg16": 14_774_436, "vgg19": 20_086_692,
    "mobilenetv2_half": 812_836, "shufflenetv1": 949_258, "shufflenetv2": 1_355_528,
}  # fmt: skip
NAMES = {
    "resnet8x4": {
        "conv1.weight": (32, 3, 3, 3),
        "layer1.0.downsample.0.weight": (64, 32, 1, 1),
        "fc.weight": (7, 256),
    },
    "wrn_16_2": {"block1.layer.0.convShortcut.weight": (32, 16, 1, 1), "bn1.weight": (128,), "fc.bias": (7,)},
    "vgg13": {"block0.3.weight": (64, 64, 3, 3), "block4.4.bias": (512,), "classifier.weight": (7, 512)},
    "mobilenetv2_half": {"blocks.1.1.conv.3.weight": (72, 1, 3, 3), "conv2.0.weight": (1280, 160, 1, 1)},
    "shufflenetv1": {"layer1.0.conv3.weight": (216, 18, 1, 1), "linear.weight": (7, 960)},
    "shufflenetv2": {"layer1.0.conv5.weight": (58, 58, 1, 1), "conv2.weight": (1024, 464, 1, 1)},
}
"""Some names and shapes in the benchmark's published files, of each kind of network."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_of_the_benchmark(name):
    assert sum(p.numel() for p in cifar((3, 32, 32), 100, name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_the_published_files(name):
    state = cifar((3, 32, 32), 7, name).state_dict()
    assert {key: tuple(state[key].shape) for key in NAMES[name]} == NAMES[name]


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2"]
)
def test_samples_do_not_see_each_other_and_every_parameter_learns(name):
    torch.manual_seed(0)
    network = cifar((2, 16, 16), 5, name)
    inputs = torch.randn(4, 2, 16, 16)
    kept = inputs.clone()
    network(inputs).square().sum().backward()
    assert torch.equal(inputs, kept)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(inputs)[:1], network(inputs[:1]), rtol=1e-3, atol=1e-4)


def test_residual_blocks_add_their_input():
    network = cifar((3, 16, 16), 5, "resnet14").eval()
    block = network.layer1[1]
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(x), x.relu())
        wide = cifar((3, 16, 16), 5, "wrn_16_1").eval().block1.layer[1]
        torch.nn.init.zeros_(wide.conv2.weight)
        assert torch.equal(wide(x), x)  # norms come first here


def test_an_unknown_name_and_small_images_are_named():
    with pytest.raises(UserError, match="resnet56"):
        cifar((3, 32, 32), 10, "resnet65")
    with pytest.raises(UserError, match="8"):
        cifar((3, 4, 4), 10, "resnet8")


def test_a_block_of_shufflenet_adds_its_input_or_joins_it_halved():
    inputs = torch.randn(2, 24, 6, 6)
    for stride, theirs in ((1, 24), (2, 48)):
        block = _Shuffle1(24, theirs, stride, groups=3).eval()
        torch.nn.init.zeros_(block.bn3.weight)
        halved = torch.nn.functional.avg_pool2d(inputs, 3, stride=2, padding=1)
        expected = inputs if stride == 1 else torch.cat([torch.zeros(2, theirs, 3, 3), halved], 1)
        torch.testing.assert_close(block(inputs), expected.relu())
