"""From an image file to its pixels: upright, opaque, and with all its bits (no torch).

What a file says about itself is heeded: the orientation that a camera noted (EXIF, XMP), transparency, how many bits a value has. What
cannot be heeded is noted in `Seen` and counted aloud, or refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from PIL import Image

from tutelage.data.image_depth import deep, is_deep
from tutelage.data.image_kinds import formats

MODES = {1: "L", 3: "RGB"}
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation (1 is upright; other numbers mean nothing)."""
LUMINANCE = np.array([299, 587, 114], dtype=np.float32) / 1000
"""ITU-R 601, as Pillow turns colours into grey."""
_NOTED_IN = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}

Box = Callable[[int, int], tuple[float, ...]]
"""From the height and width of an upright image to the part (top, left, height, width) that is wanted."""


class Fact(enum.IntFlag):
    """What a file was found to be, beyond plain pixels of 8 bits."""

    TURNED = enum.auto()
    TRANSPARENT = enum.auto()
    DEEP = enum.auto()
    FRAMES = enum.auto()
    INKS = enum.auto()
    REDUCED = enum.auto()
    PROFILE = enum.auto()


@dataclass
class Seen:
    """What was met in reading one file: the facts, and of a deep one its largest value as a share of white."""

    facts: Fact = field(default_factory=lambda: Fact(0))
    largest: float = 0.0


@dataclass(frozen=True)
class Form:
    """The form that images are brought to.

    size: pixels per side; None leaves an image its own size.
    channels: 3 (RGB) or 1 (grey).
    background: red, green and blue (0 to 255) of what shows through where an image is transparent.
    white: the value that means white in images of more than 8 bits; None: what the file says, else the largest of 16 bits.
    deep: give float32 in [0, 1], which keeps 16 bits, in place of uint8.
    """

    size: int | None
    channels: int
    background: tuple[int, int, int] = (255, 255, 255)
    white: float | None = None
    deep: bool = False


def read(file: BinaryIO, form: Form, box: Box | None = None) -> tuple[np.ndarray, Seen]:
    """Return the pixels (channels, height, width) of an image file, and what was met in reading it.

    Resized with antialiased bilinear interpolation. Raises ValueError where the values have no known range, and what Pillow raises for
    files that are damaged or no images.

    file: open for reading, at its start.
    box: the part that is resized to `form.size`, by default the largest centred square. Without a size a part is resized to the whole
    image's, and by default nothing is cut.
    """
    seen = Seen()
    with Image.open(file, formats=formats()) as image:
        _look(image, seen)
        if image.format == "JPEG" or not is_deep(image):
            return _eight_bits(image, form, box, seen), seen
        values = _deep_values(image, file, form, seen)
        if values is not None:
            array = _resized_values(values, form, box)
            return (array if form.deep else (array * 255).round().astype(np.uint8)), seen
    seen.facts |= Fact.REDUCED
    file.seek(0)
    with Image.open(file, formats=formats()) as image:
        return _eight_bits(image, form, box, seen), seen


