"""Files that survive a kill: atomic writes of texts, JSON and YAML; what grows line by line is `json_lines`.

JSON knows no NaN, so a number that is not finite is written as the text "NaN", "Infinity" or "-Infinity"
(which float() of any language reads) and comes back as that number.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import UserError, visible
from tutelage.runs.bounded import load_json, load_yaml, parse_json

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MAY_BE_ENCODED = re.compile(rb'NaN"|Infinity"|\\u')
TEMPORARY_SUFFIX = ".tmp"


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
    text = json.dumps(encode(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, durable=durable, after=after)


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        OSError: there is no such file, or it cannot be read.
        UserError: the file is not JSON (truncated, or changed by hand), or beyond the bounds of `tutelage.runs.bounded`.
    """
    return load_json(path, parse=parse_ours)


def parse_ours(data: bytes) -> Any:
    """Return what a JSON text of ours holds, see `encode`. Raises ValueError as `parse_json` does."""
    value = parse_json(data)
    return decode(value) if _MAY_BE_ENCODED.search(data) else value


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


def encode(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite as text, keys as text, tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # NaN, Infinity, -Infinity: as texts, they are strict JSON
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(value: Any) -> Any:
    """Return a value as it was before `encode`, but for keys and tuples."""
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode(item) for item in value]
    return value
