"""`tutelage report`: runs in, tables and figures out. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.table_paths import table_path

FLAGS = {"--html": "runs", "--replace": "a table"}


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    what = given.names[0]
    path = table_path(what)
    for flag, of in FLAGS.items():
        if flag in given.flags and of != ("runs" if path is None else "a table"):
            raise UserError(
                f"{flag} belongs to a report on {of}; {what} is {'a table' if path else 'a name of runs'}"
            )
    if path is None:
        if given.settings:
            raise UserError(f"a report on runs takes runs_dir=<folder> and --html, got {given.settings[0]!r}")
        report_runs(what, given.options["runs_dir"], html="--html" in given.flags)
    else:
        report_table(path, given.as_settings("runs_dir"), replace="--replace" in given.flags)
    return 0


def report_runs(name: str, runs_dir: str, *, html: bool = False) -> None:
    """Report on the runs at or below a name."""
    from tutelage.reporting.console import console
    from tutelage.reporting.render import terminal
    from tutelage.reporting.runs_report import write_report
    from tutelage.runs.store import Store

    store = Store(runs_dir)
    name = store.name_in(name)
    report = write_report(store, name, html=html)
    console().print(terminal(report))
    written = ["table.md", "table.csv", "cells.csv", "curves.png", *(["report.html"] if html else [])]
    folder = store.folder_of(name)
    print(f"written: {folder}/{', '.join(f for f in written if (folder / f).is_file())}")


def report_table(path: Path, words: Sequence[str], *, replace: bool = False) -> None:
    """Report on a table file, from whatever runs of it exist. replace: also where a table of more runs stands on the disk."""
    from tutelage.config.compose import hydra_ready, plan_of
    from tutelage.reporting.console import console
    from tutelage.reporting.render import terminal
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import finder, write_table
    from tutelage.runs.identity import is_excluded
    from tutelage.runs.store import Store

    table = load(path)
    root = next((word.partition("=")[2] for word in words if word.startswith("runs_dir=")), "runs")
    with hydra_ready():
        report, said = write_table(
            table,
            finder(words, plan_of),
            Store(root),
            path.parent / "results" if path.resolve().is_relative_to(Path.cwd()) else Path(root) / table.name,
            path.stem,
            words=[word for word in words if not is_excluded(word.lstrip("+~").partition("=")[0])],
            replace=replace,
        )
    console().print(terminal(report))
    print(said)
