"""Batches of image files, decoded while training by worker processes; what a batch holds does not depend on
how many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tutelage.data.augment_basic import Augmentation, RandomResizedCrop
from tutelage.data.image_files import Files
from tutelage.data.image_store import shown
from tutelage.data.mixing import Mixer
from tutelage.data.streams import Draw, Reader
from tutelage.errors import UserError
from tutelage.tasks import Batch

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class FileStore:
    """Image files with labels. Workers decode, and cut out where there is a `crop`; the device augments
    and normalises.

    files: N images.
    labels: (N,) int64.
    scale: (1, C, 1, 1), see `ImageStore`.
    shift: (1, C, 1, 1).
    crop: cut from the original image, in place of the centre.
    augment: None shows all images as they are.
    mixer: what mixes the images of a batch, after all of that; classes: how many there are.
    num_workers: processes per stream; 0 decodes in the training process.
    device: where the batches go.
    """

    files: Files
    labels: Tensor
    scale: Tensor
    shift: Tensor
    crop: RandomResizedCrop | None = None
    augment: Augmentation | None = None
    mixer: Mixer | None = None
    classes: int = 0
    num_workers: int = 0
    device: torch.device = CPU

    @property
    def crop_draws(self) -> int:
        """Columns of noise that the workers use; the rest is the device's."""
        return 0 if self.crop is None else self.crop.draws

    @property
    def draws(self) -> int:
        """See `Store`."""
        return self.crop_draws + sum(p.draws for p in (self.augment, self.mixer) if p is not None)

    @property
    def index_device(self) -> torch.device:
        """See `Store`: the workers read indices on the CPU."""
        return CPU

    def to(self, device: torch.device) -> FileStore:
        """See `Store`."""
        return dataclasses.replace(
            self, device=device, scale=self.scale.to(device), shift=self.shift.to(device)
        )

    def reader(self, plan: Iterable[Draw]) -> Reader:
        """See `Store`. The workers live until it is closed."""
        return _FileReader(self, plan)

    def finish(self, decoded: _Decoded) -> Batch:
        """Turn decoded images into the batch on the device."""
        images, noise, index = decoded
        images, labels, index = (
            part.to(self.device, non_blocking=True) for part in (images, self.labels[index], index)
        )
        if noise is not None:
            noise = noise[:, self.crop_draws :].to(self.device, non_blocking=True)
        return shown(self, images, labels, index, noise)


_Decoded = tuple[Tensor, Tensor | None, Tensor]


@dataclasses.dataclass(frozen=True)
class _Decoder(Dataset["_Decoded | UserError"]):
    files: Files
    crop: RandomResizedCrop | None

    def __getitem__(self, draw: tuple[np.ndarray, np.ndarray | None]) -> _Decoded | UserError:
        index, noise = draw
        try:
            if self.crop is None or noise is None:
                images = self.files.decode_many(index.tolist())
            else:
                images = self.files.stack(
                    index.tolist(), [self._cut(i, row) for i, row in zip(index, noise, strict=True)]
                )
        except UserError as error:  # raised in a worker, it would arrive as a traceback
            return error
        return (
            torch.from_numpy(images),
            None if noise is None else torch.from_numpy(noise),
            torch.from_numpy(index),
        )

    def _cut(self, index: int, noise: np.ndarray) -> np.ndarray:
        assert self.crop is not None
        crop, row = self.crop, torch.from_numpy(noise[None, : self.crop.draws])
        return self.files.decode(
            int(index), lambda height, width: tuple(crop.boxes(height, width, row)[0].tolist())
        )


@dataclasses.dataclass(frozen=True)
class _ArrayPlan:
    plan: Iterable[Draw]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        # Arrays travel to the workers by value, tensors through a file descriptor each.
        for index, noise in self.plan:
            yield index.numpy(), None if noise is None else noise.numpy()


class _FileReader:
    def __init__(self, store: FileStore, plan: Iterable[Draw]) -> None:
        self.store, self.plan = store, plan
        self._loader: DataLoader[_Decoded | UserError] | None = None
        self._batches: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._batches is not None:
            self._batches.close()
        if self._loader is None:
            self._loader = self._start()
        self._batches = _finished(self._loader, self.store)
        return self._batches

    def close(self) -> None:
        """See `Reader`: with its last reference, the loader ends its workers."""
        if self._batches is not None:
            self._batches.close()
        self._loader = self._batches = None

    def _start(self) -> DataLoader[_Decoded | UserError]:
        workers = self.store.num_workers
        return DataLoader(
            _Decoder(self.store.files, self.store.crop),
            sampler=_ArrayPlan(self.plan),
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.store.device.type == "cuda",
            collate_fn=_unchanged,
            # Drawing from the global generator would change the network's dropout.
            generator=torch.Generator(),
        )


def _finished(loader: Iterable[_Decoded | UserError], store: FileStore) -> Generator[Batch, None, None]:
    for decoded in loader:
        if isinstance(decoded, UserError):
            raise decoded
        yield store.finish(decoded)


def _unchanged(decoded: Any) -> Any:
    return decoded
