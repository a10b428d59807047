"""The data module that every set derives from: splits, streams, the closed test set, and what goes to the record."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from tutelage.data import splits as splitting
from tutelage.data.streams import SplitBatches, Store, TrainStream
from tutelage.errors import ONCE, TestSetClosed, UserError, choices
from tutelage.tasks import Classification, Task
from tutelage.typed import Count, checking

log = logging.getLogger("tutelage")


class DataModule(pl.LightningDataModule, ABC):
    """A data set with its task, its recorded splits and its streams.

    These settings all data have; a subclass passes them on (`**common`). What a constructor is given is held against its annotations first.

    batch_size: samples per training step over all ranks.
    eval_batch_size: samples per evaluation batch over all ranks, by default twice batch_size.
    split_seed: the only seed that splits, subsets and corruption depend on, so that training seeds compare on the same data.
    fingerprint: identity of a user's files as recorded with the run; None where the set has a name.
    sampling: "balanced" draws the training samples of every class as often, with replacement; None: each once an epoch.

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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = checking(cls.__init__)  # type: ignore[method-assign]

    @checking
    def __init__(
        self,
        *,
        batch_size: Count,
        eval_batch_size: Count | None = None,
        split_seed: int = 0,
        fingerprint: str | None = None,
        sampling: Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or 2 * batch_size
        self.split_seed = split_seed
        self.fingerprint = fingerprint
        self.sampling = sampling
        self.only_test = False
        """Whether all samples are there to judge a network that others trained, see `judged_as`."""
        self.facts: dict[str, Any] = {}
        self.tables: dict[str, Tensor] = {}
        self._loaded = self._test_open = False
        self._evaluations: dict[tuple[str, int, int, str], SplitBatches] = {}
        self._on_device: dict[str, Store] = {}
        self._streams: list[TrainStream] = []

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
        self.task.class_names = self.facts.get("classes")
        self.task.class_counts = self.facts.get("train_class_counts")
        splitting.check_disjoint(self.splits)
        for name in splitting.SPLITS:
            if len(self.splits.get(name, ())) == 0 and not (self.only_test and name != "test"):
                raise UserError(
                    f"the {name} split of {type(self).__name__} is empty: give `{name}` or the data more samples"
                    if name != "train"
                    else f"no sample of {type(self).__name__} is left to train on: take less for `validation` and `test`"
                )
        available = len(self.splits["train"])
        if self.batch_size > available and not self.only_test:
            log.warning(
                f"`batch_size`={self.batch_size} exceeds the {available} training samples: using the latter",
                extra=ONCE,
            )
            self.batch_size = available
        self._loaded = True

    def judged_as(self, trained: DataModule) -> None:
        """Get ready to judge a network that was trained on other data: what those learnt of their training samples counts here too.

        Called before `setup`. A set that learns nothing but its normalisation, which the network carries, has nothing to do.
        """

    def renumber(self, names: Sequence[str]) -> bool:
        """Number the classes as another list of their names does, which has all of them; say whether that is possible.

        Called after `setup`, by who judges a network that was trained on more classes, or on the same in another order.
        """
        ours, store = self.facts.get("classes"), self.store
        labels = getattr(store, "labels", None)
        if (
            not ours
            or not isinstance(labels, Tensor)
            or not set(ours) <= set(names)
            or not isinstance(self.task, Classification)
        ):
            return False
        if list(ours) == list(map(str, range(len(ours)))):  # numbers for names say nothing of another set
            return False
        place = {name: number for number, name in enumerate(names)}
        table = torch.tensor([place[name] for name in ours], dtype=labels.dtype, device=labels.device)
        self.store = dataclasses.replace(
            store, labels=torch.where(labels >= 0, table[labels.clamp(min=0)], labels)
        )  # type: ignore[type-var]
        self._on_device.clear()
        self._evaluations.clear()
        asked = self.task.asked, self.task.monitor
        self.task = Classification(len(names))
        self.task.class_names = self.facts["classes"] = list(names)
        self.task.ask(*asked)
        return True

    def labels(self) -> Tensor | None:
        """Return the class of every sample, (N,); None where a sample has no single one."""
        return getattr(self.store, "labels", None)

    @property
    def mixes_targets(self) -> bool:
        """Whether the targets of training batches are probabilities (n, classes) of several classes, in place of one (n,)."""
        return False

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
            "test_sha256": hashlib.sha256(repr(self.test_facts()).encode()).hexdigest(),
            "fingerprint": self.fingerprint,
            **self.facts,
        }

    def test_facts(self) -> tuple[Any, ...]:
        """Return what is equal for two data sets of a kind if their test values may be compared: the same is asked for in the same unit.

        What networks are shown beside (an image's size, a window's length) may differ.
        """
        return self.fingerprint, splitting.digest(self.splits["test"]), self.task.output_size, self.vocab_size

    def train_stream(
        self, *, seed: int, rank: int = 0, world_size: int = 1, device: torch.device | str
    ) -> TrainStream:
        """Return the training stream of one rank. Raises UserError where the ranks cannot share the batch
        evenly.
        """
        stream = TrainStream(
            self._store_on(device),
            self.splits["train"],
            seed=seed,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            weights=self._weights(),
        )
        self._streams.append(stream)
        return stream

    def _weights(self) -> Tensor | None:
        """How often each training sample is drawn against the others; None: each once an epoch."""
        if self.sampling is None:
            return None
        labels = self.labels()
        if labels is None or labels.ndim != 1 or labels.is_floating_point():
            raise UserError(
                f"`sampling`={self.sampling} draws class by class, and a sample of {type(self).__name__} has no one class"
            )
        own = labels.cpu()[torch.as_tensor(self.splits["train"], dtype=torch.int64)]
        return (1 / own.bincount().clamp(min=1).double())[own]

    def batches(
        self, split: str, *, rank: int = 0, world_size: int = 1, device: torch.device | str
    ) -> SplitBatches:
        """Return a split's unaugmented batches. Raises TestSetClosed for "test" before `open_test`."""
        if split not in splitting.SPLITS:
            raise UserError(f"there is no split '{split}'; {choices(split, splitting.SPLITS)}")
        if self.only_test and split != "test":
            raise UserError(
                f"all samples of {type(self).__name__} are there to judge a network by: they are its test split, not {split}"
            )
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

    @property
    def fixed_samples(self) -> FixedSamples | None:
        """The training samples, where every epoch shows them alike; None where they are augmented."""
        return None if self.store.draws else FixedSamples(self)

    def open_test(self) -> None:
        """Allow `batches("test")` from now on."""
        self._test_open = True

    def teardown(self, stage: str | None = None) -> None:
        """End worker processes. Left to the garbage collector, each may hold the program up for five seconds."""
        opened: list[TrainStream | SplitBatches] = [*self._streams, *self._evaluations.values()]
        for batches in opened:
            batches.close()
        self._streams.clear()

    def _store_on(self, device: torch.device | str) -> Store:
        if str(device) not in self._on_device:
            self._on_device[str(device)] = self.store.to(torch.device(device))
        return self._on_device[str(device)]

    def _check_repeats(self, content: np.ndarray | None) -> None:
        # The same content on both sides of a split inflates scores; the count is recorded (null: too large to
        # compare), the data stay as published.
        repeats = None if content is None else splitting.repeated_samples(content, self.splits)
        self.facts["repeated_samples"] = repeats
        if repeats:
            listed = ", ".join(f"{count} {where}" for where, count in repeats.items())
            log.warning(
                f"{type(self).__name__}: samples with identical content lie in two splits: {listed}",
                extra=ONCE,
            )


class FixedSamples:
    """The training samples of a data module, unaugmented, in the order of its split: all of them on every rank."""

    def __init__(self, data: DataModule) -> None:
        self._data = data

    def on(self, device: torch.device) -> SplitBatches:
        """Return their batches on a device."""
        return self._data.batches("train", device=device)

    def __len__(self) -> int:
        return len(self._data.splits["train"])
