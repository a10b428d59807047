"""Common corruptions of images at five severities (Hendrycks and Dietterich 2019, arXiv 1903.12261), batched, on any device.

Images (n, channels, height, width) lie in [0, 1], and so does what comes back. The strengths are those of that paper's published code for
images of 32 pixels; what is a length in pixels grows with the shorter side. What it draws by programs of its own we draw ourselves: motion
along a line in one of many directions, fog from waves of noise, snow as short streaks, JPEG as its quantisation of 8 x 8 cosines without
halving the colours. Frost and glass are left out. A random number is a function of a sample's index: nothing depends on the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError, choices
from tutelage.robustness.draws import Draws

SEVERITIES = (1, 2, 3, 4, 5)
_REFERENCE = 32  # pixels of a side, for which the strengths are meant
Corruption = Callable[[Tensor, int, Draws], Tensor]


def corrupted(images: Tensor, kind: str, severity: int, index: Tensor) -> Tensor:
    """Return the images (n, channels, height, width) under a corruption. index: (n,) int64, the samples' positions in their data set.

    Raises UserError for a corruption or severity that there is not.
    """
    if kind not in CORRUPTIONS:
        raise UserError(f"there is no corruption '{kind}'; {choices(kind, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"a severity is 1 to 5, got {severity}")
    return CORRUPTIONS[kind](images, severity - 1, Draws(index, "corruption", kind)).clamp(0, 1)


def _gaussian_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    return images + (0.04, 0.06, 0.08, 0.09, 0.10)[severity] * draws.normal(*images.shape[1:])


def _shot_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """A photon count by the normal distribution next to Poisson's, rounded."""
    photons = (500, 250, 100, 75, 50)[severity]
    expected = images * photons
    return (expected + expected.sqrt() * draws.normal(*images.shape[1:])).round().clamp(min=0) / photons


def _impulse_noise(images: Tensor, severity: int, draws: Draws) -> Tensor:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    hit, white = (draws.uniform(*images.shape[1:], name=name) for name in ("hit", "white"))
    return torch.where(hit < share, 1 - white.round(), images)


def _defocus_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    radius = (0.3, 0.4, 0.5, 1.0, 1.5)[severity] + 0.5  # from a pixel's middle
    return _filtered(images, _disk(radius * _scale(images)).to(images))


def _motion_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    sigma = (1.0, 1.5, 2.0, 2.0, 2.5)[severity] * _scale(images)
    angle = (draws.uniform(name="angle")[:, None] - 0.5) * (math.pi / 2)
    return _along(images, angle, sigma)


def _zoom_blur(images: Tensor, severity: int, draws: Draws) -> Tensor:
    most = (0.06, 0.11, 0.16, 0.21, 0.26)[severity]
    factors = [1 + 0.01 * k for k in range(round(100 * most))]
    theta = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    total = images.clone()
    for factor in factors:
        grid = F.affine_grid(theta / factor, list(images.shape), align_corners=False)
        total += F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return total / (len(factors) + 1)


def _snow(images: Tensor, severity: int, draws: Draws) -> Tensor:
    mean, deviation, zoom, least, sigma, kept = (
        (0.1, 0.2, 1.0, 0.6, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 12.0, 0.8),
    )[severity]
    height, width = images.shape[2:]
    small = [max(1, math.ceil(side / zoom)) for side in (height, width)]
    flakes = mean + deviation * draws.normal(1, *small, name="flakes")
    flakes = F.interpolate(flakes, size=(height, width), mode="bilinear")
    flakes = F.threshold(flakes, least, 0.0).clamp(0, 1)
    angle = -math.pi * (0.25 + 0.5 * draws.uniform(name="angle")[:, None])
    flakes = _along(flakes, angle, sigma * _scale(images))
    whiter = torch.maximum(images, _grey(images) * 1.5 + 0.5)
    return kept * images + (1 - kept) * whiter + flakes + flakes.rot90(2, (2, 3))


def _fog(images: Tensor, severity: int, draws: Draws) -> Tensor:
    strength, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[severity]
    height, width = images.shape[2:]
    cloud, cells, weight = torch.zeros(len(images), 1, height, width, device=images.device), 2, 1.0
    while cells <= 2 * max(height, width):
        noise = draws.uniform(1, cells, cells, name=cells)
        cloud += weight * F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=True)
        cells, weight = 2 * cells, weight / decay
    low, high = cloud.amin((2, 3), keepdim=True), cloud.amax((2, 3), keepdim=True)
    cloud = (cloud - low) / (high - low).clamp(min=1e-6)
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * cloud) * brightest / (brightest + strength)


def _brightness(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """The value of hue, saturation and value; the other two stay."""
    value = images.amax(dim=1, keepdim=True)
    wanted = (value + (0.05, 0.10, 0.15, 0.20, 0.30)[severity]).clamp(max=1)
    return torch.where(value > 0, images * wanted / value.clamp(min=1e-6), wanted)


def _contrast(images: Tensor, severity: int, draws: Draws) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity] + mean


