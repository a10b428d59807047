"""Colour jitter and random erasing, per image, on the device; each operation equals torchvision's on one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tutelage.data.augment_basic import RandomResizedCrop, below, check_bytes, check_ranges
from tutelage.data.augment_strong import brightness, colour, contrast
from tutelage.errors import UserError


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of uint8 images (n, C, H, W) by a share of the circle (n,), -0.5 to 0.5; grey images stay."""
    if images.shape[1] == 1:
        return images
    rgb = images.float() / 255
    high, low = rgb.amax(dim=1), rgb.amin(dim=1)
    spread = high - low
    flat = spread == 0
    saturation = spread / torch.where(flat, 1.0, high)
    red, green, blue = ((high[:, None] - rgb) / torch.where(flat, 1.0, spread)[:, None]).unbind(1)
    is_red = rgb[:, 0] == high
    is_green = (rgb[:, 1] == high) & ~is_red
    sector = torch.where(is_red, blue - green, torch.where(is_green, 2 + red - blue, 4 + green - red))
    angle = ((sector / 6 + 1) % 1 + shift[:, None, None]) % 1
    # each channel's value around the circle, a trapeze
    place = (torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1) + 6 * angle[:, None]) % 6
    share = torch.minimum(place, 4 - place).clamp(0, 1)
    return ((high[:, None] * (1 - saturation[:, None] * share)) * (255 + 1 - 1e-3)).to(torch.uint8)


class ColourJitter:
    """Change brightness, contrast, saturation and hue of each image, in an order of its own (as torchvision's ColorJitter on one image).

    brightness, contrast, saturation: the factor is uniform from max(0, 1 - x) to 1 + x. hue: uniform from -x to x, at most 0.5.
    probability: that an image is changed at all.
    """

    bytes_only = True
    draws = 9

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        probability: float = 1.0,
    ) -> None:
        for name, value, most in (
            ("brightness", brightness, float("inf")),
            ("contrast", contrast, float("inf")),
            ("saturation", saturation, float("inf")),
            ("hue", hue, 0.5),
            ("probability", probability, 1.0),
        ):
            if not 0 <= value <= most:
                raise UserError(f"ColourJitter needs {name} from 0 to {most:g}, got {value}")
        self.strengths, self.probability = (brightness, contrast, saturation, hue), probability
        if not any(self.strengths):
            raise UserError(
                "ColourJitter changes nothing with brightness, contrast, saturation and hue 0: give some, such as {brightness: 0.4}"
            )

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`: noise columns are four magnitudes, four places in the order, and whether. UserError where not uint8."""
        check_bytes(self, images)
        if images.shape[1] == 1 and not any(self.strengths[:2]):
            raise UserError(
                "ColourJitter: saturation and hue change nothing of grey images; give brightness or contrast"
            )
        order = noise[:, 4:8].argsort(dim=1)  # (n, 4): which operation comes when
        on = noise[:, 8] < self.probability
        result = images.clone()
        for place in range(4):
            for number, (operation, strength) in enumerate(zip(_OPERATIONS, self.strengths, strict=True)):
                chosen = (order[:, place] == number) & on
                if not strength:
                    continue
                magnitude = self._magnitude(number, noise[:, number])
                if images.device.type != "cpu":  # no count has to come back from the device
                    result = torch.where(chosen[:, None, None, None], operation(result, magnitude), result)
                elif len(rows := chosen.nonzero()[:, 0]):
                    result[rows] = operation(result[rows], magnitude[rows])
        return result

    def _magnitude(self, number: int, share: Tensor) -> Tensor:
        strength = self.strengths[number]
        low, high = (-strength, strength) if number == 3 else (max(0.0, 1 - strength), 1 + strength)
        return low + (high - low) * share


_OPERATIONS: Sequence[Callable[[Tensor, Tensor], Tensor]] = (brightness, contrast, colour, hue)


class RandomErasing:
    """Cover a random rectangle of an image with grey (Zhong et al. 2017, arXiv 1708.04896).

    probability: that an image is changed. scale: range of the rectangle's area as a share of the image's. ratio: range of its height over
    width, log-uniform within what fits. value: what covers it, from 0 (black) to 1.
    """

    draws = 5

    def __init__(
        self,
        probability: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float = 0.5,
    ) -> None:
        for name, number in (("probability", probability), ("value", value)):
            if not 0 <= number <= 1:
                raise UserError(f"RandomErasing needs {name} from 0 to 1, got {number}")
        self.probability, self.value = probability, value
        check_ranges(self, scale=scale, ratio=ratio)
        self._boxes = RandomResizedCrop(scale, ratio)

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`: noise columns are area, ratio, vertical and horizontal place, and whether."""
        height, width = images.shape[2:]
        covered = inside(self._boxes.boxes(height, width, noise[:, :4]), height, width)
        covered &= (noise[:, 4] < self.probability)[:, None, None, None]
        grey = self.value if images.is_floating_point() else below(torch.tensor(self.value), 256)
        return images.masked_fill(covered, grey)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels lie in boxes (n, 4) of top, left, height and width: (n, 1, height, width) bool."""
    top, left, h, w = (part[:, None] for part in boxes.unbind(1))
    y, x = (torch.arange(side, device=boxes.device) for side in (height, width))
    rows, columns = (y >= top) & (y < top + h), (x >= left) & (x < left + w)
    return rows[:, None, :, None] & columns[:, None, None, :]
