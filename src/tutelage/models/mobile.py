"""The mobile networks of the CIFAR distillation benchmark: half MobileNetV2 and two ShuffleNets, for 32 px."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _point(mine: int, theirs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(mine, theirs, 1, groups=groups, bias=False)


def _depth(width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups: (n, c, h, w), so that the next grouped convolution mixes them."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class _Inverted(nn.Module):
    def __init__(self, mine: int, theirs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = mine * expand
        self.residual = stride == 1 and mine == theirs
        self.conv = nn.Sequential(
            _point(mine, wide), nn.BatchNorm2d(wide), nn.ReLU(),
            _depth(wide, stride), nn.BatchNorm2d(wide), nn.ReLU(),
            _point(wide, theirs), nn.BatchNorm2d(theirs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 of half width and expansion 6, its stem of stride 2.

    Source: Sandler et al. 2018, arXiv 1801.04381, with ReLU in place of ReLU6 and the strides of the benchmark.
    """

    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    """(expansion, width before halving, blocks, stride of the first)."""

    def __init__(self, channels: int, output_size: int, width: float = 0.5) -> None:
        super().__init__()
        before = int(32 * width)
        stem = nn.Conv2d(channels, before, 3, stride=2, padding=1, bias=False)
        self.conv1 = nn.Sequential(stem, nn.BatchNorm2d(before), nn.ReLU())
        self.blocks = nn.ModuleList()
        for expand, full, count, stride in self.STAGES:
            after = int(full * width)
            stage = [_Inverted(before, after, stride, expand)]
            stage += [_Inverted(after, after, 1, expand) for _ in range(count - 1)]
            self.blocks.append(nn.Sequential(*stage))
            before = after
        self.conv2 = nn.Sequential(_point(before, 1280), nn.BatchNorm2d(1280), nn.ReLU())
        head = nn.Linear(1280, output_size)
        self.avgpool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(head)
        he_normal(self)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = self.conv1(x)
        for stage in self.blocks:
            x = stage(x)
        return self.classifier(self.avgpool(self.conv2(x)).flatten(1))


class _Shuffle1(nn.Module):
    def __init__(self, mine: int, theirs: int, stride: int, groups: int) -> None:
        super().__init__()
        middle = theirs // 4
        self.groups = 1 if mine == 24 else groups  # the stem is too narrow to be grouped
        self.conv1, self.bn1 = _point(mine, middle, self.groups), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = _depth(middle, stride), nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = _point(middle, theirs, groups), nn.BatchNorm2d(theirs)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + x if self.shortcut is None else torch.cat([out, self.shortcut(x)], 1))


class ShuffleNetV1(nn.Module):
    """ShuffleNet with three groups. Source: Zhang et al. 2017, arXiv 1707.01083; the 1 x 1 stem is the benchmark's."""

    def __init__(self, channels: int, output_size: int, groups: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = _point(channels, 24), nn.BatchNorm2d(24)
        before = 24
        for number, (width, blocks) in enumerate(zip((240, 480, 960), (4, 8, 4), strict=True), 1):
            stage = [_Shuffle1(before, width - before, 2, groups)]
            stage += [_Shuffle1(width, width, 1, groups) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            before = width
        self.avgpool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(before, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        return self.linear(self.avgpool(x).flatten(1))


class _Shuffle2(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = _point(half, half), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = _depth(half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _point(half, half), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(out)))))
        out = F.relu(self.bn3(self.conv3(out)))
        return shuffle(torch.cat([kept, out], 1), 2)


class _Shuffle2Down(nn.Module):
    def __init__(self, mine: int, theirs: int) -> None:
        super().__init__()
        half = theirs // 2
        self.conv1, self.bn1 = _depth(mine, 2), nn.BatchNorm2d(mine)
        self.conv2, self.bn2 = _point(mine, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = _point(mine, half), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = _depth(half, 2), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = _point(half, half), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return shuffle(torch.cat([left, F.relu(self.bn5(self.conv5(right)))], 1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 of width 1. Source: Ma et al. 2018, arXiv 1807.11164; 1 x 1 stem, block counts and the missing max-pooling are the
    benchmark's.
    """

    def __init__(self, channels: int, output_size: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _point(channels, 24), nn.BatchNorm2d(24)
        before = 24
        for number, (width, blocks) in enumerate(zip((116, 232, 464), (3, 7, 3), strict=True), 1):
            stage = nn.Sequential(_Shuffle2Down(before, width), *(_Shuffle2(width) for _ in range(blocks)))
            self.add_module(f"layer{number}", stage)
            before = width
        self.conv2, self.bn2 = _point(before, 1024), nn.BatchNorm2d(1024)
        self.avgpool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(1024, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, height, width)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        return self.linear(self.avgpool(F.relu(self.bn2(self.conv2(x)))).flatten(1))


def he_normal(network: nn.Module) -> None:
    """Draw every convolution He-normal by fan out, with no bias to begin with."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


MOBILE: dict[str, Callable[[int, int], nn.Module]] = {
    "mobilenetv2_half": MobileNetV2,
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
}
