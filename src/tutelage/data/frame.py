"""A table of rows from a CSV, Parquet or JSON lines file: numbers as numbers, words as words, empty cells as such (no torch)."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.data import csv_cells
from tutelage.data.column_cells import is_text, plain, rounded_columns, too_long
from tutelage.data.splits import one_after_another
from tutelage.errors import UserError, choices

if TYPE_CHECKING:
    import pandas as pd

PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""How the files of a folder are called that hold a part each: their name ends so (`train.csv`, `sst2-dev.csv`)."""
ENDINGS = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".gz", ".bz2", ".xz", ".zip")
_PARQUET, _LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True)
class Frame:
    """columns: rows by named columns. official: rows of the parts that files of their own held. notes: what was done otherwise than by
    default, in sentences.
    """

    columns: pd.DataFrame
    official: dict[str, np.ndarray]
    notes: list[str]


def read(
    root: Path, *, texts: Collection[str] = (), empty: Sequence[str] = (), decimal: str | None = None
) -> Frame:
    """Read a file, or a folder of files that are called after the parts they hold, see `PARTS`.

    texts: columns of running text, read as they are: "NA" is a word. empty: what else stands for an empty cell. decimal: "point" or
    "comma", by default what the cells say. Raises UserError for what is no table.
    """
    import pandas as pd

    if root.is_dir():
        paths = _parts(root)
    elif root.is_file():
        paths = {"": root}
    else:
        raise UserError(
            f"there is no file {root}: `root` must name a CSV, Parquet or JSON lines file, or a folder of them"
        )
    notes: list[str] = []
    frames = {}
    for part, path in paths.items():
        frame, said = _file(path, texts, empty, decimal)
        notes += [note if len(paths) == 1 else f"{path.name}: {note}" for note in said]
        frames[part] = frame
    first = next(iter(frames.values()))
    for part, frame in frames.items():
        if missing := [name for name in first.columns if name not in frame.columns]:
            raise UserError(
                f"{paths[part]} has no column '{missing[0]}', which {next(iter(paths.values())).name} has"
            )
    official = one_after_another({part: len(frame) for part, frame in frames.items()})
    columns = (
        first
        if len(frames) == 1
        else pd.concat([f[first.columns] for f in frames.values()], ignore_index=True)
    )
    return Frame(columns, {} if "" in official else official, notes)


def column(frame: Frame | pd.DataFrame, name: str, what: str, root: Any) -> pd.Series:
    """Return a column; UserError, with the columns there are, where it is missing."""
    columns = frame.columns if isinstance(frame, Frame) else frame
    if name not in columns:
        raise UserError(f"{root} has no column '{name}' (`{what}`); {choices(name, columns.columns)}")
    return columns[name]


def _parts(folder: Path) -> dict[str, Path]:
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() in ENDINGS and path.name[0] != "."
    ]
    found: dict[str, Path] = {}
    for part, words in PARTS.items():
        pattern = rf"(?:.*[-_.])?(?:{'|'.join(words)})(?:-00000-of-00001)?"
        matching = [path for path in files if re.fullmatch(pattern, path.name.split(".")[0].lower())]
        if len(matching) > 1:
            raise UserError(
                f"{folder} holds more than one {part} file: {', '.join(p.name for p in matching)}; keep one of them there"
            )
        if matching:
            found[part] = matching[0]
    if "train" in found:
        return found
    if len(files) == 1:
        return {"": files[0]}
    names = ", ".join(path.name for path in files[:6]) or "none"
    raise UserError(
        f"{folder}: `root` must be one file, or a folder with a file called train (and validation and test, if there are such), for "
        f"instance train.csv; its tables are: {names}"
    )


def _file(
    path: Path, texts: Collection[str], empty: Sequence[str], decimal: str | None
) -> tuple[pd.DataFrame, list[str]]:
    import pandas as pd

    kind = path.suffix.lower()
    notes: list[str] = []
    try:
        if kind in _PARQUET:
            frame = pd.read_parquet(path)
            if rounded := rounded_columns(frame):
                exact = pd.read_parquet(path, columns=rounded, dtype_backend="numpy_nullable")
                frame[rounded] = exact[rounded].set_axis(frame.index)
        elif kind in _LINES:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # dates stay words, by a keyword that pandas 3 announces to drop
                frame = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
            if rounded := rounded_columns(frame):
                rows = [
                    json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
                ]
                for name in rounded:
                    frame[name] = pd.Series([row.get(name) for row in rows], dtype=object)
        else:
            return _csv(path, texts, empty, decimal)
    except ImportError as error:
        raise UserError(
            f"{path}: Parquet files need the package pyarrow: pip install 'tutelage[huggingface]'"
        ) from error
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is no {'Parquet' if kind in _PARQUET else 'JSON lines'} file: {reason}"
        ) from error
    stored = kind in _PARQUET and not isinstance(frame.index, pd.RangeIndex)
    if named := [name for name in frame.index.names if stored and name is not None]:
        notes.append(
            f"the index is read as {'a column' if len(named) == 1 else 'columns'}: {', '.join(map(str, named))}"
        )
        frame = frame.reset_index(named)
    frame.columns = [str(name) for name in frame.columns]
    csv_cells.check_unique(path, list(frame.columns))
    frame = without_index(frame, notes)
    if frame.empty:
        raise UserError(f"{path} has no rows")
    for name in frame.columns:
        if name not in texts:
            frame[name] = plain(path, name, frame[name], empty, notes)
    return frame.reset_index(drop=True), notes


