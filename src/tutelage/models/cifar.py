"""The networks of the CIFAR distillation benchmark: residual and wide residual networks, VGG with batch norm. Mobile ones: `mobile`.

Layer names are those of the benchmark's published weights (RepDistiller, mdistiller), so its files load. No layer works in place.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tutelage.arguments import image_shape, one_of, positive
from tutelage.models.mobile import MOBILE, he_normal

RESNETS = {
    **{f"resnet{depth}": (depth, (16, 16, 32, 64)) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x4": (8, (32, 64, 128, 256)),
    "resnet32x4": (32, (32, 64, 128, 256)),
}
WIDE = {
    f"wrn_{depth}_{width}": (depth, width) for depth, width in ((16, 1), (16, 2), (28, 2), (40, 1), (40, 2))
}
VGGS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def cifar(input_shape: Sequence[int], output_size: int, name: str = "resnet20") -> nn.Module:
    """Build a network of the benchmark by its name.

    Args:
        input_shape: (channels, height, width), at least 8 px; the benchmark has 32.
        output_size: classes.
        name: resnet8, 14, 20, 32, 44, 56, 110, 8x4 or 32x4 (of 6n + 2 layers; shortcuts that change the width are 1 x 1 convolutions,
            He et al.'s option B, where their own CIFAR networks pad with zeros); wrn_16_1, 16_2, 28_2 (not
            the benchmark's, but semi-supervised learning's), 40_1 or 40_2; vgg8, 11, 13, 16 or 19;
            mobilenetv2_half, shufflenetv1 or shufflenetv2.

    Raises:
        UserError: an unknown name, or images that are too small.

    Sources: He et al. 2015, arXiv 1512.03385, section 4.2; Zagoruyko and Komodakis 2016, arXiv 1605.07146; Simonyan and Zisserman
    2014, arXiv 1409.1556; for the mobile ones see `mobile`. Sizes and shortcuts are the benchmark's.
    """
    one_of("cifar", {**RESNETS, **WIDE, **VGGS, **MOBILE}, name=name)
    positive(name, output_size=output_size)
    channels, _, _ = image_shape(name, input_shape, at_least_px=8)
    if name in RESNETS:
        return CifarResNet(channels, output_size, *RESNETS[name])
    if name in WIDE:
        return WideResNet(channels, output_size, *WIDE[name])
    if name in VGGS:
        return CifarVGG(channels, output_size, VGGS[name])
    return MOBILE[name](channels, output_size)


def conv3(mine: int, theirs: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution without bias."""
    return nn.Conv2d(mine, theirs, 3, stride=stride, padding=1, bias=False)


class _Block(nn.Module):
    def __init__(self, mine: int, theirs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3(mine, theirs, stride), nn.BatchNorm2d(theirs)
        self.conv2, self.bn2 = conv3(theirs, theirs), nn.BatchNorm2d(theirs)
        self.relu = nn.ReLU()
        changes = stride != 1 or mine != theirs
        self.downsample = (
            nn.Sequential(nn.Conv2d(mine, theirs, 1, stride=stride, bias=False), nn.BatchNorm2d(theirs))
            if changes
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(nn.Module):
    """Residual network of 6n + 2 layers in three stages.

    widths: of the stem and the three stages; convolutions start He-normal by fan out.
    """

    def __init__(self, channels: int, output_size: int, depth: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv3(channels, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU()
        blocks = depth // 6  # in each of three stages, of two convolutions
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                _Block(mine, theirs, stride), *(_Block(theirs, theirs, 1) for _ in range(blocks - 1))
            )
            for mine, theirs, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        )
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], output_size)
        he_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.fc(self.avgpool(self.layer3(self.layer2(self.layer1(x)))).flatten(1))


class _WideBlock(nn.Module):
    def __init__(self, mine: int, theirs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(mine), nn.ReLU(), conv3(mine, theirs, stride)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(theirs), nn.ReLU(), conv3(theirs, theirs)
        self.convShortcut = None if mine == theirs else nn.Conv2d(mine, theirs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class _WideStage(nn.Module):
    def __init__(self, mine: int, theirs: int, stride: int, blocks: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            _WideBlock(mine, theirs, stride), *(_WideBlock(theirs, theirs, 1) for _ in range(blocks - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Wide residual network of 6n + 4 layers, norms before convolutions, without dropout.

    width: the factor of 16, 32 and 64 channels.
    """

    def __init__(self, channels: int, output_size: int, depth: int, width: int) -> None:
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = conv3(channels, widths[0])
        self.block1, self.block2, self.block3 = (
            _WideStage(mine, theirs, stride, depth // 6)
            for mine, theirs, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        )
        self.bn1, self.relu, self.avgpool = nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], output_size)
        he_normal(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = self.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(self.avgpool(x).flatten(1))


class CifarVGG(nn.Module):
    """VGG with batch norm: five blocks of 3 x 3 convolutions, halved after the first three, and one linear layer.

    blocks: the number of convolutions in each.
    """

    def __init__(self, channels: int, output_size: int, blocks: Sequence[int]) -> None:
        super().__init__()
        before = channels
        for number, (width, count) in enumerate(zip((64, 128, 256, 512, 512), blocks, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(count):
                if layers:
                    layers.append(nn.ReLU())
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width)]
                before = width
            self.add_module(f"block{number}", nn.Sequential(*layers))
        self.relu, self.pool, self.avgpool = nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, output_size)
        he_normal(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        for number in range(5):
            x = self.relu(self.get_submodule(f"block{number}")(x))
            if number < 3:
                x = self.pool(x)
        return self.classifier(self.avgpool(x).flatten(1))
