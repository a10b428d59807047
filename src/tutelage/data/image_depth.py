"""Images of more than 8 bits a value: all their bits, by what Pillow gives of them (no torch)."""

from __future__ import annotations

import re
import sys
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from tutelage.data.image_kinds import formats

FULL = 65535
_SIXTEEN = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")
_BITS = 258  # the tag of a TIFF that says how many bits each band has


class Deep(NamedTuple):
    """The values of an image (H, W, 1 or 3) float32 in [0, 1], its alpha (H, W) or None, and the largest value as a share of white."""

    values: np.ndarray
    alpha: np.ndarray | None
    largest: float


def is_deep(image: Image.Image) -> bool:
    """Say whether an opened image has more than 8 bits a value."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return True
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(_BITS, (8,))) > 8
    tiles = _tiles(image)
    if image.format == "PPM":  # (raw mode, value of white)
        return any(isinstance(args, tuple) and args[-1] in range(256, FULL + 1) for args in tiles)
    return any(";16" in _rawmode(args) for args in tiles)


def _tiles(image: Image.Image) -> list[Any]:
    """Return what Pillow's decoder is told of each part of a file: a raw mode, or a tuple that begins with one."""
    return [tile.args for tile in getattr(image, "tile", [])]


def _rawmode(args: Any) -> str:
    return args if isinstance(args, str) else str((args or ("",))[0])


def deep(image: Image.Image, file: BinaryIO, white: float | None) -> Deep | None:
    """Return what a deep image holds, and load it; None where Pillow gives 8 bits of it only.

    Raises ValueError where values have no known range, or lie outside it.

    image: opened from `file`, not loaded.
    file: read again where Pillow drops the lower bytes.
    white: the value that means white; None: what the file says, else the largest of 16 bits.
    """
    transparent, alpha = image.info.get("transparency"), None
    own: float | None = FULL
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))[0]
        if image.mode in ("I", "F"):
            own = FULL if image.format == "PPM" and image.mode == "I" else None  # a PGM says its own white
        elif bits < 16:
            own = (1 << bits) - 1
        image.load()
        values = np.asarray(image)[..., None]
        if isinstance(transparent, int):
            alpha = (values[..., 0] != transparent).astype(np.float32)
    else:
        colours = _sixteen(image, file)
        if colours is None:
            return None
        values = colours[..., :3] if colours.shape[2] >= 3 else colours[..., :1]
        if isinstance(transparent, tuple):
            alpha = (values != np.asarray(transparent)).any(2).astype(np.float32)
        elif colours.shape[2] in (2, 4):
            alpha = colours[..., -1].astype(np.float32) / FULL
    white = white or own
    largest = _largest(values, white)
    return Deep((values / np.float64(white or 1)).astype(np.float32), alpha, largest)


def _largest(values: np.ndarray, white: float | None) -> float:
    low, high = float(values.min()), float(values.max())
    if np.isnan(low):  # and then high, too
        raise ValueError("it holds values that are no numbers (NaN)")
    if white is None:
        likely = 1 if high <= 1 else 2 ** int(np.ceil(np.log2(high + 1))) - 1 if np.isfinite(high) else 65535
        raise ValueError(
            f"it holds numbers of 32 bits from {low:g} to {high:g}, without a known range: set `white` to what means white in all images "
            f"({likely}, say), or save it with 8 or 16 bits"
        )
    if not (low >= 0 and high <= white):
        raise ValueError(
            f"its values lie between {low:g} and {high:g}, white is {white:g}: set `white` to the largest of the set"
        )
    return high / white


def _sixteen(image: Image.Image, file: BinaryIO) -> np.ndarray | None:
    """Return the 16 bits of a colour image (H, W, bands), of which Pillow gives the upper 8; None where it does not give the lower ones.

    A second reading takes the bytes of each pair in the other order.
    """
    names = set(map(_rawmode, _tiles(image)))
    name = names.pop() if len(names) == 1 else ""
    match = _SIXTEEN.fullmatch(name)
    if name == "LA;16B":  # as four bands of 8 bits: both bytes of grey, both of alpha
        parts = _read_as(file, "RGBA").astype(np.uint16)
        return parts[..., 0::2] << 8 | parts[..., 1::2]
    if match is None:
        return None
    bands, ends = match.groups()
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[ends]
    image.load()
    upper = np.asarray(image).astype(np.uint16)
    lower = _read_as(file, f"{bands};16{other}").astype(np.uint16)
    return (upper << 8 | lower)[..., :3] if bands == "RGBX" else upper << 8 | lower


def _read_as(file: BinaryIO, rawmode: str) -> np.ndarray:
    file.seek(0)
    with Image.open(file, formats=formats()) as image:

        def renamed(args: Any) -> Any:
            return rawmode if isinstance(args, str) else (rawmode, *args[1:])

        tiles = [tile._replace(args=renamed(tile.args)) for tile in getattr(image, "tile", [])]
        image.tile = tiles
        return np.asarray(image)
