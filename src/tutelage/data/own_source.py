"""What may be given as data of one's own: arrays, torch data sets, a LightningDataModule or DataLoaders, as a data set a part."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tutelage.data.splits import SPLITS
from tutelage.errors import UserError, choices, reason_of

log = logging.getLogger("tutelage")
EXPECTED = (
    "(inputs, targets) as arrays, a torch Dataset of such pairs, a LightningDataModule, or a list or dictionary of two or three of them "
    "or of their DataLoaders for train, validation and test"
)


class Arrays(Dataset[tuple[Any, Any]]):
    """Inputs and targets of one part. words: its targets, where they are words; `number_words` makes `targets` of them."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs = _tensor(inputs, "inputs")
        self.words: np.ndarray[Any, Any] | None = None
        if not isinstance(targets, Tensor) and np.asarray(targets).dtype.kind in "OU":
            found = np.asarray(targets)
            self.words = found if all(isinstance(one, str) for one in found.flat) else None
        self.targets = (
            _tensor(targets, "targets")
            if self.words is None
            else torch.zeros(self.words.shape, dtype=torch.long)
        )

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]


def _tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype == object:  # what pandas makes of columns of several kinds
        with contextlib.suppress(TypeError, ValueError):
            array = array.astype(np.float64)
    if array.dtype.kind not in "biufc":
        raise UserError(
            f"`source`: its {what} are numpy arrays of {array.dtype}, such as {array.flat[0] if array.size else None!r}, where numbers are "
            "expected; for columns of words there is data=table"
        )
    return torch.as_tensor(array)


def number_words(parts: Iterable[Any]) -> list[str] | None:
    """Number targets that are words, in the order of the alphabet, over all parts alike; return the words. None: there are none."""
    named = [(part, part.words) for part in parts if isinstance(part, Arrays) and part.words is not None]
    if not named:
        return None
    names = sorted({str(word) for _, words in named for word in words.flat})
    for part, words in named:
        part.targets = torch.from_numpy(np.searchsorted(names, words.astype(str)))
    return names


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "__array__")


def parts_of(source: Any) -> tuple[dict[str, Any], Any]:
    """Return the data set of each part ("" for one that is to be split), and how samples are collated."""
    lightning = "LightningDataModule"  # of pytorch_lightning or of lightning
    if any(one.__name__ == lightning for one in type(source).__mro__):
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


def pair_of(pair: Any) -> tuple[Any, Any]:
    """Return a sample's, or a collated batch's, inputs and targets: the first two, or those of the names in use."""
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
    got = (
        f"one of {', '.join(map(str, pair)) or 'nothing'}"
        if isinstance(pair, Mapping)
        else type(pair).__name__
    )
    raise UserError(
        f"`source`: a sample must be (input, target), or a dictionary with inputs and targets; got {got}"
    )


def read_all(parts: Iterable[Any], collate: Any) -> tuple[Tensor, Tensor]:
    """Return all samples as tensors."""
    found = []
    for part in parts:
        if isinstance(part, Arrays):
            found.append((part.inputs, part.targets))
            continue
        try:
            for pair in DataLoader(part, batch_size=512, collate_fn=collate, generator=torch.Generator()):
                inputs, targets = map(torch.as_tensor, pair_of(pair))
                found.append((inputs, targets))
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"`source`: the samples of {type(part).__name__} cannot be put into one tensor: {reason_of(error)}. "
                "They must be pairs (input, target) of numbers or tensors of one shape"
            ) from error
    try:
        return tuple(torch.cat([pair[k] for pair in found]) for k in range(2))  # type: ignore[return-value]
    except RuntimeError as error:
        raise UserError(f"`source`: the parts have samples of different shapes: {error}") from error


def as_targets(targets: Tensor, *, floats: bool) -> Tensor:
    """Return targets as tasks take them: floats (n, outputs), or whole numbers as they stand."""
    if floats:
        return (targets[:, None] if targets.ndim == 1 else targets.flatten(1)).float()
    return targets.long()
