"""The small generator of data-free distillation, whose norms keep the images of a batch apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.arguments import positive
from tutelage.errors import UserError
from tutelage.generators.gan_networks import grid_sizes
from tutelage.generators.protocol import Generator


class InversionGenerator(Generator):
    """Latent and class to an image in [-1, 1]: at most three grids, convolutions with batch norms, the last norm of the pixels.

    input_shape: (channels, height, width). num_classes: of the labels. width: channels. depth: convolutions for each grid but the first.
    latent: size of the noise. contrast: standard deviation of the pixels of a batch in [-1, 1], before they are clamped; about 0.5 for
    photographs.
    After the generator of DAFL (Chen et al. 2019, arXiv 1904.01186), with the label beside the noise. In training a batch norm sees the
    batch; an image that is sampled, by the running statistics, depends on no other.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 64,
        depth: int = 1,
        latent: int = 100,
        contrast: float = 0.5,
    ) -> None:
        super().__init__()
        positive("InversionGenerator", width=width, depth=depth, latent=latent)
        if not contrast > 0:
            raise UserError(f"`contrast` must be above 0, got {contrast}")
        self.image_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.classes, self.noise_shape, self.contrast = num_classes, (latent,), contrast
        self.sizes = grid_sizes(input_shape)[2::-1]
        self.start = nn.Linear(latent + num_classes, width * self.sizes[0][0] * self.sizes[0][1])
        self.norm = nn.BatchNorm2d(width)
        self.grids = nn.ModuleList(
            nn.Sequential(*(part for _ in range(depth) for part in _convolution(width)))
            for _ in self.sizes[1:]
        )
        self.last = nn.Conv2d(width, self.image_shape[0], 3, padding=1)
        self.pixels = nn.BatchNorm2d(self.image_shape[0], affine=False)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Noise (n, latent) and label weights (n, classes) to images (n, C, H, W) in [-1, 1]."""
        out = self.norm(self.start(torch.cat([noise, labels], dim=1)).unflatten(1, (-1, *self.sizes[0])))
        for size, convolutions in zip(self.sizes[1:], self.grids, strict=True):
            out = convolutions(F.interpolate(out, size=size, mode="nearest"))
        return (self.contrast * self.pixels(self.last(out).tanh())).clamp(-1, 1)

    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See `Generator.render`."""
        return self(noise, labels)

    def describe(self) -> dict[str, Any]:
        """See `Generator.describe`."""
        return super().describe() | {"contrast": self.contrast}


def _convolution(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
