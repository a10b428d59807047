"""ResNets by torchvision, with a stem for small images, and the same without residual connections."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from tutelage.arguments import image_shape, one_of, positive
from tutelage.errors import UserError


class _Skip:
    """The addition, which a plain block leaves out; never in place, so a tap before it keeps its values."""

    residual = True

    def _join(self: BasicBlock | Bottleneck, out: Tensor, inputs: Tensor) -> Tensor:  # type: ignore[misc]
        if self.residual:
            out = out + (inputs if self.downsample is None else self.downsample(inputs))
        return self.relu(out)


class _Basic(_Skip, BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self._join(self.bn2(self.conv2(out)), x)


class _Bottleneck(_Skip, Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self._join(self.bn3(self.conv3(out)), x)


SIZES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "resnet18": (_Basic, [2, 2, 2, 2]),
    "resnet34": (_Basic, [3, 4, 6, 3]),
    "resnet50": (_Bottleneck, [3, 4, 6, 3]),
    "resnet101": (_Bottleneck, [3, 4, 23, 3]),
    "resnet152": (_Bottleneck, [3, 8, 36, 3]),
}


def resnet(
    input_shape: Sequence[int],
    output_size: int,
    name: str = "resnet18",
    small_images: bool = False,
    residual: bool = True,
    pretrained: bool = False,
) -> ResNet:
    """Build a ResNet by torchvision's layer names, so that torchvision's weights files fit.

    input_shape: (channels, height, width), at least 32 px, or 8 px with `small_images`. output_size: classes.
    name: resnet18, 34, 50, 101 or 152.
    small_images: 3 x 3 stem of stride 1 and no max-pooling, the custom for 32 px.
    residual: False leaves out every addition, and the branches (`downsample`) that only serve it; with resnet50 this
    is the Deep ConvNet of guided learning (arXiv 2410.20035). Its values are those of the residual one under one seed.
    pretrained: torchvision's ImageNet weights; the head is fresh where the number of classes differs.

    No layer works in place, so taps keep what they saw. Initialisation: torchvision's (convolutions He-normal by fan
    out, batch norms 1 and 0, the head PyTorch's default).
    Source: He et al. 2015, arXiv 1512.03385. Raises UserError on a wrong value.
    """
    one_of("resnet", SIZES, name=name)
    positive(name, output_size=output_size)
    owner = f"{name} with the stem for small images" if small_images else f"{name} (small_images: false)"
    channels, _, _ = image_shape(owner, input_shape, at_least_px=8 if small_images else 32)
    block, layers = SIZES[name]
    network = ResNet(block, layers, num_classes=output_size)
    if small_images:
        network.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()  # type: ignore[assignment]
    elif channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, _Skip) and not residual:
            module.residual = False
            module.downsample = None  # type: ignore[assignment]
    if pretrained:
        if small_images or not residual:
            raise UserError(
                f"{name}: pretrained weights exist for the residual network with its ImageNet stem alone; "
                "set small_images: false and residual: true, or pretrained: false"
            )
        from tutelage.models.pretrained import load_torchvision

        load_torchvision(network, name, input_shape)
    return network
