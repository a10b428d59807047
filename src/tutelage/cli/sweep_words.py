"""From the words of `train -m` to the arms of a sweep: a label, and a command for every seed."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.config.sweeps import SweptCommand, expand
from tutelage.errors import UserError, choices
from tutelage.reporting.table_file import load
from tutelage.reporting.table_paths import table_path, tables
from tutelage.reporting.tables import Table
from tutelage.runs.words import distinguishing, joined, key_of, told_apart, value_of


def table_of(words: Sequence[str]) -> tuple[Table | None, list[str]]:
    """Return the table that `sweep=<table>` names, if the words have it, and the other words."""
    name = value_of(words, "sweep")
    rest = [word for word in words if key_of(word) != "sweep"]
    if name is None:
        return None, rest
    path = table_path(name)
    if path is None:
        from tutelage.config.groups import group_options

        if name in group_options("sweep"):  # a file of the configuration, whose words are each command's
            return None, list(words)
        known = [*tables(), *group_options("sweep")]
        raise UserError(f"there is no sweep '{name}'; {choices(name, known)}")
    return load(path), rest


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
