"""Unlabelled images beside a labelled batch: their views, and what they do to batch norms. No objective itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tutelage.data.augment import build
from tutelage.data.augment_basic import Augmentation
from tutelage.data.pseudo import read
from tutelage.data.streams import Resident, TrainStream
from tutelage.errors import UserError
from tutelage.tasks import Batch

Augment = Mapping[str, Mapping[str, Any] | None]
Normalization = Sequence[Sequence[float]] | str | None


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """Images that an objective may look at without their labels.

    images: (N, C, H, W) uint8, shared with whoever else reads them. index: (M,) int64, which of them. scale, shift: (1, C, 1, 1), from
    bytes to what the network takes. facts: what the record says of them.
    """

    images: Tensor
    index: np.ndarray
    scale: Tensor
    shift: Tensor
    facts: Mapping[str, Any]


def pseudo_images(root: str, *, channels: int, normalization: Normalization) -> Unlabelled:
    """Return the images of a pseudo data set.

    root: its folder. channels: of the network's images. normalization: of the target data, (means, deviations) as numbers, or None.
    Raises UserError where the set does not fit.
    """
    found = read(root)
    facts = {k: found.manifest[k] for k in ("generator", "labelling", "count", "origin", "content_sha256")}
    if found.images.shape[1] != channels:
        raise UserError(
            f"the pseudo images in {root} have {found.images.shape[1]} channels, the target data {channels}"
        )
    return Unlabelled(
        found.images, np.arange(len(found.images)), *byte_affine(normalization, channels), facts
    )


@dataclasses.dataclass(frozen=True)
class UnlabelledTokens:
    """Texts that an objective may look at without their targets.

    store: their tokens. index: (M,) int64, which of them. facts: what the record says of them. vocab_size, mask_token: how many tokens
    there are, and the one that stands for a masked one. special: tokens that are no part of the text, such as padding.
    """

    store: Resident
    index: np.ndarray
    facts: Mapping[str, Any]
    vocab_size: int
    mask_token: int
    special: Sequence[int] = ()


class SampleStream:
    """Samples of a store, `count` per step over all ranks, each a function of the seed and the step alone.

    index: (M,) which samples. name: what they are, for messages. Raises UserError where there are too few.
    """

    def __init__(self, store: Resident, index: np.ndarray, *, count: int, name: str) -> None:
        if count > len(index):
            raise UserError(
                f"a step takes {count} {name}, there are {len(index)}: lower `ratio` or the batch size"
            )
        self._samples, self._store, self._count = index, store, count
        self.index = torch.empty(0, dtype=torch.int64)
        """(share,) which samples this rank's latest ones are."""

    def start(self, *, seed: int, rank: int, world_size: int, device: torch.device) -> None:
        """Bring the samples to the device of a rank."""
        self._store = self._store.to(device)
        self._stream = TrainStream(
            self._store, self._samples, seed=seed, batch_size=self._count, rank=rank, world_size=world_size
        )

    def batch(self, step: int) -> Batch:
        """Return this rank's samples of a step."""
        self._stream.seek(step, step + 1)
        batch = next(iter(self._stream))
        self.index = batch.index
        return batch

    def fixed(self, index: Tensor, seed: int) -> Batch:
        """Return the samples at index (n,), drawn from a seed: the same on every call and device."""
        noise = torch.rand(len(index), self._store.draws, generator=torch.Generator().manual_seed(seed))
        return self._store.batch(index, noise.to(index.device))


class UnlabelledStream(SampleStream):
    """Views of unlabelled images, see `SampleStream`.

    size: (height, width) that the network takes; images of another size are resized. views: an augmentation for each view.
    """

    def __init__(
        self, source: Unlabelled, *, size: Sequence[int], count: int, views: Sequence[Augment], name: str
    ) -> None:
        self.source, self._parts = source, len(views)
        super().__init__(image_views(source, size, views), source.index, count=count, name=name)

    def views(self, step: int) -> list[Tensor]:
        """Return this rank's images of a step, (share, C, H, W) for each view."""
        return list(self.batch(step).inputs.chunk(self._parts))


def image_views(source: Unlabelled, size: Sequence[int], views: Sequence[Augment]) -> Views:
    """Return the store of views of unlabelled images; arguments as `UnlabelledStream`'s."""
    height, width = size
    augments: tuple[Augmentation, ...] = tuple(build(view) or Unchanged() for view in views)
    return Views(source.images, source.scale, source.shift, (height, width), augments)


@dataclasses.dataclass(frozen=True)
class Views(Resident):
    """Several views of each image.

    images: (N, C, H, W) uint8. scale, shift: (1, C, 1, 1), from bytes to normalised values. size: (height, width) of the views; other
    images are resized, antialiased. augments: of uint8 images, one for each view, drawn apart.
    """

    images: Tensor
    scale: Tensor
    shift: Tensor
    size: tuple[int, int]
    augments: tuple[Augmentation, ...]

    @property
    def draws(self) -> int:
        """See `Store`."""
        return sum(augment.draws for augment in self.augments)

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """Return the first views of all samples, then the second ones, and so on."""
        images = self.images.index_select(0, index)
        noise = images.new_zeros(len(images), 0) if noise is None else noise
        columns = noise.split([augment.draws for augment in self.augments], dim=1)
        views = [augment(images, part) for augment, part in zip(self.augments, columns, strict=True)]
        inputs = torch.cat(views).float()
        if inputs.shape[2:] != self.size:
            inputs = F.interpolate(inputs, self.size, mode="bilinear", antialias=True)
        return Batch(inputs.mul_(self.scale).add_(self.shift), index, index)


class Unchanged:
    """The augmentation that changes nothing."""

    draws = 0

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """See `Augmentation`."""
        return images


def byte_affine(normalization: Normalization, channels: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift (1, channels, 1, 1) that turn bytes into values normalised by (means, deviations) of images in [0, 1]."""
    if normalization is None:
        normalization = [[0.0] * channels, [1.0] * channels]
    if (
        isinstance(normalization, str)
        or len(normalization) != 2
        or any(len(p) != channels for p in normalization)
    ):
        raise UserError(
            f"`normalization` must be the data's own as numbers, two lists of {channels} (means, deviations), or null; got "
            f"{normalization!r}. Set data.normalization to numbers, such as mean and deviation 0.5: pseudo images have no training set "
            "to take them from"
        )
    mean, deviation = (
        torch.tensor([float(v) for v in part], dtype=torch.float64).view(1, -1, 1, 1)
        for part in normalization
    )
    return (1 / (255 * deviation)).float(), (-mean / deviation).float()


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether some module of a network normalises over the batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


@contextmanager
def batch_norm_apart(network: nn.Module, count: int) -> Iterator[None]:
    """Within a forward in train mode, let batch norms treat the first `count` samples and the rest apart.

    The first are normalised, and the running statistics updated, as if they were alone; the rest by statistics of their own, which
    leave no trace. count: may be 0.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    for norm in norms:
        norm.forward = partial(_apart, norm, count)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _apart(norm: _BatchNorm, count: int, inputs: Tensor) -> Tensor:
    rest = F.batch_norm(inputs[count:], None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    return torch.cat([type(norm).forward(norm, inputs[:count]), rest]) if count else rest
