"""The table of commands: a new one is one file with a `run(given)`, and one entry in `commands_of_work` or `commands_of_results`."""

from __future__ import annotations

from tutelage.cli.commands_of_results import RESULTS
from tutelage.cli.commands_of_work import WORK
from tutelage.cli.reader import Command

COMMANDS: dict[str, Command] = WORK | RESULTS

RENAMED = {"prune": "remove"}
"""Former names of commands."""
