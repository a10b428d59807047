"""FCN, ConvNet and ResNet: shapes, names, that plain and residual differ in the skip alone, and what is refused."""

import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.models.activations import ACTIVATIONS, activation
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN
from tutelage.models.resnet import resnet


def shapes(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_fcn_layers_have_stable_names():
    network = FCN((1, 4, 4), 10, depth=2, width=8, dropout=0.5)
    names = [name for name, module in network.named_modules() if not list(module.children())]
    layer = ["linear", "norm", "activation", "dropout"]
    assert names == ["flatten", *(f"layers.{i}.{part}" for i in range(2) for part in layer), "head"]
    plain = FCN((12, 3), 6, depth=1, width=8, batch_norm=False)
    assert list(shapes(plain)) == [
        "layers.0.linear.weight",
        "layers.0.linear.bias",
        "head.weight",
        "head.bias",
    ]


def test_fcn_is_what_its_layers_say():
    torch.manual_seed(0)
    network = FCN((1, 4, 4), 3, widths=[8, 5], activation="tanh").eval()
    inputs = torch.randn(6, 1, 4, 4)
    hidden = inputs.reshape(6, 16)
    for layer in network.layers:
        linear, norm = layer.linear, layer.norm
        hidden = hidden @ linear.weight.T + linear.bias
        hidden = ((hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()).tanh()
    torch.testing.assert_close(network(inputs), hidden @ network.head.weight.T + network.head.bias)
    assert [layer.linear.out_features for layer in network.layers] == [8, 5]


@pytest.mark.parametrize("side", [8, 9, 32, 64])
def test_plain_and_residual_convnets_differ_in_the_skip_alone(side):
    networks = []
    for residual in (False, True):
        torch.manual_seed(0)
        networks.append(ConvNet((3, side, side), 10, width=4, stages=3, blocks=2, residual=residual).eval())
    plain, skipping = networks
    assert shapes(plain) == shapes(skipping)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), skipping.parameters(), strict=True))
    inputs = torch.randn(2, 3, side, side)
    assert plain(inputs).shape == (2, 10)
    assert not torch.allclose(plain(inputs), skipping(inputs))
    for block in skipping.blocks:
        block.residual = False
    assert torch.equal(plain(inputs), skipping(inputs))


def test_a_residual_block_adds_its_input_subsampled_and_zero_padded():
    block = ConvNet((3, 8, 8), 10, width=4, stages=2, blocks=1).blocks[1].eval()
    nn.init.zeros_(block.conv2.weight)
    inputs = torch.rand(2, 4, 8, 8)
    output = block(inputs)
    assert torch.equal(output[:, :4], inputs[:, :, ::2, ::2])
    assert not output[:, 4:].any()


def test_the_deep_convnet_is_resnet50_without_its_skips():
    networks = []
    for residual in (False, True):
        torch.manual_seed(0)
        networks.append(resnet((3, 32, 32), 10, "resnet50", residual=residual))
    plain, skipping = networks
    without = {name: shape for name, shape in shapes(skipping).items() if "downsample" not in name}
    assert shapes(plain) == without and len(without) < len(shapes(skipping))
    assert all(
        torch.equal(tensor, skipping.state_dict()[name]) for name, tensor in plain.state_dict().items()
    )
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in plain.modules()) == 50
    block = plain.layer1[1].eval()
    nn.init.zeros_(block.conv3.weight)
    assert not block(torch.rand(1, 256, 4, 4)).any()


def test_a_resnet_is_torchvisions():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    ours = resnet((3, 64, 64), 10, "resnet18").eval()
    theirs = resnet18(num_classes=10).eval()
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(inputs), theirs(inputs))


def test_small_images_keep_their_resolution_and_nothing_works_in_place():
    network = resnet((1, 8, 8), 10, "resnet18", small_images=True).eval()
    seen = {}
    for name in ("conv1", "bn1", "layer1.0.bn2"):
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: (output, output.clone())})
        )
    network(torch.randn(2, 1, 8, 8))
    assert seen["conv1"][0].shape == (2, 64, 8, 8)
    assert all(torch.equal(kept, copy) for kept, copy in seen.values())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_elementwise_and_never_in_place(name):
    inputs = torch.linspace(-3, 3, 13)
    before = inputs.clone()
    output = activation(name)(inputs)
    assert output.shape == inputs.shape and torch.equal(inputs, before)
    torch.testing.assert_close(activation(name)(inputs[4:5]), output[4:5])


def test_erf_is_the_error_function():
    from math import erf

    expected = torch.tensor([erf(x) for x in (-1.5, 0.0, 0.3)])
    torch.testing.assert_close(activation("erf")(torch.tensor([-1.5, 0.0, 0.3])), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FCN((4,), 2, depth=-1), "depth must be a whole number, 0 for a linear model, got -1"),
        (lambda: FCN((4,), 2, width=-1), "width must be .* got -1"),
        (lambda: FCN((4,), 2, widths=[8, 0]), r"widths\[1\] must be"),
        (lambda: FCN((4,), 2, widths=[]), "widths must name at least one layer"),
        (lambda: FCN((4,), 2, depth=2.5), "depth must be a whole number"),
        (lambda: FCN((4,), 2, dropout=1.0), "dropout must be at least 0 and below 1"),
        (lambda: FCN((4,), 2, activation="rellu"), "did you mean 'relu'"),
        (lambda: ConvNet((3, 2, 2), 2, stages=3), "at least 4 px, got 2 x 2"),
        (lambda: ConvNet((12,), 2), r"takes images \(channels, height, width\), got inputs of shape \(12,\)"),
        (lambda: ConvNet((3, 8, 8), 2, blocks=0), "blocks must be"),
        (lambda: resnet((3, 16, 16), 2), "at least 32 px, got 16 x 16"),
        (lambda: resnet((3, 4, 4), 2, small_images=True), "at least 8 px"),
        (lambda: resnet((3, 32, 32), 2, "resnet81"), "unknown name 'resnet81'; did you mean"),
        (
            lambda: resnet((3, 32, 32), 2, residual=False, pretrained=True),
            "residual network with its ImageNet stem",
        ),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_fcn_of_depth_0_is_a_linear_model():
    network = FCN((1, 2, 2), 3, depth=0, batch_norm=True, dropout=0.1)
    x = torch.randn(5, 1, 2, 2)
    expected = x.flatten(1) @ network.head.weight.T + network.head.bias
    assert torch.allclose(network(x), expected) and len(list(network.parameters())) == 2