def _csv(
    path: Path, texts: Collection[str], empty: Sequence[str], decimal: str | None
) -> tuple[pd.DataFrame, list[str]]:
    import pandas as pd

    text, notes = csv_cells.text_of(path)
    filled, body = csv_cells.filled_lines(path, text)
    marks = {mark: csv_cells.fields(body[0], mark) for mark in csv_cells.DELIMITERS}
    delimiter = max(marks, key=lambda mark: len(marks[mark]))
    if delimiter != ",":  # the first where all find one column
        notes.append(f"columns are separated by {csv_cells.DELIMITERS[delimiter]}")
    if len(body) == 1:
        raise UserError(f"{path} has a header and no rows")
    header = csv_cells.of_one_width(path, body, filled, marks[delimiter], delimiter)
    csv_cells.check_unique(path, header)
    words = [*csv_cells.DEFAULT_EMPTY, *csv_cells.EMPTY, *empty]
    marks_of_empty: Any = {place: words for place, name in enumerate(header) if name not in texts}
    content = io.BytesIO("\n".join(body).encode())  # a StringIO takes four bytes a character
    del text, body, filled
    options: dict[str, Any] = {
        "sep": delimiter,
        "header": 0,
        "names": list(range(len(header))),
        "index_col": False,
        "keep_default_na": False,
        "na_values": marks_of_empty,
        "skipinitialspace": True,
        "low_memory": False,
    }
    try:
        frame = pd.read_csv(
            content, dtype={place: str for place, name in enumerate(header) if name in texts}, **options
        )
        if rounded := rounded_columns(frame):
            content.seek(0)
            words = pd.read_csv(content, dtype=str, usecols=rounded, **options)
            for place in filter(lambda place: too_long(words[place]), rounded):
                frame[place] = words[place]
    except ValueError as error:
        raise UserError(f"{path} is no CSV file: {error}") from error
    if header[0] == "" and _numbers_rows(frame[0]):
        notes.append("the first column, which has no name and numbers the rows, is left out")
        frame, header = frame.drop(columns=0), header[1:]
    frame.columns = header
    if "" in header:
        bare = frame[""]
        if not (bare.isna().all() if isinstance(bare, pd.Series) else bare.isna().all(axis=None)):
            raise UserError(f"{path}: a column without a name holds values; give it one")
        frame = frame.drop(columns="")
    frame = without_index(frame, notes)
    _decimals(path, frame, texts, decimal, notes)
    for name in frame.columns:
        if name not in texts:
            frame[name] = plain(path, name, frame[name], empty, notes)
    return frame, notes


def without_index(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return a table without what pandas calls an index that was written without a name, and note it."""
    for name in frame.columns:
        if re.fullmatch(r"Unnamed: \d+|__index_level_\d+__", str(name)) and _numbers_rows(frame[name]):
            notes.append(f"the column '{name}', which numbers the rows, is left out")
            frame = frame.drop(columns=name)
    return frame


def _numbers_rows(cells: pd.Series) -> bool:
    """Whether a column is an index: a whole number for each row, of which none occurs twice."""
    return bool(cells.dtype.kind in "iu" and cells.is_unique)


def _decimals(
    path: Path, frame: pd.DataFrame, texts: Collection[str], decimal: str | None, notes: list[str]
) -> None:
    """Make numbers of columns that are written with a decimal comma or with groups of thousands, in place."""
    found = {}
    for name in frame.columns:
        if name not in texts and is_text(frame[name]):
            cells = csv_cells.cleaned(frame[name].astype("string").astype(object))
            if any(csv_cells.fits(cells, sign).all() for sign in csv_cells.DECIMALS) and not too_long(cells):
                found[name] = cells
    if not found:
        return
    sign = decimal or csv_cells.decimal_sign(path, list(found.values()), list(found))
    for name, cells in found.items():
        if csv_cells.fits(cells, sign).all():
            frame[name] = csv_cells.parsed(cells, sign)
    if sign == "comma":
        notes.append("the decimal sign is the comma")
