"""Folders and locks of runs, for one user or for a group that shares a runs folder."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.errors import UserError
from tutelage.runs.identity import LENGTH

if TYPE_CHECKING:
    from filelock import FileLock

IDENTITY = re.compile(rf"[0-9a-f]{{{LENGTH}}}")
"""What the folder of a run is called."""

NAMES_S = 10.0
"""How old what is known of the folders of runs may be where nothing says that the one that is asked for was begun."""
_names: dict[str, tuple[float, list[Path]]] = {}

ASIDE = ".removed"
"""Where in the runs folder lies what was removed and waits to be deleted."""
_AT_ONCE = 8

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        UserError: that is not possible; the message names the folder and `runs_dir`.
    """
    try:
        with for_its_group(path):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ESTALE:  # of a server that forgot a handle: another attempt has another
            raise
        raise UserError(
            f"cannot make the folder {path}: {error.strerror}. Name one that can be written: runs_dir=..."
        ) from error


@contextlib.contextmanager
def for_its_group(folder: Path) -> Iterator[None]:
    """Let the group write what is made meanwhile, if the folder (or the nearest above it that exists) is one that a group shares.

    That is one with the setgid bit that its group may write: `chgrp lab runs; chmod 2775 runs`. Elsewhere the user's umask holds alone.
    The umask is the process's, and that of the processes it starts.
    """
    if os.name == "nt":
        yield
        return
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        mode = folder.stat().st_mode
    except OSError:
        mode = 0
    if not (mode & stat.S_ISGID and mode & stat.S_IWGRP):
        yield
        return
    before = os.umask(0)
    os.umask(before & ~0o070)
    try:
        yield
    finally:
        os.umask(before)


def twin(root: Path, identity: str, *, begun: bool | None = None) -> Path | None:
    """Return the folder of the run with an identity below the runs folder, whatever its name; of several, one that is complete.

    begun: whether a process of any machine may have begun it, so that names are to be looked for now; None: whether it has a lock.
    """
    if begun is None:
        begun = lock_of(root, identity).exists()
    found = [folder / identity for folder in names_in(root, within_s=0.0 if begun else NAMES_S)]
    found = [path for path in found if path.is_dir() and not path.is_symlink()]
    return next((path for path in found if (path / "result.json").is_file()), found[0] if found else None)


def lock_of(root: Path, identity: str) -> Path:
    """Return the file whose lock is that of the run with an identity; it is there from when the run is begun."""
    return root / ".locks" / f"{identity}.lock"


def names_in(root: Path, *, within_s: float = 0.0) -> list[Path]:
    """Return the folders below the runs folder that a name may stand for, in order.

    within_s: how old the answer may be. To look takes as long as there are runs, and each of ten thousand jobs asks.
    """
    key = os.fspath(root.absolute())
    known = _names.get(key)
    if known is None or time.monotonic() - known[0] > within_s:
        known = _names[key] = (time.monotonic(), [*_names_below(root)])
    return known[1]


def _names_below(root: Path) -> Iterator[Path]:
    try:
        with os.scandir(root) as entries:
            below = sorted(
                e.name
                for e in entries
                if e.name[0] != "." and not IDENTITY.fullmatch(e.name) and e.is_dir(follow_symlinks=False)
            )
    except OSError:
        return
    for entry in below:
        yield root / entry
        yield from _names_below(root / entry)


def lock_at(path: Path) -> FileLock:
    """Return the lock of a file, which everybody may take who may write the folder it lies in."""
    from filelock import FileLock  # here, as below: a command that meets no unfinished run needs none

    mode = 0o600 | (path.parent.stat().st_mode & 0o066) if os.name != "nt" else 0o666
    return FileLock(path, thread_local=False, mode=mode)


def take(path: Path) -> int | None:
    """Take the lock of a file that is there, in a twentieth of the time that `lock_at` needs; None: ask that, which can wait and say why.

    The lock is free again when the descriptor that is returned is closed.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # else somebody removed the file, and its name guards another one
            return descriptor
    os.close(descriptor)
    return None


def set_aside(folder: Path, root: Path) -> Path:
    """Move a folder out of the store, at once, and return where it waits to be deleted: what a kill leaves there, `left_aside` finds."""
    grave = f"{folder.name}-{secrets.token_hex(4)}"
    try:
        return folder.rename(f"{root}/{ASIDE}/{grave}")
    except FileNotFoundError:
        with for_its_group(root):
            (root / ASIDE).mkdir(exist_ok=True)
        return folder.rename(root / ASIDE / grave)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return folder.rename(folder.with_name(f".removed-{grave}"))  # a name that lies on another disk


def left_aside(root: Path) -> list[Path]:
    """Return the folders that a removal set aside and did not delete: it was killed, or is at it."""
    try:
        return sorted((root / ASIDE).iterdir())
    except OSError:
        return []


def delete(folders: Iterable[Path]) -> list[Path]:
    """Delete folders, several at once: a disk that lets each wait serves many together. Return those that could not be deleted."""
    from concurrent.futures import ThreadPoolExecutor

    waiting = deque(folders)
    given = list(waiting)

    def work(_: int) -> None:
        with contextlib.suppress(IndexError):  # the last one was another's
            while waiting:
                _delete(waiting.popleft())

    try:
        if len(given) == 1:
            work(0)
        elif given:
            with ThreadPoolExecutor(min(len(given), _AT_ONCE)) as pool:
                list(pool.map(work, range(_AT_ONCE)))
    finally:
        waiting.clear()  # an interrupt ends it after the folders that are at hand
    return [folder for folder in given if folder.exists()]


def _delete(folder: Path) -> None:
    """Delete a folder: the files in it, as most hold nothing else, and what is left by `rmtree`, which takes three times as long."""
    if os.unlink in os.supports_dir_fd:  # Windows knows no such descriptors
        with contextlib.suppress(OSError):
            here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                for name in os.listdir(here):  # noqa: PTH208 - of a descriptor
                    os.unlink(name, dir_fd=here)  # a folder is refused
            finally:
                os.close(here)
            folder.rmdir()
            return
    shutil.rmtree(folder, ignore_errors=True)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file. Who may read the file may ask."""
    if not path.is_file() or path.is_symlink():
        return False
    from filelock import FileLock, Timeout

    probe = FileLock(path, thread_local=False)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return _is_held_to_readers(path)
    probe.release()
    return False


def _is_held_to_readers(path: Path) -> bool:
    """As `is_held`, of somebody else's file, which cannot be opened for writing."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # we cannot ask, and cannot write there either
        return False
    return False
