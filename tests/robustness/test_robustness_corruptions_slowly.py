"""Every corruption at every severity against a slow one: one image at a time, in numpy and scipy, with the published strengths."""

import colorsys
import functools
import io
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage

from tutelage.data.splits import derive_seed
from tutelage.robustness.corruptions import CORRUPTIONS, corrupted
from tutelage.robustness.draws import Draws

INDEX = torch.tensor([11, 70_003])
HEIGHT, WIDTH = 37, 26
"""No side is the strengths' reference of 32, a multiple of 8, or the other one."""


def drawn(kind, number, *shape, name="", normal=False):
    """What the corruption draws for the image of that number."""
    draws = Draws(INDEX[number : number + 1], "corruption", kind)
    return (draws.normal if normal else draws.uniform)(*shape, name=name)[0].double().numpy()


def sampled(image, rows, columns, mode):
    """Channels (c, h, w) at places in pixels, bilinear; "nearest" or "reflect" beyond the edge."""
    return np.stack([ndimage.map_coordinates(c, [rows, columns], order=1, mode=mode) for c in image])


def places():
    return np.meshgrid(np.arange(HEIGHT, dtype=float), np.arange(WIDTH, dtype=float), indexing="ij")


def smeared(image, angle, sigma):
    """Along a line to one side, in steps to three deviations of a bell curve."""
    rows, columns = places()
    steps = max(2, math.ceil(3 * sigma))
    total, weights = 0, 0
    for k in range(steps + 1):
        d = 3 * sigma * k / steps
        weight = math.exp(-(d**2) / (2 * sigma**2))
        shown = sampled(image, rows + d * math.sin(angle), columns + d * math.cos(angle), "nearest")
        total, weights = total + weight * shown, weights + weight
    return total / weights


def resized(values, height, width, corners):
    """A map (h, w) at another size, bilinear; corners: whether the corners' middles stay corners."""
    places = []
    for old, new in zip(values.shape, (height, width), strict=True):
        k = np.arange(new)
        places.append(
            k * (old - 1) / (new - 1) if corners else np.clip((k + 0.5) * old / new - 0.5, 0, old - 1)
        )
    return ndimage.map_coordinates(values, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")


def gaussian_noise(image, s, number):
    return image + (0.04, 0.06, 0.08, 0.09, 0.10)[s] * drawn(
        "gaussian_noise", number, *image.shape, normal=True
    )


def shot_noise(image, s, number):
    photons = (500, 250, 100, 75, 50)[s]
    z = drawn("shot_noise", number, *image.shape, normal=True)
    return np.round(image * photons + np.sqrt(image * photons) * z).clip(0) / photons


def impulse_noise(image, s, number):
    hit, white = (drawn("impulse_noise", number, *image.shape, name=name) for name in ("hit", "white"))
    found = image.copy()
    found[hit < (0.01, 0.02, 0.03, 0.05, 0.07)[s]] = 0
    found[(hit < (0.01, 0.02, 0.03, 0.05, 0.07)[s]) & (white < 0.5)] = 1
    return found


def defocus_blur(image, s, number):
    radius = ((0.3, 0.4, 0.5, 1.0, 1.5)[s] + 0.5) * WIDTH / 32
    half = math.ceil(radius) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for y in np.linspace(-radius, radius, 41, dtype=np.float32):
        for x in np.linspace(-radius, radius, 41, dtype=np.float32):
            if np.hypot(y, x) <= np.float32(radius):
                row, column = math.floor(y), math.floor(x)
                for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    share = (1 - abs(y - row - i)) * (1 - abs(x - column - j))
                    kernel[half + row + i, half + column + j] += share
    return np.stack([ndimage.correlate(c, kernel / kernel.sum(), mode="nearest") for c in image])


def motion_blur(image, s, number):
    angle = (drawn("motion_blur", number, name="angle") - 0.5) * math.pi / 2
    return smeared(image, float(angle), (1.0, 1.5, 2.0, 2.0, 2.5)[s] * WIDTH / 32)


def zoom_blur(image, s, number):
    total, count = image.copy(), 1
    rows, columns = places()
    for percent in range((6, 11, 16, 21, 26)[s]):
        factor = 1 + percent / 100
        middle = (HEIGHT - 1) / 2, (WIDTH - 1) / 2
        at = (m + (v - m) / factor for m, v in zip(middle, (rows, columns), strict=True))
        total, count = total + sampled(image, *at, "reflect"), count + 1
    return total / count


def snow(image, s, number):
    mean, deviation, zoom, least, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 3, 0.95), (0.1, 0.2, 1, 0.5, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 12, 0.8),
    )[s]  # fmt: skip
    small = math.ceil(HEIGHT / zoom), math.ceil(WIDTH / zoom)
    flakes = mean + deviation * drawn("snow", number, 1, *small, name="flakes", normal=True)[0]
    flakes = resized(flakes, HEIGHT, WIDTH, corners=False)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)
    angle = -math.pi * (0.25 + 0.5 * float(drawn("snow", number, name="angle")))  # from 45 to 135 degrees
    flakes = smeared(flakes[None], angle, sigma * WIDTH / 32)[0]
    grey = image.mean(0) if len(image) != 3 else np.tensordot([0.299, 0.587, 0.114], image, 1)
    return kept * image + (1 - kept) * np.maximum(image, 1.5 * grey + 0.5) + flakes + flakes[::-1, ::-1]


