"""Image files, decoded one by one to the form that a set has (no torch)."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data.fingerprint import fingerprint
from tutelage.data.image_layout import Layout
from tutelage.data.image_pixels import Box, Fact, Form, Seen, read
from tutelage.data.walk import printable
from tutelage.errors import UserError

log = logging.getLogger("tutelage")
NAMED = 100
"""Damaged files that a message names; the record of the run names all."""


class UnreadableImages(UserError):
    """Images that cannot be read.

    facts: for the record: `damaged`, their paths, and `rest`, the fingerprint of the folder without them. Where the rest is the same
    later, the run that stopped here can go on.
    """

    def __init__(self, root: Path, reasons: Mapping[str, str], tried: int | None = None) -> None:
        if len(reasons) == 1:
            ((name, reason),) = reasons.items()
            text = f"cannot read the image {printable(root / name)}: {reason}. Replace or remove it; the same command then goes on"
        else:
            lines = [f"  {printable(name)}: {reason}" for name, reason in sorted(reasons.items())]
            more = [f"  and {len(lines) - NAMED:,} more"] if len(lines) > NAMED else []
            of = "" if tried is None else f" of {tried:,}"
            text = "\n".join(
                [f"cannot read {len(reasons):,}{of} images of {printable(root)}:", *lines[:NAMED], *more,
                 "Replace or remove them; the same command then goes on"]
            )  # fmt: skip
        super().__init__(text)
        names = sorted(map(printable, reasons))
        self.facts: dict[str, object] = {"damaged": names}
        if names == sorted(reasons):  # a record cannot hold other names
            with contextlib.suppress(UserError):
                self.facts["rest"] = fingerprint(root, "images", without=set(names))

    def __reduce__(self) -> tuple[type[UserError], tuple[str], dict[str, object]]:
        return UserError, (str(self),), {"facts": self.facts}  # from a worker to the process that trains


@dataclasses.dataclass(frozen=True)
class Files:
    """Images to be decoded to one form: (channels, size, size), or their own common size where `form.size` is None."""

    layout: Layout
    form: Form

    def __len__(self) -> int:
        return len(self.layout.paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width after decoding."""
        form = self.form
        return (
            (form.channels, form.size, form.size) if form.size is not None else self.decode(self.first).shape
        )

    @property
    def first(self) -> int:
        """The place of the first image that is not absent."""
        return next(place for place in range(len(self)) if place not in self.layout.absent)

    @property
    def dtype(self) -> type[np.generic]:
        """The type of decoded values: uint8, or float32 in [0, 1] where images have more than 8 bits."""
        return np.float32 if self.form.deep else np.uint8

    def path(self, index: int) -> Path:
        """Return where an image lies."""
        return self.layout.root / self.layout.paths[index]

    def bytes_of(self, index: int) -> bytes:
        """Return an image's bytes."""
        return self.path(index).read_bytes()

    def stamp(self, index: int) -> tuple[int, int]:
        """Return an image's length in bytes and when it was changed last, in nanoseconds."""
        status = os.stat(os.path.join(self.layout.root, self.layout.paths[index]))  # noqa: PTH116, PTH118 # a million times
        return status.st_size, status.st_mtime_ns

    def decode(self, index: int, box: Box | None = None) -> np.ndarray:
        """Return one image (channels, height, width), resized with antialiased bilinear interpolation.

        Raises UserError where the file is no whole image, or has more bits than the others.

        index: its place in the layout.
        box: the part that is resized, see `image_pixels.read`.
        """
        array, seen, reason = self.attempt(index, box)
        if array is None:
            raise UnreadableImages(self.layout.root, {self.layout.paths[index]: reason})
        if not self.form.deep and seen.facts & Fact.DEEP:
            raise UserError(
                f"{printable(self.path(index))} has more than 8 bits a value, the first image has 8: set `check_files`=true, which "
                "finds out what all images have"
            )
        return array

    def attempt(
        self, index: int, box: Box | None = None, *, data: bytes | None = None
    ) -> tuple[np.ndarray | None, Seen, str]:
        """Return one image, what was met in reading it, and why it could not be read (then it is None).

        index: its place in the layout.
        box: as of `decode`.
        data: its bytes, where they were read already.
        """
        path = os.path.join(self.layout.root, self.layout.paths[index])  # noqa: PTH118 # pathlib takes a tenth of a small image's time
        try:
            with open(path, "rb") if data is None else io.BytesIO(data) as file:  # noqa: PTH123
                array, seen = read(file, self.form, box)
        except Exception as error:  # what Pillow raises for what a file may hold is of every kind
            log.debug("%s", printable(path), exc_info=True)
            return None, Seen(), _reason(self.path(index), error)
        return array, seen, ""

    def decode_many(self, indices: Sequence[int]) -> np.ndarray:
        """Return decoded images (n, channels, height, width). Raises UserError where their sizes differ."""
        return self.stack(indices, [self.decode(index) for index in indices])

    def stack(self, indices: Sequence[int], images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the images as one array. Raises UserError, naming the file, where one has another size than
        the first.
        """
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                (_, height, width), (_, first_height, first_width) = image.shape, images[0].shape
                raise UserError(
                    f"{printable(self.layout.paths[indices[0]])} has {first_width}x{first_height} pixels, "
                    f"{printable(self.layout.paths[index])} has {width}x{height}: set `image_size` to decode all to one size"
                )
        return np.stack(images)


def _reason(path: Path, error: Exception) -> str:
    """Return why a file could not be read, in a user's words."""
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror)
    if isinstance(error, Image.UnidentifiedImageError):
        start = path.open("rb").read(12)
        return f"it is no image that this Pillow reads; it begins with {start!r}" if start else "it is empty"
    return str(error).rstrip(".") or type(error).__name__
