"""Any folder of images, one sub-folder a class: decoded once and kept, or streamed from its files."""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache
from tutelage.data.augment_basic import Chain, RandomResizedCrop
from tutelage.data.file_stream import FileStore
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.image_files import MODES, Files, Layout, read_layout
from tutelage.data.image_set import ImageData, ImageSource
from tutelage.data.streams import Store
from tutelage.errors import UserError, choices

log = logging.getLogger(__name__)

STORAGE = ("auto", "resident", "stream")
RESIDENT_BYTES = 2 * 2**30
"""Decoded size up to which "auto" keeps a set in memory; beyond, its files are streamed."""


class ImageFolder(ImageData):
    """Images of root/<class>/..., or root/{train,test}/<class>/... (also val/), see `image_files.read_layout`.

    image_size: pixels per side after decoding (the shorter side is resized, the centre cut out); null where all images have one size.
    channels: 3 (RGB) or 1 (grey).
    storage: "resident" decodes the set once, keeps it in the cache folder and in memory; "stream" decodes every batch in `num_workers`
    processes; "auto" chooses by the decoded size.
    fingerprint: as `fingerprint.fingerprint(root)` gives it; computed where it is not given. Other arguments: see `ImageData`.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        image_size: int | None = None,
        channels: int = 3,
        storage: str = "auto",
        num_workers: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if storage not in STORAGE:
            raise UserError(f"`storage` '{storage}' does not exist: {choices(storage, STORAGE)}")
        if channels not in MODES:
            raise UserError(f"`channels` must be 1 (grey) or 3 (RGB), got {channels}")
        if image_size is not None and image_size < 1:
            raise UserError(f"`image_size` must be a number of pixels, got {image_size}")
        self.root = Path(root).expanduser()
        self.image_size, self.channels = image_size, channels
        self.storage, self.num_workers = storage, num_workers

    def prepare(self) -> None:
        """Read the folder and, where it will be resident, decode it into the cache. Raises UserError for a
        broken folder or image.
        """
        self.source()

    def content(self) -> tuple[str, ...]:
        """Return what names the content of the files, for the caches."""
        self.fingerprint = self.fingerprint or fingerprint_of(self.root)
        return ("folder", self.fingerprint)

    def layout(self) -> Layout:
        """Return the files with their labels and official splits."""
        return read_layout(self.root)

    def source(self) -> ImageSource:
        """See `ImageData`."""
        content = (*self.content(), self.image_size, self.channels)
        return cache.remember((*content, self.storage, str(self.root)), lambda: self._read(content))

    def _read(self, content: tuple[Any, ...]) -> ImageSource:
        layout = self.layout()
        files = Files(layout, self.image_size, self.channels)
        stream = self.storage == "stream" or (
            self.storage == "auto" and len(files) * int(np.prod(files.shape)) > RESIDENT_BYTES
        )
        images: Tensor | Files = files
        if not stream:
            name = hashlib.sha256(repr((*content, len(files), "bilinear 2")).encode()).hexdigest()[:24]
            arrays, _ = cache.stored(name, lambda folder: _decode_all(files, folder))
            images = torch.from_numpy(arrays["images"])
        return ImageSource(images, layout.labels, layout.class_names, layout.official, 255.0, content)

    def _store(self, images: Tensor | Files, labels: Tensor, peak: float) -> Store:
        if not isinstance(images, Files):
            return super()._store(images, labels, peak)
        scale, shift = self._affine(peak)
        steps = [] if self.augment is None else list(self.augment.steps)
        crop = steps[0] if steps and isinstance(steps[0], RandomResizedCrop) else None
        rest = steps if crop is None else steps[1:]
        return FileStore(images, labels, scale, shift, crop, Chain(rest) if rest else None, self.num_workers)


def _decode_all(files: Files, folder: Path) -> dict[str, Any]:
    shape = (len(files), *files.shape)
    log.info("decoding %d images of %s, once", len(files), files.layout.root)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)

    def fill(start: int) -> None:
        part = range(start, min(start + 256, len(files)))
        decoded = files.decode_many(part)
        if decoded.shape[1:] != shape[1:]:  # across parts; within one, decode_many has checked
            files.stack([0, start], [files.decode(0), decoded[0]])
        images[start : start + 256] = decoded

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(files), 256)))
    images.flush()
    return {"root": str(files.layout.root), "images": len(files)}
