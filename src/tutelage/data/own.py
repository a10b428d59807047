"""Data of one's own, as they are: arrays, torch data sets, a LightningDataModule or DataLoaders."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset

from tutelage.data.base import DataModule
from tutelage.data.row_targets import TaskKind
from tutelage.data.splits import SPLITS, content_numbers, hold_out
from tutelage.data.streams import Draw, Reader, Resident
from tutelage.errors import UserError, choices
from tutelage.tasks import Batch, Binary, Classification, MultiLabel, Regression, Task
from tutelage.typed import Count

log = logging.getLogger("tutelage")
TASKS: dict[str, Callable[[int], Task]] = {
    "classification": Classification,
    "binary": lambda _: Binary(),
    "multi_label": MultiLabel,
    "regression": Regression,
}
EXPECTED = (
    "(inputs, targets) as arrays, a torch Dataset of such pairs, a LightningDataModule, or a list or dictionary of two or three of them "
    "or of their DataLoaders for train, validation and test"
)


CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class ArrayStore(Resident):
    """Inputs (N, ...) and targets (N, ...)."""

    inputs: Tensor
    targets: Tensor

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`."""
        return Batch(self.inputs.index_select(0, index), self.targets.index_select(0, index), index)


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
        inputs, targets = _pair(pair)
        targets = _targets(torch.as_tensor(targets), floats=self.floats)
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
    """What `source` gives: arrays, torch data sets, a LightningDataModule or DataLoaders, see `EXPECTED`.

    task: "classification", "binary", "multi_label" or "regression"; None: whole numbers (n,) are classes, others values. outputs: classes,
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
        parts, collate = _parts(self.source)
        official: dict[str, np.ndarray] = {}
        start = 0
        for name, part in parts.items():
            official[name] = np.arange(start, start + len(part))
            start += len(part)
        whole = next(iter(parts.values())) if len(parts) == 1 else ConcatDataset(list(parts.values()))
        resident = self.storage == "resident" or isinstance(whole, Arrays)
        if resident:
            inputs, targets = _read(parts.values(), collate)
        else:
            few = [whole[place] for place in range(min(len(whole), 64))]
            inputs, targets = map(torch.as_tensor, _pair((collate or torch.utils.data.default_collate)(few)))
        self.task = self._task(targets)
        targets = _targets(targets, floats=self.task.kind in ("labels", "values"))
        self._check(inputs, targets)
        labels = (
            targets.numpy()
            if resident and targets.ndim == 1 and self.task.kind in ("classes", "binary")
            else None
        )
        train = official.pop("train" if "train" in official else "")
        for name, size in self.sizes.items():
            if name not in official:
                train, official[name] = hold_out(train, size, seed=self.split_seed, name=name, labels=labels)
        self.splits = {"train": train, **{name: official[name] for name in SPLITS[1:]}}
        self.input_shape = tuple(inputs.shape[1:])
        if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
            self.vocab_size = int(inputs.max()) + 1
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

    def _task(self, targets: Tensor) -> Task:
        kind = self.wanted_task
        if kind is None:
            whole = targets.ndim == 1 and not targets.is_floating_point()
            kind = "classification" if whole else "regression"
            log.info(
                "targets of shape %s and %s are taken as %s; data.task says otherwise",
                tuple(targets.shape),
                targets.dtype,
                kind,
            )
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
                raise UserError("the targets hold one class only: there is nothing to tell apart")
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


class Arrays(Dataset[tuple[Any, Any]]):
    """Inputs and targets of one part."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = map(_tensor, (inputs, targets))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "__array__")


