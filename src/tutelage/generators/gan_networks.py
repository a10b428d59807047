"""A small class-conditional GAN: residual generator and spectrally normalised critic, for images of 8 to 64 px."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tutelage.errors import UserError, choices
from tutelage.generators.protocol import Generator


def grid_sizes(input_shape: Sequence[int], least_px: int = 4) -> list[tuple[int, int]]:
    """Return the sizes of a pyramid from the image down, halving while both sides are even and stay at `least_px` or above."""
    sizes = [(int(input_shape[1]), int(input_shape[2]))]
    while all(side % 2 == 0 and side // 2 >= least_px for side in sizes[-1]):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


class Modulated(nn.Module):
    """Group norm whose gain and shift are linear functions of a condition (n, d); at first about 1 and 0 for every condition.

    It sees one sample at a time: no sample depends on its neighbours, and an average of weights needs no statistics.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels), channels, affine=False)
        self.affine = nn.Linear(condition, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        """(n, channels, h, w) and (n, d) to (n, channels, h, w)."""
        gain, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        return self.norm(inputs) * (1 + gain) + shift


def _groups(channels: int) -> int:
    return next(g for g in (8, 4, 2, 1) if channels % (4 * g) == 0 or g == 1)


class _GeneratorBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, condition: int, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.norm1 = Modulated(channels_in, condition)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = Modulated(channels_out, condition)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        out = F.relu(self.norm1(inputs, condition))
        if self.upsample:
            out, inputs = (F.interpolate(x, scale_factor=2, mode="nearest") for x in (out, inputs))
        out = self.conv1(out)
        out = self.conv2(F.relu(self.norm2(out, condition)))
        return out + self.skip(inputs)


class GanGenerator(Generator):
    """Latent and class to an image in [-1, 1]: residual blocks that double the grid, each norm modulated by latent and class.

    input_shape: (channels, height, width) of the images. num_classes: of the labels. width: channels of the finest grid, doubled at
    each coarser one up to four times `width`. depth: residual blocks per grid. latent: size of the noise.
    A soft label mixes the class embeddings. Design after SAGAN (Zhang et al. 2018, arXiv 1805.08318) with group norm for batch norm
    and the latent in every modulation (BigGAN, arXiv 1809.11096).
    """

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, width: int = 64, depth: int = 1, latent: int = 64
    ) -> None:
        super().__init__()
        self.image_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.classes, self.noise_shape = num_classes, (latent,)
        sizes = grid_sizes(input_shape)
        widths = [width * min(2**level, 4) for level in range(len(sizes))][::-1]
        self.embedding = nn.Linear(num_classes, latent, bias=False)
        self.start = nn.Linear(2 * latent, widths[0] * sizes[-1][0] * sizes[-1][1])
        self._start_shape = (widths[0], *sizes[-1])
        blocks, channels = [], widths[0]
        for level, wide in enumerate(widths):
            for position in range(depth):
                blocks.append(
                    _GeneratorBlock(channels, wide, 2 * latent, upsample=level > 0 and position == 0)
                )
                channels = wide
        self.blocks = nn.ModuleList(blocks)
        self.norm = Modulated(channels, 2 * latent)
        self.last = nn.Conv2d(channels, self.image_shape[0], 3, padding=1)
        nn.init.normal_(self.embedding.weight)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Noise (n, latent) and label weights (n, classes) to images (n, C, H, W) in [-1, 1]."""
        condition = torch.cat([noise, self.embedding(labels)], dim=1)
        out = self.start(condition).view(-1, *self._start_shape)
        for block in self.blocks:
            out = block(out, condition)
        return self.last(F.relu(self.norm(out, condition))).tanh()

    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See `Generator.render`."""
        return self(noise, labels)


class _CriticBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, downsample: bool) -> None:
        super().__init__()
        self.downsample = downsample
        self.conv1 = spectral_norm(nn.Conv2d(channels_in, channels_out, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip = spectral_norm(nn.Conv2d(channels_in, channels_out, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(inputs, 0.2)), 0.2))
        inputs = self.skip(inputs)
        return F.avg_pool2d(out + inputs, 2) if self.downsample else out + inputs


class Critic(nn.Module):
    """Image and label to a score, without batch statistics, every layer spectrally normalised (Miyato et al. 2018, arXiv 1802.05957).

    conditioning: "projection", the label's embedding times the pooled features is added to the score (Miyato and Koyama 2018, arXiv
    1802.05637); "embedding", the label's embedding is given as one more channel of the image (Mirza and Osindero 2014, arXiv 1411.1784).
    width, depth: as the generator's.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 64,
        depth: int = 1,
        conditioning: Literal["projection", "embedding"] = "projection",
    ) -> None:
        super().__init__()
        if conditioning not in ("projection", "embedding"):
            known = choices(conditioning, ("projection", "embedding"))
            raise UserError(f"`conditioning`={conditioning!r} is not known; {known}")
        sizes = grid_sizes(input_shape)
        widths = [width * min(2**level, 4) for level in range(len(sizes))]
        self.projects = conditioning == "projection"
        self._plane = (1, *sizes[0])
        self.first = spectral_norm(nn.Conv2d(int(input_shape[0]) + (not self.projects), width, 3, padding=1))
        blocks, channels = [], width
        for level, wide in enumerate(widths):
            for position in range(depth):
                last = level + 1 == len(widths)
                blocks.append(_CriticBlock(channels, wide, downsample=position + 1 == depth and not last))
                channels = wide
        self.blocks = nn.Sequential(*blocks)
        embedded = channels if self.projects else sizes[0][0] * sizes[0][1]
        self.embedding = spectral_norm(nn.Linear(num_classes, embedded, bias=False))
        self.score = spectral_norm(nn.Linear(channels, 1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (n, C, H, W) in [-1, 1] and label weights (n, classes) to scores (n,)."""
        embedded = self.embedding(labels)
        if not self.projects:
            images = torch.cat([images, embedded.view(-1, *self._plane)], dim=1)
        features = F.leaky_relu(self.blocks(self.first(images)), 0.2).sum(dim=(2, 3))
        score = self.score(features)[:, 0]
        return score + (features * embedded).sum(dim=1) if self.projects else score
