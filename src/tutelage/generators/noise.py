"""The noise domain: images that carry class information and nothing of any picture, the control of every generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.generators.protocol import Generator, noise_of


class NoiseDomain(Generator):
    """Gaussian noise around one random image per class.

    input_shape: (channels, height, width). num_classes: of the labels. signal: share of the variance that is the class's own image, 0 to
    1; at 0 the label leaves no trace. contrast: standard deviation of the pixels in [-1, 1], before they are clamped. seed: of the class
    images. A soft label mixes the class images.
    If transfer from this domain helps as much as transfer from a generator, the gain is regularisation and not knowledge of the source.
    """

    prototypes: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        signal: float = 0.5,
        contrast: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= signal <= 1 or not contrast > 0:
            raise UserError(
                f"the noise domain needs signal from 0 to 1 and contrast above 0, got {signal} and {contrast}"
            )
        self.image_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.noise_shape, self.classes = self.image_shape, num_classes
        self.signal, self.contrast = signal, contrast
        self.register_buffer("prototypes", noise_of(seed, (num_classes, *self.image_shape)))

    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See `Generator.render`."""
        mean = torch.einsum("nc,cijk->nijk", labels, self.prototypes)
        return (self.contrast * (self.signal**0.5 * mean + (1 - self.signal) ** 0.5 * noise)).clamp(-1, 1)

    def describe(self) -> dict[str, object]:
        """See `Generator.describe`."""
        return super().describe() | {"signal": self.signal, "contrast": self.contrast}