def _elastic(images: Tensor, severity: int, draws: Draws) -> Tensor:
    moved, smooth, affine = (
        (0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03),
    )[severity]  # fmt: skip
    n, height, width = len(images), *images.shape[2:]
    # the corners of a triangle of a third of the side around the middle move by up to `affine` of the side
    shifts = affine * (2 * draws.uniform(3, 2, name="corners") - 1)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=images.device) / 1.5
    known = torch.cat([corners, torch.ones(3, 1, device=images.device)], dim=1)
    theta = torch.linalg.solve(known.expand(n, 3, 3), corners + 2 * shifts).transpose(1, 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    if moved:
        noise = 2 * draws.uniform(2, height, width, name="field") - 1
        field = _filtered(noise, _bell(smooth * min(height, width)).to(images))
        grid = grid + 2 * moved * field.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _pixelate(images: Tensor, severity: int, draws: Draws) -> Tensor:
    """Boxes of the mean, of a grid that does not meet the pixels'."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity]
    rows, columns = (_boxes(side, max(1, int(side * share))).to(images) for side in images.shape[2:])
    small = rows @ images @ columns.T
    back_rows, back_columns = (
        _boxes(new, old).to(images) for new, old in zip(small.shape[2:], images.shape[2:], strict=True)
    )
    return back_rows @ small @ back_columns.T


def _jpeg(images: Tensor, severity: int, draws: Draws) -> Tensor:
    scale = (40, 70, 84, 100, 125)[
        severity
    ]  # of the tables, in percent: libjpeg's at quality 80, 65, 58, 50 and 40
    channels, height, width = images.shape[1:]
    pixels = F.pad(images * 255, (0, -width % 8, 0, -height % 8), mode="replicate")
    colour = channels == 3
    if colour:
        pixels = torch.einsum("dc,nchw->ndhw", _TO_YCC.to(images), pixels)
    levels = (
        pixels - 128
        if not colour
        else pixels - torch.tensor([128.0, 0, 0], device=images.device).view(1, 3, 1, 1)
    )
    blocks = levels.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (n, c, rows, columns, 8, 8)
    cosines = _cosines().to(images)
    tables = torch.stack([_LUMA, _CHROMA, _CHROMA][:channels] if colour else [_LUMA] * channels).to(images)
    steps = ((tables * scale + 50) / 100).floor().clamp(1, 255)[:, None, None]
    kept = (cosines @ blocks @ cosines.T / steps).round() * steps
    levels = (cosines.T @ kept @ cosines).transpose(3, 4).flatten(4).flatten(2, 3)
    if colour:
        levels = levels + torch.tensor([128.0, 0, 0], device=images.device).view(1, 3, 1, 1)
        levels = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(_TO_YCC).to(images), levels)
    else:
        levels = levels + 128
    return levels[:, :, :height, :width].round() / 255


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""By name: noise, blur, weather, digital."""

_TO_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)  # ITU-R BT.601
# The example tables of ITU-T T.81, annex K.
_LUMA = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
]).float()  # fmt: skip
_CHROMA = torch.full((8, 8), 99.0)
_CHROMA[:4, :4] = torch.tensor([[17.0, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]])


def _scale(images: Tensor) -> float:
    return min(images.shape[2:]) / _REFERENCE


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    return (images * _TO_YCC[0].to(images).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Return images convolved with one kernel (k, k), k odd; beyond an edge they go on as at the edge."""
    half, channels = kernel.shape[0] // 2, images.shape[1]
    padded = F.pad(images, (half,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)


def _along(images: Tensor, angle: Tensor, sigma: float) -> Tensor:
    """Return images smeared to one side of each pixel along a line: weights of half a bell curve. angle: (n, 1), in radians."""
    height, width = images.shape[2:]
    theta = torch.eye(2, 3, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    steps = max(2, math.ceil(3 * sigma)) + 1
    distances = [3 * sigma * k / (steps - 1) for k in range(steps)]
    weights = [math.exp(-0.5 * (d / sigma) ** 2) for d in distances]
    way = torch.cat([angle.cos() * 2 / width, angle.sin() * 2 / height], dim=1)[:, None, None]
    total = torch.zeros_like(images)
    for distance, weight in zip(distances, weights, strict=True):
        shifted = F.grid_sample(images, grid + distance * way, padding_mode="border", align_corners=False)
        total += weight / sum(weights) * shifted
    return total


@functools.cache
def _disk(radius: float) -> Tensor:
    """Return what each pixel gives to one whose light is spread over a disk: bilinear weights, as a mean over points of the disk."""
    half = math.ceil(radius) + 1
    side = torch.linspace(-radius, radius, 41)
    y, x = torch.meshgrid(side, side, indexing="ij")
    inside = torch.hypot(y, x) <= radius
    place = torch.arange(-half, half + 1).float()
    rows, columns = ((1 - (v[inside][:, None] - place).abs()).clamp(min=0) for v in (y, x))
    kernel = rows.T @ columns
    return kernel / kernel.sum()


@functools.cache
def _bell(sigma: float) -> Tensor:
    half = max(1, math.ceil(3 * sigma))
    side = torch.exp(-0.5 * (torch.arange(-half, half + 1).float() / sigma) ** 2)
    kernel = side[:, None] * side
    return kernel / kernel.sum()


@functools.cache
def _boxes(old: int, new: int) -> Tensor:
    """Return the matrix (new, old) of means over the pixels whose middle lies in a box of old / new pixels, at least the nearest one."""
    # in whole numbers, of half pixels times `new`: a middle on a box's edge is of one box, whatever rounds
    centre, middle = (2 * torch.arange(new)[:, None] + 1) * old, (2 * torch.arange(old) + 1) * new
    reach = max(old, new)
    inside = ((middle > centre - reach) & (middle <= centre + reach)).float()
    return inside / inside.sum(dim=1, keepdim=True)


@functools.cache
def _cosines() -> Tensor:
    """Return the orthonormal cosine transform of 8 values."""
    k, x = torch.arange(8).double()[:, None], torch.arange(8).double()
    rows = torch.cos(math.pi * k * (2 * x + 1) / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows.float()
