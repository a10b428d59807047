"""The files below a folder, as users' folders are: hidden files, links, names in any encoding (no torch)."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tutelage.errors import UserError
from tutelage.runs.digests import Files

NOT_DATA = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
}
"""What file managers, archives and network drives leave in folders, in lower case; passed over like hidden files."""
LISTED = 8


class Found(NamedTuple):
    """A file: its path relative to the folder ("/" between parts), its size in bytes, and when it was changed (ns)."""

    name: str
    size: int
    changed_ns: int


def walk(root: Path, folders: Files | None = None) -> Iterator[Found]:
    """Yield every regular file below a folder in no order, links followed; hidden ones and `NOT_DATA` are passed over.

    Pipes, sockets and devices are passed over, too: opening one may wait for ever. Raises UserError for links that lead nowhere or
    back to a folder they lie in (all of them named), and for a folder that may not be read. folders: takes those that are read.
    """
    broken: list[str] = []
    pending: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(str(root), "", ())]
    while pending:
        folder, prefix, above = pending.pop()
        try:
            here = Path(folder).stat()
            above = (*above, (here.st_dev, here.st_ino))
            if folders is not None:
                folders.note(folder, here)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name.lower() in NOT_DATA:
                        continue
                    name = f"{prefix}{entry.name}"
                    try:
                        status = entry.stat()
                    except OSError as error:  # a link to nothing, or to itself
                        if not entry.is_symlink():
                            raise
                        where = "leads to itself" if error.errno == errno.ELOOP else "leads nowhere"
                        broken.append(f"{name} ({where})")
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        if entry.is_symlink() and (status.st_dev, status.st_ino) in above:
                            broken.append(f"{name} (leads back to a folder it lies in)")
                        else:
                            pending.append((entry.path, f"{name}/", above))
                    elif stat.S_ISREG(status.st_mode):
                        yield Found(name, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise UserError(f"cannot read the folder {printable(folder)}: {error.strerror}") from error
    if broken:
        raise UserError(
            f"{printable(root)} has links that cannot be followed: {shown(sorted(broken))}. Mend or remove them"
        )


def in_order(found: Iterable[Found]) -> list[Found]:
    """Sort by name: alike for names with composed and with decomposed accents, in which systems differ."""
    files = sorted(found)
    if all(one.name.isascii() for one in files):
        return files
    return sorted(files, key=lambda one: (composed(one.name), os.fsencode(one.name)))


def composed(name: str) -> str:
    """Return a name with composed accents (Unicode NFC); a copy made on macOS may have them decomposed."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str | os.PathLike[str]) -> str:
    """Return a name as text that every terminal and file takes: bytes that are not UTF-8 as \\x.."""
    text = os.fspath(name)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def shown(names: Iterable[str], limit: int = LISTED) -> str:
    """Return the first few names, printable, and how many more there are."""
    given = list(names)
    more = f" and {len(given) - limit:,} more" if len(given) > limit else ""
    return ", ".join(map(printable, given[:limit])) + more
