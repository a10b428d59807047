"""Files that may come from anybody, read within bounds: regular files of a bounded size, JSON and YAML of a bounded depth.

What a parser would do for minutes, or die of (a YAML of aliases, brackets a hundred thousand deep, a pipe in place of a file), is
refused before it is parsed. The bounds lie far above what Tutelage writes.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.errors import UserError

JSON_BYTES = 64 * 2**20
YAML_BYTES = 4 * 2**20
DEPTH = 64
"""How deep mappings and lists may be nested."""
NODES = 1_000_000
"""How many values a file may hold, those that aliases repeat counted each time."""
EXPANSION = 4
"""How many times its own size an archive may unpack to: what PyTorch writes is not compressed, indices hardly."""

_DEEP_OR_ALIASED = re.compile(rf"[&*]|^[ \t?:-]{{{DEPTH // 2}}}", re.MULTILINE)
_JSON_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file; a link to one is followed.
        limit: the most bytes that are read.

    Raises:
        OSError: it is missing, or cannot be read.
        UserError: it is a pipe, a device or another special file, or larger than the limit.
    """
    # Without O_NONBLOCK opening a pipe waits for a writer, for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is refused: expected a regular file, found a pipe, socket or device")
        if status.st_size > limit:
            raise UserError(
                f"{path} is refused: it has {status.st_size / 1e6:,.0f} MB, expected at most {limit / 1e6:,.0f}"
            )
        return file.read(limit)


def read_end(path: Path, most: int) -> tuple[bytes, int]:
    """Return the last bytes of a regular file, at most so many, and its size. A link is not followed: what is read may be shown.

    Raises:
        OSError: it is missing, a link, or cannot be read.
        UserError: it is a pipe, a device or another special file.
    """
    wanted = ("O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW")
    descriptor = os.open(path, sum((getattr(os, name, 0) for name in wanted), os.O_RDONLY))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is refused: expected a regular file, found something else")
        file.seek(max(0, status.st_size - most))
        return file.read(most), status.st_size


def load_json(path: Path, limit: int = JSON_BYTES, parse: Callable[[bytes], Any] | None = None) -> Any:
    """Return what a JSON file holds. parse: how its content is read; default: `parse_json`.

    Raises:
        OSError: it is missing, or cannot be read.
        UserError: it is no JSON, or beyond the bounds.
    """
    data = read_bytes(path, limit)
    try:
        return (parse or parse_json)(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: expected JSON, but {error}") from error


def parse_json(data: bytes) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON in UTF-8, or nested too deeply.
    """
    opening = data.count(b"[") + data.count(b"{")
    if opening > NODES:
        raise ValueError(f"it holds {opening:,} lists and objects, expected at most {NODES:,}")
    if opening > DEPTH:  # few have so many that they could be so deep
        _check_json_depth(data)
    return json.loads(data.decode("utf-8"))


def _check_json_depth(data: bytes) -> None:
    depth = 0
    for token in _JSON_TOKENS.finditer(data):
        first = token[0][:1]
        depth += (first in b"[{") - (first in b"]}")
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")


def load_yaml(path: Path, limit: int = YAML_BYTES) -> Any:
    """Return what a YAML file holds: plain values alone, nothing in it can run code.

    Raises:
        OSError: it is missing, or cannot be read.
        UserError: it is no YAML in UTF-8, or beyond the bounds.
    """
    import yaml  # here, as below: commands that only look at runs read no YAML

    data = read_bytes(path, limit)
    try:
        text = data.decode("utf-8")
        if not _is_surely_small(text):
            check_yaml(text)
        return yaml.load(text, Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: expected YAML, but {error}") from error


def _is_surely_small(text: str) -> bool:
    """Say whether a text as we write them needs no look at each of its events, which takes as long as to read it."""
    # Without aliases a value takes a letter; a level takes a bracket, or a column before what its line says.
    brackets = text.count("[") + text.count("{")
    return len(text) < NODES and brackets < DEPTH // 4 and not _DEEP_OR_ALIASED.search(text)


def check_yaml(text: str) -> None:
    """Read a YAML text event by event, which needs neither recursion nor memory.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: it is nested too deeply, holds too many values with its aliases spelled out, or contains itself.
    """
    import yaml

    opens = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
    closes = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
    # Of every open mapping or list: how many values and levels it has so far, and its anchor.
    opened: list[list[Any]] = [[0, 0, None]]
    known: dict[str, tuple[int, int] | None] = {}

    def add(values: int, levels: int) -> None:
        innermost = opened[-1]
        innermost[0] += values
        innermost[1] = max(innermost[1], levels)
        if innermost[0] > NODES:
            raise ValueError(f"it holds more than {NODES:,} values, aliases spelled out")
        if len(opened) + levels > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")

    for event in yaml.parse(text, Loader=_loader()):
        if isinstance(event, opens):
            opened.append([1, 0, event.anchor])
            if event.anchor:
                known[event.anchor] = None  # not whole yet: an alias to it would be a circle
            add(0, 0)
        elif isinstance(event, closes):
            values, levels, anchor = opened.pop()
            if anchor:
                known[anchor] = (values, levels + 1)
            add(values, levels + 1)
        elif isinstance(event, yaml.AliasEvent):
            found = known.get(str(event.anchor))
            if event.anchor in known and found is None:
                raise ValueError(f"'*{event.anchor}' contains itself")
            add(*(found or (1, 0)))  # an unknown one is named by the parser
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                known[event.anchor] = (1, 0)
            add(1, 0)


def check_archive(path: Path, limit: int | None = None) -> None:
    """Refuse a zip file (PyTorch's and NumPy's are ones) that would unpack to far more than it is; others pass.

    Args:
        path: the file.
        limit: the most bytes that it may unpack to; by default `EXPANSION` times its own size.

    Raises:
        UserError: it would unpack to more.
    """
    import zipfile

    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return  # its reader says what is wrong with it
    most = EXPANSION * path.stat().st_size + 2**20 if limit is None else limit
    if unpacked > most:
        raise UserError(
            f"{path} is refused: its {path.stat().st_size / 1e6:,.1f} MB would unpack to {unpacked / 1e6:,.0f} MB"
        )


def _loader() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
