"""Images in memory: what a set holds before it is split, and the store that its batches are read from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tutelage.data.augment_basic import Augmentation
from tutelage.data.image_files import Files
from tutelage.data.mixing import Mixer
from tutelage.data.streams import Resident
from tutelage.tasks import Batch


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """What an image set holds before splitting.

    images: (N, C, H, W), uint8 or float, of values 0 ... peak; or files to be streamed.
    labels: (N,) int64.
    class_names: the classes, in the order of their numbers.
    official: the splits the set comes with.
    peak: the value that becomes 1 before normalisation.
    key: names the content, for the caches.
    contents: of files to be streamed, a number for each (N,), equal for equal files; None where they were not compared.
    absent: indices of samples that are gone, and in no split.
    """

    images: Tensor | Files
    labels: np.ndarray
    class_names: Sequence[str]
    official: Mapping[str, np.ndarray]
    peak: float
    key: tuple[Any, ...]
    contents: np.ndarray | None = None
    absent: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ImageStore(Resident):
    """Images with labels; a batch is augmented, then multiplied by `scale` and shifted by `shift`.

    images: (N, C, H, W), uint8 or float.
    labels: (N,) int64.
    scale: (1, C, 1, 1).
    shift: (1, C, 1, 1).
    augment: None shows all images as they are.
    mixer: what mixes the images of a batch, after all of that; classes: how many there are.
    """

    images: Tensor
    labels: Tensor
    scale: Tensor
    shift: Tensor
    augment: Augmentation | None = None
    mixer: Mixer | None = None
    classes: int = 0

    @property
    def draws(self) -> int:
        """See `Store`."""
        return sum(part.draws for part in (self.augment, self.mixer) if part is not None)

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`."""
        images, labels = self.images.index_select(0, index), self.labels.index_select(0, index)
        return shown(self, images, labels, index, noise)


class _Showing(Protocol):
    """Of a store of images, what `shown` asks for."""

    @property
    def augment(self) -> Augmentation | None: ...
    @property
    def mixer(self) -> Mixer | None: ...
    @property
    def classes(self) -> int: ...
    @property
    def scale(self) -> Tensor: ...
    @property
    def shift(self) -> Tensor: ...


def shown(how: _Showing, images: Tensor, labels: Tensor, index: Tensor, noise: Tensor | None) -> Batch:
    """Return images (n, C, H, W) as a batch: augmented and mixed by noise (n, draws), unless that is None, scaled and shifted."""
    first = 0 if how.augment is None else how.augment.draws
    if how.augment is not None and noise is not None:
        images = how.augment(images, noise[:, :first])
    batch = Batch(images.float().mul_(how.scale).add_(how.shift), labels, index)
    return batch if how.mixer is None or noise is None else how.mixer(batch, noise[:, first:], how.classes)


MOMENT_IMAGES, MOMENT_FILES = 10_000, 1_000
"""Training images, evenly spaced, that the mean and deviation are taken from: in memory, and from files."""


def moments(
    images: Tensor | Files, train: np.ndarray, peak: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of the training images scaled to [0, 1]; a constant channel
    has deviation 1.
    """
    most = MOMENT_IMAGES if isinstance(images, Tensor) else MOMENT_FILES
    chosen = train[:: -(-len(train) // most)]
    totals, count = [], 0
    for start in range(0, len(chosen), 500):
        part = chosen[start : start + 500]
        block = (
            images[torch.from_numpy(part)]
            if isinstance(images, Tensor)
            else torch.from_numpy(images.decode_many(part.tolist()))
        )
        values = block.transpose(0, 1).flatten(1).double() / peak
        totals.append(torch.stack([values.sum(1), values.square().sum(1)]))
        count += values.shape[1]
    mean, square = torch.stack(totals).sum(0) / count
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation < 1e-6, torch.ones_like(deviation), deviation)
    return tuple(mean.tolist()), tuple(deviation.tolist())
