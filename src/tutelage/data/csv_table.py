"""A CSV file as texts of time and columns of numbers: its encoding, delimiter, decimals and empty cells (no torch).

Nothing is guessed that changes a number: what the file leaves open is asked for, and what is left out is said.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tutelage.data.csv_cells import (
    DELIMITERS,
    Cells,
    Decimal,
    all_numbers,
    check_unique,
    cleaned,
    decimal_sign,
    fields,
    filled_lines,
    fits,
    of_one_width,
    parsed,
    text_of,
)
from tutelage.errors import UserError, choices
from tutelage.typed import checking


@dataclasses.dataclass(frozen=True)
class CsvTable:
    """The rows of a file.

    moments: the text of time of each row, None where there is none. values: (rows, columns) float64, NaN for an empty cell.
    names: of the columns; "" for one without. lines: where in the file each row stands. words: columns that are no numbers, each with
    its first cell that is none; their values are NaN. notes: what was left out or taken otherwise than by default, in sentences.
    """

    moments: list[str | None]
    values: np.ndarray
    names: list[str]
    lines: np.ndarray
    words: dict[str, str]
    notes: list[str]


@checking
def read(
    path: Path,
    *,
    date: str | Sequence[str] = "date",
    columns: Sequence[str] | None = None,
    decimal: Decimal | None = None,
) -> CsvTable:
    """Read a file of a column of time and others, separated by commas, semicolons, tabs or '|', also compressed.

    date: the column of time, or several, whose texts are joined by a space. columns: the others, by default all. decimal: "point" or
    "comma", by default what the cells say. Raises UserError for what is no such table, and where cells such as 1,234 leave it open.
    """
    text, notes = text_of(path)
    filled, body = filled_lines(path, text)
    keys = [date] if isinstance(date, str) else list(date)
    delimiter, header = _header(path, body, keys)
    if not all(key in header for key in keys):
        notes.append("the first column, without a name, is taken for the time")
    if delimiter != ",":
        notes.append(f"columns are separated by {DELIMITERS[delimiter]}")
    if len(body) == 1:
        raise UserError(f"{path} has a header and no rows")
    header = of_one_width(path, body, filled, header, delimiter)
    clock = [header.index(key) if key in header else 0 for key in keys]
    series = _places(path, header, clock, columns)
    cells = Cells(path, "\n".join(body), delimiter, len(header))
    frame = cells.read([*clock, *series], as_text=clock)
    numbers = np.asarray(filled[1:]) if len(frame) == len(body) - 1 else np.arange(2, len(frame) + 2)
    blank = frame.isna().all(axis=1).to_numpy()
    if blank.all():
        raise UserError(f"{path} has a header and no rows that hold anything")
    if blank.any():
        notes.append(f"{blank.sum()} rows without a single value are left out")
    kept, names = np.flatnonzero(~blank), [header[place] for place in series]
    frame, numbers = frame.iloc[kept], numbers[kept]
    moments = [
        " ".join(parts) if all(isinstance(part, str) for part in parts) else None
        for parts in zip(*(frame[place].str.strip() for place in clock), strict=True)
    ]
    words: dict[str, str] = {}
    if all_numbers(frame[series]) and decimal != "comma" and (decimal or delimiter in ",|"):
        values = frame[series].to_numpy(dtype=np.float64)
    else:
        texts = cells.read(series, as_text=series).iloc[kept]
        columns_of_text = [cleaned(texts[place]) for place in series]
        sign: str = decimal or decimal_sign(path, columns_of_text, names)
        if sign == "comma":
            notes.append("the decimal sign is the comma")
        values = np.full((len(kept), len(series)), np.nan)
        for place, (name, column) in enumerate(zip(names, columns_of_text, strict=True)):
            try:
                values[:, place] = parsed(column, sign)
            except ValueError:
                wrong = np.flatnonzero(~fits(column, sign))[0]
                words[name] = f"'{column.iloc[wrong]}' in line {numbers[wrong]}"
    return CsvTable(moments, values, names, numbers, words, notes)


def _header(path: Path, body: list[str], keys: list[str]) -> tuple[str, list[str]]:
    """The delimiter whose header has the column of time, and that header."""
    split = {mark: fields(body[0], mark) for mark in DELIMITERS}
    for mark, names in split.items():
        if all(key in names for key in keys):
            return mark, names
    mark = max(split, key=lambda mark: len(split[mark]))
    names = split[mark]
    if keys == ["date"] and names[0] == "" and re.match(r'[" ]*\d+[-/.]\d+[-/.]', "".join(body[1:2])):
        return mark, names  # what pandas writes of an index of dates
    for number, line in enumerate(body[1:50], start=2):
        if any(all(key in fields(line, mark) for key in keys) for mark in DELIMITERS):
            raise UserError(
                f"{path}: its header is not the first line, but number {number}: remove those above it"
            )
    missing = next(key for key in keys if key not in names)
    raise UserError(
        f"{path} has no column '{missing}'; {choices(missing, filter(None, names))}; `date` names the one that holds the time"
    )


def _places(path: Path, header: list[str], clock: list[int], columns: Sequence[str] | None) -> list[int]:
    for name in columns or ():
        if name not in header:
            raise UserError(f"{path} has no column '{name}'; {choices(name, filter(None, header))}")
    used = {header[place] for place in clock}.union(columns or header)
    check_unique(path, [name for name in header if name in used])
    if columns is not None:
        return [header.index(name) for name in columns]
    return [place for place in range(len(header)) if place not in clock]
