"""Commands that installed packages add: an entry point of the group `tutelage.commands` that names a `Command`."""

# ruff: noqa: PTH113, PTH123, PTH208
# `--help` asks here, and pathlib takes as long to load as all the rest of it.

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import Command
from tutelage.errors import UserError, choices

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

GROUP = "tutelage.commands"


def names() -> list[str]:
    """Return the names of the added commands."""
    return sorted({entry.name for entry in _entries()} - COMMANDS.keys())


def find(name: str) -> tuple[str, Command]:
    """Return the module that has the `run` of a command, and the command. A name of Tutelage's own stays its own.

    Raises:
        UserError: there is no such command, or what adds it cannot be imported or is no `Command`.
    """
    if name in COMMANDS:
        return f"tutelage.cli.{COMMANDS[name].module}", COMMANDS[name]
    for entry in (one for one in _entries() if one.name == name):
        try:
            command = entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"the command '{name}' is added as {entry.value}, which fails: {error}"
            ) from error
        if not isinstance(command, Command):
            raise UserError(
                f"the command '{name}' is added as {entry.value}, which must be a Command, got {command!r:.80}"
            )
        return command.module, command
    raise UserError(f"there is no command '{name}'; {choices(name, [*COMMANDS, *names()])}")


def _entries() -> EntryPoints | tuple[EntryPoint, ...]:
    """Ask the installed packages, which commands of Tutelage's own do not wait for.

    Where no package of the import path speaks of the group, which reading tells in 3 ms, `importlib.metadata` is not loaded: 40 ms.
    """
    if not any(_may_add(place) for place in sys.path):
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _may_add(place: str) -> bool:
    """Whether a package in a folder of the import path speaks of commands; of an archive, that is left to `importlib.metadata`."""
    try:
        infos = [name for name in os.listdir(place or ".") if name.endswith("-info")]
    except OSError:
        return os.path.isfile(place)
    for name in infos:
        with contextlib.suppress(OSError), open(f"{place or '.'}/{name}/entry_points.txt", "rb") as file:
            if GROUP.encode() in file.read():
                return True
    return False
