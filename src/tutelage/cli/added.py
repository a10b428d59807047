"""Commands that installed packages add: an entry point of the group `tutelage.commands` that names a `Command`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import Command
from tutelage.errors import UserError, choices

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

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
    for entry in _entries().select(name=name):
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


def _entries() -> EntryPoints:
    """Ask the installed packages, which commands of Tutelage's own do not wait for."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)
