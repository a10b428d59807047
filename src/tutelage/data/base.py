"""The data module every set derives from, and the stateless training stream.

Training is stateless: the batch of step s is a function of (seed, s) alone. Epoch e = s // steps_per_epoch
draws one permutation and one row of uniform noise per sample from a generator seeded by (seed, e), both on
the CPU, so that they are the same on every device; augmentation is a function of the sample and its row. A
rank takes its share of the rows, a worker gets them handed: ranks, workers and resumption cannot change a
batch.
"""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from tutelage.data import splits as splitting
from tutelage.errors import TestSetClosed, UserError, choices
from tutelage.tasks import Batch, Task

Draw = tuple[Tensor, Tensor | None]
"""The samples of one batch: indices (n,) int64, and noise (n, draws) in [0, 1), or None for an unaugmented batch."""


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

    def reader(self, plan: Iterable[Draw]) -> Iterable[Batch]:
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

    def reader(self, plan: Iterable[Draw]) -> Iterable[Batch]:
        """See `Store`."""
        return _ResidentReader(self, plan)


@dataclasses.dataclass(frozen=True)
class _ResidentReader:
    store: Resident
    plan: Iterable[Draw]

    def __iter__(self) -> Iterator[Batch]:
        for index, noise in self.plan:
            yield self.store.batch(index, noise)


class TrainStream:
    """Augmented training batches of a range of steps; `seek` chooses the range, at first one epoch from step
    0.
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
    ) -> None:
        if batch_size % world_size:
            raise UserError(
                f"the global batch of {batch_size} cannot be shared by {world_size} ranks: "
                f"choose a multiple of {world_size}"
            )
        self.store, self.seed, self.batch_size = store, seed, batch_size
        self.steps_per_epoch = len(indices) // batch_size
        self._indices = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))
        self._share = batch_size // world_size
        self._offset = rank * self._share
        self._start, self._stop = 0, self.steps_per_epoch
        self._epoch: tuple[int, Tensor, Tensor | None] | None = None
        self._reader = store.reader(_Plan(self))

    def seek(self, start_step: int, stop_step: int) -> None:
        """Make the next iteration yield the batches of steps [start_step, stop_step)."""
        if not 0 <= start_step <= stop_step:
            raise ValueError(f"steps must be 0 <= start <= stop, got [{start_step}, {stop_step})")
        self._start, self._stop = start_step, stop_step

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._reader)

    def draw(self, step: int) -> Draw:
        """Return this rank's samples and noise of one step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._draw_epoch(epoch))
        _, order, noise = self._epoch
        first = position * self.batch_size + self._offset
        share = slice(first, first + self._share)
        return order[share], None if noise is None else noise[share]

    def _draw_epoch(self, epoch: int) -> Draw:
        generator = torch.Generator().manual_seed(splitting.derive_seed("epoch", self.seed, epoch))
        order = self._indices[torch.randperm(len(self._indices), generator=generator)]
        order = order.to(self.store.index_device)
        if self.store.draws == 0:
            return order, None
        noise = torch.rand(len(order), self.store.draws, generator=generator)
        return order, noise.to(self.store.index_device)


@dataclasses.dataclass(frozen=True)
class _Plan:
    stream: TrainStream

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Draw]:
        stream = self.stream
        return map(stream.draw, range(stream._start, stream._stop))


class SplitBatches:
    """Every sample of a split once, in order, unaugmented; rank r of w reads samples r, r + w, ... and
    nothing is padded.
    """

    def __init__(self, store: Store, indices: np.ndarray, *, batch_size: int) -> None:
        index = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64)).to(store.index_device)
        self._plan: list[Draw] = [(part, None) for part in index.split(batch_size)] if len(index) else []
        self._reader = store.reader(self._plan)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._reader)


