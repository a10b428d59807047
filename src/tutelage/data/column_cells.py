"""What the cells of a table's column are: numbers as numbers, words as words, and whole numbers with every digit (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.data import csv_cells
from tutelage.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


EXACT = 2**53
"""Whole numbers from here on are not all their own float64."""


def rounded_columns(frame: pd.DataFrame) -> list[Any]:
    """Return the columns of whole numbers that pandas may have rounded: with an empty cell it makes float64 of them."""
    found = []
    for place, name in enumerate(frame.columns):
        cells = frame.iloc[:, place]
        if cells.dtype == np.float64 and cells.isna().any():
            there = cells.dropna()
            if (there.abs() >= EXACT).any() and (there == np.floor(there)).all():
                found.append(name)
    return found


def too_long(words: pd.Series) -> bool:
    """Whether there are whole numbers among words that float64 would round."""
    return bool(words.str.fullmatch(r"[+-]?\d{16,}", na=False).any())


def is_text(series: pd.Series) -> bool:
    """Say whether a column holds words (or mixes them with others), rather than numbers, truths or times."""
    from pandas.api import types

    return bool(
        types.is_object_dtype(series)
        or types.is_string_dtype(series)
        or isinstance(series.dtype, types.CategoricalDtype)
    )


def number_as_name(value: float) -> str:
    """Return what a number is called as a class, a category or a group: all its digits, and no decimal point if it is whole.

    One that came as float32 is called as in a text: 0.1, not 0.10000000149011612.
    """
    if np.isfinite(value) and value == np.floor(value):
        return str(int(value))
    short = np.float32(value) if abs(value) < 1e38 else value
    return str(short) if float(short) == value else repr(float(value))


def _written_out(cells: pd.Series) -> pd.Series:
    import pandas as pd

    words = [None if empty else str(cell) for cell, empty in zip(cells, cells.isna(), strict=True)]
    return pd.Series(words, index=cells.index, dtype=object)


def plain(path: Any, name: str, series: pd.Series, empty: Sequence[str], notes: list[str]) -> pd.Series:
    """Return a column as float64, bool or text (object, None for an empty cell); times stay. UserError for what mixes them.

    Whole numbers that are not all their own float64 stay integers, or texts, as they came: they name things.
    """
    import pandas as pd
    from pandas.api import types

    if types.is_bool_dtype(series) and not series.isna().any():
        return series.astype(bool)
    if types.is_bool_dtype(series) or types.is_numeric_dtype(series):
        large = types.is_integer_dtype(series) and bool((series.abs() > EXACT).fillna(False).any())
        if large and series.isna().any():
            return _written_out(series)
        return series if large else series.astype("float64")
    if not is_text(series):
        return series
    cells = series.astype(object).where(series.notna(), None)
    there = cells.dropna()
    if not len(there):
        return (
            series.astype("float64")
            if types.is_numeric_dtype(series)
            else pd.Series(np.nan, index=series.index)
        )
    kinds = {type(cell) for cell in there}
    if {bool, np.bool_}.issuperset(kinds) and len(there) == len(cells):
        return cells.astype(bool)
    if {int, float, bool, np.bool_}.issuperset(kinds):
        if kinds == {int} and max(map(abs, there)) > EXACT:
            return _written_out(cells)
        return cells.astype("float64")
    if odd := [kind for kind in kinds if kind not in (str, int, float, bool, np.bool_)]:
        if all(getattr(kind, "__module__", "") == "decimal" for kind in odd):
            return pd.to_numeric(cells, errors="coerce").astype("float64")
        return cells  # lists, pictures: its reader knows, or says, what it is
    words = there.astype(str).str.strip()
    words = words[~words.isin([*csv_cells.DEFAULT_EMPTY, *csv_cells.EMPTY, *empty])]
    numbers = pd.to_numeric(words, errors="coerce")
    share = float(numbers.notna().mean()) if len(words) else 0.0
    if share == 1.0 and (too_long(words) or words.str.fullmatch(r"[+-]?0\d+").any()):
        notes.append(
            f"the digits of the column '{name}' are taken as words, for they would not all last as numbers"
        )
    elif share == 1.0 and len(words):
        notes.append(f"the numbers of the column '{name}' are written as text: taken as numbers")
        return numbers.reindex(series.index).astype("float64")
    elif share >= 0.5:
        wrong = words[numbers.isna()]
        more = f" and {wrong.nunique() - 1} others" if wrong.nunique() > 1 else ""
        raise UserError(
            f"{path}: the column '{name}' mixes {int(numbers.notna().sum())} numbers with {len(wrong)} texts ('{wrong.iloc[0]}' in row "
            f"{int(wrong.index[0]) + 1}{more}): say that it stands for an empty cell (`empty`=['{wrong.iloc[0]}']), mend the file, or "
            f"leave the column out (`without`=[{name}])"
        )
    return words.reindex(series.index).astype(object).where(lambda column: column.notna(), None)
