"""What reports read in the files of runs, kept beside the runs: a cache alone, which may be lost, and is checked by times and sizes.

`<runs_dir>/.index/facts.txt` has a line for each run and one for each section of settings, which runs share. A line of a run holds only as
long as the files it was read from have the same size, times and number on the disk (inode). What was written within the last seconds is not
kept, since a clock may be too coarse to tell the next change. The file is replaced whole: a reader sees the old or the new one, of several
writers the last one stays, and what others had found is read again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.reporting.facts import Facts, Settings, TestData, read_facts
from tutelage.reporting.settings_by_section import Inputs, Section
from tutelage.runs.bounded import read_bytes
from tutelage.runs.digests import FRESH_S
from tutelage.runs.folders import make_folder
from tutelage.runs.records import TEMPORARY_SUFFIX, replacing
from tutelage.runs.run import Run, State

WORTHWHILE = 64
"""How many runs must have been read anew before the index is written: fewer are read again in less time than a file is kept for."""
LINE_BYTES = 64 * 2**10
"""A run or a section that takes more is not kept: nobody's run makes the index large."""
FILE_BYTES = 2**30
_OF_COMPLETE = ("config.yaml", "provenance.json", "setup.json", "result.json")
_OF_OTHERS = (*_OF_COMPLETE, "failed.json", "metrics.jsonl")
_STALE_S = 3600.0
_KEY = re.compile(r"[A-Za-z0-9._+=/-]+")
_PLAIN = ("complete", "metrics", "monitor", "mode", "directions", "best_step", "started", "finished", "train_s", "machine",
          "step", "steps", "so_far")  # fmt: skip
"""Facts that JSON gives back as they were."""
log = logging.getLogger("tutelage")


class Index:
    """The kept facts of the runs below a folder. Nothing is read before it is asked for."""

    def __init__(self, root: Path, *, fresh_s: float = FRESH_S, worthwhile: int = WORTHWHILE) -> None:
        self.path = root / ".index" / "facts.txt"
        self._fresh_s = fresh_s
        self._worthwhile = worthwhile
        self._lines: dict[str, str] | None = None
        self._sections: dict[str, str] = {}
        self._shared: dict[str, Section] = {}
        self._read: dict[str, str] = {}

    def facts(self, run: Run) -> Facts | None:
        """Return what is kept of a run, if it holds."""
        line = self._known().get(run.key)
        if line is None:
            return None
        signed, sections, text = line.split("\t")
        files = _OF_COMPLETE if len(signed.split(",")) == len(_OF_COMPLETE) else _OF_OTHERS
        if _signature(run.path, files) != signed:
            return None
        try:
            return _decode(json.loads(text), map(self._section, sections.split()))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return None

    def read(self, run: Run, state: State) -> Facts:
        """Read a run's files, and keep what they say if it may be kept."""
        files = _OF_COMPLETE if state is State.COMPLETE else _OF_OTHERS
        began = time.time()
        before = _signature(run.path, files)
        facts = read_facts(run, state)
        shared = [self._share(section) for section in facts.settings.inputs.sections.values()]
        facts = _with_sections(facts, [section for _, section in shared])
        if before is None or began - _youngest(before) < self._fresh_s or not _KEY.fullmatch(run.key):
            return facts
        text = _encode(facts)
        if text is None or any(len(self._sections[digest]) > LINE_BYTES for digest, _ in shared):
            return facts
        if _signature(run.path, files) == before:
            self._read[run.key] = f"{before}\t{' '.join(digest for digest, _ in shared)}\t{text}"
        return facts

    def remember(self) -> None:
        """Keep what was read in memory alone, for the next look by this object."""
        self._lines = {**self._known(), **self._read}
        self._read = {}

    def save(self, under: str = "", keys: Iterable[str] | None = None) -> None:
        """Keep what was read. A folder that cannot be written is left as it is.

        keys: the runs that exist at or below a name, of which no others are kept; None: all are.
        """
        if len(self._read) < self._worthwhile:
            return
        there = set(self._known() if keys is None else keys)
        prefix = f"{under}/" if under else ""
        kept = {
            key: line for key, line in self._known().items() if key in there or not key.startswith(prefix)
        }
        kept |= self._read
        used = {digest for line in kept.values() for digest in line.split("\t")[1].split()}
        try:
            make_folder(self.path.parent)
            _clear(self.path.parent)
            with replacing(self.path) as temporary, temporary.open("w", encoding="ascii") as file:
                file.write(f"{_version()}\n")
                file.writelines(
                    f"\t{digest}\t{text}\n" for digest, text in self._sections.items() if digest in used
                )
                file.writelines(f"{key}\t{line}\n" for key, line in kept.items())
        except (OSError, UserError, UnicodeError) as error:
            log.debug("the index %s is not written: %s", self.path, error)

    def _known(self) -> dict[str, str]:
        if self._lines is None:
            self._lines = {}
            try:
                # Most of it may be of other runs: a line is taken apart when its run is asked for.
                lines = read_bytes(self.path, FILE_BYTES).decode("ascii").split("\n")
            except (OSError, UserError, UnicodeError):
                lines = []
            if lines and lines[0] == _version():
                for line in lines[1:-1]:  # what follows the last line end is torn
                    key, _, rest = line.partition("\t")
                    if key and rest.count("\t") == 2:
                        self._lines[key] = rest
                    elif not key and rest.count("\t") == 1:
                        digest, _, text = rest.partition("\t")
                        self._sections[digest] = text
        return self._lines

    def _section(self, digest: str) -> Section:
        if digest not in self._shared:
            found = json.loads(self._sections[digest])
            if not all(isinstance(text, str) for text in found.values()):
                raise TypeError("a section has texts alone")
            self._shared[digest] = found
        return self._shared[digest]

    def _share(self, section: Section) -> tuple[str, Section]:
        """Return the digest of a section, and the one that all runs share whose own is equal."""
        self._known()
        text = json.dumps(section)
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._sections.setdefault(digest, text)
        return digest, self._shared.setdefault(digest, section)


