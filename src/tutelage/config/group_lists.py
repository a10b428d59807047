"""Lists for a group, such as logger=[wandb,csv]: several loggers, or a message: Hydra merges a list's files, and the last silently wins."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.config.groups import group_options, is_group, settings_of, user_folder
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
    if not (value.startswith("[") and value.endswith("]")) or not is_group(group):
        return [word]
    names = [name.strip().strip("'\"") for name in value[1:-1].split(",") if name.strip()]
    if group != "logger":
        raise UserError(_one_choice(word.partition("=")[0], names))
    known = group_options(group)
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"there is no {group} '{unknown[0]}'; {choices(unknown[0], known)}")
    kinds = {name: str(settings_of(group, name).get("kind")) for name in names}
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
    second = names[1] if len(names) > 1 else "<choice>"
    both = (
        f"; for both at once: +model@frozen.second={second}, and an objective that reads it with network=second"
        if group in ("model@guide", "model@teacher")
        else ""
    )
    return (
        f"{group}=[{listed}]: this group takes one choice; of a list the last would win without a word. "
        f"Write {group}={names[0] if names else '<choice>'}, or for a run of each: -m {group}={listed or '<choice>,<choice>'}{both}"
    )


def files_with_lists() -> dict[str, str]:
    """Return the user's files whose defaults give a group a list, by name (data/mine), with what is to be said where one is chosen."""
    if (folder := user_folder()) is None:
        return {}
    said = {path: _said_of(path, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*.yaml"))}
    return {str(path.relative_to(folder).with_suffix("")): text for path, text in said.items() if text}


@functools.cache
def _said_of(path: Path, _changed: int) -> str:
    content = load_yaml(path)
    defaults = content.get("defaults") if isinstance(content, dict) else None
    return "\n".join(_lists_in(path, defaults if isinstance(defaults, list) else []))


def _lists_in(path: Path, defaults: Sequence[Any]) -> Iterator[str]:
    for entry in defaults:
        if isinstance(entry, list):
            yield f"{path}: its defaults hold a list, {entry}, where each entry is the name of one file"
        for key, value in entry.items() if isinstance(entry, dict) else ():
            *how, group = str(key).split()
            # An experiment may be the sum of others.
            if (
                not isinstance(value, list)
                or not is_group(group.lstrip("/"))
                or (group == "/experiment" and not how)
            ):
                continue
            yield (
                f"{path}: its defaults give the group {group.lstrip('/')} a list, of which the last would win without a word: name one"
                f"{'. Several loggers are `logger: {kind: [csv, tensorboard]}`' if group.endswith('logger') else ''}"
            )
