"""Augmentation of image batches, per sample, on the device of the images.

An augmentation is a function of images (n, C, H, W), uint8 or float, and of `draws` uniform numbers per
image: noise (n, draws) in [0, 1). Where the noise comes from is the stream's business. The transforms are
torchvision's, drawn per image instead of per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError


class Augmentation(Protocol):
    """A random change of each image, determined by its row of noise."""

    draws: int

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the images (n, C, H, W) changed by noise (n, draws)."""


class Chain:
    """Augmentations one after the other, each with its own columns of the noise."""

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        self.steps = tuple(steps)
        self.draws = sum(step.draws for step in self.steps)

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`."""
        columns = noise.split([step.draws for step in self.steps], dim=1)
        for step, part in zip(self.steps, columns, strict=True):
            images = step(images, part)
        return images


def below(noise: Tensor, count: int | Tensor) -> Tensor:
    """Turn uniform numbers in [0, 1) into whole numbers 0 ... count - 1."""
    whole = (noise * count).long()
    return torch.minimum(
        whole, torch.as_tensor(count, device=noise.device) - 1
    )  # rounding may reach the count


class RandomCrop:
    """Pad by `padding` pixels of value 0 on every side and cut out the original size at a uniformly random
    place.
    """

    draws = 2

    def __init__(self, padding: int) -> None:
        if padding < 1:
            raise UserError(f"RandomCrop needs a padding of at least 1 pixel, got {padding}")
        self.padding = padding

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`: noise columns are the vertical and the horizontal offset."""
        channels, height, width = images.shape[1:]
        offsets = below(noise, 2 * self.padding + 1)
        rows = offsets[:, :1] + torch.arange(height, device=images.device)
        columns = offsets[:, 1:] + torch.arange(width, device=images.device)
        places = rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]
        padded = F.pad(images, [self.padding] * 4).flatten(2)
        return padded.gather(2, places.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)


class HorizontalFlip:
    """Mirror an image left to right with the given probability."""

    draws = 1

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise UserError(f"HorizontalFlip needs a probability from 0 to 1, got {probability}")
        self.probability = probability

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`."""
        flip = noise[:, 0] < self.probability
        return torch.where(flip[:, None, None, None], images.flip(-1), images)
