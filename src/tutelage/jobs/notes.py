"""What became of the jobs of one command.

Notes are files, one per job, because jobs run in this process, in forked ones, or on other machines of one file system.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from tutelage.errors import counted, gist
from tutelage.runs.records import read_json, write_json
from tutelage.runs.words import distinguishing

log = logging.getLogger("tutelage")


class Outcome(StrEnum):
    """What became of a job."""

    DONE = "done"
    FAILED = "failed"
    BUSY = "busy"
    """Another process works on it: it is looked at again when the others are done."""
    STOPPED_BELOW = "stopped"
    """Stopped because `fit.stop_below` asked for more than it had reached: a search does that, and it is no failure."""
    LEFT = "left"
    """Not begun, because a job before it failed and `on_failure=stop`."""


@dataclass(frozen=True)
class Note:
    """The outcome of a job.

    key: the run, or the job's words where there is no run. mistake: whether the command is at fault. log: the file that says more.
    words: the overrides of the job's command. processes: how many jobs its launcher runs at a time. seconds: how long it took.
    """

    key: str
    outcome: Outcome
    reason: str = ""
    mistake: bool = False
    log: str | None = None
    words: tuple[str, ...] = ()
    processes: int | None = 1
    seconds: float | None = None


class Notes:
    """A folder of notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = os.getpid()
        # What no other process need know, and what a full disk had no room for.
        self._here: dict[str, Note] = {}
        self._said: set[str] = set()

    def note(
        self, key: str, outcome: Outcome, reason: str = "", mistake: bool = False, log: str | None = None,
        words: Sequence[str] = (), processes: int | None = 1, seconds: float | None = None, *, here: bool = False,
    ) -> None:  # fmt: skip
        """Note the outcome of a job, in place of an earlier one. here: in this process alone."""
        note = Note(key, outcome, reason, mistake, log, tuple(words), processes, seconds)
        if here:
            self._here[key] = note
            return
        try:
            write_json(self.note_path(key), asdict(note))
        except OSError:
            if os.getpid() != self._process:
                raise  # the process that forked this one notes how it ended
            self._here[key] = note  # a full disk must not end the other jobs
        else:
            self._here.pop(key, None)

    def say_failed(self, key: str, reason: str, mistake: bool) -> None:
        """Say that a job failed; of a mistake that another had already, `close` says how many have it."""
        if mistake and gist(reason) in self._said:
            return
        self._said.add(gist(reason))
        log.error("%s failed: %s", key, reason)

    def note_path(self, key: str) -> Path:
        """Return the file that holds the note of a job."""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    def note_of(self, key: str) -> Note | None:
        """Return the note of a job, None while there is none."""
        path = self.note_path(key)
        return self._here.get(key) or (_read(path) if path.is_file() else None)

    def notes(self) -> list[Note]:
        """Return the notes of all jobs, ordered by key."""
        read = {note.key: note for note in map(_read, self.folder.glob("*.json"))}
        return sorted((read | self._here).values(), key=lambda one: one.key)

    def stop(self) -> None:
        """Let no further job begin."""
        (self.folder / "stop").touch()

    @property
    def stopped(self) -> bool:
        """Whether a job failed that stops the others."""
        return (self.folder / "stop").exists()

    def close(self) -> int:
        """List what failed, with the reason and the log; return the exit code: 0, 1, or 2 where the user can mend all of it."""
        notes = self.notes()
        with contextlib.suppress(OSError):  # where nothing was written into it
            self.folder.rmdir()
        failed = [note for note in notes if note.outcome is Outcome.FAILED]
        left = [note for note in notes if note.outcome is Outcome.LEFT]
        if failed:
            of = counted(len(notes), "job")
            log.error("%d of %s failed; the same command tries them again:", len(failed), of)
        told = distinguishing([note.words for note in notes])
        words = {note.key: own for note, own in zip(notes, told, strict=True)}
        for note, *others in _alike(failed):
            more = f", and {len(others)} more" if others else ""
            written = f"; log: {note.log}" if note.log else ""
            log.error("  %s%s: %s%s", _named(note, words[note.key]), more, note.reason, written)
        if left:
            log.error("%s not begun (on_failure=stop)", counted(len(left), "job"))
        if not failed:
            return 1 if left else 0
        return 2 if all(note.mistake for note in failed) else 1


def _named(note: Note, words: Sequence[str]) -> str:
    """Return how a failed job is called: its run and the words that the others have not; without a run, these alone."""
    told = " ".join(words)
    if note.key == " ".join(note.words):
        return told or note.key
    return f"{note.key} ({told})" if told else note.key


def _alike(failed: Sequence[Note]) -> list[list[Note]]:
    """Return failed jobs together whose words have the same mistake; each other one alone, since its log is its own."""
    groups: dict[str, list[Note]] = {}
    for note in failed:
        groups.setdefault(gist(note.reason) if note.mistake else note.key, []).append(note)
    return list(groups.values())


def _read(path: Path) -> Note:
    read = read_json(path)
    return Note(**{**read, "outcome": Outcome(read["outcome"]), "words": tuple(read["words"])})
