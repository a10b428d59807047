"""Small convolutional networks that are plain or residual, and differ in nothing but the skip."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.arguments import image_shape, positive
from tutelage.models.activations import activation as activation_named


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class Stem(nn.Module):
    """Convolution, batch norm and activation on the image itself."""

    def __init__(self, channels_in: int, channels_out: int, activation: str) -> None:
        super().__init__()
        self.conv = _conv(channels_in, channels_out)
        self.norm = nn.BatchNorm2d(channels_out)
        self.activation = activation_named(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (n, channels_in, height, width) to (n, channels_out, height, width)."""
        return self.activation(self.norm(self.conv(inputs)))


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norms; if `residual`, the input is added before the last activation.

    The shortcut has no parameters: it is subsampled by the stride and new channels are zero (He et al. 2015,
    option A).
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, activation: str, residual: bool
    ) -> None:
        super().__init__()
        self.residual, self.stride, self.new_channels = residual, stride, channels_out - channels_in
        self.conv1 = _conv(channels_in, channels_out, stride)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.activation1 = activation_named(activation)
        self.conv2 = _conv(channels_out, channels_out)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.activation2 = activation_named(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, channels_in, h, w) to (n, channels_out, ceil(h / stride), ceil(w / stride))."""
        out = self.activation1(self.norm1(self.conv1(inputs)))
        out = self.norm2(self.conv2(out))
        if self.residual:
            shortcut = inputs[:, :, :: self.stride, :: self.stride]
            if self.new_channels:
                shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
            out = out + shortcut
        return self.activation2(out)


class ConvNet(nn.Module):
    """Stem, `stages` x `blocks` blocks of two convolutions, mean over positions, linear head.

    input_shape: (channels, height, width), from 2^(stages - 1) px. output_size: classes; the output is (n, output_size).
    width: channels of the first stage; each later stage halves the image and doubles the channels.
    blocks: in each stage, so that the network has 2 * blocks * stages + 2 weight layers.
    residual: add the skips. Plain and residual networks have the same parameters, and the same values under one seed.
    activation: a name of `activations`.

    Layers are called `stem.conv`, `stem.norm`, `blocks.<i>.conv1`, `.norm1`, `.conv2`, `.norm2` and `head`.
    Initialisation: convolutions He-normal by fan out, batch norms 1 and 0, the head PyTorch's default.
    Source: He et al. 2015, arXiv 1512.03385, section 4.2 (CIFAR networks: width 16, 3 stages, option A shortcuts).
    Raises UserError on a wrong value.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        width: int = 16,
        stages: int = 3,
        blocks: int = 1,
        residual: bool = True,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        positive("ConvNet", width=width, stages=stages, blocks=blocks, output_size=output_size)
        owner = f"a ConvNet of {stages} stages"
        channels, _, _ = image_shape(owner, input_shape, at_least_px=2 ** (stages - 1))
        self.stem = Stem(channels, width, activation)
        layers = []
        channels = width
        for stage in range(stages):
            for position in range(blocks):
                stride = 2 if stage > 0 and position == 0 else 1
                layers.append(Block(channels, width * 2**stage, stride, activation, residual))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, output_size)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (n, channels, height, width) to (n, output_size)."""
        return self.head(self.blocks(self.stem(inputs)).mean(dim=(2, 3)))
