"""One run: its folder, its files, its state, and the lock that lets one process at a time write them."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import UserError
from tutelage.runs.folders import (
    delete,
    for_its_group,
    is_held,
    lock_at,
    lock_of,
    make_folder,
    set_aside,
    take,
    twin,
)
from tutelage.runs.identity import LENGTH, identify
from tutelage.runs.json_lines import Metrics, MetricsWriter, read_metrics
from tutelage.runs.provenance import now
from tutelage.runs.records import (
    TEMPORARY_SUFFIX,
    read_json,
    read_yaml,
    remove_temporaries,
    write_json,
    write_yaml,
)

if TYPE_CHECKING:
    from filelock import FileLock

_GRACE_S = 0.3
"""How long "at once" is: another process asking for a run's state holds its lock for an instant."""


class State(StrEnum):
    """What a run's files and lock say about it."""

    MISSING = "missing"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    FAILED = "failed"
    COMPLETE = "complete"


class RunBusy(UserError):
    """Another process works on this run."""


class Run:
    """A run's folder `<runs_dir>/<name>/<identity>/`, which need not exist yet.

    Files, in the order they come: `config.yaml`, `provenance.json`, `own_code/`, `log.txt`, `setup.json` (data and method as built),
    `splits.npz` (the indices of each split), `metrics.jsonl`, `checkpoints/` with `last.ckpt`, `previous.ckpt` and
    `best-<step>.safetensors`, `failed.json` after a failure, and last `result.json`.
    """

    def __init__(self, path: Path, *, name: str | None = None, root: Path | None = None) -> None:
        """Name a run's folder. root: the folder of the store it lies in, where the same run may lie under another name."""
        self.path = path
        self._name = name
        self._root = root
        self._file_lock: FileLock | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def identity(self) -> str:
        """The 12 hexadecimal digits."""
        return self.path.name[:LENGTH]

    @functools.cached_property
    def is_link(self) -> bool:
        """Whether its folder here is a link to one of another name."""
        return self.path.is_symlink()

    @property
    def name(self) -> str:
        """The experiment's name, such as `demo/plain`."""
        if self._name is None:
            self._name = str(self.config.get("name", self.path.parent.name))
        return self._name

    @property
    def key(self) -> str:
        """`<name>/<identity>`: what a report and `needs.<name>.run` call this run."""
        return f"{self.name}/{self.identity}"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, read from the folder."""
        path = self.path / "config.yaml"
        if not path.is_file():
            raise UserError(f"no run in {self.path}: expected a file config.yaml there")
        return read_yaml(path)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Where each attempt's numbers came from, oldest first; empty if there is no record or it is damaged.

        A damaged record is no error: what it described, and whoever goes on with it, must not be lost with it.
        """
        try:
            record = read_json(self.path / "provenance.json")
            return [dict(attempt) for attempt in record["attempts"]]
        except (FileNotFoundError, UserError, KeyError, TypeError, ValueError):
            return []

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished result, or None."""
        path = self.path / "result.json"
        return read_json(path) if path.is_file() else None

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why the last attempt failed ("error", "message", ...), or None."""
        path = self.path / "failed.json"
        return read_json(path) if path.is_file() else None

    @property
    def metrics(self) -> Metrics:
        """The recorded rows."""
        return read_metrics(self.path / "metrics.jsonl")

    @property
    def log(self) -> Path:
        """The text log."""
        return self.path / "log.txt"

    def checkpoint(self, which: str) -> Path:
        """Return the path of the state to resume from, `last`, or of the one before it, `previous`."""
        return self.path / "checkpoints" / f"{which}.ckpt"

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on from: a state of training or sampling (not weights alone), or shards of pseudo data."""
        states = [path for path in self.path.glob("checkpoints/*") if path.suffix != TEMPORARY_SUFFIX]
        return any(not path.name.startswith("best-") for path in states) or any(self.path.glob("shards/*"))

    @property
    def state(self) -> State:
        """The state that the files and the lock show now."""
        if self.is_complete:
            return State.COMPLETE
        if self.is_locked:
            return State.RUNNING
        if not self.path.is_dir():
            return State.MISSING
        if (self.path / "failed.json").is_file():
            return State.FAILED
        return State.INTERRUPTED

    @property
    def is_complete(self) -> bool:
        """Whether a whole result is stored; a damaged one does not count, so the run is finished again."""
        try:
            result = self.result
        except (UserError, OSError):
            return False
        return isinstance(result, dict) and result.get("state") == State.COMPLETE

    @property
    def is_locked(self) -> bool:
        """Whether a process holds the run's lock (a killed one does not: the system frees its lock)."""
        if self._file_lock is not None and self._file_lock.is_locked:
            return True
        return is_held(self._lock_path)

    @contextlib.contextmanager
    def lock(self, *, wait: bool = True, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the run: one process at a time writes it. Holding it again from the same object is allowed.

        The lock is the identity's, whatever names it has, and lies outside the folder, so it stays valid while an attempt is archived;
        the system frees it when its process dies. Where the run was made under another name meanwhile, this one is that from here on.
        `say` is called once, with whom a waiting process waits for.

        Raises:
            RunBusy: another process holds it and `wait` is false.
            UserError: the folder cannot be written.
        """
        make_folder(self._lock_path.parent)
        with for_its_group(self._lock_path.parent):
            lock = self._file_lock = self._file_lock or lock_at(self._lock_path)
            try:
                begun = self._acquire(lock, wait, say)
            except OSError as error:
                if error.errno == errno.ESTALE:
                    raise
                raise UserError(f"cannot lock {self.path}: {error.strerror or error}") from error
            try:
                self._become_twin(begun)
                yield
            finally:
                lock.release()

    @contextlib.contextmanager
    def lock_now(self) -> Iterator[None]:
        """Hold the run for an instant: as `lock(wait=False)`, which is asked where the lock is not free, and leaves no note by whom."""
        held = take(self._lock_path)
        if held is None:
            with self.lock(wait=False):
                yield
            return
        try:
            yield
        finally:
            os.close(held)

    def begin(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Open an attempt (new, resumed or again after a failure): write the configuration, note the attempt.

        Call it under the lock. What killed writers left is cleared; an old failure moves to
        `failed-<n>.json`.
        """
        if identify(config) != self.identity:
            raise ValueError(
                f"this configuration has the identity {identify(config)}, not that of {self.path}"
            )
        if links := [path for path in (self.path, *self.path.glob("*")) if path.is_symlink()]:
            raise UserError(
                f"{links[0]} is refused: a run is written into its own folder, not through a link to {links[0].readlink()}"
            )
        if self._root is not None:  # a run begun under one name may go on under another
            config = {**config, "name": self.name}
        make_folder(self.path / "checkpoints")
        for folder in (self.path, self.path / "checkpoints"):
            remove_temporaries(folder)
        for folder in self.path.glob("ranks-*"):  # logs of ranks whose launcher was killed
            shutil.rmtree(folder, ignore_errors=True)
        # What is written from here on is put on the disk before `complete` says that it is there: at once, not file by file.
        write_yaml(self.path / "config.yaml", config, durable=False)
        if (self.path / "failed.json").exists():
            (self.path / "failed.json").rename(self.path / f"failed-{self.failures + 1}.json")
        attempts = [*self.attempts, dict(provenance)]
        write_json(self.path / "provenance.json", {"attempts": attempts}, durable=False)

    @property
    def failures(self) -> int:
        """How many earlier attempts failed and were begun again (an open failure not counted)."""
        return len(list(self.path.glob("failed-*.json")))

    def writer(self) -> MetricsWriter:
        """Open the record of metrics for appending."""
        return MetricsWriter(self.path / "metrics.jsonl")

    def complete(self, result: Mapping[str, Any]) -> None:
        """Store the result; from this moment the run is complete."""
        self._note_end()
        # what is still being written, a mirror's picture, may have another name the next moment
        files = [path for path in self.path.iterdir() if path.suffix != TEMPORARY_SUFFIX and path.is_file()]
        write_json(self.path / "result.json", {"state": str(State.COMPLETE), **result}, after=files)

    def drop_checkpoints(self) -> None:
        """Remove the states to resume from. Call it under the lock, and only when the run is complete: its network has its own file."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def remove(self) -> None:
        """Remove the run from the disk. Call it under the lock."""
        delete(self.set_aside())

    def set_aside(self) -> list[Path]:
        """Let the run be gone, at once, and its lock's file with it; return what is left to be deleted. Call it under the lock.

        Who waits for the lock sees that the file it has open is no longer there, and asks for a new one.
        """
        if self.path.is_symlink():  # another name of a run, which stays
            self.path.unlink()
            return []
        left = [set_aside(self.path, self._root or self.path.parent)]
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            self._lock_path.unlink(missing_ok=True)
        return left

    def fail(self, error: str, message: str, **facts: Any) -> None:
        """Record why this attempt failed: the error's kind, its message, and facts such as the step.

        When a rank fails, the others fail moments later of its absence: the first news stays, unless it is later news that the user can
        act on. facts: `mistake` says that it is.
        """
        known = self.failure if (self.path / "failed.json").is_file() else None
        if known is not None and (known.get("mistake") or not facts.get("mistake")):
            return
        self._note_end()
        write_json(self.path / "failed.json", {"error": error, "message": message, **facts})

    def archive(self) -> Path | None:
        """Move the whole attempt to `<name>/.archive/<identity>-<n>` and return where (None: nothing there).

        Call it under the lock. Nothing is deleted.
        """
        if not self.path.exists():
            return None
        folder = self.path.parent / ".archive"
        make_folder(folder)
        number = 1 + max((_number(path) for path in folder.glob(f"{self.identity}-*")), default=0)
        return self.path.rename(folder / f"{self.identity}-{number}")

    def _note_end(self) -> None:
        if attempts := self.attempts:
            attempts[-1]["finished"] = now()
            write_json(self.path / "provenance.json", {"attempts": attempts}, durable=False)

    @functools.cached_property
    def _lock_path(self) -> Path:
        return lock_of(self._root or self.path.parent, self.path.name)

    def _become_twin(self, begun: bool) -> None:
        if self._root is None or self.path.exists():
            return
        found = twin(self._root, self.identity, begun=begun)
        if found is not None:
            self.path, self._name = found, found.parent.relative_to(self._root).as_posix()

    def _acquire(self, lock: FileLock, wait: bool, say: Callable[[str], None] | None) -> bool:
        """Take the lock; return whether anybody held it before, who left a note in its file."""
        import socket

        from filelock import Timeout

        try:
            lock.acquire(timeout=_GRACE_S, poll_interval=0.05)
        except Timeout:
            if not wait:
                raise RunBusy(f"{self.key} is being run by {self._holder()}") from None
            if say is not None:
                say(f"waiting for {self.key}, which {self._holder()} is running")
            lock.acquire(poll_interval=0.25)
        begun = True
        with contextlib.suppress(OSError):
            begun = self._lock_path.stat().st_size > 0
        # For messages, and for who comes after; the lock itself says that it is held. So a failure to note by whom is none.
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError), self._lock_path.open("r+b") as file:
            # Not emptied first: ext4 puts a file that was emptied on the disk when it is closed.
            file.truncate(file.write(json.dumps(note).encode()))
        return begun

    def _holder(self) -> str:
        try:
            note = read_json(self._lock_path)
            return f"process {note['pid']} on {note['host']} since {note['since']}"
        except (OSError, UserError, KeyError, TypeError):
            return "another process"


def _number(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
