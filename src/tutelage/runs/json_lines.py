"""Files that grow by a JSON object a line, such as the record of metrics: a kill costs them half a line at most."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.errors import UserError
from tutelage.runs.bounded import parse_json, read_bytes
from tutelage.runs.records import encode, parse_ours, replacing, write_text

METRICS_BYTES = 4 * 2**30
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one JSON object as a line, in one write; a torn line that a kill left is mended first."""
    _repair_tail(path)
    _append(path, json.dumps(encode(value), ensure_ascii=False, allow_nan=False) + "\n")


class Metrics(NamedTuple):
    """The rows of a metrics file, and a sentence for each line that could not be read."""

    rows: list[dict[str, Any]]
    dropped: list[str]


def read_metrics(path: Path, naming: str = "") -> Metrics:
    """Read a metrics file; a torn or broken line is dropped and named. A missing file has no rows.

    naming: a quantity; lines that do not name it are passed over unread.
    """
    if not path.exists():
        return Metrics([], [])
    rows: list[dict[str, Any]] = []
    dropped: list[str] = []
    named = naming.encode()
    for number, line in enumerate(read_bytes(path, METRICS_BYTES).split(b"\n"), start=1):
        if not line.strip() or (named not in line and b"\\" not in line):
            continue
        row = _parse_row(line)
        if row is None:
            dropped.append(f"{path.name}: line {number} is torn or broken and was dropped: {line[:60]!r}")
        else:
            rows.append(row)
    return Metrics(rows, dropped)


class MetricsWriter:
    """Appends rows to a metrics file, a JSON object a line: {"step": 100, "time_s": 3.2, "train/loss": 0.1}.

    Rows wait in memory until `flush`, which puts all of them on the disk in one write. Flush before a
    checkpoint is written, so that the record is never behind the checkpoint a run resumes from.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[str] = []
        self.rows = 0
        _repair_tail(path)

    def write(self, row: Mapping[str, Any]) -> None:
        """Take a row; `step` is required."""
        if "step" not in row:
            raise ValueError(f"a metrics row needs 'step', got the keys {sorted(row)}")
        self._waiting.append(json.dumps(encode(row), ensure_ascii=False, allow_nan=False))

    def flush(self) -> None:
        """Write the waiting rows; whoever relies on them after a loss of power calls `sync_all`.

        Raises:
            OSError: the disk is full or gone; the file is as before and the rows still wait.
        """
        if not self._waiting:
            return
        _append(self._path, "\n".join(self._waiting) + "\n", durable=False)
        self._waiting.clear()

    def truncate_after(self, step: int) -> int:
        """Drop the rows beyond `step` (a resumed run writes them again) and return how many there were; `rows` is how many remain."""
        self._waiting.clear()
        rows = read_metrics(self._path).rows
        kept = [row for row in rows if row["step"] <= step]
        self.rows = len(kept)
        if len(kept) < len(rows):
            lines = [json.dumps(encode(row), ensure_ascii=False, allow_nan=False) + "\n" for row in kept]
            write_text(self._path, "".join(lines))
        return len(rows) - len(kept)

    def close(self) -> None:
        """Flush; the writer holds no open file."""
        self.flush()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _no_regular_file(path: Path) -> UserError:
    return UserError(f"{path} is refused: expected a regular file to write to, found a link, pipe or device")


def _append(path: Path, text: str, *, durable: bool = True) -> None:
    # Never through a link: whoever made the folder would say where we write. The mode is the umask's business.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _NO_WAIT, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _no_regular_file(path) from error
        raise
    status = os.fstat(descriptor)
    size = status.st_size
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _no_regular_file(path)
    try:
        view = memoryview(text.encode())
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)


def _parse_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_ours(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int | float) else None


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line)
    except (ValueError, RecursionError):
        return False
    return True


def _repair_tail(path: Path) -> None:
    # A kill can leave half a line; the next row must not be glued to it.
    if path.is_symlink():
        raise _no_regular_file(path)
    if not path.exists() or path.stat().st_size == 0:
        return
    data = read_bytes(path, METRICS_BYTES)
    if data.endswith(b"\n"):
        return
    start = data.rfind(b"\n") + 1
    whole = _is_json(data[start:])
    with replacing(path) as temporary:
        temporary.write_bytes(data + b"\n" if whole else data[:start])