@functools.cache
def _version() -> str:
    """Return what changes with the code by which files are read, and with that of this file."""
    import tutelage.runs

    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in (
        *sorted(Path(tutelage.runs.__file__).parent.glob("*.py")),
        here / "facts.py",
        here / "index.py",
    ):
        digest.update(path.read_bytes())
    return f"facts {digest.hexdigest()[:32]}"


def _signature(folder: Path, files: Iterable[str]) -> str | None:
    """Return sizes, times and inodes of a run's files as text; None where one is no regular file or cannot be asked for."""
    signed = []
    for file in files:
        try:
            status = os.stat(f"{folder}/{file}")  # noqa: PTH116 - forty thousand times, and no path made for it
        except FileNotFoundError:
            signed.append("-")
            continue
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        signed.append(f"{status.st_size}.{status.st_ino}.{status.st_mtime_ns}.{status.st_ctime_ns}")
    return ",".join(signed)


def _youngest(signed: str) -> float:
    """Return when one of the files last changed, in seconds since the epoch."""
    return max(
        (int(at) / 1e9 for file in signed.split(",") if file != "-" for at in file.split(".")[2:]),
        default=0.0,
    )


def _with_sections(facts: Facts, sections: Iterable[Section]) -> Facts:
    own = facts.settings
    inputs = Inputs(dict(zip(own.inputs.sections, sections, strict=True)))
    return replace(facts, settings=Settings(own.seed, inputs, own.needs))


def _encode(facts: Facts) -> str | None:
    """Return facts, less their sections, as JSON; None where they would not come back the same or are too many."""
    own = facts.settings
    if not all(isinstance(part, str) for need in own.needs for part in need):
        return None
    tested_on = None if facts.tested_on is None else astuple(facts.tested_on)
    others = [getattr(facts, name) for name in _PLAIN]
    values = [
        own.seed,
        list(own.inputs.sections),
        own.needs,
        tested_on,
        facts.commits,
        facts.unfinished,
        facts.words,
        *others,
    ]
    try:
        text = json.dumps(values)
    except (TypeError, ValueError):
        return None
    return text if len(text) <= LINE_BYTES else None


def _decode(values: Any, sections: Iterator[Section]) -> Facts:
    seed, names, needs, tested_on, commits, unfinished, words, *others = values
    kept = dict(zip(_PLAIN, others, strict=True))
    texts = (kept["started"], kept["finished"], kept["machine"], *unfinished, *(words or ()), *names)
    if not all(isinstance(text, str) for text in texts) or any(
        not isinstance(value, float) for value in kept["metrics"].values()
    ):
        raise TypeError("facts are not what they were written as")
    inputs = Inputs(dict(zip(names, sections, strict=True)))
    return Facts(
        settings=Settings(seed, inputs, tuple((role, key) for role, key in needs)),
        tested_on=None if tested_on is None else TestData(*tested_on),
        commits=tuple(commits),
        unfinished=(unfinished[0], unfinished[1]),
        words=None if words is None else tuple(words),
        **kept,
    )


def _clear(folder: Path) -> None:
    """Remove what killed writers left."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _STALE_S:
                path.unlink()
