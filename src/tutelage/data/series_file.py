"""A file of time series: its columns of numbers, and when its rows are (no torch)."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tutelage.data import csv_table, moments, timeline
from tutelage.errors import UserError

CALENDAR = ("hour sine", "hour cosine", "weekday sine", "weekday cosine")
"""Columns of the calendar: time of day and of week, by the clocks of the file, as points on circles."""
_FEW_ROWS = 20
"""Of fewer rows, numbers that count up may be a series."""


@dataclasses.dataclass(frozen=True)
class SeriesFile:
    """values: (rows, columns) float64, NaN for an empty cell. calendar: (rows, 4) float32, see `CALENDAR`.

    texts: the rows' times as written. notes: sentences on what was left out or read otherwise than by default.
    """

    values: np.ndarray
    names: list[str]
    calendar: np.ndarray
    line: timeline.Timeline
    texts: list[str]
    notes: list[str]


def read(
    path: str | os.PathLike[str],
    *,
    date: str | Sequence[str] = "date",
    columns: Sequence[str] | None = None,
    date_format: str | None = None,
    step: str | None = None,
    decimal: str | None = None,
) -> SeriesFile:
    """Read a file; `tutelage.data.series.Series` says what the options mean. Raises UserError for what is no regular table of series."""
    path = Path(path)
    table = csv_table.read(path, date=date, columns=columns, decimal=decimal)
    where = f"{path}: the column '{date if isinstance(date, str) else ' '.join(date)}'"
    when = moments.read(table.moments, lines=table.lines, where=where, date_format=date_format)
    timeline.check_order(
        when,
        table.values,
        lines=table.lines,
        where=where,
        words=", ".join(f"'{name}'" for name in table.words),
    )
    line = timeline.timeline(when, where=where, step=step)
    places = list(range(len(table.names)))
    notes = list(table.notes)
    if columns is None:
        labels = [place for place in places if _is_label(table, place, line.positions)]
        if any(table.names[place] for place in places if place not in labels):  # else a count is all there is
            places = [place for place in places if place not in labels]
            notes += [_said_of(table.names[place], table.values[:, place]) for place in labels]
    _check(path, table, places)
    values, names = table.values[:, places], [table.names[place] for place in places]
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise UserError(
            f"{path}: a value that is not finite, in row {table.lines[row]} of the column '{names[column]}'"
        )
    return SeriesFile(
        values, names, _calendar(when.clock), line, when.texts, notes + _sentinels(values, names)
    )


def _has_name(name: str) -> bool:
    return bool(name) and not re.fullmatch(r"Unnamed: \d+(\.\d+)*", name)  # what pandas calls one without


def _is_label(table: csv_table.CsvTable, place: int, positions: np.ndarray) -> bool:
    """Say whether a column is empty or counts, so that it is no series: the index that pandas writes, row numbers."""
    name, values = table.names[place], table.values[:, place]
    if name in table.words:
        return False
    if not _has_name(name):
        return bool((np.isnan(values) | (values == np.rint(values))).all())
    steps = np.diff(values)
    return len(values) >= _FEW_ROWS and bool((steps == 1).all() or (steps == np.diff(positions)).all())


def _said_of(name: str, values: np.ndarray) -> str:
    if not _has_name(name):
        kind = "is empty" if np.isnan(values).all() else "holds whole numbers, an index"
        return f"a column without a name {kind}: left out"
    return f"the column '{name}' counts the rows and is left out; `columns` takes it all the same"


def _check(path: Path, table: csv_table.CsvTable, places: Sequence[int]) -> None:
    names = [table.names[place] for place in places]
    if not all(map(_has_name, names)):
        raise UserError(
            f"{path}: a column of numbers has no name: give it one in the header, or choose others with `columns`"
        )
    if words := [name for name in names if name in table.words]:
        shown = ", ".join(f"{name} ({table.words[name]})" for name in words)
        raise UserError(f"{path}: columns that are not numbers: {shown}; set `columns`")
    if not names:
        raise UserError(f"{path} has no column beside that of the time")


def _sentinels(values: np.ndarray, names: Sequence[str]) -> list[str]:
    """Sentences on values that often stand for a missing one: -999, -9999, ... where all others lie far above."""
    notes = []
    for name, column in zip(names, values.T, strict=True):
        lowest = np.nanmin(column) if not np.isnan(column).all() else 0.0
        if re.fullmatch(r"-9{3,}(\.0|\.9+)?", str(lowest)):
            count = int((column == lowest).sum())
            others = column[column > lowest]
            if others.size and others.min() > lowest / 2:
                notes.append(
                    f"{count} cells of the column '{name}' hold {lowest:g} and are taken for numbers; if it stands for a missing "
                    "value, leave them empty"
                )
    return notes


def _calendar(clock: np.ndarray) -> np.ndarray:
    dates = clock.astype("datetime64[D]")
    minutes = (clock - dates).astype("timedelta64[m]").astype(np.int64)
    day = (minutes // 60 + minutes % 60 / 60) / 24
    week = ((dates.astype(np.int64) + 3) % 7 + day) / 7  # 1970 began on a Thursday
    angles = [2 * np.pi * part for part in (day, week)]
    return np.stack([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)
