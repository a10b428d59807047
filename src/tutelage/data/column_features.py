"""Columns of a table as features: numbers scaled, categories as one of many, all learnt on the training rows alone (no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.data.column_cells import EXACT, is_text, number_as_name
from tutelage.data.frame import column
from tutelage.data.memory import check_fits
from tutelage.data.moments import looks_like_time
from tutelage.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FEW_CATEGORIES = 20
"""More different words than this, in more than half as many rows, name single rows."""


LARGEST = 1e150
"""Above, squares overflow."""


@dataclasses.dataclass(frozen=True)
class Number:
    """A column of numbers: mean and deviation of the training rows. indicator: whether a feature says that the cell is empty."""

    name: str
    mean: float
    deviation: float
    indicator: bool

    @property
    def width(self) -> int:
        """How many features it makes."""
        return 1 + self.indicator


@dataclasses.dataclass(frozen=True)
class Category:
    """A column of words: those of the training rows, the empty one among them if it occurs there."""

    name: str
    words: tuple[str, ...]

    @property
    def width(self) -> int:
        """How many features it makes."""
        return len(self.words)


UNSEEN = "%s: the column '%s' holds words that no training row has, in %s rows: taken as none of the known"
HOLES = "%s: the column '%s' is empty in %s rows, and in no training row: taken as its mean"


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What was learnt of each column, in the order of the features."""

    columns: tuple[Number | Category, ...]

    @property
    def names(self) -> list[str]:
        """The name of each feature."""
        found: list[str] = []
        for one in self.columns:
            if isinstance(one, Category):
                found += [f"{one.name}={word or 'empty'}" for word in one.words]
            else:
                found += [one.name, f"{one.name} is empty"][: one.width]
        return found

    def apply(self, frame: pd.DataFrame, root: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return features (rows, width) float32, and for each column of words which rows (rows,) hold one that is not known.

        Such a row has 0 in all features of that column; an empty cell of numbers is the mean, 0.
        """
        width = sum(one.width for one in self.columns)
        check_fits(
            4 * width * len(frame),
            f"{len(frame)} rows of {width} features",
            "leave columns of many categories out",
        )
        features = np.zeros((len(frame), width), dtype=np.float32)
        unknown, place = {}, 0
        for one in self.columns:
            cells = column(frame, one.name, "columns", root)
            if isinstance(one, Number):
                if is_text(cells):
                    raise UserError(
                        f"{root}: the column '{one.name}' held numbers in training, and holds words here"
                    )
                values = cells.to_numpy(dtype=np.float64)
                empty = ~np.isfinite(values)
                features[:, place] = np.where(empty, 0.0, (values - one.mean) / one.deviation)
                if one.indicator:
                    features[:, place + 1] = empty
            else:
                codes = _codes(cells, one.words)
                rows = np.flatnonzero(codes >= 0)
                features[rows, place + codes[rows]] = 1
                if len(rows) < len(codes):
                    unknown[one.name] = codes < 0
            place += one.width
        return features, unknown

    def holes(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return for each column of numbers without an empty cell in training which rows (rows,) have one: they are taken as its mean."""
        found = {}
        for one in self.columns:
            if isinstance(one, Number) and not one.indicator:
                empty = ~np.isfinite(frame[one.name].to_numpy(dtype=np.float64))
                if empty.any():
                    found[one.name] = empty
        return found


def _words(cells: pd.Series) -> pd.Series:
    return cells.map(_word, na_action="ignore").astype(object).where(cells.notna(), "")


def _word(value: Any) -> str:
    return number_as_name(value) if isinstance(value, float) else str(value)


def _codes(cells: pd.Series, words: Sequence[str]) -> np.ndarray:
    import pandas as pd

    return np.asarray(
        pd.Index(list(words), dtype=object).get_indexer(pd.Index(_words(cells))), dtype=np.int64
    )


def learn(
    frame: pd.DataFrame, names: Sequence[str], train: np.ndarray, *, categories: Sequence[str], root: Any
) -> tuple[Encoding, list[str]]:
    """Learn an encoding from the training rows, and return it with notes of what was left out.

    categories: columns to take as words whatever they hold. Raises UserError for columns that cannot be features.
    """
    kept: list[Number | Category] = []
    notes: list[str] = []
    constant, single, times = [], [], []
    for name in names:
        cells = frame[name]
        rows = cells.iloc[train]
        if name in categories or is_text(cells):
            odd = next(
                (
                    cell
                    for cell in rows.dropna().head(100)
                    if not isinstance(cell, str | int | float | bool | np.generic)
                ),
                None,
            )
            if odd is not None:
                pictures = isinstance(odd, dict) and "bytes" in odd
                raise UserError(
                    f"{root}: the column '{name}' holds {'pictures' if pictures else f'{type(odd).__name__} objects'}, no features: "
                    f"`without`=[{name}] leaves it out{f'; data=huggingface data.image={name} reads them' if pictures else ''}"
                )
            words = sorted(_words(rows).unique())
            if len(words) < 2:
                constant.append(name)
            elif len(words) > max(FEW_CATEGORIES, len(rows) // 2) and name not in categories:
                single.append(f"{name} ({len(words)} in {len(rows)} rows)")
                times += [name] if all(map(looks_like_time, words)) else []
            else:
                kept.append(Category(name, tuple(words)))
            continue
        if str(cells.dtype).startswith(("datetime", "timedelta", "period")):
            raise UserError(
                f"{root}: the column '{name}' holds times, no features: `without`=[{name}] leaves it out, `time`={name} splits by it"
            )
        values = rows.to_numpy(dtype=np.float64)
        there = np.isfinite(values)
        if rows.dtype.kind in "iu" and (np.abs(values) > EXACT).any():
            raise UserError(
                f"{root}: the column '{name}' holds whole numbers of so many digits that they name things and measure none: "
                f"`without`=[{name}] leaves it out, `categories`=[{name}] takes each as a word"
            )
        if np.isinf(values).any():
            notes.append(f"infinite values of the column '{name}' count as empty")
        if not there.any():
            constant.append(name)
            continue
        if np.abs(values[there]).max() > LARGEST:
            raise UserError(
                f"{root}: the column '{name}' holds numbers beyond {LARGEST:g}, whose spread cannot be computed: write it in another unit, "
                f"or leave it out (`without`=[{name}])"
            )
        mean, deviation = float(values[there].mean()), float(values[there].std())
        # the deviation of a constant is seldom 0 but a rounding error
        varies = deviation > 1e-12 * float(np.abs(values[there]).max())
        if not varies and there.all():
            constant.append(name)
            continue
        kept.append(Number(name, mean, deviation if varies else 1.0, indicator=not bool(there.all())))
    if single:
        left = ",".join(one.rpartition(" (")[0] for one in single)
        raise UserError(
            f"{root}: words that hardly occur twice tell nothing of new rows: {', '.join(single)}. Leave these columns out: "
            f"`without`=[{left}], or keep them: `categories`=[{left}]"
            + (f"; `time`={times[0]} leaves it out, too, and makes the latest rows the test" if times else "")
        )
    if constant:
        notes.append(f"columns that are the same in all training rows are left out: {', '.join(constant)}")
    if not kept:
        raise UserError(f"{root}: no column is left to predict from")
    return Encoding(tuple(kept)), notes
