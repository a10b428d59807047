"""Strong augmentation for consistency training: RandAugment as FixMatch uses it, and cutout; per image, on the device.

Every operation is a function of uint8 images (n, C, H, W) and one magnitude per image, and equals torchvision's on one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.data.augment_basic import LARGE, below, check_bytes
from tutelage.errors import UserError

Operation = Callable[[Tensor, Tensor], Tensor]


def _each(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Factor 1 keeps the image, 0 gives the other."""
    mixed = images.float().mul_(_each(factor)).add_((1 - _each(factor)) * others.float())
    return mixed.clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Luminance (ITU-R 601), (n, 1, H, W) float of whole numbers."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return images.float().mul_(_each(factor)).clamp_(0, 255).to(torch.uint8)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey value."""
    total = _grey(images).long().sum((1, 2, 3), keepdim=True)  # whole numbers: exact whatever the batch
    return _blend(images, total / images[0, 0].numel(), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed image; the border stays."""
    whole = images.to(torch.int16)
    across = (whole[..., :-2] + whole[..., 1:-1]).add_(whole[..., 2:])
    inner = (across[:, :, :-2] + across[:, :, 1:-1]).add_(across[:, :, 2:])
    inner.add_(whole[:, :, 1:-1, 1:-1], alpha=4)
    smooth = images.float()
    smooth[:, :, 1:-1, 1:-1] = inner.float().div_(13).round_()
    return _blend(images, smooth, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits (4 ... 8) of each value."""
    step = torch.pow(2, 8 - bits.round().clamp(1, 8))
    return images & (256 - step).clamp(max=255).to(torch.uint8)[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from the threshold (0 ... 1, of 255) on."""
    limit = (255 * _each(threshold)).ceil().to(torch.int16)
    return images ^ (images.to(torch.int16) >= limit).to(torch.uint8).mul_(255)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0 ... 255."""
    low, high = (f(images.flatten(2), dim=2)[:, :, None, None].float() for f in (torch.amin, torch.amax))
    flat = high == low
    low, scale = torch.where(flat, 0, low), torch.where(flat, 1.0, 255 / (high - low))
    return ((images.float() - low) * scale).clamp(0, 255).to(torch.uint8)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Flatten each channel's histogram."""
    n, channels = images.shape[:2]
    values = images.reshape(n * channels, -1).long()
    planes = 256 * torch.arange(n * channels, device=images.device)[:, None]
    counts = torch.bincount((values + planes).view(-1), minlength=256 * n * channels).view(-1, 256)
    under = counts.cumsum(dim=1) - counts  # pixels below each level
    step = under.gather(1, values.amax(dim=1, keepdim=True)) // 255
    table = ((under + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table).to(torch.uint8)
    return table.gather(1, values).view_as(images)


def _affine(images: Tensor, rows: list[Tensor]) -> Tensor:
    """Read each output pixel from where the 2x3 matrices, about the image's centre and in pixels, send it; nearest, 0 outside."""
    n, channels, height, width = images.shape
    entries = [row.view(-1, 1, 1) for row in rows]
    y, x = (torch.arange(s, device=images.device) - (s - 1) / 2 for s in (height, width))
    across, down = (_moved(x, y[:, None], *three) for three in (entries[:3], entries[3:]))
    # As grid_sample finds its nearest pixels, by way of -1 ... 1: the same ones, without turning bytes to floats and back.
    column, row = (
        (part / (side / 2)).add_(1).mul_(side / 2).sub_(0.5).round_()
        for part, side in ((across, width), (down, height))
    )
    # What lies outside is read from a border of zeros.
    bordered = F.pad(images, (1, 1, 1, 1)).view(n, channels, -1)
    row, column = row.clamp_(-1, height).add_(1), column.clamp_(-1, width).add_(1)
    if bordered.shape[2] >= 2**24:  # beyond which float32 skips whole numbers
        row, column = row.long(), column.long()
    index = row * (width + 2) + column
    return bordered.gather(2, index.long().view(n, 1, -1).expand(-1, channels, -1)).view_as(images)


def _moved(x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """x a + y b + c, (n, height, width), or with 1 in place of a side on which nothing depends, where that can be seen without waiting."""
    if a.device.type == "cpu" and not b.any():
        return x * a + c
    if a.device.type == "cpu" and not a.any():
        return y * b + c
    return x * a + y * b + c


def _shifted(images: Tensor, pixels: Tensor, axis: int) -> Tensor:
    """Read each output pixel from so many pixels (n,) further on along an axis of an image, (C, H, W); 0 outside: as `_affine` would."""
    moved, side = torch.zeros_like(images), images.shape[axis + 1]
    for image, out, by in zip(images, moved, map(int, pixels.clamp(-side, side)), strict=True):
        length = side - abs(by)
        out.narrow(axis, max(0, -by), length).copy_(image.narrow(axis, max(0, by), length))
    return moved


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre."""
    angle = degrees * (math.pi / 180)
    zero = torch.zeros_like(angle)
    return _affine(images, [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero])


def _moving(row: int, column: int) -> Operation:
    def move(images: Tensor, amount: Tensor) -> Tensor:
        rows = [torch.full_like(amount, value) for value in (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)]
        # A translation is by a share of the side, in whole pixels; a shear by a slope.
        rows[3 * row + column] = -(amount * images.shape[3 - row]).round() if column == 2 else amount
        if column == 2 and images.device.type == "cpu":
            return _shifted(images, rows[3 * row + column], 2 - row)
        return _affine(images, rows)

    return move


OPERATIONS: dict[str, tuple[Operation, float, float]] = {
    "identity": (lambda images, _: images, 0, 0),
    "autocontrast": (autocontrast, 0, 0),
    "equalize": (equalize, 0, 0),
    "brightness": (brightness, 0.05, 0.95),
    "colour": (colour, 0.05, 0.95),
    "contrast": (contrast, 0.05, 0.95),
    "sharpness": (sharpness, 0.05, 0.95),
    "posterize": (posterize, 4, 8),
    "solarize": (solarize, 0, 1),
    "rotate": (rotate, -30, 30),
    "shear_x": (_moving(0, 1), -0.3, 0.3),
    "shear_y": (_moving(1, 0), -0.3, 0.3),
    "translate_x": (_moving(0, 2), -0.3, 0.3),
    "translate_y": (_moving(1, 2), -0.3, 0.3),
}
"""Operations with their range of magnitudes: FixMatch, table 12 (Sohn et al. 2020, arXiv 2001.07685)."""


_CACHED_PIXELS = 1 << 16
"""Pixels of a channel that an operation works on at once on a CPU: what it makes in between stays in the cache."""


class RandAugment:
    """Apply `count` operations of `OPERATIONS` to each image, drawn with their magnitudes (Cubuk et al. 2019, arXiv 1909.13719, in the
    form of FixMatch, appendix D).

    On the CPU each operation runs on its own images; elsewhere on all, so that no count has to come back from the device.
    """

    bytes_only = True

    def __init__(self, count: int = 2) -> None:
        if count < 1:
            raise UserError(f"RandAugment needs a count of operations of at least 1, got {count}")
        self.draws = 2 * count

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`: noise columns are operation and magnitude, in turn. Raises UserError for images that are not uint8."""
        check_bytes(self, images)
        images = images.clone() if images.device.type == "cpu" else images
        for which, share in zip(noise.split(1, dim=1)[::2], noise.split(1, dim=1)[1::2], strict=True):
            images = self._apply(images, below(which[:, 0], len(OPERATIONS)), share[:, 0])
        return images

    def _apply(self, images: Tensor, which: Tensor, share: Tensor) -> Tensor:
        """Return the images changed; on the CPU the given ones are."""
        if images.device.type != "cpu":
            result = images
            for number, (operation, low, high) in enumerate(OPERATIONS.values()):
                changed = operation(images, low + (high - low) * share)
                result = torch.where((which == number)[:, None, None, None], changed, result)
            return result
        named = list(OPERATIONS.items())
        for number in sorted(set(which.tolist())):
            name, (operation, low, high) = named[int(number)]
            if name == "identity":
                continue
            rows = (which == number).nonzero()[:, 0]
            for part in rows.split(max(1, _CACHED_PIXELS // images[0, 0].numel())):
                # one image is a slice, which is no copy
                at = slice(int(part), int(part) + 1) if len(part) == 1 else part
                images[at] = operation(images[at], low + (high - low) * share[at])
        return images


class Cutout:
    """Cover a square with grey, its centre anywhere in the image (DeVries and Taylor 2017, arXiv 1708.04552).

    size: side of the square as a share of the image's height; FixMatch covers up to half.
    """

    draws = 2

    def __init__(self, size: float = 0.5) -> None:
        if not 0 < size <= 1:
            raise UserError(f"Cutout needs a size between 0 and 1 (a share of the height), got {size}")
        self.size = size

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`: noise columns are the vertical and the horizontal centre."""
        height, width = images.shape[2:]
        half = self.size * height / 2
        rows, columns = (
            (torch.arange(side, device=images.device) + 0.5 - noise[:, k, None] * side).abs() <= half
            for k, side in enumerate((height, width))
        )
        grey = 0.5 if images.is_floating_point() else 127
        if images.device.type == "cpu" and height * width >= LARGE:
            result = images.clone()
            for image, down, across in zip(result, rows, columns, strict=True):
                (y, x) = (side.nonzero()[:, 0].tolist() for side in (down, across))
                if y and x:
                    image[:, y[0] : y[-1] + 1, x[0] : x[-1] + 1] = grey
            return result
        covered = rows[:, None, :, None] & columns[:, None, None, :]
        return images.masked_fill(covered, grey)
