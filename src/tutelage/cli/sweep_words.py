"""From the words of `train -m` to the arms of a sweep: a label, and a command for every seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tutelage.config.sweeps import SweptCommand, expand
from tutelage.errors import UserError, choices
from tutelage.reporting.table_file import load
from tutelage.reporting.table_paths import table_path, tables
from tutelage.reporting.tables import Table
from tutelage.runs.words import distinguishing, joined, key_of, told_apart, value_of


def table_of(words: Sequence[str]) -> tuple[Table | None, list[str]]:
    """Return the table that `sweep=<table>` names, with its arms that `arms=` names, if the words have it; and the other words."""
    name, labels = value_of(words, "sweep"), value_of(words, "arms")
    rest = [word for word in words if key_of(word) not in ("sweep", "arms")]
    if name is None and labels is not None:
        raise UserError(f"arms={labels} chooses among the arms of a table: add sweep=<table>")
    if name is None:
        return None, rest
    path = table_path(name)
    if path is None:
        from tutelage.config.groups import group_options

        if name in group_options("sweep"):  # a file of the configuration, whose words are each command's
            return None, list(words)
        known = [*tables(), *group_options("sweep")]
        raise UserError(f"there is no sweep '{name}'; {choices(name, known)}")
    return _chosen(load(path), labels), rest


def _chosen(table: Table, labels: str | None) -> Table:
    """Return a table with those of its arms that `arms=<label>,<label>` names, and the comparisons of these."""
    if labels is None:
        return table
    known = {arm.label: arm for arm in table.arms}
    named = [labels] if labels in known else [label.strip() for label in labels.strip("[]").split(",")]
    for label in named:
        if label not in known:
            raise UserError(f"the table {table.name} has no arm '{label}'; {choices(label, known)}")
    arms = tuple(arm for label, arm in known.items() if label in named)
    return replace(table, arms=arms, compare=tuple(pair for pair in table.compare if {*pair} <= {*named}))


def arms_of(table: Table | None, words: Sequence[str]) -> dict[str, list[tuple[str, ...]]]:
    """Return the arms by their labels, each with the commands of its seeds.

    An arm is called by its label in the table, and by the words that differ. A table's seeds are those of every arm, unless the words
    say others; its grid is for `reproduce`.
    """
    if table is None:
        found = [("", command) for command in expand(words)]
    else:
        seeds = [] if value_of(words, "seed") is not None else [f"seed={','.join(map(str, table.seeds))}"]
        found = [
            (arm.label, command)
            for arm in table.arms
            for command in expand([*joined(arm.command, words), *seeds])
        ]
    swept = [[word for word in command.swept if key_of(word) != "seed"] for _, command in found]
    arms: dict[str, list[tuple[str, ...]]] = {}
    for (label, command), told in zip(found, told_apart(distinguishing(swept)), strict=True):
        arms.setdefault(", ".join([*([label] if label else []), *told]) or _only(command), []).append(
            command.words
        )
    return arms


def _only(command: SweptCommand) -> str:
    return (
        value_of(command.words, "experiment")
        or " ".join(word for word in command.words if key_of(word) in ("method", "model", "data"))
        or "this command"
    )
