"""`tutelage list`: what there is to choose from, and the runs with their states. Reads files only; loads no torch."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tutelage.cli.reader import Given
from tutelage.errors import UserError, choices
from tutelage.reporting.console import console, say, width
from tutelage.reporting.table_paths import tables
from tutelage.runs.bounded import YAML_BYTES, read_bytes
from tutelage.wrapping import wrapped

OF_RUNS = ("state", "method", "data", "since", "before", "sort", "last")
WATCH_S = 2.0
_LEAST = 40
"""Letters that a description has beside its name; with fewer it stands below."""
GROUPS = {
    "experiments": "experiment", "methods": "method", "objectives": "objective", "similarities": "similarity", "models": "model",
    "data": "data", "optimizers": "optimizer",
    "hardware": "hardware", "loggers": "logger", "sweeps": "sweep",
    "cases": "scale",
}  # fmt: skip


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    what, name = given.names[0], given.names[1] if len(given.names) > 1 else ""
    if what == "runs":
        return _runs(given, name)
    if what not in (*GROUPS, "tables", "augmentations"):
        raise UserError(
            f"cannot list '{what}'; {choices(what, [*GROUPS, 'augmentations', 'tables', 'runs'], limit=20)}"
        )
    said = [word for word in ("--watch", *OF_RUNS) if word in given.flags | given.spoken]
    if misplaced := [*said, *given.settings]:
        raise UserError(f"{misplaced[0]} belongs to `list runs`")
    rows = list(_tables() if what == "tables" else _options(what))
    names = max((len(name) for name, _ in rows), default=0)
    wide = width()
    room = names + 2 if names + 2 + _LEAST <= wide else 0
    for name, described in rows:
        lines = wrapped(described, wide - (room or 4), "") if described else []
        if not room:  # the name stands above
            lines = [name, *(f"    {line}" for line in lines)]
        else:
            lines = [
                f"{name if number == 0 else '':<{room}}{line}" for number, line in enumerate(lines or [""])
            ]
        for number, line in enumerate(lines):
            say(line.rstrip(), "bold", len(name) if number == 0 else 0)
    return 0


def _options(what: str) -> Iterator[tuple[str, str]]:
    from tutelage.config.elsewhere import AUGMENTATIONS
    from tutelage.config.groups import abouts

    if what == "augmentations":
        yield from AUGMENTATIONS.items()
        return
    yield from abouts(GROUPS[what]).items()
    if what == "sweeps":  # every table is one
        yield from _tables()


def _tables() -> Iterator[tuple[str, str]]:
    """Yield what `reproduce` and `report` take, with the titles."""
    for name, path in tables().items():
        lines = read_bytes(path, YAML_BYTES).decode("utf-8", errors="replace").splitlines()
        title = next((x for x in lines if x.startswith("title:")), "")
        yield name, title.removeprefix("title:").strip().strip("'\"")


def filters(given: Given) -> dict[str, Any]:
    """Return the filters that were given, for `filtered_rows`."""
    named = {name: given.options[name] or None for name in ("state", "method", "data", "since", "before")}
    return {**named, "settings": given.settings}


def _runs(given: Given, name: str) -> int:
    from tutelage.reporting.runs_table import render_runs_table
    from tutelage.runs.store import Store

    most = given.options["last"]
    if most and not (most.isdigit() and int(most) > 0):
        raise UserError(f"last must be a whole number of at least 1, got {most!r}")
    asked: dict[str, Any] = {
        "under": name,
        "sort": given.options["sort"] or ("-started" if most else None),
        "most": int(most) if most else None,
        **filters(given),
    }

    def table() -> Any:
        return render_runs_table(Store(given.options["runs_dir"]), **asked)

    if "--watch" not in given.flags:
        console().print(table())
        return 0
    if not sys.stdout.isatty():
        raise UserError("--watch needs a terminal: elsewhere give `tutelage list runs` as often as you like")
    from rich.live import Live

    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(table(), console=console(), screen=True, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(WATCH_S)
            live.update(table(), refresh=True)
    return 0