def fog(image, s, number):
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[s]
    cloud = 0
    for octave, cells in enumerate((2, 4, 8, 16, 32, 64)):  # up to twice the longer side
        noise = drawn("fog", number, 1, cells, cells, name=cells)[0]
        cloud = cloud + resized(noise, HEIGHT, WIDTH, corners=True) / decay**octave
    cloud = (cloud - cloud.min()) / (cloud.max() - cloud.min())
    return (image + strength * cloud) * image.max() / (image.max() + strength)


def brightness(image, s, number):
    more = (0.05, 0.10, 0.15, 0.20, 0.30)[s]
    if len(image) != 3:
        return image + more
    found = np.empty_like(image)
    for row, column in np.ndindex(HEIGHT, WIDTH):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[:, row, column])
        found[:, row, column] = colorsys.hsv_to_rgb(hue, saturation, min(1, value + more))
    return found


def contrast(image, s, number):
    mean = image.mean((1, 2), keepdims=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[s] * (image - mean)


def elastic(image, s, number):
    moved, smooth, affine = (
        (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03),
    )[s]  # fmt: skip
    shifts = affine * (2 * drawn("elastic", number, 3, 2, name="corners") - 1)
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * 2 / 3  # (x, y) from the middle, in half sides
    where = np.linalg.solve(np.c_[corners, np.ones(3)], corners + 2 * shifts)
    rows, columns = places()
    flat = np.stack([(2 * columns + 1) / WIDTH - 1, (2 * rows + 1) / HEIGHT - 1, np.ones_like(rows)], -1)
    x, y = np.moveaxis(flat @ where, -1, 0)
    if moved:
        sigma = smooth * WIDTH
        half = max(1, math.ceil(3 * sigma))
        bell = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
        kernel = np.outer(bell, bell) / bell.sum() ** 2
        noise = 2 * drawn("elastic", number, 2, HEIGHT, WIDTH, name="field") - 1
        dx, dy = (2 * moved * ndimage.correlate(part, kernel, mode="nearest") for part in noise)
        x, y = x + dx, y + dy
    return sampled(image, ((y + 1) * HEIGHT - 1) / 2, ((x + 1) * WIDTH - 1) / 2, "reflect")


@functools.cache
def boxes(old, new):
    """The matrix (new, old) of means over the pixels whose middle lies in (start, end] of a box that is one pixel at least."""
    rows = []
    for k in range(new):
        half = max(Fraction(old, new), 1) / 2
        middle = (k + Fraction(1, 2)) * Fraction(old, new)
        inside = [middle - half < p + Fraction(1, 2) <= middle + half for p in range(old)]
        rows.append(np.array(inside) / sum(inside))
    return np.array(rows)


def pixelate(image, s, number):
    for axis, side in ((1, HEIGHT), (2, WIDTH)):
        small = int(side * (0.95, 0.9, 0.85, 0.75, 0.65)[s])
        image = np.moveaxis(boxes(small, side) @ boxes(side, small) @ np.moveaxis(image, axis, 1), 1, axis)
    return image


def jpeg(image, s, number):
    quality = (80, 65, 58, 50, 40)[s]
    luma = Image.new("L", (8, 8))
    chroma = Image.new("YCbCr", (8, 8))
    tables = []
    for blank, wanted in ((luma, 0), (chroma, 1)):
        tables.append(np.array(quantisation(blank, quality, wanted)).reshape(8, 8))
    values = np.pad(255 * image, ((0, 0), (0, -HEIGHT % 8), (0, -WIDTH % 8)), mode="edge")
    if len(image) == 3:
        r, g, b = values
        y = 0.299 * r + 0.587 * g + 0.114 * b
        values = np.stack([y - 128, (b - y) / 1.772, (r - y) / 1.402])
    else:
        values = values - 128
    for channel, plane in enumerate(values):
        table = tables[channel > 0 and len(image) == 3]
        for row, column in np.ndindex(plane.shape[0] // 8, plane.shape[1] // 8):
            block = plane[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            block[:] = fft.idctn(np.round(fft.dctn(block, norm="ortho") / table) * table, norm="ortho")
    if len(image) == 3:
        y, cb, cr = values
        r, b = y + 128 + 1.402 * cr, y + 128 + 1.772 * cb
        values = np.stack([r, (y + 128 - 0.299 * r - 0.114 * b) / 0.587, b])
    else:
        values = values + 128
    return np.round(values[:, :HEIGHT, :WIDTH]) / 255


def quantisation(blank, quality, wanted):
    """A library's table for a quality, in the order of rows: of brightness (0) or colour (1)."""
    file = io.BytesIO()
    blank.save(file, "JPEG", quality=quality)
    return Image.open(file).quantization[wanted]


SLOW = {name: globals()[name] for name in CORRUPTIONS}
ROUNDED = {"jpeg": 0.01, "shot_noise": 0.003}
"""Share of values that may round to another step, where a product lies between two."""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_the_slow_one(kind, channels):
    y, x = np.meshgrid(np.linspace(0, 1, HEIGHT), np.linspace(0, 1, WIDTH), indexing="ij")
    waves = [
        [np.sin((5 + k) * x * (c + 1) + 3 * y) * np.cos((4 + c) * y - k) for c in range(channels)]
        for k in (0, 1)
    ]
    images = 0.15 + 0.7 * (np.array(waves) + 1) / 2
    images[:, :, 9:20, 7:15] = 0.93  # an edge
    images[:, :, 30:33, 3:9] = 0  # which has no hue
    shown = torch.tensor(images, dtype=torch.float32)
    for severity in range(1, 6):
        found = corrupted(shown, kind, severity, INDEX).double().numpy()
        for number, image in enumerate(shown.double().numpy()):
            wanted = SLOW[kind](image, severity - 1, number).clip(0, 1)
            far = np.abs(found[number] - wanted) > 2e-4
            assert far.mean() <= ROUNDED.get(kind, 0), (
                severity,
                number,
                np.abs(found[number] - wanted).max(),
            )


def test_fog_has_waves_up_to_twice_the_longer_side(monkeypatch):
    monkeypatch.setitem(globals(), "HEIGHT", 32)  # so 64 waves are the most, as in the slow one
    image = torch.linspace(0.1, 0.8, 3 * 32 * WIDTH).reshape(1, 3, 32, WIDTH)
    found = corrupted(image, "fog", 5, INDEX[:1])[0].numpy()
    np.testing.assert_allclose(found, fog(image[0].double().numpy(), 4, 0).clip(0, 1), atol=1e-4)


def test_draws_are_splitmix64_of_sample_and_purpose():
    def mixed(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    index, step = [0, 5, 2**40 + 3], 0x9E3779B97F4A7C15
    draws = Draws(torch.tensor(index), "one", 3)
    found = draws.uniform(2, 3, name="it")
    seed = derive_seed("one", 3, "it")
    for number, sample in enumerate(index):
        first = mixed((sample * step + seed) % 2**64)
        bits = [mixed((first + (place + 1) * step) % 2**64) >> 41 for place in range(6)]
        assert found[number].flatten().tolist() == [(b + 0.5) / 2**23 for b in bits]
    assert draws.uniform(name="it").shape == (3,) and torch.equal(draws.uniform(name="it"), found[:, 0, 0])
    normal = torch.special.ndtri(found.double()).float()
    torch.testing.assert_close(draws.normal(2, 3, name="it"), normal, atol=1e-5, rtol=1e-4)
