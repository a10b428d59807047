"""How many of the samples that a network is judged on it was trained on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from tutelage.data.base import DataModule
from tutelage.data.image_files import Files
from tutelage.data.image_set import ImageData
from tutelage.data.splits import content_numbers
from tutelage.engine.class_names import same_set

LARGEST_BYTES = 4 * 2**30
"""Images of more bytes are not compared."""
PART_BYTES = 2**28
"""So many of the images that may be copies are looked at together."""
_JUDGED = ("validation", "test")


def judged(other: ImageData, index: np.ndarray, data: ImageData) -> np.ndarray:
    """Return which images of another set are validation or test images of a set: (n,) bool for an index (n,).

    By their bytes where those of both lie in memory, of one size; else, of two folders, by the bytes of their files. Of others nothing
    is known.
    """
    images = other.unlabelled_pixels().numpy()
    theirs = [found for split in _JUDGED if (found := _images(data, split)) is not None]
    same = [found for found in theirs if found.shape[1:] == images.shape[1:] and found.dtype == images.dtype]
    if same:
        parts = np.array_split(index, -(-len(index) * images[0].nbytes // PART_BYTES))  # each is copied
        numbers = [content_numbers(np.concatenate([images[part], *same])) for part in parts]
        return np.concatenate(
            [
                np.isin(found[: len(part)], found[len(part) :])
                for part, found in zip(parts, numbers, strict=True)
            ]
        )
    first, second = getattr(other, "files_read", None), getattr(data, "files_read", None)
    if first is None or second is None:
        return np.zeros(len(index), dtype=bool)
    places = np.concatenate([data.splits[split] for split in _JUDGED])
    return _same_files(first, index, second, places)


def _same_files(first: Files, index: np.ndarray, second: Files, places: np.ndarray) -> np.ndarray:
    """Return which of some files are, byte for byte, among some of another folder; only files of one length are read."""
    lengths = {second.stamp(int(place))[0] for place in places}
    alike = [int(i) for i in index if first.stamp(int(i))[0] in lengths]
    wanted = {first.stamp(i)[0] for i in alike}
    theirs = {_digest(second, int(place)) for place in places if second.stamp(int(place))[0] in wanted}
    found = {i for i in alike if _digest(first, i) in theirs}
    return np.array([int(i) in found for i in index], dtype=bool)


def _digest(files: Files, place: int) -> bytes:
    return hashlib.sha256(files.bytes_of(place)).digest()


def seen_in_training(its: DataModule, given: DataModule, split: str, unlabelled: str = "") -> int:
    """Return how many samples of a split of `given` the network saw that was trained on `its`.

    unlabelled: which of its samples it saw without labels beside those of its training split, see `ImageData.unlabelled`.
    Samples of one set are known by their places in it; images of two sets by their bytes, where both lie in memory. Of streamed images
    and other data of two sets nothing is known: 0.
    """
    ours, theirs = its.summary(), given.summary()
    same_files = ours["fingerprint"] is not None and _kind(ours) == _kind(theirs)
    if its is given or same_set(ours, theirs) or (same_files and not ours.get("classes")):
        trained = its.splits["train"]
        if unlabelled and isinstance(its, ImageData):
            trained = np.union1d(trained, its.unlabelled(unlabelled)[1])  # type: ignore[arg-type]
        return int(np.isin(given.splits[split], trained).sum())
    first, second = _images(its, "train"), _images(given, split)
    if first is None or second is None or first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        return 0
    numbers = content_numbers(np.concatenate([first, second]))
    return int(np.isin(numbers[len(first) :], numbers[: len(first)]).sum())


def _kind(summary: dict[str, Any]) -> tuple[Any, ...]:
    return summary["name"], summary["fingerprint"]


def _images(data: DataModule, split: str) -> np.ndarray | None:
    images = getattr(data.store, "images", None)
    if images is None or images.numel() * images.element_size() > LARGEST_BYTES:
        return None
    return np.ascontiguousarray(images[data.splits[split]].cpu().numpy())
