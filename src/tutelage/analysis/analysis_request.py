"""What `tutelage analyse` is asked to look at: its words, read into networks of finished runs and options."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import UserError, choices
from tutelage.runs.frozen_networks import ROLES
from tutelage.runs.identity import LENGTH

if TYPE_CHECKING:
    from tutelage.runs.run import Run
    from tutelage.runs.store import Store

Outcome = tuple[list[str], dict[str, Any], list[dict[str, Any]], Callable[[Path], Any]]
"""Lines to print, the record, a table's rows, and the function that draws."""


_IN_FOLDER = ("split", "samples", "layers", "measure", "other", "explainers", "forms")
_NO_NUMBER = ("out", "device", "hardware.devices", "runs_dir", "code")


@dataclass(frozen=True)
class Subject:
    """One network to analyse: of a finished run, or of a role in it.

    arm: what its seeds are summarised under.
    digits: how many of its run's identity tell it from the others.
    """

    run: Run
    arm: str
    role: str = ""
    digits: int = 6

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.run.config["seed"])

    @property
    def label(self) -> str:
        """What figures and tables call it; told apart by its identity's first digits, never by a seed alone."""
        return f"{self.arm} {self.run.identity[: self.digits]}" + (f":{self.role}" if self.role else "")


@dataclass(frozen=True)
class Request:
    """A command's words, read.

    data: settings of the runs' data.
    other: words `data.key=value`, settings of the data that the option `other` names.
    asked: what was given of options and settings, less what changes no number.
    """

    subjects: list[Subject]
    options: dict[str, str]
    data: dict[str, Any]
    asked: dict[str, str] = field(default_factory=dict)
    other: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the results go: the same for the same request."""
        if self.options["out"]:
            return Path(self.options["out"]).expanduser()
        words = [s.label for s in self.subjects] + [
            self.options[k] or "1000" for k in ("split", "samples", "layers", "measure")
        ]
        words += [self.options[k] for k in ("other", "explainers", "forms") if self.options.get(k)]
        words += sorted(f"{k}={v}" for k, v in self.asked.items() if k not in _IN_FOLDER)
        digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:6]
        # what a shell takes as it is: an arm's label may hold brackets and signs
        name = re.sub(r"[^\w.+=-]+", "-", self.subjects[0].arm).strip("-")
        return Path(self.options["runs_dir"]) / "analysis" / f"{name}-{digest}"


def read(
    names: Sequence[str], options: dict[str, str], settings: Sequence[str], given: Collection[str] = ()
) -> Request:
    """Return what a command asks for.

    names: the runs.
    options: as the command takes them.
    settings: words `data.key=value`, and `other.key=value`.
    given: the options that were not left as they are.

    Raises:
        UserError: a run that does not exist, or a setting that cannot be read.
    """
    from tutelage.config.compose import setting_value

    others = [word for word in settings if word.startswith("other.")]
    if others and not options["other"]:
        raise UserError(f"{others[0]} is a setting of the data that `other` names: add other=<data>")
    own = [word for word in settings if word not in others]
    data = {word.partition("=")[0].removeprefix("data."): setting_value(word) for word in own}
    if not names:
        raise UserError("analyse needs the runs to look at, such as demo/plain (`tutelage list runs`)")
    found = [subject for name in names for subject in subjects(name, options["runs_dir"], data)]
    asked = {name: options[name] for name in sorted(given) if name not in _NO_NUMBER}
    asked |= dict(word.split("=", 1) for word in settings)
    of_other = tuple(f"data.{word.removeprefix('other.')}" for word in others)
    return Request(told_apart(found), options, data, asked, of_other)


def told_apart(found: Sequence[Subject]) -> list[Subject]:
    """Return the subjects, each once, with as many digits of their identities as it takes that no two are called the same."""
    whole = {(s.arm, s.run.identity, s.role): s for s in found}
    for digits in range(6, LENGTH + 1):
        named = {(s := replace(one, digits=digits)).label: s for one in whole.values()}
        if len(named) == len(whole):
            break
    return list(named.values())


def subjects(word: str, runs_dir: str, data: dict[str, Any]) -> Iterator[Subject]:
    """Yield the networks that a word means."""
    from tutelage.reporting.table_paths import table_path
    from tutelage.runs.store import Store

    name, _, role = word.partition(":")
    if role and role not in ROLES:
        raise UserError(f"'{word}': a run has no network '{role}'; {choices(role, ROLES)}")
    if (path := table_path(name)) is not None:
        yield from _of_table(
            path, role, [f"runs_dir={runs_dir}", *(f"data.{key}={value}" for key, value in data.items())]
        )
        return
    store = Store(runs_dir)
    of_name = [] if Path(name, "config.yaml").is_file() else store.named(name)
    done = [run for run in of_name if run.is_complete] or [store.find(name)]
    for run in done:
        if not run.is_complete:
            raise UserError(
                f"{run.key} is {run.state}: only a complete run can be analysed; give its train command again"
            )
        if role and not run.config.get(role):
            has = [r for r in ROLES if run.config.get(r)]
            raise UserError(f"'{word}': {run.key} has no {role} (it has {', '.join(has) or 'none'})")
    yield from (Subject(run, arm, role) for run, arm in _arms(done, store))


def _arms(runs: Sequence[Run], store: Store) -> list[tuple[Run, str]]:
    """Return the runs of a name with their arm: the name, or what tells settings apart where the runs are no seeds of one."""
    from tutelage.reporting.collect import group, row_of

    groups = group([row_of(run, store) for run in runs]) if len(runs) > 1 else []
    if len(groups) < 2:
        return [(run, run.name) for run in runs]
    arms = {row.key: found.label for found in groups for row in found.rows}
    return [(run, arms.get(run.key, run.name)) for run in runs]


def _of_table(path: Path, role: str, words: list[str]) -> Iterator[Subject]:
    from tutelage.config.compose import hydra_ready
    from tutelage.config.planner import Planner
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import choose, finder
    from tutelage.runs.store import Store

    table, find, empty = load(path), finder(words, Planner()), True
    store = Store(words[0].partition("=")[2])
    with hydra_ready():
        for arm in table.arms:
            for cell in table.cells(arm, choose(table, arm, find).point):
                run = store.at(find(cell).key)
                if run.is_complete:
                    empty = False
                    yield Subject(run, arm.label, role)
    if empty:
        raise UserError(f"no run of {path} is complete yet: give `tutelage reproduce {path}` first")
