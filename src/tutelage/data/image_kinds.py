"""What an image file is: one answer for folders, streams, fingerprints and `evaluate` (no torch)."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tutelage.data.walk import printable, shown

NOT_READ = {"EPS", "WMF", "PDF", "MPEG", "HDF5", "GRIB", "BUFR"}
"""Formats of Pillow that are no still images, that it only recognises, or that it hands to another program (EPS to Ghostscript)."""


FREQUENT = {"JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"}


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the formats that are opened, whatever a file is called: all that the installed Pillow decodes itself."""
    from PIL import Image

    Image.init()
    read = [name for name in Image.ID if name not in NOT_READ]
    return tuple(sorted(read, key=lambda name: (name not in FREQUENT, name)))  # they are tried in this order


@functools.cache
def endings() -> frozenset[str]:
    """Return the endings of image files, in lower case with their dot, as the installed Pillow registers them."""
    from PIL import Image

    read = {*formats(), "MPO"}  # two JPEGs in one file, opened as JPEG
    return frozenset(ending.lower() for ending, kind in Image.registered_extensions().items() if kind in read)


def is_image(name: str) -> bool:
    """Say whether a file is one of the images of a set: by the ending of its name, in upper or lower case."""
    return _ending(name) in endings()


def _ending(name: str) -> str:
    stem, dot, ending = name[name.rfind("/") + 1 :].rpartition(".")
    return f".{ending}".lower() if dot and stem else ""


def other_files(root: Path, names: Sequence[str]) -> str:
    """Return a sentence that counts, by ending, the files of a folder that are no images."""
    kinds = Counter(_ending(name) or "without an ending" for name in names)
    listed = shown(f"{count:,} {kind}" for kind, count in kinds.most_common())
    verb = "file is no image" if len(names) == 1 else "files are no images"
    return f"{printable(root)}: {len(names):,} {verb} that this Pillow reads, left out: {listed} (such as {shown(names[:1])})"


def known_endings() -> str:
    """Return the endings as text, those that most people use first."""
    common = [".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"]
    first = [ending for ending in common if ending in endings()]
    return ", ".join([*first, f"or one of {len(endings()) - len(first)} others that Pillow reads"])
