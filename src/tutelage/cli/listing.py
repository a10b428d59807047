"""`tutelage list`: what there is to choose from, and the runs with their states. Reads files only; loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.cli.reader import Given
from tutelage.config.groups import options, summary
from tutelage.errors import UserError, choices
from tutelage.reporting.table_paths import tables
from tutelage.runs.bounded import YAML_BYTES, read_bytes

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
    if what not in (*GROUPS, "tables"):
        raise UserError(f"cannot list '{what}'; {choices(what, [*GROUPS, 'tables', 'runs'])}")
    from rich.table import Table

    from tutelage.reporting.console import console

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, described in _tables() if what == "tables" else _options(what):
        table.add_row(name, described)
    console().print(table)
    return 0


def _options(what: str) -> Iterator[tuple[str, str]]:
    yield from ((name, summary(path)) for name, path in options(GROUPS[what]))
    if what == "sweeps":  # every table is one
        yield from _tables()


def _tables() -> Iterator[tuple[str, str]]:
    """Yield what `reproduce` and `report` take, with the titles."""
    for name, path in tables().items():
        lines = read_bytes(path, YAML_BYTES).decode("utf-8", errors="replace").splitlines()
        title = next((x for x in lines if x.startswith("title:")), "")
        yield name, title.removeprefix("title:").strip().strip("'\"")


def filters(given: Given) -> dict[str, str | None]:
    """Return the filters that were given, for `filtered_rows`."""
    return {name: given.options[name] or None for name in ("state", "method", "data", "since", "before")}


def _runs(given: Given, name: str) -> int:
    from tutelage.reporting.console import console
    from tutelage.reporting.runs_table import render_runs_table
    from tutelage.runs.store import Store

    table = render_runs_table(Store(given.options["runs_dir"]), under=name, **filters(given))
    console().print(table)
    return 0
