"""Between inputs as networks take them and pixels in [0, 1], in which the size of a change is measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import UserError

_ROUNDING = 1e-3


class Pixels:
    """Images (n, channels, height, width) normalised by means and deviations of the channels; None: they are pixels already.

    example: a few such images, by which it is seen that the pixels lie in [0, 1]. Raises UserError where they do not, or for inputs that
    are no images.
    """

    def __init__(self, normalization: Sequence[Sequence[float]] | None, example: Tensor) -> None:
        if example.ndim != 4 or not example.is_floating_point():
            what = (
                "tokens" if not example.is_floating_point() else f"inputs of shape {tuple(example.shape[1:])}"
            )
            raise UserError(f"attacks change the pixels of images, got {what}")
        channels = example.shape[1]
        mean, deviation = normalization or ([0.0] * channels, [1.0] * channels)
        self.mean, self.deviation = (torch.tensor(list(part)).view(1, -1, 1, 1) for part in (mean, deviation))
        pixels = self.of(example)
        low, high = float(pixels.min()), float(pixels.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise UserError(
                f"attacks measure in pixels from 0 to 1, and these images hold {low:.3g} to {high:.3g} before their normalisation: give "
                "data.normalization the means and deviations that they were normalised with"
            )

    def of(self, inputs: Tensor) -> Tensor:
        """Return inputs as pixels."""
        return inputs * self.deviation.to(inputs) + self.mean.to(inputs)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels as inputs; a gradient goes through."""
        return (pixels - self.mean.to(pixels)) / self.deviation.to(pixels)