def _parts(source: Any) -> tuple[dict[str, Any], Any]:
    """Return the data set of each part ("" for one that is to be split), and how samples are collated."""
    import pytorch_lightning as pl

    if isinstance(source, pl.LightningDataModule):
        source.prepare_data()
        source.setup("fit")
        source.setup("test")
        loaders = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}
        given: dict[str, Any] = {}
        for name, method in loaders.items():
            try:
                found = getattr(source, method)()
            except Exception as error:
                if name == "train":
                    raise UserError(f"`source`: {type(source).__name__}.{method} fails: {error}") from error
                found = None  # Lightning's own raises where a module has no such part
            if found is not None and not (isinstance(found, list | tuple) and not found):
                given[name] = found[0] if isinstance(found, list | tuple) else found
        log.info(
            "%s: its data sets are used; order, batches and sampling are Tutelage's", type(source).__name__
        )
        return _opened(given)
    if isinstance(source, list | tuple) and len(source) == 2 and all(map(_is_array, source)):
        return {"": Arrays(*source)}, None
    if isinstance(source, Mapping):
        if unknown := [name for name in source if name not in SPLITS]:
            raise UserError(f"`source` gives a part '{unknown[0]}'; {choices(str(unknown[0]), SPLITS)}")
        return _opened(dict(source))
    if isinstance(source, list | tuple) and 2 <= len(source) <= 3:
        names = SPLITS if len(source) == 3 else ("train", "test")
        return _opened(dict(zip(names, source, strict=True)))
    return _opened({"": source})


def _opened(given: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    parts: dict[str, Any] = {}
    collate = None
    for name, one in given.items():
        if isinstance(one, DataLoader):
            collate = one.collate_fn if one.collate_fn is not torch.utils.data.default_collate else collate
            one = one.dataset
        if isinstance(one, list | tuple) and len(one) == 2 and all(map(_is_array, one)):
            one = Arrays(*one)
        if isinstance(one, IterableDataset):
            raise UserError(
                f"`source`: {type(one).__name__} is an IterableDataset, whose samples have no numbers: a run could not be resumed exactly. "
                "Give a data set with __getitem__ and __len__, or shards of tar files to data=webdataset"
            )
        if not (hasattr(one, "__getitem__") and hasattr(one, "__len__")):
            raise UserError(
                f"`source` must give {EXPECTED}; got {type(one).__name__}{f' for {name}' if name else ''}"
            )
        parts[name] = one
    return parts, collate


def _pair(pair: Any) -> tuple[Any, Any]:
    if isinstance(pair, Mapping):
        for inputs, targets in (
            ("inputs", "targets"),
            ("image", "label"),
            ("input_ids", "labels"),
            ("x", "y"),
        ):
            if inputs in pair and targets in pair:
                return pair[inputs], pair[targets]
    if isinstance(pair, list | tuple) and len(pair) >= 2:
        return pair[0], pair[1]
    raise UserError(
        f"`source`: a sample must be (input, target), or a dictionary with inputs and targets; got {type(pair).__name__}"
    )


def _read(parts: Iterable[Any], collate: Any) -> tuple[Tensor, Tensor]:
    """Return all samples as tensors."""
    found = []
    for part in parts:
        if isinstance(part, Arrays):
            found.append((part.inputs, part.targets))
            continue
        try:
            for pair in DataLoader(part, batch_size=512, collate_fn=collate, generator=torch.Generator()):
                inputs, targets = map(torch.as_tensor, _pair(pair))
                found.append((inputs, targets))
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"`source`: the samples of {type(part).__name__} cannot be put into one tensor: {str(error).splitlines()[0]:.300}. "
                "They must be pairs (input, target) of numbers or tensors of one shape"
            ) from error
    try:
        return tuple(torch.cat([pair[k] for pair in found]) for k in range(2))  # type: ignore[return-value]
    except RuntimeError as error:
        raise UserError(f"`source`: the parts have samples of different shapes: {error}") from error


def _targets(targets: Tensor, *, floats: bool) -> Tensor:
    if floats:
        return (targets[:, None] if targets.ndim == 1 else targets.flatten(1)).float()
    return targets.long()


def _digest(*tensors: Tensor) -> str:
    import hashlib

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()
