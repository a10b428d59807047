"""Deterministic splits, their hashes and the leakage check between them: pure functions of indices and a
seed (no torch).

Random orders come from the raw 64-bit output of PCG64, which NumPy promises never to change, so that a split
is the same on every machine and with every version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from tutelage.errors import UserError

SPLITS = ("train", "validation", "test")


def one_after_another(lengths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the indices of parts of such lengths that stand one after the other, from 0."""
    ends = np.cumsum(list(lengths.values()), dtype=np.int64)
    return {name: np.arange(end - lengths[name], end) for name, end in zip(lengths, ends, strict=True)}


def derive_seed(*parts: object) -> int:
    """Return a seed below 2^63 that depends on every part, and on nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shuffled(indices: np.ndarray, seed: int) -> np.ndarray:
    """Return the indices (n,) in the random order of the seed."""
    keys = np.random.PCG64(seed).random_raw(len(indices))
    return indices[np.argsort(keys, kind="stable")]


def uniform(size: int, seed: int) -> np.ndarray:
    """Return `size` float64 numbers in [0, 1), the same for ever for one seed."""
    raw = np.asarray(np.random.PCG64(seed).random_raw(size), dtype=np.uint64)
    return (raw >> np.uint64(11)) * 2.0**-53


def share_out(total: int, sizes: np.ndarray) -> np.ndarray:
    """Divide `total` over groups in proportion to their sizes (largest remainders first), never above a
    group's size.
    """
    exact = total * sizes / max(int(sizes.sum()), 1)
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: total - int(shares.sum())]] += 1
    return shares


def requested_count(size: float, available: int, *, name: str) -> int:
    """Turn a fraction (0 < size < 1) or a count (size >= 1) into a number of samples, leaving at least one
    of `available`.
    """
    if (
        isinstance(size, bool)
        or not isinstance(size, int | float)
        or size < 0
        # 1.0: all of it, or one sample?
        or (isinstance(size, float) and not (size < 1 or (size > 1 and size.is_integer())))
    ):
        raise UserError(f"{name} must be a fraction below 1 or a whole number of samples, got {size!r}")
    count = round(size * available) if 0 < size < 1 else int(size)
    if count >= available or (size > 0 and count == 0):
        raise UserError(
            f"{name}={size} would take {count} of {available} samples: choose from 1 to {available - 1}"
        )
    return count


def hold_out(
    indices: np.ndarray, size: float, *, seed: int, name: str, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split indices (n,) into (rest, held out), both sorted; stratified where `labels` (one per underlying
    sample) are given.

    size: fraction or count, see `requested_count`; 0 holds out nothing. The result depends on the indices,
    labels, size, name and seed alone.
    """
    count = requested_count(size, len(indices), name=name)
    seed = derive_seed("hold_out", name, seed)
    if labels is None:
        held = shuffled(indices, seed)[:count]
    else:
        held = _stratified(indices, labels, count, seed)
    rest = np.ones(int(indices.max()) + 1, dtype=bool)
    rest[held] = False
    return np.sort(indices[rest[indices]]), np.sort(held)


def limit(indices: np.ndarray, count: int, *, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Keep `count` of the indices, sorted; stratified where labels are given. UserError where there are
    fewer.
    """
    if not 1 <= count <= len(indices):
        raise UserError(f"train_size={count}, but the training split has {len(indices)} samples")
    seed = derive_seed("limit", seed)
    kept = shuffled(indices, seed)[:count] if labels is None else _stratified(indices, labels, count, seed)
    return np.sort(kept)


def take_per_class(indices: np.ndarray, labels: np.ndarray, per_class: int, *, seed: int) -> np.ndarray:
    """Keep `per_class` indices of every class, sorted. For one seed, the choice for a smaller number is part
    of that for a larger.

    Raises UserError where a class has fewer.
    """
    classes, counts = np.unique(labels[indices], return_counts=True)
    if per_class < 1 or counts.min() < per_class:
        raise UserError(
            f"`per_class`={per_class}: class {classes[counts.argmin()]} has {counts.min()} training samples; "
            f"choose from 1 to {counts.min()}"
        )
    order = shuffled(indices, derive_seed("per_class", seed))
    return np.sort(np.concatenate([order[labels[order] == label][:per_class] for label in classes]))


def _stratified(indices: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    order = shuffled(indices, seed)
    classes, sizes = np.unique(labels[indices], return_counts=True)
    shares = share_out(count, sizes)
    return np.concatenate([order[labels[order] == c][:k] for c, k in zip(classes, shares, strict=True)])


def digest(indices: np.ndarray) -> str:
    """Return the sha256 of the indices as little-endian int64, in their order."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()


def check_disjoint(splits: Mapping[str, np.ndarray]) -> None:
    """Raise UserError where an index occurs twice, within a split or in two: a mistake of who wrote the data module."""
    for name, indices in splits.items():
        if len(np.unique(indices)) < len(indices):
            raise UserError(
                f"the {name} split holds an index twice: a split must name each of its samples once"
            )
    for (a, first), (b, second) in combinations(splits.items(), 2):
        if len(common := np.intersect1d(first, second)):
            raise UserError(
                f"{len(common)} samples lie in both {a} and {b}, the first with index {common[0]}: no sample may be in two splits"
            )


def content_numbers(rows: np.ndarray) -> np.ndarray:
    """Number the rows of (n, ...) by content: (n,) int64, equal for rows of equal bytes. Cost: one pass over
    the bytes and a sort.

    Different rows get the same number with a probability around n^2 / 2^64.
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    width = -(-flat.shape[1] // 8)
    weights = np.random.PCG64(derive_seed("content")).random_raw(width) | np.uint64(1)
    hashes = np.empty(len(flat), dtype=np.uint64)
    for start in range(0, len(flat), 4096):
        block = np.zeros((min(4096, len(flat) - start), width * 8), dtype=np.uint8)
        block[:, : flat.shape[1]] = flat[start : start + 4096]
        words = block.view(np.uint64)
        hashes[start : start + 4096] = ((words ^ (words >> np.uint64(29))) * weights).sum(axis=1)
    return np.unique(hashes, return_inverse=True)[1]


def repeated_samples(numbers: np.ndarray, splits: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Count, for each later split, its samples whose content number lies in an earlier one: {"test in
    train": 3}; zeros left out.
    """
    counts = {}
    for (a, first), (b, second) in combinations(splits.items(), 2):
        seen = np.zeros(int(numbers.max()) + 1, dtype=bool)
        seen[numbers[first]] = True
        counts[f"{b} in {a}"] = int(seen[numbers[second]].sum())
    return {name: count for name, count in counts.items() if count}
