"""Any folder of images, one sub-folder a class: decoded once and kept, or streamed from its files."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache, image_check
from tutelage.data.augment_basic import Chain, RandomResizedCrop
from tutelage.data.file_stream import FileStore
from tutelage.data.fingerprint import check_same, of_files
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.image_check import Found
from tutelage.data.image_files import Files, UnreadableImages
from tutelage.data.image_layout import Layout, read_layout
from tutelage.data.image_pixels import Fact, Form
from tutelage.data.image_set import ImageData
from tutelage.data.image_store import ImageSource
from tutelage.data.memory import check_fits
from tutelage.data.streams import Store
from tutelage.data.walk import printable
from tutelage.errors import UserError
from tutelage.typed import Count, Range

log = logging.getLogger("tutelage")

RESIDENT_BYTES = 2 * 2**30
"""Decoded size up to which "auto" keeps a set in memory; beyond, its files are streamed."""


Byte = Annotated[int, Range(0, 255)]
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}
DECODING = "bilinear 4"
"""Names what `image_pixels` makes of a file: part of the name of what is kept decoded, so that no older version's pixels serve."""


class ImageFolder(ImageData):
    """Images of root/<class>/..., or root/{train,test}/<class>/... (also val/), see `image_layout.read_layout`.

    What an image file says of itself is heeded, see `image_pixels`; every file is looked at once before training, see `image_check`.

    root: the folder.
    image_size: pixels per side after decoding (the shorter side is resized, the centre cut out); null where all images have one size.
    channels: 3 (RGB) or 1 (grey).
    background: what shows through where images are transparent: "white", "black" or [red, green, blue] of 0 to 255.
    white: the value that means white in images of more than 8 bits; null: what the file says, else the largest of 16 bits.
    storage: "resident" decodes the set once, keeps it in the cache folder and in memory; "stream" decodes every batch in `num_workers`
    processes; "auto" chooses by the decoded size.
    num_workers: processes per stream; 0 decodes in the training process.
    check_files: look at every file of a streamed set before training, once; false leaves a damaged one to the step that meets it.
    absent: paths of images that were in the set when a run began, and are gone since; the splits of all others stay.
    fingerprint: as `fingerprint.fingerprint(root, "images")` gives it; computed where it is not given.
    Other arguments: see `ImageData`.
    """

    _read_here = False

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        image_size: Count | None = None,
        channels: Literal[1, 3] = 3,
        background: Literal["white", "black"] | tuple[Byte, Byte, Byte] = "white",
        white: float | None = None,
        storage: Literal["auto", "resident", "stream"] = "auto",
        num_workers: int = 2,
        check_files: bool = True,
        absent: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if white is not None and not 0 < white < float("inf"):
            raise UserError(f"`white` must be a number above 0, such as 4095 for 12 bits, got {white!r}")
        self.root = Path(root).expanduser()
        red, green, blue = BACKGROUNDS[background] if isinstance(background, str) else background
        self.form: Form = Form(image_size, channels, (red, green, blue), white)
        self.storage, self.num_workers, self.check_files = storage, num_workers, check_files
        self.absent = tuple(absent)

    def prepare(self) -> None:
        """Read the folder and, where it will be resident, decode it into the cache; else look at every file. Raises UserError for a
        broken folder, naming all images that cannot be read.
        """
        self.source()

    def content(self) -> tuple[Any, ...]:
        """Return what names the content of the files, for the caches."""
        self.fingerprint = self.fingerprint or self.now()
        return ("folder", self.fingerprint)

    def now(self) -> str:
        """Return the fingerprint of the files as they are."""
        return fingerprint_of(self.root, "images")

    def layout(self) -> Layout:
        """Return the files with their labels and official splits."""
        return read_layout(self.root, self.absent)

    def files(self, layout: Layout) -> Files:
        """Return the files to be decoded."""
        return Files(layout, self.form)

    def source(self) -> ImageSource:
        """See `ImageData`."""
        content = (*self.content(), self.form, self.absent)
        key = (*content, self.storage, self.check_files, str(self.root))
        source, self._found, self._files = cache.remember(key, lambda: self._read(content))
        if not self._read_here and self.fingerprint is not None and isinstance(source.images, Files):
            self._check_fingerprint(
                self.now()
            )  # listed for an earlier run of this process, and read anew by each
        return source

    @property
    def files_read(self) -> Files:
        """The files behind the images, once they are loaded."""
        return self._files

    def load(self) -> None:
        """See `ImageData`; what was found in the files is said and recorded."""
        super().load()
        image_check.say(self._found, self._files)
        self.facts["files"] = self._found.counts
        if self._files.layout.notes:
            self.facts["left_out"] = list(self._files.layout.notes)
        if self.absent:
            self.facts["absent"] = list(self.absent)

    def _read(self, content: tuple[Any, ...]) -> tuple[ImageSource, Found, Files]:
        self._read_here = True
        layout = self.layout()
        if layout.listed:
            self._check_fingerprint(of_files(self.root, layout.listed))
        files = self._first_form(self.files(layout))
        bytes_each = int(np.prod(files.shape)) * np.dtype(files.dtype).itemsize
        stream = self.storage == "stream" or (
            self.storage == "auto" and len(files) * bytes_each > RESIDENT_BYTES
        )
        images: Tensor | Files
        if stream:
            found = image_check.check(files) if self.check_files else Found({}, {}, 0.0)
            if "deep" in found.counts:
                files = _deep(files)
            images = files
        else:
            check_fits(
                len(files) * bytes_each,
                f"the {len(files):,} images of {printable(self.root)}, decoded,",
                "`storage`=stream reads them batch by batch",
            )
            name = cache.entry_name(*content, len(files), DECODING)
            arrays, facts = cache.stored(name, lambda folder: _decode_all(files, folder))
            images, found = torch.from_numpy(arrays["images"]), Found(**facts["found"])
        peak = 255.0 if images.dtype in (torch.uint8, np.uint8) else 1.0
        parts = layout.labels, layout.class_names, layout.official
        source = ImageSource(images, *parts, peak, content, found.contents, layout.absent)
        return source, found, files

    def _check_fingerprint(self, now: str) -> None:
        """Raise UserError where the fingerprint is not that of the files."""
        if self.fingerprint not in (None, now) and self.fingerprint != fingerprint_of(
            self.root
        ):  # of all, as it once was
            check_same(self.fingerprint, now, self.root, "images")

    def _first_form(self, files: Files) -> Files:
        """Return the files in the form that the first of them asks for; where it cannot be read, look at all."""
        array, seen, _ = files.attempt(files.first)
        if array is None:
            image_check.check(files)  # names it with all others
        return _deep(files) if Fact.DEEP in seen.facts else files

    def _store(self, images: Tensor | Files, labels: Tensor, peak: float) -> Store:
        if not isinstance(images, Files):
            return super()._store(images, labels, peak)
        scale, shift = self._affine(peak)
        steps = [] if self.augment is None else list(self.augment.steps)
        crop = steps[0] if steps and isinstance(steps[0], RandomResizedCrop) else None
        rest = steps if crop is None else steps[1:]
        chain = Chain(rest) if rest else None
        return FileStore(
            images, labels, scale, shift, crop, chain, self.mixer, self.task.output_size, self.num_workers
        )


