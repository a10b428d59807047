"""The report of a table from the cells that were written beside it: in a clone, where the runs themselves are not."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from tutelage.errors import UserError
from tutelage.reporting.quantities import usual_mode
from tutelage.reporting.report_model import Report
from tutelage.reporting.row import Row
from tutelage.reporting.tables import Cell, Table, build
from tutelage.runs.run import State

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
    return Row(
        key=record["run"],
        name=record["run"].rpartition("/")[0],
        seed=int(record["seed"]),
        state=State(record["state"]),
        inputs={},
        metrics={key: float(value) for key, value in values.items()},
        monitor=table.metric,
        mode=table.mode or usual_mode(table.metric),
        best_step=int(record["best_step"]) if record["best_step"] else None,
        reason=record["reason"],
        commits=tuple(filter(None, record["code"].split(" then "))),
        train_s=float(record["train_s"]) if record["train_s"] else None,
    )
