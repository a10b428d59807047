"""Files that survive a kill: atomic writes, strict JSON, and the append-only record of metrics.

JSON knows no NaN, so a number that is not finite is written as the text "NaN", "Infinity" or "-Infinity"
(which float() of any language reads) and comes back as that number.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.errors import UserError, visible
from tutelage.runs.bounded import load_json, load_yaml, parse_json, read_bytes

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
TEMPORARY_SUFFIX = ".tmp"
METRICS_BYTES = 4 * 2**30
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def replacing(
    path: Path, *, keep: Path | None = None, durable: bool = True, after: Iterable[Path] = ()
) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, that file takes the place of `path`.

    Whatever happens (an error, a full disk, a kill), `path` holds either its old or its new content, whole.

    keep: the old content stays under that name; `path` exists at every moment in between.
    durable: whether that also holds when power is lost; else whoever relies on the file names it in `after`, or to `sync_all`.
    after: files that are on the disk, too, before this one is there.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        if durable:
            sync_all([temporary, *after])
        if keep is not None and path.exists():
            _link(path, keep)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_all(paths: Iterable[Path]) -> None:
    """Put files on the disk: several at once, for which a file system writes its journal once (six in a third of the time)."""
    given = list(paths)
    if len(given) == 1:
        _sync(given[0])
    elif given:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(given), 16)) as pool:
            list(pool.map(_sync, given))


def write_text(path: Path, text: str, *, durable: bool = True, after: Iterable[Path] = ()) -> None:
    """Write a small text file atomically; durable, after: see `replacing`."""
    with replacing(path, durable=durable, after=after) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, durable: bool = True, after: Iterable[Path] = ()) -> None:
    """Write a JSON file atomically; numbers that are not finite become text. durable, after: see `replacing`."""
    text = json.dumps(_encode(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, durable=durable, after=after)


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UserError: the file is not JSON (truncated, or changed by hand), or beyond the bounds of `tutelage.runs.bounded`.
    """
    return _decode(load_json(path))


def write_yaml(path: Path, value: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a YAML file atomically, keys in their order; tuples become lists. durable: see `replacing`."""
    import yaml

    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # No aliases: a value used twice is written twice, so that the file can be edited and compared line by
    # line.
    dumper = type("_PlainDumper", (dumper,), {"ignore_aliases": lambda *_: True})
    text = yaml.dump(_plain(value), Dumper=dumper, sort_keys=False, allow_unicode=True, width=110)
    write_text(path, text, durable=durable)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; nothing in it can run code.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UserError: the file is not YAML, not a mapping, or beyond the bounds of `tutelage.runs.bounded`.
    """
    value = load_yaml(path)
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is damaged: expected a mapping of keys to values, got {type(value).__name__}"
        )
    return value


def spreadsheet_safe(value: Any) -> Any:
    """Return a cell of a CSV file: text with control characters spelled out, and a ' before what a spreadsheet would compute."""
    if not isinstance(value, str):
        return value
    value = visible(value)
    if not value.startswith(("=", "+", "-", "@", "\t", "\r")) or value == "-":
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder; call it under the run's lock only."""
    for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):  # hidden ones too
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one JSON object as a line, in one write; a torn line that a kill left is mended first."""
    _repair_tail(path)
    _append(path, json.dumps(_encode(value), ensure_ascii=False, allow_nan=False) + "\n")


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
        self._waiting.append(json.dumps(_encode(row), ensure_ascii=False, allow_nan=False))

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
            lines = [json.dumps(_encode(row), ensure_ascii=False, allow_nan=False) + "\n" for row in kept]
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
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK | NO_WAIT, 0o666)
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
        row = _decode(parse_json(line))
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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(path: Path, keep: Path) -> None:
    # A second name for the old content first, so that no moment lacks `path`; file systems without links
    # copy.
    temporary = _temporary(keep)
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(keep)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # NaN, Infinity, -Infinity: as texts, they are strict JSON
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
