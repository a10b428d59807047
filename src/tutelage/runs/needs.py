"""The runs that a run needs (a trained guide, a source classifier): planned first, made once, reused after.

In a configuration: `needs: {teacher: [experiment=demo/cnn, seed=0]}`, each need being the overrides of a
command. A configuration may offer more needs than it uses: one that no value says `need:<name>` of is not made.
After planning: `needs: {teacher: {command: [...], run: demo/cnn/<identity>}}`, so that which run it
is, is part of the identity of the run that needs it.
"""

from __future__ import annotations

import copy
import marshal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.errors import UserError
from tutelage.runs import pixel_scale, setting
from tutelage.runs.identity import identify, is_excluded, is_need, without_excluded
from tutelage.runs.run import Run
from tutelage.runs.store import Store, name_of

INHERITED = ("runs_dir", "logger", "display", "verbose")
"""Top-level settings that a need takes from the run that needs it; they change no number. `rerun` is not one:
it orders this run again, not its needs."""

Compose = Callable[[list[str]], Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """A run to be, with the plans of those it needs."""

    config: dict[str, Any]
    name: str
    identity: str
    needs: dict[str, Plan] = field(default_factory=dict)
    words: tuple[str, ...] | None = field(default=None, compare=False)
    """Of the command, as they were given: the record keeps them, and two ways of saying one run make one plan."""

    @property
    def key(self) -> str:
        """`<name>/<identity>`."""
        return f"{self.name}/{self.identity}"

    def prerequisites(self) -> list[Plan]:
        """Every needed plan, at any depth, each once, in an order in which each finds its own needs done."""
        found: dict[str, Plan] = {}
        for need in self.needs.values():
            for below in (*need.prerequisites(), need):
                found.setdefault(below.identity, below)
        return list(found.values())

    def lines(self, depth: int = 0, role: str = "") -> Iterator[str]:
        """Yield the tree as text, a run a line."""
        yield f"{'  ' * depth}{role + ': ' if role else ''}{self.key}"
        for name, need in self.needs.items():
            yield from need.lines(depth + 1, name)


def plan(config: Mapping[str, Any], compose: Compose, words: Sequence[str] | None = None) -> Plan:
    """Plan a run and all it needs.

    Args:
        config: the resolved configuration; it is not changed.
        compose: from the overrides of a command to its resolved configuration.
        words: the overrides that `config` was composed of; None: of none that are known.

    A need inherits from the run that needs it: `INHERITED`, `hardware` unless its command speaks of it, and
    the places of the data (`data.root`, caches, loader workers) when both use the same data.

    Raises:
        UserError: a need is not a list of overrides, runs need each other in a circle, or a source-free
            stage would open the source data (`setting`).
    """
    return _plan(_copied(dict(config)), compose, words, above=())


def ensure(
    planned: Plan,
    store: Store,
    execute: Callable[[Plan, Run], None],
    *,
    say: Callable[[str], None] | None = None,
) -> None:
    """Make every run that `planned` needs exist: reuse finished ones, execute missing ones, needs first.

    `execute` is called under the run's lock, which it may take again through the `Run` it is given. If
    another process is making a need, this one waits for it.

    Raises:
        UserError: a need is not complete after `execute`.
    """
    for need in planned.prerequisites():
        run = store.run(need.name, need.identity)
        if not run.is_complete:
            with run.lock(say=say):
                if not run.is_complete:  # not made by another process while this one waited
                    execute(need, run)
                if not run.is_complete:
                    raise UserError(f"{planned.key} needs {need.key}, which did not finish (see {run.log})")
        store.also_called(need.name, run)


def _plan(
    config: dict[str, Any], compose: Compose, words: Sequence[str] | None, above: tuple[tuple[str, str], ...]
) -> Plan:
    name, commands = name_of(config), _commands(config)
    # Before its needs are known a configuration is distinguished by their commands; that is enough to see a
    # circle. One without needs ends every chain.
    mark = (name, identify(config) if commands else "")
    pixel_scale.check(config)
    if commands and mark in above:
        circle = [step for step, _ in (*above[above.index(mark) :], mark)]
        raise UserError(f"runs need each other in a circle: {' -> '.join(circle)}")
    needs: dict[str, Plan] = {}
    for role, command in commands.items():
        needed = _copied(dict(compose(list(command))))
        _inherit(needed, config, command)
        needs[role] = _plan(needed, compose, command, (*above, mark))
        config["needs"][role] = {"command": command, "run": needs[role].key}
    planned = Plan(
        config=config,
        name=name,
        identity=identify(config),
        needs=needs,
        words=None if words is None else tuple(words),
    )
    setting.check(planned)
    return planned


def _commands(config: Mapping[str, Any]) -> dict[str, list[str]]:
    needs = config.get("needs") or {}
    if not isinstance(needs, Mapping):
        raise UserError(f"'needs' must map a name to a list of overrides, got {needs!r:.80}")
    commands: dict[str, list[str]] = {}
    for role, entry in needs.items():
        command = entry.get("command") if isinstance(entry, Mapping) else entry
        if not isinstance(command, list | tuple) or not all(isinstance(word, str) for word in command):
            raise UserError(
                f"'needs.{role}' must be a list of overrides such as [experiment=demo/cnn, seed=0], "
                f"got {entry!r:.80}"
            )
        check_words(command, f"needs.{role}")
        commands[role] = list(command)
    return commands


def check_words(command: Iterable[str], where: str) -> None:
    """Refuse words of a file (a table, a need) that reach beyond the settings of a run.

    Words of Hydra's own can have modules imported (`hydra.searchpath=[pkg://...]`) and interpolations read the environment or any file.

    Raises:
        UserError: there is one.
    """
    for word in command:
        if word.lstrip("+~").startswith(("hydra.", "hydra/")) or "${" in word:
            raise UserError(
                f"{where}: the word {word!r:.80} is refused: a file gives settings and choices, no word of Hydra's own "
                "and no ${...}"
            )


def used(config: Any) -> set[str]:
    """Return the names of the needs that a configuration uses: <name> wherever a value, at any depth, says `need:<name>`."""
    if isinstance(config, str):
        return {config.removeprefix("need:")} if is_need(config) else set()
    if isinstance(config, dict | Mapping):
        return set().union(*(used(value) for key, value in config.items() if key != "needs" and value))
    return set().union(*map(used, config)) if isinstance(config, list | tuple) else set()


def _inherit(needed: dict[str, Any], parent: Mapping[str, Any], command: list[str]) -> None:
    spoken = [word.lstrip("+~").split("=", 1)[0] for word in command]
    for key in INHERITED:
        if key in parent and not _speaks_of(spoken, key):
            needed[key] = _copied(parent[key])
    if "hardware" in parent and not _speaks_of(spoken, "hardware"):
        needed["hardware"] = _copied(parent["hardware"])
    theirs, ours = parent.get("data"), needed.get("data")
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping) and _content(theirs) == _content(ours):
        places = {k: _copied(v) for k, v in theirs.items() if is_excluded(f"data.{k}") and not is_need(v)}
        own = {
            k: v for k, v in ours.items() if k not in places or is_need(v) or _speaks_of(spoken, f"data.{k}")
        }
        needed["data"] = {**places, **own}


def _copied(value: Any) -> Any:
    """Return a copy of plain data, in a twentieth of the time of `copy.deepcopy`, which asks what each value is."""
    try:
        return marshal.loads(marshal.dumps(value, 2))  # this version holds no references
    except ValueError:  # no plain data: whoever reads it says so
        return copy.deepcopy(value)


def _content(data: Mapping[str, Any]) -> Any:
    return without_excluded({"data": data})["data"]


def _speaks_of(spoken: list[str], key: str) -> bool:
    return any(word == key or word.startswith((f"{key}.", f"{key}@")) for word in spoken)