def centre(height: int, width: int) -> tuple[float, ...]:
    """Return the largest centred square, as a `Box`."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _look(image: Image.Image, seen: Seen) -> None:
    if image.format != "JPEG" and getattr(image, "is_animated", False):
        seen.facts |= Fact.FRAMES
    if image.mode == "CMYK":
        seen.facts |= Fact.INKS
    profile = image.info.get("icc_profile")
    if profile and b"sRGB" not in profile and b"s\0R\0G\0B" not in profile and image.mode not in ("L", "1"):
        seen.facts |= Fact.PROFILE


def _orientation(image: Image.Image) -> int:
    if _NOTED_IN.isdisjoint(image.info):  # a TIFF has been set upright by Pillow
        return 1
    try:
        noted = image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever a damaged note makes Pillow raise: the pixels are whole
        return 1
    return noted if noted in TURNS else 1


def _eight_bits(image: Image.Image, form: Form, box: Box | None, seen: Seen) -> np.ndarray:
    array = np.asarray(_in_mode(_resized(image, form, box, seen), MODES[form.channels]))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return array.astype(np.float32) / 255 if form.deep else array


def _resized(image: Image.Image, form: Form, box: Box | None, seen: Seen) -> Image.Image:
    """Return an image of 8 bits a channel upright, opaque, cut and resized."""
    mode = MODES[form.channels]
    jpeg = image.format in ("JPEG", "MPO")
    if not jpeg:
        turned_by_pillow = _turned_tiff(image)
        image.load()
        if turned_by_pillow:
            seen.facts |= Fact.TURNED
    turn = _orientation(image)
    sideways = turn >= 5
    if turn != 1:
        seen.facts |= Fact.TURNED
    if form.size is None and box is None:
        return _upright(_opaque(image, form, seen), turn)
    width, height = image.size[::-1] if sideways else image.size
    top, left, part_height, part_width = (box or centre)(height, width)
    goal = (width, height) if form.size is None else (form.size, form.size)
    if jpeg and part_height == part_width == min(height, width):
        image.draft(mode, goal)  # decodes faster at a fraction of its size, where the goal is a square
    upright = _upright(_opaque(image, form, seen), turn)
    if upright.size == goal == (part_width, part_height):
        return upright
    by = upright.width / width, upright.height / height
    right = min((left + part_width) * by[0], upright.width)
    bottom = min((top + part_height) * by[1], upright.height)
    return _in_mode(upright, mode).resize(
        goal, Image.Resampling.BILINEAR, box=(left * by[0], top * by[1], right, bottom)
    )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # Pillow would copy it


def _upright(image: Image.Image, turn: int) -> Image.Image:
    return image if turn == 1 else image.transpose(TURNS[turn])


def _opaque(image: Image.Image, form: Form, seen: Seen) -> Image.Image:
    if (image.mode == "RGB" and "transparency" not in image.info) or not image.has_transparency_data:
        return image
    layers = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
    if layers.getchannel("A").getextrema()[0] == 255:
        return layers.convert("RGB")
    seen.facts |= Fact.TRANSPARENT
    ground = Image.new("RGBA", layers.size, (*form.background, 255))
    ground.alpha_composite(layers)
    return ground.convert("RGB")


def _deep_values(image: Image.Image, file: BinaryIO, form: Form, seen: Seen) -> np.ndarray | None:
    """Return the values of a deep image upright and opaque, (H, W, 1 or 3) float32 in [0, 1]; None where Pillow gives 8 bits only."""
    turned_by_pillow = _turned_tiff(image)
    found = deep(image, file, form.white)
    if found is None:
        return None
    seen.facts |= Fact.DEEP
    values, alpha, seen.largest = found
    if alpha is not None and alpha.min() < 1:
        seen.facts |= Fact.TRANSPARENT
        ground = np.asarray(form.background, dtype=np.float32) / 255
        values = values * alpha[..., None] + ground * (1 - alpha[..., None])
    turn = _orientation(image)
    if turn != 1 or turned_by_pillow:
        seen.facts |= Fact.TURNED
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(values, 2, 0)]
    return np.stack([np.asarray(_upright(plane, turn)) for plane in planes], axis=2)


def _turned_tiff(image: Image.Image) -> bool:
    """Say whether an image is one that Pillow itself sets upright in loading it."""
    return getattr(image, "tag_v2", {}).get(ORIENTATION, 1) in TURNS


def _resized_values(values: np.ndarray, form: Form, box: Box | None) -> np.ndarray:
    if form.channels == 1 and values.shape[2] == 3:
        values = (values * LUMINANCE).sum(axis=2, keepdims=True)
    height, width = values.shape[:2]
    planes = [np.ascontiguousarray(plane, dtype=np.float32) for plane in np.moveaxis(values, 2, 0)]
    if form.size is not None or box is not None:
        top, left, part_height, part_width = (box or centre)(height, width)
        goal = (width, height) if form.size is None else (form.size, form.size)
        part = (left, top, min(left + part_width, width), min(top + part_height, height))
        planes = [
            np.asarray(Image.fromarray(plane).resize(goal, Image.Resampling.BILINEAR, box=part))
            for plane in planes
        ]
    array = np.stack(planes)
    return array if len(array) == form.channels else np.repeat(array, form.channels, axis=0)
