"""The stateless training stream, and the stores that batches are read from.

Training is stateless: the batch of step s is a function of (seed, s) alone. Epoch e = s // steps_per_epoch draws one permutation and one
row of uniform noise per sample from a generator seeded by (seed, e), both on the CPU, so that they are the same on every device;
augmentation is a function of the sample and its row. A rank takes its share of the rows, a worker gets them handed: ranks, workers and
resumption cannot change a batch.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from tutelage.data import splits as splitting
from tutelage.errors import UserError
from tutelage.tasks import Batch

Draw = tuple[Tensor, Tensor | None]
"""The samples of one batch: indices (n,) int64, and noise (n, draws) in [0, 1), or None for an unaugmented batch."""


class Reader(Protocol):
    """Batches that can be iterated again and again."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """End what iterating has started."""


class Store(Protocol):
    """Samples that can be read by index."""

    @property
    def draws(self) -> int:
        """Uniform numbers that the augmentation of one sample uses."""

    @property
    def index_device(self) -> torch.device:
        """Where indices and noise must be."""

    def to(self, device: torch.device) -> Store:
        """Return a store whose batches come on the device."""

    def reader(self, plan: Iterable[Draw]) -> Reader:
        """Return the batches of a plan; iterating twice reads the plan twice."""


@dataclasses.dataclass(frozen=True)
class Resident(ABC):
    """A store of whole tensors, read by index on the device that computes. Jobs share them: never write into them."""

    @property
    def draws(self) -> int:
        """See `Store`: none, unless the kind of sample knows an augmentation."""
        return 0

    @property
    def index_device(self) -> torch.device:
        """See `Store`: the device of the tensors."""
        return next(value.device for value in vars(self).values() if isinstance(value, Tensor))

    def to(self, device: torch.device) -> Self:
        """Return the same store with its tensors on the device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **moved)

    @abstractmethod
    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """Return the samples of index (n,), augmented by noise (n, draws) unless that is None."""

    def reader(self, plan: Iterable[Draw]) -> Reader:
        """See `Store`."""
        return _ResidentReader(self, plan)


@dataclasses.dataclass(frozen=True)
class ArrayStore(Resident):
    """Inputs (N, ...) and targets (N, ...)."""

    inputs: Tensor
    targets: Tensor

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`."""
        return Batch(self.inputs.index_select(0, index), self.targets.index_select(0, index), index)


@dataclasses.dataclass(frozen=True)
class _ResidentReader:
    store: Resident
    plan: Iterable[Draw]

    def __iter__(self) -> Iterator[Batch]:
        for index, noise in self.plan:
            yield self.store.batch(index, noise)

    def close(self) -> None:
        """See `Reader`: there is nothing to end."""


class _Draws:
    """The draws of a range of steps. Apart from the stream, so that nothing refers in a circle to a reader: its workers end with it."""

    def __init__(
        self,
        store: Store,
        indices: np.ndarray,
        seed: int,
        batch_size: int,
        offset: int,
        share: int,
        weights: Tensor | None,
    ) -> None:
        self.seed, self.batch_size, self.offset, self.share = seed, batch_size, offset, share
        self.indices = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))
        self.width, self.device = store.draws, store.index_device
        self.bounds = None if weights is None else weights.double().cumsum(0)
        self.steps_per_epoch = len(indices) // batch_size
        self.steps = range(self.steps_per_epoch)
        self._epoch: tuple[int, Tensor, Tensor | None] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Draw]:
        return map(self.draw, self.steps)

    def draw(self, step: int) -> Draw:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._draw_epoch(epoch))
        _, order, noise = self._epoch
        first = position * self.batch_size + self.offset
        share = slice(first, first + self.share)
        return order[share], None if noise is None else noise[share]

    def _draw_epoch(self, epoch: int) -> Draw:
        generator = torch.Generator().manual_seed(splitting.derive_seed("epoch", self.seed, epoch))
        order = self.indices[self._order(generator)].to(self.device)
        if self.width == 0:
            return order, None
        return order, torch.rand(len(order), self.width, generator=generator).to(self.device)

    def _order(self, generator: torch.Generator) -> Tensor:
        count = len(self.indices)
        if self.bounds is None:
            return torch.randperm(count, generator=generator)
        drawn = torch.rand(count, dtype=torch.float64, generator=generator) * self.bounds[-1]
        return torch.searchsorted(self.bounds, drawn, right=True).clamp(max=count - 1)


class TrainStream:
    """Augmented training batches of a range of steps; `seek` chooses the range, at first one epoch from step 0.

    weights: (indices,) how often each is drawn against the others, with replacement; None: each once an epoch.
    """

    def __init__(
        self,
        store: Store,
        indices: np.ndarray,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
    ) -> None:
        if batch_size % world_size:
            raise UserError(
                f"the global batch of {batch_size} cannot be shared by {world_size} ranks: choose a multiple of {world_size}"
            )
        share = batch_size // world_size
        self._draws = _Draws(store, indices, seed, batch_size, rank * share, share, weights)
        self._reader = store.reader(self._draws)

    def seek(self, start_step: int, stop_step: int) -> None:
        """Make the next iteration yield the batches of steps [start_step, stop_step)."""
        if not 0 <= start_step <= stop_step:
            raise ValueError(f"steps must be 0 <= start <= stop, got [{start_step}, {stop_step})")
        self._draws.steps = range(start_step, stop_step)

    def __len__(self) -> int:
        return len(self._draws)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._reader)

    def close(self) -> None:
        """End worker processes; another iteration starts new ones."""
        self._reader.close()


class SplitBatches:
    """Every sample of a split once, in order, unaugmented; rank r of w reads samples r, r + w, ... and nothing is padded."""

    def __init__(self, store: Store, indices: np.ndarray, *, batch_size: int) -> None:
        index = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64)).to(store.index_device)
        self._plan: list[Draw] = [(part, None) for part in index.split(batch_size)] if len(index) else []
        self._store, self._reader = store, store.reader(self._plan)
        self._parts: dict[tuple[int, int], Reader] = {}

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._reader)

    def part(self, first: int, step: int) -> Reader:
        """Return every `step`-th batch from the `first` on; the others are not read."""
        if (first, step) not in self._parts:
            self._parts[first, step] = self._store.reader(self._plan[first::step])
        return self._parts[first, step]

    def close(self) -> None:
        """End worker processes; another iteration starts new ones."""
        for reader in (self._reader, *self._parts.values()):
            reader.close()
