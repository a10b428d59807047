"""Data of one's own, as they are: arrays, torch data sets, a LightningDataModule or DataLoaders."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from tutelage.data.base import DataModule
from tutelage.data.own_source import Arrays, as_targets, number_words, pair_of, parts_of, read_all
from tutelage.data.row_targets import TaskKind
from tutelage.data.splits import SPLITS, content_numbers, hold_out, one_after_another
from tutelage.data.streams import ArrayStore, Draw, Reader
from tutelage.errors import UserError
from tutelage.tasks import Batch, Binary, Classification, MultiLabel, Regression, Task
from tutelage.typed import Count

log = logging.getLogger("tutelage")
TASKS: dict[str, Callable[[int], Task]] = {
    "classification": Classification,
    "binary": lambda _: Binary(),
    "multi_label": MultiLabel,
    "regression": Regression,
}
CPU = torch.device("cpu")
ONE_CLASS = "the targets hold one class only: there is nothing to tell apart"


@dataclasses.dataclass(frozen=True)
class ItemStore:
    """Samples of a torch data set, fetched one by one: by `num_workers` processes, or by this one. classes: whether targets are classes."""

    samples: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None
    floats: bool
    num_workers: int
    device: torch.device = CPU

    @property
    def draws(self) -> int:
        """See `Store`: what the set draws, it draws itself."""
        return 0

    @property
    def index_device(self) -> torch.device:
        """See `Store`."""
        return CPU

    def to(self, device: torch.device) -> ItemStore:
        """See `Store`."""
        return dataclasses.replace(self, device=device)

    def reader(self, plan: Iterable[Draw]) -> Reader:
        """See `Store`."""
        return _ItemReader(self, plan)

    def finish(self, pair: Any, index: Tensor) -> Batch:
        """Return what a collated pair holds as a batch on the device."""
        inputs, targets = pair_of(pair)
        targets = as_targets(torch.as_tensor(targets), floats=self.floats)
        inputs = torch.as_tensor(inputs)
        inputs = (
            inputs.float() if inputs.is_floating_point() or inputs.dtype == torch.uint8 else inputs.long()
        )
        parts = (inputs, targets, index)
        return Batch(*(p if p.device == self.device else p.to(self.device, non_blocking=True) for p in parts))


@dataclasses.dataclass(frozen=True)
class _ItemReader:
    store: ItemStore
    plan: Iterable[Draw]

    def __iter__(self) -> Iterator[Batch]:
        indices: list[Tensor] = []

        def planned() -> Iterator[list[int]]:
            for index, _ in self.plan:
                indices.append(index)
                yield index.tolist()

        loader: DataLoader[Any] = DataLoader(
            self.store.samples,
            batch_sampler=planned(),  # read once, which is all that a loader does
            num_workers=self.store.num_workers,
            collate_fn=self.store.collate,
            generator=torch.Generator(),  # drawing from the global one would change the network's dropout
        )
        for place, pair in enumerate(loader):
            yield self.store.finish(pair, indices[place])

    def close(self) -> None:
        """See `Reader`: a loader ends its workers with its iteration."""


class Own(DataModule):
    """What `source` gives: arrays, torch data sets, a LightningDataModule or DataLoaders, see `own_source.EXPECTED`.

    task: "classification", "binary", "multi_label" or "regression"; None: whole numbers and words (n,) are classes,
    (n, k) of 0 and 1 labels, others values. outputs: classes,
    labels or values; None: as the targets have them. Targets of a regression are taken as they are.
    validation, test: fractions or numbers of the samples, where `source` does not give these parts.
    storage: "resident" reads a data set into memory once; "stream" fetches each sample when it is due, in `num_workers` processes.
    Order and batches are Tutelage's, so that a resumed run goes on exactly: a sampler, batch size or shuffle of DataLoaders is not used.
    What a streamed data set draws at random itself is not repeated after resuming: said.
    root: a file or folder that `source` reads: its content then counts in the run's identity. Other arguments: see
    `DataModule`.
    """

    def __init__(
        self,
        *,
        source: Any,
        task: TaskKind | None = None,
        outputs: Count | None = None,
        validation: float = 0.1,
        test: float = 0.2,
        storage: Literal["resident", "stream"] = "resident",
        num_workers: int = 0,
        root: str | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.source, self.wanted_task, self.outputs = source, task, outputs
        self.sizes = {"test": test, "validation": validation}
        self.storage, self.num_workers, self.root = storage, num_workers, root

    def load(self) -> None:
        """See `DataModule`."""
        parts, collate = parts_of(self.source)
        names = number_words(parts.values())
        for name, part in parts.items():
            if not len(part):
                raise UserError(f"`source` gives no samples{f' for {name}' if name else ''}")
        official = one_after_another({name: len(part) for name, part in parts.items()})
        whole = next(iter(parts.values())) if len(parts) == 1 else ConcatDataset(list(parts.values()))
        resident = self.storage == "resident" or isinstance(whole, Arrays)
        if resident:
            inputs, targets = read_all(parts.values(), collate)
        else:
            few = [whole[place] for place in range(min(len(whole), 64))]
            inputs, targets = map(
                torch.as_tensor, pair_of((collate or torch.utils.data.default_collate)(few))
            )
        self.task = self._task(targets, names)
        if names is not None and self.task.kind in ("classes", "binary"):
            self.facts["classes"] = names
        targets = as_targets(targets, floats=self.task.kind in ("labels", "values"))
        self._check(inputs, targets)
        labels = (
            targets.numpy()
            if resident and targets.ndim == 1 and self.task.kind in ("classes", "binary")
            else None
        )
        if labels is not None and self.outputs is None and len(np.unique(labels)) < 2:
            raise UserError(ONE_CLASS)
        train = official.pop("train" if "train" in official else "")
        for name, size in self.sizes.items():
            if name not in official:
                train, official[name] = hold_out(train, size, seed=self.split_seed, name=name, labels=labels)
        self.splits = {"train": train, **{name: official[name] for name in SPLITS[1:]}}
        self.input_shape = tuple(inputs.shape[1:])
        if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
            self.vocab_size = int(inputs.max()) + 1
            if inputs.min() < 0:
                raise UserError(
                    f"`source`: inputs of {inputs.dtype} are taken as tokens, which count from 0, and reach down to {int(inputs.min())}: "
                    "give numbers as floating point"
                )
            log.info("inputs of %s are taken as tokens; give numbers as floating point", inputs.dtype)
        if labels is not None:
            counts = np.bincount(labels[train], minlength=max(2, self.task.output_size))
            self.facts["train_class_counts"] = counts.tolist()
        if not resident:
            log.info(
                "%s: samples are fetched from %s as they are due; what it draws at random itself is not repeated after resuming",
                type(self).__name__, type(whole).__name__,
            )  # fmt: skip
            self.store = ItemStore(whole, collate, self.task.kind in ("labels", "values"), self.num_workers)
            return
        inputs = (
            inputs.float() if inputs.is_floating_point() or inputs.dtype == torch.uint8 else inputs.long()
        )
        content = content_numbers(inputs.numpy())
        self.facts["content_sha256"] = _digest(inputs, targets)
        self._check_repeats(content)
        self.store = ArrayStore(inputs, targets)

    def labels(self) -> Tensor | None:
        """See `DataModule.labels`."""
        return getattr(self.store, "targets", None)

    def _task(self, targets: Tensor, names: Sequence[str] | None = None) -> Task:
        kind = self.wanted_task
        if names is not None and (targets.ndim != 1 or kind in ("multi_label", "regression")):
            raise UserError(
                f"`source`: targets of shape {tuple(targets.shape)} that are words, such as '{names[0]}', are no {kind or 'classes (n,)'}"
            )
        if kind is None:
            whole = targets.ndim == 1 and not targets.is_floating_point()
            several = targets.ndim == 2 and targets.shape[1] > 1
            labels = several and bool(((targets == 0) | (targets == 1)).all())
            kind = "classification" if whole else "multi_label" if labels else "regression"
            found = f"targets of shape {tuple(targets.shape)} and {targets.dtype}"
            log.info(f"{found} are taken as {kind}; data.task says otherwise")
        if kind in ("classification", "binary"):
            if targets.ndim != 1 or (targets.is_floating_point() and (targets != targets.round()).any()):
                raise UserError(
                    f"`task`={kind} takes targets (n,) of whole numbers, got {tuple(targets.shape)} of {targets.dtype}"
                )
            classes = self.outputs or int(targets.max()) + 1
            if targets.min() < 0 or targets.max() >= max(2, classes):
                raise UserError(
                    f"classes are 0 to {classes - 1}, the targets {int(targets.min())} to {int(targets.max())}"
                )
            if kind == "binary" and classes > 2:
                raise UserError(f"`task`=binary takes targets 0 and 1, got up to {int(targets.max())}")
            if classes < 2:
                raise UserError(ONE_CLASS)
            return TASKS[kind](classes)
        return TASKS[kind](self.outputs or (1 if targets.ndim == 1 else int(targets[0].numel())))

    def _check(self, inputs: Tensor, targets: Tensor) -> None:
        if len(inputs) != len(targets) or not len(inputs):
            raise UserError(f"`source` gives {len(inputs)} inputs and {len(targets)} targets")
        for what, values in (("inputs", inputs), ("targets", targets)):
            if values.is_floating_point() and (bad := int((~values.flatten(1).isfinite().all(dim=1)).sum())):
                raise UserError(
                    f"`source`: {bad} of {len(values)} {what} hold values that are no finite numbers (NaN or infinite)"
                )


def _digest(*tensors: Tensor) -> str:
    import hashlib

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()
