"""`tutelage report`: runs in, tables and figures out. Loads no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import Given, read
from tutelage.errors import UserError, named
from tutelage.reporting.table_paths import table_path, table_path_unless_runs

if TYPE_CHECKING:
    from tutelage.reporting.report_model import Report
    from tutelage.reporting.tables import Table
    from tutelage.runs.store import Store

log = logging.getLogger("tutelage")


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    what = given.names[0]
    meant = given.settings or "--replace" in given.flags
    path = table_path(what) if meant else table_path_unless_runs(what, given.options["runs_dir"])
    if path is None:
        if "--replace" in given.flags:
            raise UserError(f"--replace belongs to a report on a table; {what} is a name of runs")
        if given.settings:
            raise UserError(f"a report on runs takes runs_dir=<folder>, got {given.settings[0]!r}")
        log.info("looking for the runs of %s in %s", what, given.options["runs_dir"])  # a word at once
        report_runs(what, given.options["runs_dir"], columns=given.options["columns"])
    else:
        words = given.as_settings("runs_dir")
        log.info("looking for the runs of %s", path)  # a word at once: every cell is composed first
        report_table(path, words, replace="--replace" in given.flags, columns=given.options["columns"])
    return 0


def _finish(columns: str, store: Store) -> Callable[[Report], Report]:
    """Return what adds the costs that are asked for to a report."""
    from tutelage.reporting.costs import COLUMNS, MEASURED, with_costs

    names = named("columns", columns, COLUMNS)
    if not set(names) & set(MEASURED):
        return lambda report: with_costs(report, store, names)
    from tutelage.analysis.network_cost import machine_said, of_run  # loads torch, which no other report does

    return lambda report: with_costs(report, store, names, of_run, machine_said())


def report_runs(name: str, runs_dir: str, *, columns: str = "") -> None:
    """Report on the runs at or below a name. columns: see `reporting.costs.COLUMNS`."""
    from tutelage.reporting.console import console, say
    from tutelage.reporting.render import terminal
    from tutelage.reporting.runs_report import FILES, write_report
    from tutelage.runs.store import Store

    store = Store(runs_dir)
    name = store.name_in(name)
    report = write_report(store, name, finish=_finish(columns, store))
    console().print(terminal(report))
    folder = store.folder_of(name)
    written = [FILES["html"], *(name for kind, name in FILES.items() if kind != "html")]
    say(f"written: {folder}/{', '.join(name for name in written if (folder / name).is_file())}")


def load_table(path: Path) -> Table:
    """Read a table file. Raises UserError also for an analysis, or an option of one, that does not exist; `reporting` knows none."""
    from tutelage.reporting.table_file import load

    table = load(path)
    for name, options in table.analyses.items():
        try:
            read(
                "analyse", COMMANDS["analyse"], [name, *(f"{key}={value}" for key, value in options.items())]
            )
        except UserError as error:
            raise UserError(f"{path}: analyses: {error}") from None
    return table


def report_table(path: Path, words: Sequence[str], *, replace: bool = False, columns: str = "") -> None:
    """Report on a table file, from whatever runs of it exist.

    replace: also where a table of more runs stands on the disk. columns: see `reporting.costs.COLUMNS`.
    """
    from tutelage.config.compose import hydra_ready
    from tutelage.config.planner import Planner
    from tutelage.reporting.committed import write_table
    from tutelage.reporting.console import console, say
    from tutelage.reporting.render import terminal
    from tutelage.reporting.tables import finder
    from tutelage.runs.identity import is_excluded
    from tutelage.runs.store import Store

    table = load_table(path)
    root = next((word.partition("=")[2] for word in words if word.startswith("runs_dir=")), "runs")
    results = path.parent / "results"
    with hydra_ready():
        report, said = write_table(
            table,
            finder(words, Planner(), table, recorded=True),
            Store(root),
            results if path.resolve().is_relative_to(Path.cwd()) else Path(root) / table.name,
            path.stem,
            committed=results / f"{path.stem}-cells.csv",
            words=[word for word in words if not is_excluded(word.lstrip("+~").partition("=")[0])],
            replace=replace,
            finish=_finish(columns, Store(root)),
        )
    console().print(terminal(report))
    say(said)