def _deep(files: Files) -> Files:
    return dataclasses.replace(files, form=dataclasses.replace(files.form, deep=True))


def _decode_all(files: Files, folder: Path) -> dict[str, Any]:
    log.info("decoding %s images of %s, once", f"{len(files):,}", printable(files.layout.root))
    found = _fill(files, folder)
    if "deep" in found.counts and not files.form.deep:
        found = _fill(_deep(files), folder)  # the first image had 8 bits, another has more
    return {"root": printable(files.layout.root), "images": len(files), "found": dataclasses.asdict(found)}


def _fill(files: Files, folder: Path) -> Found:
    """Decode all images into one array on the disk. Raises UserError naming all that cannot be read."""
    here = np.setdiff1d(np.arange(len(files)), files.layout.absent)
    shape = files.shape
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=files.dtype, shape=(len(files), *shape)
    )
    facts, largest = np.zeros(len(files), dtype=np.uint16), np.zeros(len(files), dtype=np.float32)
    parts = [here[start : start + 256] for start in range(0, len(here), 256)]

    def fill(number: int) -> dict[str, str]:
        reasons = {}
        for place in parts[number].tolist():
            decoded, seen, reason = files.attempt(place)
            if decoded is None:
                reasons[files.layout.paths[place]] = reason
                continue
            if decoded.shape != shape:
                files.stack([files.first, place], [files.decode(files.first), decoded])  # names both
            images[place], facts[place], largest[place] = decoded, int(seen.facts), seen.largest
        return reasons

    reasons = {name: why for part in image_check.in_threads(len(parts), fill) for name, why in part.items()}
    if reasons:
        raise UnreadableImages(files.layout.root, reasons, len(files))
    images.flush()
    return image_check.summary(files, here, facts[here], largest[here])
