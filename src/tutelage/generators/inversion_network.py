"""The small generator of data-free distillation, whose norms keep the images of a batch apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.generators.gan_networks import grid_sizes
from tutelage.generators.protocol import Generator
from tutelage.models.arguments import positive


class InversionGenerator(Generator):
    """Latent and class to an image in [-1, 1]: one convolution a grid, at most three grids, batch norms, the last one of the pixels.

    input_shape: (channels, height, width). num_classes: of the labels. width: channels. latent: size of the noise. contrast: standard
    deviation of the pixels of a batch in [-1, 1], before they are clamped; about 0.5 for photographs.
    After the generator of DAFL (Chen et al. 2019, arXiv 1904.01186), with the label beside the noise. In training a batch norm sees the
    batch; an image that is sampled, by the running statistics, depends on no other.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 64,
        latent: int = 100,
        contrast: float = 0.5,
    ) -> None:
        super().__init__()
        positive("InversionGenerator", width=width, latent=latent, contrast=contrast)
        self.image_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.classes, self.noise_shape, self.contrast = num_classes, (latent,), contrast
        self.sizes = grid_sizes(input_shape)[2::-1]
        self.start = nn.Linear(latent + num_classes, width * self.sizes[0][0] * self.sizes[0][1])
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.sizes)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.sizes[1:])
        self.last = nn.Conv2d(width, self.image_shape[0], 3, padding=1)
        self.pixels = nn.BatchNorm2d(self.image_shape[0], affine=False)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Noise (n, latent) and label weights (n, classes) to images (n, C, H, W) in [-1, 1]."""
        out = self.norms[0](self.start(torch.cat([noise, labels], dim=1)).unflatten(1, (-1, *self.sizes[0])))
        for size, convolution, norm in zip(self.sizes[1:], self.convolutions, self.norms[1:], strict=True):
            out = F.leaky_relu(norm(convolution(F.interpolate(out, size=size, mode="nearest"))), 0.2)
        return (self.contrast * self.pixels(self.last(out).tanh())).clamp(-1, 1)

    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See `Generator.render`."""
        return self(noise, labels)

    def describe(self) -> dict[str, Any]:
        """See `Generator.describe`."""
        return super().describe() | {"contrast": self.contrast}
