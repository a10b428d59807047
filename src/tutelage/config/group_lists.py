"""Lists for a group, such as logger=[wandb,csv]: several loggers, or a message: Hydra merges a list's files, and the last silently wins."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from tutelage.config.groups import PRIMARY, config_folder, options
from tutelage.errors import UserError, choices
from tutelage.runs.bounded import load_yaml


def without_lists(overrides: Iterable[str]) -> list[str]:
    """Return the words of a command with a list of loggers as the settings that it means.

    Raises:
        UserError: another group is given a list, or loggers are that cannot stand beside each other.
    """
    return [word for given in overrides for word in _read(given)]


def _read(word: str) -> list[str]:
    group, _, value = word.lstrip("+").partition("=")
    if not (value.startswith("[") and value.endswith("]")) or group not in single_groups():
        return [word]
    names = [name.strip().strip("'\"") for name in value[1:-1].split(",") if name.strip()]
    if group != "logger":
        raise UserError(_one_choice(group, names))
    files = dict(options(group))
    if unknown := [name for name in names if name not in files]:
        raise UserError(f"there is no {group} '{unknown[0]}'; {choices(unknown[0], files)}")
    kinds = {name: str(dict(load_yaml(files[name])).get("kind")) for name in names}
    if not names or len(set(kinds.values())) < len(names) or (len(names) > 1 and "none" in kinds.values()):
        raise UserError(
            f"{word}: expected loggers of different kinds, such as logger=[wandb,csv], or logger=none"
        )
    # Its file has the settings of W&B, if that is one of them.
    first = next((name for name in names if kinds[name] == "wandb"), names[0])
    several = [f"{group}.kind=[{','.join(kinds.values())}]"] if len(names) > 1 else []
    return [f"{group}={first}", *several]


def _one_choice(group: str, names: Sequence[str]) -> str:
    listed = ",".join(names)
    return (
        f"{group}=[{listed}]: this group takes one choice; of a list the last would win without a word. "
        f"Write {group}={names[0] if names else '<choice>'}, or for a run of each: -m {group}={listed or '<choice>,<choice>'}"
    )


@functools.cache
def single_groups() -> frozenset[str]:
    """Return the groups, as words name them (model@guide), of which a command has one choice each."""
    defaults = load_yaml(config_folder() / f"{PRIMARY}.yaml")["defaults"]
    pairs = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    return frozenset(
        key
        for key, value in pairs
        if not key.startswith(("override", "optional")) and not isinstance(value, list)
    )


def check_chosen(chosen: Iterable[str]) -> None:
    """Raise UserError where a file's defaults give a group a list: Hydra's record of choices then lacks that group."""
    if merged := sorted(single_groups() - set(chosen)):
        raise UserError(
            f"a chosen file gives the group {merged[0]} a list in its defaults, of which the last would win without a word: name one"
        )
