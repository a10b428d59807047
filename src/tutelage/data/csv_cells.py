"""The cells of a CSV file: its encoding, delimiter, decimal sign and empty cells (no torch)."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tutelage.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}
Decimal = Literal["point", "comma"]
DECIMALS: tuple[Decimal, ...] = get_args(Decimal)
DEFAULT_EMPTY = [
    "",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "-1.#QNAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "<NA>",
    "N/A",
    "NA",
    "NULL",
    "NaN",
    "None",
    "n/a",
    "nan",
    "null",
]
"""What pandas takes for an empty cell."""
EMPTY = ["?", "-", "--", "---", "–", "—", ".", "..", "nil", "missing"]
"""What stands for an empty cell, beside what pandas takes for one ("", NA, NaN, null, N/A, ...)."""

_GROUPS = "[ \u00a0\u2007\u2009\u202f'’]"
"""What may stand between groups of three digits, beside the point and the comma."""
_POINT = r"[+-]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+|(?=\.\d))(?:\.\d*)?(?:[eE][+-]?\d+)?"
_COMMA = r"[+-]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+|(?=,\d))(?:,\d*)?(?:[eE][+-]?\d+)?"


def text_of(path: Path) -> tuple[str, list[str]]:
    """Return a file's text with one kind of line end, unpacked where it is compressed, and notes on its encoding."""
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


def filled_lines(path: Path, text: str) -> tuple[list[int], list[str]]:
    """Return the numbers, from 1, and the lines that are not blank. Raises UserError where there is none."""
    lines = text.split("\n")
    filled = [number for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise UserError(f"{path} is empty: a header and rows are expected")
    return filled, [lines[number - 1] for number in filled]


def check_unique(path: Path, names: Sequence[str]) -> None:
    """Raise UserError where a name stands more than once; a column may have none."""
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise UserError(
            f"{path} has more than one column named {', '.join(map(repr, twice))}: give each its own name"
        )


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


def fields(line: str, delimiter: str) -> list[str]:
    """Return the names in a line, without the spaces around them."""
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def of_one_width(
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
        else "is the header not the first line? Remove what stands above it"
        if len(header) == 1
        else "a column without a name needs one, and decimal commas need ';' between the columns, or quotes"
    )
    raise UserError(
        f"{path}: the header names {len(header)} columns, {wrong.size} of {len(widths)} rows have another number of cells, first "
        f"{at} with {widths[first]}: {cause}"
    )


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of a text whose rows all have `width` cells."""

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


def all_numbers(frame: pd.DataFrame) -> bool:
    """Say whether every column holds numbers."""
    from pandas.api.types import is_numeric_dtype

    return all(map(is_numeric_dtype, frame.dtypes))


def cleaned(column: pd.Series) -> pd.Series:
    """The cells of a column of texts without spaces around and between their digits, and with a plain minus."""
    text = column.str.strip().str.replace("−", "-", regex=False)
    return text.str.replace(rf"(?<=\d){_GROUPS}(?=\d{{3}}(?!\d))", "", regex=True).replace(
        {"True": "1", "False": "0"}
    )


def fits(column: pd.Series, decimal: str) -> np.ndarray:
    """Say which cells (rows,) are empty, or numbers with this decimal sign."""
    number = column.str.fullmatch(_POINT if decimal == "point" else _COMMA, na=False)
    return np.asarray(number | column.isna(), dtype=bool)


def decimal_sign(path: Path, columns: list[pd.Series], names: list[str]) -> str:
    """Return the decimal sign that the numbers of a file have; UserError where they leave it open, or disagree."""
    proof: dict[str, str] = {}
    undecided = ""
    for name, column in zip(names, columns, strict=True):
        point, comma = fits(column, "point"), fits(column, "comma")
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


def parsed(column: pd.Series, decimal: str) -> np.ndarray:
    """Return the numbers of a column (rows,); ValueError where a cell is none."""
    import pandas as pd

    if not fits(column, decimal).all():
        raise ValueError
    plain = column.str.replace("." if decimal == "comma" else ",", "", regex=False)
    return np.asarray(pd.to_numeric(plain.str.replace(",", ".", regex=False)), dtype=np.float64)
