"""A CSV file as texts of time and columns of numbers: its encoding, delimiter, decimals and empty cells (no torch).

Nothing is guessed that changes a number: what the file leaves open is asked for, and what is left out is said.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.errors import UserError, choices

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}
DECIMALS = ("point", "comma")
EMPTY = ["?", "-", "--", "---", "–", "—", ".", "..", "nil", "missing"]
"""What stands for an empty cell, beside what pandas takes for one ("", NA, NaN, null, N/A, ...)."""

_GROUPS = "[ \u00a0\u2007\u2009\u202f'’]"
"""What may stand between groups of three digits, beside the point and the comma."""
_POINT = r"[+-]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+|(?=\.\d))(?:\.\d*)?(?:[eE][+-]?\d+)?"
_COMMA = r"[+-]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+|(?=,\d))(?:,\d*)?(?:[eE][+-]?\d+)?"


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


def read(
    path: Path,
    *,
    date: str | Sequence[str] = "date",
    columns: Sequence[str] | None = None,
    decimal: str | None = None,
) -> CsvTable:
    """Read a file of a column of time and others, separated by commas, semicolons, tabs or '|', also compressed.

    date: the column of time, or several, whose texts are joined by a space. columns: the others, by default all. decimal: "point" or
    "comma", by default what the cells say. Raises UserError for what is no such table, and where cells such as 1,234 leave it open.
    """
    if decimal not in (None, *DECIMALS):
        raise UserError(f"`decimal` '{decimal}' does not exist: {choices(str(decimal), DECIMALS)}")
    text, notes = _text(path)
    lines = text.split("\n")
    filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    body = [lines[number - 1] for number in filled]
    if not body:
        raise UserError(f"{path} is empty: a header and rows are expected")
    keys = [date] if isinstance(date, str) else list(date)
    delimiter, header = _header(path, body, keys)
    if not all(key in header for key in keys):
        notes.append("the first column, without a name, is taken for the time")
    if delimiter != ",":
        notes.append(f"columns are separated by {DELIMITERS[delimiter]}")
    if len(body) == 1:
        raise UserError(f"{path} has a header and no rows")
    header = _of_one_width(path, body, filled, header, delimiter)
    clock = [header.index(key) if key in header else 0 for key in keys]
    series = _places(path, header, clock, columns)
    cells = _Cells(path, "\n".join(body), delimiter, len(header))
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
    if _all_numbers(frame[series]) and decimal != "comma" and (decimal or delimiter in ",|"):
        values = frame[series].to_numpy(dtype=np.float64)
    else:
        texts = cells.read(series, as_text=series).iloc[kept]
        columns_of_text = [_cleaned(texts[place]) for place in series]
        decimal = decimal or _decimal(path, columns_of_text, names)
        if decimal == "comma":
            notes.append("the decimal sign is the comma")
        values = np.full((len(kept), len(series)), np.nan)
        for place, (name, column) in enumerate(zip(names, columns_of_text, strict=True)):
            try:
                values[:, place] = _parsed(column, decimal)
            except ValueError:
                wrong = np.flatnonzero(~_fits(column, decimal))[0]
                words[name] = f"'{column.iloc[wrong]}' in line {numbers[wrong]}"
    return CsvTable(moments, values, names, numbers, words, notes)


def _text(path: Path) -> tuple[str, list[str]]:
    if not path.is_file():
        raise UserError(f"there is no CSV file {path}: `root` must name one")
    raw = _unpacked(path)
    try:
        for mark, encoding in ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
            if raw.startswith(mark):
                return _one_ending(raw.decode(encoding)), [f"the file is {encoding.upper()}"]
        if raw.startswith((b"PK\x03\x04", b"PAR1", b"\xd0\xcf\x11\xe0")) or b"\0" in raw[: 1 << 16]:
            raise UserError(
                f"{path} is no CSV file, but holds binary data (a workbook, Parquet?): save it as text in UTF-8"
            )
        return _one_ending(raw.decode("utf-8-sig")), []
    except UnicodeDecodeError as error:
        if error.encoding != "utf-8":
            raise UserError(f"{path} begins as {error.encoding} and is not: save it as UTF-8") from error
        line = raw[: error.start].count(b"\n") + 1
        note = f"the file is not UTF-8 (line {line}): read as Windows-1252, which names of columns may show"
        return _one_ending(raw.decode("cp1252", errors="replace")), [note]


def _one_ending(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unpacked(path: Path) -> bytes:
    import bz2
    import gzip
    import lzma
    import zipfile
    import zlib

    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    try:
        if path.suffix.lower() in openers:
            with openers[path.suffix.lower()](path, "rb") as file:
                return bytes(file.read())
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if not name.endswith("/")]
                if len(members) != 1:
                    raise UserError(f"{path} holds {len(members)} files, where one is expected: unpack it")
                return archive.read(members[0])
    except (zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(f"{path} cannot be unpacked: {error}") from error
    return path.read_bytes()


def _header(path: Path, body: list[str], keys: list[str]) -> tuple[str, list[str]]:
    """The delimiter whose header has the column of time, and that header."""
    split = {mark: _fields(body[0], mark) for mark in DELIMITERS}
    for mark, names in split.items():
        if all(key in names for key in keys):
            return mark, names
    mark = max(split, key=lambda mark: len(split[mark]))
    names = split[mark]
    if keys == ["date"] and names[0] == "" and re.match(r'[" ]*\d+[-/.]\d+[-/.]', "".join(body[1:2])):
        return mark, names  # what pandas writes of an index of dates
    for number, line in enumerate(body[1:50], start=2):
        if any(all(key in _fields(line, mark) for key in keys) for mark in DELIMITERS):
            raise UserError(
                f"{path}: its header is not the first line, but number {number}: remove those above it"
            )
    missing = next(key for key in keys if key not in names)
    raise UserError(
        f"{path} has no column '{missing}': {choices(missing, filter(None, names))}; `date` names the one that holds the time"
    )


def _fields(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _of_one_width(
    path: Path, body: list[str], filled: list[int], header: list[str], delimiter: str
) -> list[str]:
    """Return the header, with an empty name where all rows end in a delimiter; UserError for rows that pandas would shift or fill."""
    if any('"' in line for line in body):
        rows = csv.reader(io.StringIO("\n".join(body)), delimiter=delimiter, skipinitialspace=True)
        widths = np.fromiter(map(len, rows), dtype=np.int64)[1:]
    else:
        widths = np.fromiter((line.count(delimiter) + 1 for line in body[1:]), dtype=np.int64)
    if (widths == len(header) + 1).all() and all(line.rstrip(" ").endswith(delimiter) for line in body[1:]):
        return [*header, ""]
    wrong = np.flatnonzero(widths != len(header))
    if wrong.size == 0:
        return header
    first = wrong[0]
    at = f"line {filled[first + 1]}" if len(widths) == len(body) - 1 else f"row {first + 1}"
    cause = (
        "was the file cut off?"
        if wrong.tolist() == [len(widths) - 1]
        else "a column without a name needs one, and decimal commas need ';' between the columns, or quotes"
    )
    raise UserError(
        f"{path}: the header names {len(header)} columns, {wrong.size} of {len(widths)} rows have another number of cells, first "
        f"{at} with {widths[first]}: {cause}"
    )


def _places(path: Path, header: list[str], clock: list[int], columns: Sequence[str] | None) -> list[int]:
    for name in columns or ():
        if name not in header:
            raise UserError(f"{path} has no column '{name}': {choices(name, filter(None, header))}")
    used = [header[place] for place in clock] + [
        name for place, name in enumerate(header) if place not in clock and (not columns or name in columns)
    ]
    if twice := sorted({name for name in used if name and header.count(name) > 1}):
        raise UserError(
            f"{path} has more than one column named {', '.join(map(repr, twice))}: give each its own name"
        )
    if columns is not None:
        return [header.index(name) for name in columns]
    return [place for place in range(len(header)) if place not in clock]


@dataclasses.dataclass(frozen=True)
class _Cells:
    path: Path
    text: str
    delimiter: str
    width: int

    def read(self, places: Sequence[int], *, as_text: Sequence[int]) -> pd.DataFrame:
        """Return columns by their places, as pandas' own parser reads them: numbers where all cells are, else texts."""
        import pandas as pd

        try:
            return pd.read_csv(
                io.StringIO(self.text),
                sep=self.delimiter,
                header=0,
                names=list(range(self.width)),
                usecols=sorted(set(places)),
                index_col=False,
                dtype=dict.fromkeys(as_text, str),
                na_values=EMPTY,
                skipinitialspace=True,
                low_memory=False,
            )
        except ValueError as error:
            raise UserError(f"{self.path} is no CSV file with dates: {error}") from error


