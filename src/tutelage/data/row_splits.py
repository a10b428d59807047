"""Splits of the rows of a table: at random, class by class, by group, in time, by fold, or as the files have them (no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tutelage.data import splits as splitting
from tutelage.errors import UserError
from tutelage.runs.declared import USUAL_FOLDS


@dataclasses.dataclass(frozen=True)
class How:
    """How rows are split.

    validation, test: fractions of the rows, or their numbers. groups: (rows,), rows of one group go together. times: (rows,) numbers;
    the latest rows are the test, those before them the validation. fold: which of `folds` parts of equal size is the test.
    """

    validation: float
    test: float
    seed: int
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    fold: int | None = None
    folds: int = USUAL_FOLDS


def split(
    rows: np.ndarray, official: Mapping[str, np.ndarray], labels: np.ndarray | None, how: How
) -> dict[str, np.ndarray]:
    """Return the rows of train, validation and test. labels: classes by row, which random parts then have in equal shares.

    official: parts that are given. Raises UserError for ways that exclude each other.
    """
    if how.fold is not None and ("test" in official or how.times is not None):
        what = "a test file of its own" if "test" in official else "`time`"
        raise UserError(
            f"`fold` makes the test from the rows, where these data have {what}: give one of the two"
        )
    if how.groups is not None and how.times is not None:
        raise UserError(
            "give `group` or `time`: rows of a group lie at different times, so that no split keeps both"
        )
    if how.fold is not None and not 0 <= how.fold < how.folds:
        raise UserError(f"`fold` must be 0 to {how.folds - 1}, of `folds`={how.folds}, got {how.fold}")
    parts = {name: np.intersect1d(part, rows) for name, part in official.items()}
    train = parts.get("train", rows)
    if how.fold is not None:
        of = _folds(train, labels, how)
        parts["test"], train = train[of == how.fold], train[of != how.fold]
    for name, size in (("test", how.test), ("validation", how.validation)):
        if name not in parts:
            train, parts[name] = _hold_out(train, size, name, labels, how)
    return {"train": train, "validation": parts["validation"], "test": parts["test"]}


def _hold_out(
    rows: np.ndarray, size: float, name: str, labels: np.ndarray | None, how: How
) -> tuple[np.ndarray, np.ndarray]:
    if how.times is not None:
        return _latest(rows, splitting.requested_count(size, len(rows), name=name), name, how.times)
    if how.groups is None:
        return splitting.hold_out(rows, size, seed=how.seed, name=name, labels=labels)
    count = splitting.requested_count(size, len(rows), name=name)
    of, sizes = _grouped(rows, how.groups)
    if len(sizes) < 2:
        raise UserError(f"`group`: there are too few groups left to hold out `{name}`")
    order = splitting.shuffled(np.arange(len(sizes)), splitting.derive_seed("groups", name, how.seed))
    filled = np.cumsum(sizes[order])
    # as many whole groups as come nearest to what is asked, at least one, and one is left
    taken = int(np.clip(np.abs(filled - count).argmin() + 1, 1, len(sizes) - 1))
    held = np.isin(of, order[:taken])
    return rows[~held], rows[held]


def _grouped(rows: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the groups of rows, (rows,), and count their rows."""
    _, of, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    return of, sizes


def _latest(rows: np.ndarray, count: int, name: str, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = rows[np.argsort(times[rows], kind="stable")]
    border = times[order[len(order) - count]]
    held = times[rows] >= border  # rows of one time stay together
    if held.all():
        raise UserError(
            f"`time`: too many rows have the latest time, so that none would be left beside `{name}`"
        )
    return rows[~held], rows[held]


def _folds(rows: np.ndarray, labels: np.ndarray | None, how: How) -> np.ndarray:
    """Return the fold of each row: of equal sizes, and of classes in equal shares; with groups, as equal as whole groups allow."""
    seed = splitting.derive_seed("folds", how.seed, how.folds)
    fold_of = np.empty(len(rows), dtype=np.int64)
    if how.groups is not None:
        of, sizes = _grouped(rows, how.groups)
        if len(sizes) < how.folds:
            raise UserError(f"`folds`={how.folds}, but `group` has {len(sizes)} groups only")
        order = splitting.shuffled(np.arange(len(sizes)), seed)
        filled, place = np.zeros(how.folds, dtype=np.int64), np.empty(len(sizes), dtype=np.int64)
        for group in order[
            np.argsort(-sizes[order], kind="stable")
        ]:  # the largest first, each into the emptiest fold
            place[group] = filled.argmin()
            filled[place[group]] += sizes[group]
        return place[of]
    if not 2 <= how.folds <= len(rows):
        raise UserError(f"`folds` must be from 2 to the number of rows, got {how.folds} of {len(rows)}")
    order = splitting.shuffled(np.arange(len(rows)), seed)
    if labels is not None:
        order = order[
            np.argsort(labels[rows[order]], kind="stable")
        ]  # class by class, dealt out one after the other
    fold_of[order] = np.arange(len(rows)) % how.folds
    return fold_of