class DataModule(pl.LightningDataModule, ABC):
    """A data set with its task, its recorded splits and its streams.

    batch_size: samples per training step over all ranks.
    eval_batch_size: samples per evaluation batch over all ranks, by default twice batch_size.
    split_seed: the only seed that splits, subsets and corruption depend on, so that training seeds compare on the same data.
    fingerprint: identity of a user's files as recorded with the run; None where the set has a name.

    A subclass implements `load`, which sets `task`, `input_shape`, `store`, `splits`, and where they apply `vocab_size`,
    `normalization` and `facts` (for the summary). `tables` holds what else is known of a sample by its index, for guides that are
    rules.
    """

    task: Task
    input_shape: tuple[int, ...]
    vocab_size: int | None = None
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    store: Store
    splits: dict[str, np.ndarray]

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int | None = None,
        split_seed: int = 0,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size is not None and (not isinstance(size, int) or size < 1):
                raise UserError(f"data.{name} must be a whole number of samples, at least 1, got {size!r}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.split_seed = split_seed
        self.fingerprint = fingerprint
        self.facts: dict[str, Any] = {}
        self.tables: dict[str, Tensor] = {}
        self._loaded = self._test_open = False
        self._evaluations: dict[tuple[str, int, int, str], SplitBatches] = {}
        self._on_device: dict[str, Store] = {}

    def prepare(self) -> None:
        """Check the files, download and decode what can be; called by one process at a time. Raises UserError where it cannot."""

    @abstractmethod
    def load(self) -> None:
        """Load the samples and split them; called once by `setup`."""

    def setup(self, stage: str | None = None) -> None:
        """Load and split, the first time it is called."""
        if self._loaded:
            return
        self.load()
        splitting.check_disjoint(self.splits)
        for name in splitting.SPLITS:
            if len(self.splits.get(name, ())) == 0:
                raise UserError(f"the {name} split of {type(self).__name__} is empty")
        available = len(self.splits["train"])
        if self.batch_size > available:
            warnings.warn(
                f"data.batch_size={self.batch_size} exceeds the {available} training samples: "
                f"using {available}"
            )
            self.batch_size = available
        self._loaded = True

    @property
    def steps_per_epoch(self) -> int:
        """Training steps per pass; the samples beyond a whole batch wait for another epoch's order."""
        return len(self.splits["train"]) // self.batch_size

    def summary(self) -> dict[str, Any]:
        """Return what identifies the loaded data: sizes, shapes, the sha256 of each split's indices, and the
        set's own facts.
        """
        return {
            "name": type(self).__name__,
            "sizes": {name: len(self.splits[name]) for name in splitting.SPLITS},
            "input_shape": list(self.input_shape),
            "output_size": self.task.output_size,
            "vocab_size": self.vocab_size,
            "normalization": None
            if self.normalization is None
            else [list(part) for part in self.normalization],
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "split_seed": self.split_seed,
            "split_sha256": {name: splitting.digest(self.splits[name]) for name in splitting.SPLITS},
            "fingerprint": self.fingerprint,
            **self.facts,
        }

    def train_stream(
        self, *, seed: int, rank: int = 0, world_size: int = 1, device: torch.device | str
    ) -> TrainStream:
        """Return the training stream of one rank. Raises UserError where the ranks cannot share the batch
        evenly.
        """
        return TrainStream(
            self._store_on(device),
            self.splits["train"],
            seed=seed,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
        )

    def batches(
        self, split: str, *, rank: int = 0, world_size: int = 1, device: torch.device | str
    ) -> SplitBatches:
        """Return a split's unaugmented batches. Raises TestSetClosed for "test" before `open_test`."""
        if split not in splitting.SPLITS:
            raise UserError(f"there is no split '{split}': {choices(split, splitting.SPLITS)}")
        if split == "test" and not self._test_open:
            raise TestSetClosed("the test split opens once, after a checkpoint was selected on validation")
        key = (split, rank, world_size, str(device))
        if key not in self._evaluations:
            self._evaluations[key] = SplitBatches(
                self._store_on(device),
                self.splits[split][rank::world_size],
                batch_size=max(1, self.eval_batch_size // world_size),
            )
        return self._evaluations[key]

    def open_test(self) -> None:
        """Allow `batches("test")` from now on."""
        self._test_open = True

    def _store_on(self, device: torch.device | str) -> Store:
        if str(device) not in self._on_device:
            self._on_device[str(device)] = self.store.to(torch.device(device))
        return self._on_device[str(device)]

    def _check_repeats(self, content: np.ndarray) -> None:
        # The same content on both sides of a split inflates scores; the count is recorded, the data stay as
        # published.
        repeats = splitting.repeated_samples(content, self.splits)
        self.facts["repeated_samples"] = repeats
        if repeats:
            listed = ", ".join(f"{count} {where}" for where, count in repeats.items())
            warnings.warn(
                f"{type(self).__name__}: samples with identical content lie in two splits: {listed}"
            )
