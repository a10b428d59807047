"""What files said, kept in this process while they are the same: the commands of a sweep or a table ask for the same ones in turn.

A file or folder is the same while its device, number (inode), size and times are. A folder's times change with what is added, removed or
renamed in it. What changed within the last seconds is asked anew, since a clock may be too coarse to tell the next change.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import NamedTuple

FRESH_S = 2.0
"""What is younger is not kept."""
SHARE = 0.05
"""What more files made than are looked at each time is learnt anew in at most so much of the time that passes, ..."""
LONGEST_S = 60.0
"""... and at least as often as this."""
_MOST = 1 << 10
_kept: OrderedDict[Hashable, _Kept] = OrderedDict()


class Files(dict[str, tuple[int, ...]]):
    """The files and folders that something was learnt of, as they were. part: whether they are some of several."""

    part = False

    def note(self, path: str | os.PathLike[str], status: os.stat_result | None = None) -> None:
        """Add a file or folder, before it is read."""
        self[os.fspath(path)] = _mark(os.stat(path) if status is None else status)  # noqa: PTH116 - a thousand times a command

    def are_same(self) -> bool:
        """Whether all are there, and as they were."""
        try:
            return all(_mark(os.stat(path)) == mark for path, mark in self.items())  # noqa: PTH116
        except OSError:
            return False


class _Kept(NamedTuple):
    text: str
    files: Files
    until: float


def kept(key: Hashable, learn: Callable[[Files], str]) -> str:
    """Return what was learnt in this process under a key, or learn it.

    learn: notes the files that it reads. Of more of them than it notes (`Files.part`) a change is seen within 20 times as long as
    learning took, and within a minute.
    """
    known = _kept.pop(key, None)
    if known is None or time.monotonic() > known.until or not known.files.are_same():
        now, began, files = time.time_ns(), time.monotonic(), Files()
        text = learn(files)
        ended = time.monotonic()
        if any(max(mark[-2:]) > now - FRESH_S * 1e9 for mark in files.values()):
            return text
        known = _Kept(
            text, files, ended + min(LONGEST_S, (ended - began) / SHARE) if files.part else float("inf")
        )
    _kept[key] = known
    if len(_kept) > _MOST:
        _kept.popitem(last=False)
    return known.text


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""

    def learn(files: Files) -> str:
        with path.open("rb") as file:
            files.note(path, os.fstat(file.fileno()))
            return hashlib.file_digest(file, "sha256").hexdigest()

    return kept(("file", os.path.abspath(path)), learn)  # noqa: PTH100 - links are followed when it is looked at


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