def _all_numbers(frame: pd.DataFrame) -> bool:
    from pandas.api.types import is_numeric_dtype

    return all(map(is_numeric_dtype, frame.dtypes))


def _cleaned(column: pd.Series) -> pd.Series:
    """The cells of a column of texts without spaces around and between their digits, and with a plain minus."""
    text = column.str.strip().str.replace("−", "-", regex=False)
    return text.str.replace(rf"(?<=\d){_GROUPS}(?=\d{{3}}(?!\d))", "", regex=True).replace(
        {"True": "1", "False": "0"}
    )


def _fits(column: pd.Series, decimal: str) -> np.ndarray:
    """Say which cells (rows,) are empty, or numbers with this decimal sign."""
    number = column.str.fullmatch(_POINT if decimal == "point" else _COMMA, na=False)
    return np.asarray(number | column.isna(), dtype=bool)


def _decimal(path: Path, columns: list[pd.Series], names: list[str]) -> str:
    """Return the decimal sign that the numbers of a file have; UserError where they leave it open, or disagree."""
    proof: dict[str, str] = {}
    undecided = ""
    for name, column in zip(names, columns, strict=True):
        point, comma = _fits(column, "point"), _fits(column, "comma")
        if point.all() and comma.all():
            signed = ~column.str.fullmatch(r"[+-]?\d*", na=True).to_numpy(dtype=bool)
            if signed.any():
                undecided = undecided or f"'{column.iloc[np.flatnonzero(signed)[0]]}' of the column '{name}'"
        elif point.all():
            proof.setdefault("point", f"'{column.iloc[np.flatnonzero(~comma)[0]]}' of the column '{name}'")
        elif comma.all():
            proof.setdefault("comma", f"'{column.iloc[np.flatnonzero(~point)[0]]}' of the column '{name}'")
    if len(proof) == 2:
        raise UserError(
            f"{path}: the decimal sign is a point in {proof['point']} and a comma in {proof['comma']}: leave columns out with "
            "`columns`, or write all numbers in one way"
        )
    if undecided and not proof:
        raise UserError(
            f"{path}: is {undecided} about one or above a thousand? Set `decimal`=point or `decimal`=comma"
        )
    return next(iter(proof), "point")


def _parsed(column: pd.Series, decimal: str) -> np.ndarray:
    """Return the numbers of a column (rows,); ValueError where a cell is none."""
    import pandas as pd

    if not _fits(column, decimal).all():
        raise ValueError
    plain = column.str.replace("." if decimal == "comma" else ",", "", regex=False)
    return np.asarray(pd.to_numeric(plain.str.replace(",", ".", regex=False)), dtype=np.float64)
