"""The files of a table: written from its runs, or, in a clone, where these are not, from the cells that were written before."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tutelage.errors import UserError
from tutelage.reporting.quantities import usual_mode
from tutelage.reporting.report_model import Report
from tutelage.reporting.row import Row
from tutelage.reporting.runs_report import write
from tutelage.reporting.table_report import build
from tutelage.reporting.tables import Cell, Find, Table
from tutelage.runs.run import State
from tutelage.runs.store import Store

NOT_METRICS = ("arm", "run", "seed", "state", "reason", "code", "best_step", "train_s")


def committed_report(table: Table, path: Path) -> Report:
    """Return the report that a `<table>-cells.csv` gives: intervals, comparisons and verdicts computed anew, from its values alone.

    An arm that the file does not hold is a gap. How hyperparameters were chosen stands in the Markdown beside it.

    Args:
        table: the table, as its file is now.
        path: the cells, as `render.cells_csv` writes them.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {
                (record["arm"], int(record["seed"])): _row(record, table) for record in csv.DictReader(file)
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not hold the cells of a table: {type(error).__name__}: {error}"
        ) from error

    def find(cell: Cell) -> Row:
        absent = Row("", "", cell.seed, State.MISSING, {}, {}, reason=f"not among the cells of {path.name}")
        return rows.get((cell.arm.label, cell.seed), absent)

    chosen = replace(table, arms=tuple(replace(arm, points=((),)) for arm in table.arms))
    return build(chosen, find)


def _row(record: dict[str, str], table: Table) -> Row:
    values = {key: value for key, value in record.items() if key not in NOT_METRICS and value}
    mode = table.mode or usual_mode(table.metric)
    return Row(
        key=record["run"],
        name=record["run"].rpartition("/")[0],
        seed=int(record["seed"]),
        state=State(record["state"]),
        inputs={},
        metrics={key: float(value) for key, value in values.items()},
        monitor=table.metric,
        mode=mode,
        directions={table.metric: mode} if mode else {},
        best_step=int(record["best_step"]) if record["best_step"] else None,
        reason=record["reason"],
        commits=tuple(filter(None, record["code"].split(" then "))),
        train_s=float(record["train_s"]) if record["train_s"] else None,
    )


def write_table(
    table: Table,
    find: Find,
    store: Store,
    folder: Path,
    stem: str,
    *,
    committed: Path | None = None,
    words: Sequence[str] = (),
    replace: bool = False,
    finish: Callable[[Report], Report] = lambda report: report,
) -> tuple[Report, str]:
    """Write a table's `<stem>.md`, `<stem>.csv`, `<stem>-cells.csv` and `<stem>.png`, and return the report and what became of it in words.

    A table on the disk that is of more complete runs stays, unless `replace`: in a fresh clone all runs are missing. Then the report is
    of the cells on the disk, and its page is written, with a figure where there is none.

    committed: the cells that came with the table's file, which may lie elsewhere; used where they are of more runs.
    finish: adds to a report of the runs.
    """
    cells = folder / f"{stem}-cells.csv"
    had = 0 if replace else _complete_in(cells)
    if committed and not replace and _complete_in(committed) > had:
        cells, had = committed, _complete_in(committed)
    report: Report | None
    try:
        report = finish(build(table, find, words))
        have = str(report.complete)
    except UserError as error:  # such as data that are not on this machine
        if not had:
            raise
        report, have = None, f"none can be looked for ({error}), so that none"
    if report is None or report.complete < had:
        report = committed_report(table, cells)
        figure = {} if (folder / f"{stem}.png").exists() else {"figure": f"{stem}.png"}
        write(report, store, folder, {"html": f"{stem}.html", **figure})
        return report, (
            f"from the {had} complete runs of {cells}; of the runs themselves {have} are here. "
            f"written: {folder}/{stem}.html. `tutelage reproduce` makes the others; --replace writes the table of those that are here"
        )
    names = {
        "page": f"{stem}.md",
        "table": f"{stem}.csv",
        "cells": f"{stem}-cells.csv",
        "figure": f"{stem}.png",
        "html": f"{stem}.html",
    }
    if replace:  # also the figure, which else stays where its numbers are the same
        (folder / names["figure"]).unlink(missing_ok=True)
    write(report, store, folder, names)
    drawn = " and .png" if (folder / names["figure"]).is_file() else ""
    return report, f"written: {folder}/{stem}.html, and beside it {stem}.md, .csv, -cells.csv{drawn}"


def _complete_in(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(row.get("state") == State.COMPLETE for row in csv.DictReader(file))
