"""`tutelage list`: what there is to choose from, and the runs with their states. Reads files only; loads no torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from tutelage.config.groups import options, summary
from tutelage.errors import UserError, choices
from tutelage.reporting.table_paths import tables

GROUPS = {
    "experiments": "experiment", "methods": "method", "models": "model", "data": "data", "optimizers": "optimizer",
    "hardware": "hardware", "loggers": "logger", "sweeps": "sweep",
    "cases": "scale",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="tutelage list", description="List what can be chosen, or the runs and their states."
    )
    parser.add_argument("what", help=", ".join([*GROUPS, "tables", "runs"]))
    parser.add_argument(
        "name", nargs="?", default="", help="runs: only those at or below this name, such as demo"
    )
    add_filters(parser)
    given = parser.parse_args(runs_dir_as_flag(arguments))
    if given.what == "runs":
        return _runs(given)
    if given.what not in (*GROUPS, "tables"):
        raise UserError(f"cannot list '{given.what}'; {choices(given.what, [*GROUPS, 'tables', 'runs'])}")
    from rich.table import Table

    from tutelage.reporting.console import console

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, told in _tables() if given.what == "tables" else _options(given.what):
        table.add_row(name, told)
    console().print(table)
    return 0


def _options(what: str) -> Iterator[tuple[str, str]]:
    return ((name, summary(path)) for name, path in options(GROUPS[what]))


def _tables() -> Iterator[tuple[str, str]]:
    """Yield what `reproduce` and `report` take, with the titles."""
    for name, path in tables().items():
        title = next((x for x in path.read_text(encoding="utf-8").splitlines() if x.startswith("title:")), "")
        yield name, title.removeprefix("title:").strip().strip("'\"")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the words that choose runs."""
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--state", help="runs: complete | failed | interrupted | running")
    parser.add_argument("--method", help="runs: by method, such as guidance")
    parser.add_argument("--data", help="runs: by data, such as digits")
    parser.add_argument("--since", help="runs: finished on or after this date, 2026-01-31")
    parser.add_argument("--before", help="runs: finished before this date")


def runs_dir_as_flag(arguments: Sequence[str]) -> list[str]:
    """Return the words with runs_dir=<folder>, as the other commands take it, as --runs-dir."""
    return [
        f"--runs-dir={word.partition('=')[2]}" if word.startswith("runs_dir=") else word for word in arguments
    ]


def filters(given: argparse.Namespace) -> dict[str, str | None]:
    """Return the filters that were given, for `filtered_rows`."""
    return {name: getattr(given, name) for name in ("state", "method", "data", "since", "before")}


def _runs(given: argparse.Namespace) -> int:
    from tutelage.reporting.console import console
    from tutelage.reporting.runs_table import render_runs_table
    from tutelage.runs.store import Store

    table = render_runs_table(Store(given.runs_dir), under=given.name, **filters(given))
    console().print(table)
    return 0
