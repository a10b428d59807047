"""Where runs live: `<runs_dir>/<name>/<identity>/`, found by name, by first digits, or by path."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.runs.folders import IDENTITY, NAMES_S, make_folder, names_in, twin
from tutelage.runs.identity import LENGTH, identify
from tutelage.runs.run import Run

_NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
_SHORTEST_PREFIX = 3
SHORT = 6
"""How many digits of an identity a screen shows, where these tell the runs apart."""
_IS_PREFIX = re.compile(rf"[0-9a-f]{{{_SHORTEST_PREFIX},{LENGTH}}}")
log = logging.getLogger("tutelage")


class Store:
    """All runs below one folder. Creating a store touches no file."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def run(self, name: str, identity: str) -> Run:
        """Return the run of an identity, whether or not it exists yet: under the name if it is there, else under any that it has."""
        check_name(name)
        if not IDENTITY.fullmatch(identity):
            raise UserError(f"expected an identity of {LENGTH} hexadecimal digits, got {identity!r}")
        path = self.root / name / identity
        if path.is_symlink() or not path.exists():
            path = twin(self.root, identity) or path
        return Run(path, name=path.parent.relative_to(self.root).as_posix(), root=self.root)

    def also_called(self, name: str, run: Run) -> None:
        """Let a run be found under another name, too: by a link in the folder of that name."""
        link = self.root / check_name(name) / run.identity
        if link.exists() or run.name == name:
            return
        make_folder(link.parent)
        with contextlib.suppress(OSError):  # made meanwhile; or no links here: the identity alone finds it
            link.unlink(missing_ok=True)  # one whose run was removed
            link.symlink_to(os.path.relpath(run.path.resolve(), link.parent.resolve()))

    def other_names(self) -> dict[str, list[str]]:
        """Return, for the identity of each run that has links, the names of these."""
        found: dict[str, list[str]] = {}
        for run in self._walk(self.root, "", links_alone=True):
            found.setdefault(run.identity, []).append(run.name)
        return found

    def at(self, key: str) -> Run:
        """Return the run of a key `<name>/<identity>`, as `needs.<name>.run` holds it."""
        name, _, identity = key.rpartition("/")
        return self.run(name, identity)

    def for_config(self, config: Mapping[str, Any]) -> Run:
        """Return the run of a resolved configuration (its `name` and its identity)."""
        return self.run(name_of(config), identify(config))

    def forget_links(self, identities: Iterable[str]) -> None:
        """Remove the links to runs that were removed."""
        gone = set(identities)
        for folder in names_in(self.root) if gone else ():
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                links = [folder / e.name for e in entries if e.name in gone and e.is_symlink()]
                for link in links:
                    if not link.exists():
                        link.unlink(missing_ok=True)

    def runs(self, under: str = "") -> Iterator[Run]:
        """Yield the runs that exist at or below a name ("" for all) or folder, or the one of a key, ordered by key; no archive."""
        name = self.name_in(under)
        folder = self.root / name
        if name and not folder.resolve().is_relative_to(self.root.resolve()):
            raise UserError(f"'{under}' is not below {self.root}")
        above, _, last = name.rpartition("/")
        if self._is_key(name):
            yield from (
                run
                for run in self._walk(self.root / above, above)
                if run.name == above and run.identity.startswith(last)
            )
            return
        met: set[str] = set()
        for run in sorted(self._walk(folder, name), key=lambda run: (run.is_link, run.key)):
            if not (run.is_link and run.identity in met):  # of a run and its links, one
                met.add(run.identity)
                yield run

    def folders(self, name: str) -> list[str]:
        """Return what may be the folders of runs at or below a name, links left out: as text, and nothing is asked of each."""
        above = self.root / name
        found = [
            above,
            *(path for path in names_in(self.root, within_s=NAMES_S) if path.is_relative_to(above)),
        ]
        listed: list[str] = []
        for folder in dict.fromkeys(found):
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                listed += [e.path for e in entries if IDENTITY.fullmatch(e.name) and not e.is_symlink()]
        return listed

    def folder_of(self, under: str) -> Path:
        """Return the folder that a report on the runs at or below a name belongs into; of a run's key, that run's.

        Raises:
            UserError: the key's digits mean several runs.
        """
        name = self.name_in(under)
        return self.find(name).path if self._is_key(name) else self.root / name

    def _is_key(self, name: str) -> bool:
        """Say whether a name is a run as `list runs` prints it, or with its first digits, and no name that has runs."""
        above, _, last = name.rpartition("/")
        if not above or not _IS_PREFIX.fullmatch(last):
            return False
        return bool(IDENTITY.fullmatch(last)) or next(self._walk(self.root / name, name), None) is None

    def name_in(self, under: str) -> str:
        """Return the name that a name or a folder means, as a shell completes it: `demo` of `runs/demo/`, "" of `runs` and of `.`."""
        if Path(under).is_relative_to(self.root.absolute()):
            return "/".join(Path(under).relative_to(self.root.absolute()).parts)
        parts, root = Path(under.strip("/") or ".").parts, self.root.parts
        if parts[: len(root)] == root and not (self.root / Path(*parts)).is_dir():
            parts = parts[len(root) :]
        return "/".join(parts)

    def names(self) -> list[str]:
        """Return the names that have runs."""
        return sorted({run.name for run in self._walk(self.root, "")})

    def levels(self) -> list[str]:
        """Return the names at or below which there are runs: `demo` beside `demo/plain`."""
        names = self.names()
        parts = [name.split("/") for name in names]
        return sorted({"/".join(part[:n]) for part in parts for n in range(1, len(part) + 1)})

    def named(self, name: str) -> list[Run]:
        """Return the runs that have exactly this name, by whichever of their names it is."""
        return [run for run in self._walk(self.root, "") if run.name == name.strip("/")]

    def find(self, text: str) -> Run:
        """Return the one run meant: by a folder, `<name>/<prefix>`, a prefix, or a name with one run.

        Raises:
            UserError: no run or several; the message lists them.
        """
        folder = Path(text).expanduser()
        if (folder / "config.yaml").is_file():
            return self.at_path(folder)
        wanted = text.strip("/")
        met = [run for run in self._walk(self.root, "") if _matches(run, wanted)]
        found = list({run.identity: run for run in met}.values())
        if len(found) == 1:
            return self.at(found[0].key)
        if found:
            lines = "\n".join(f"  {run.key}  {run.state}" for run in found[:20])
            more = f"\n  ... and {len(found) - 20} more" if len(found) > 20 else ""
            raise UserError(
                f"'{text}' means {len(found)} runs; give more digits of one of them:\n{lines}{more}"
            )
        raise UserError(f"no run '{text}' in {self.root}; {choices(wanted, self.names())}")

    def means_runs(self, text: str) -> bool:
        """Say whether a name, a key or the first digits of an identity mean one run or several."""
        return any(_matches(run, text.strip("/")) for run in self._walk(self.root, ""))

    def at_path(self, folder: Path) -> Run:
        """Return the run in a folder, inside or outside this store (a copy, an archived attempt)."""
        folder = folder.resolve()
        root = self.root.resolve()
        inside = folder.parent != root and folder.is_relative_to(root) and ".archive" not in folder.parts
        return Run(
            folder,
            name=folder.parent.relative_to(root).as_posix() if inside else None,
            root=self.root if inside else None,
        )

    def _walk(
        self, folder: Path, name: str, seen: set[tuple[int, int]] | None = None, *, links_alone: bool = False
    ) -> Iterator[Run]:
        """Yield the runs at or below a folder. Links are followed, to each folder once: a link upwards would have no end.

        links_alone: leave out the runs that are no link to one of another name.
        """
        seen = set() if seen is None else seen
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                below = sorted((e.name, e.is_symlink()) for e in entries if e.name[0] != "." and e.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UserError(f"cannot read the runs folder {folder}: {error.strerror}") from error
        here = self.root / name
        for entry, is_link in below:
            if not _NAME_PART.fullmatch(entry):
                if next((folder / entry).glob("*/config.yaml"), None):
                    log.warning("%s is left out: no run has a name like that", folder / entry)
            elif name and IDENTITY.fullmatch(entry):
                if links_alone and not is_link:
                    continue
                run = Run(here / entry, name=name, root=self.root)
                run.is_link = is_link
                yield run
            else:
                yield from self._walk(
                    folder / entry, f"{name}/{entry}" if name else entry, seen, links_alone=links_alone
                )


def shortest(identities: Iterable[str]) -> int:
    """Return how many first digits tell identities apart, at least `SHORT`: what a table shows of them, and every command takes."""
    known = set(identities)
    return next(n for n in range(SHORT, LENGTH + 1) if len({one[:n] for one in known}) == len(known))


def short(key: str) -> str:
    """Return a run's key with the first digits of its identity, which every command takes."""
    name, _, identity = key.rpartition("/")
    return f"{name}/{identity[:SHORT]}"


def check_name(name: str) -> str:
    """Return a run's name (`demo/plain`) if it can be a folder below the runs folder.

    Raises:
        UserError: an empty part, "..", a leading dot, a character outside letters, digits and `._+=-`, or a
            part that looks like an identity.
    """
    for part in str(name).split("/"):
        if not _NAME_PART.fullmatch(part) or IDENTITY.fullmatch(part):
            raise UserError(
                f"a run's name has parts like 'demo/plain' (letters, digits and ._+=-, not an identity), "
                f"got {name!r}"
            )
    return name


def name_of(config: Mapping[str, Any]) -> str:
    """Return the name of a configuration's run.

    Raises:
        UserError: there is none, or it cannot be a folder.
    """
    name = config.get("name")
    if not isinstance(name, str):
        raise UserError(f"a configuration needs 'name', the run's name such as 'demo/plain', got {name!r}")
    return check_name(name)


def _matches(run: Run, wanted: str) -> bool:
    if wanted in (run.name, run.key):
        return True
    name, _, prefix = wanted.rpartition("/")
    if len(prefix) < _SHORTEST_PREFIX or not run.identity.startswith(prefix):
        return False
    return not name or run.name == name or run.name.endswith(f"/{name}")
