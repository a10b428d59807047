"""Augmentation of image batches, per sample, on the device of the images.

An augmentation is a function of images (n, C, H, W), uint8 or float, and of `draws` uniform numbers per
image: noise (n, draws) in [0, 1). Where the noise comes from is the stream's business. The transforms are
torchvision's, drawn per image instead of per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError

LARGE = 64 * 64
"""Pixels of a channel from which on images are cut and mirrored one by one on a CPU: what that costs in calls is then less than an index
for each pixel."""


@runtime_checkable
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
    whole = (noise * count).long()  # rounding may reach the count
    return torch.minimum(whole, count - 1) if isinstance(count, Tensor) else whole.clamp(max=count - 1)


def check_bytes(who: object, images: Tensor) -> None:
    """Raise UserError for images that are not uint8."""
    if images.dtype != torch.uint8:
        raise UserError(
            f"{type(who).__name__} works on images of whole numbers 0 to 255 (uint8), got {images.dtype}"
        )


class RandomCrop:
    """Pad by `padding` pixels of value 0 on every side and cut out the original size at a uniformly random
    place. By default by 4, as for images of 32 pixels.
    """

    draws = 2

    def __init__(self, padding: int = 4) -> None:
        if padding < 1:
            raise UserError(f"RandomCrop needs a padding of at least 1 pixel, got {padding}")
        self.padding = padding

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`: noise columns are the vertical and the horizontal offset."""
        channels, height, width = images.shape[1:]
        offsets = below(noise, 2 * self.padding + 1)
        if images.device.type == "cpu" and height * width >= LARGE:
            padded = F.pad(images, [self.padding] * 4)
            each = zip(padded, offsets.tolist(), strict=True)
            return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in each])
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
        if images.device.type == "cpu" and images[0, 0].numel() >= LARGE:
            result = images.clone()
            for place in flip.nonzero()[:, 0].tolist():
                result[place] = images[place].flip(-1)
            return result
        return torch.where(flip[:, None, None, None], images.flip(-1), images)


def check_ranges(augmentation: object, *, scale: Sequence[float], ratio: Sequence[float]) -> None:
    """Raise UserError for ranges of a part's area and shape that hold no part."""
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high or (name == "scale" and high > 1):
            raise UserError(
                f"{type(augmentation).__name__} needs an ordered, positive {name} range (scale at most 1), got {low}, {high}"
            )


class RandomResizedCrop:
    """Cut out a random part and resize it to the image's size (Szegedy et al. 2015, arXiv 1409.4842).

    scale: range of the part's area as a share of the image's. ratio: range of its width over height. Area is
    uniform and the ratio log-uniform within what fits, where torchvision draws again. Bilinear; streamed
    files are cut from the original, antialiased.
    """

    draws = 4

    def __init__(self, scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)) -> None:
        check_ranges(self, scale=scale, ratio=ratio)
        self.scale, self.ratio = tuple(scale), tuple(ratio)

    def boxes(self, height: int, width: int, noise: Tensor) -> Tensor:
        """Return the parts for noise (n, 4): (n, 4) whole numbers top, left, height, width, inside the
        image.
        """
        u = noise.double()
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0])
        low = (area / height**2).clamp(*self.ratio).log()
        high = (width**2 / area).clamp(*self.ratio).log()
        ratio = (low + (high - low).clamp(min=0) * u[:, 1]).exp()
        w = (area * ratio).sqrt().round().clamp(1, width).long()
        h = (area / ratio).sqrt().round().clamp(1, height).long()
        return torch.stack([below(u[:, 2], height - h + 1), below(u[:, 3], width - w + 1), h, w], dim=1)

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`: noise columns are area, ratio, vertical and horizontal place."""
        height, width = images.shape[2:]
        top, left, h, w = self.boxes(height, width, noise).unbind(1)
        grid = torch.stack(
            torch.broadcast_tensors(_places(left, w, width)[:, None, :], _places(top, h, height)[:, :, None]),
            dim=3,
        )
        cut = F.grid_sample(images.float(), grid, mode="bilinear", align_corners=True)
        return cut if images.is_floating_point() else cut.round().to(images.dtype)


def _places(start: Tensor, length: Tensor, size: int) -> Tensor:
    # Where the centres of `size` output pixels lie in a part of an axis, clamped to the part, in
    # grid_sample's -1 ... 1.
    centres = (torch.arange(size, device=start.device) + 0.5) * (length / size)[:, None] - 0.5
    inside = torch.minimum(centres.clamp(min=0), length[:, None] - 1.0) + start[:, None]
    return 2 * inside / max(size - 1, 1) - 1
