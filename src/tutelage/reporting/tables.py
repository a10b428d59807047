"""A paper's table: its runs, and hyperparameters chosen on validation.

The test set plays no part in a choice: hyperparameters are those with the best mean validation metric over the seeds.
`table_file.load` reads a table from its file, `table_report.build` makes its report.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.errors import NoValue, UserError, choices, counted
from tutelage.reporting import measured
from tutelage.reporting.collect import gap_reason, row_of
from tutelage.reporting.row import Row
from tutelage.reporting.verdict import Published
from tutelage.runs.identity import flatten
from tutelage.runs.needs import Plan
from tutelage.runs.run import State
from tutelage.runs.store import Store
from tutelage.runs.words import value_of


@dataclass(frozen=True)
class Arm:
    """One line of a table: the overrides of its command, and the points its hyperparameters are chosen from."""

    label: str
    command: tuple[str, ...]
    points: tuple[tuple[str, ...], ...] = ((),)
    published: Published | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a table: an arm at a point of its grid with a seed."""

    arm: Arm
    point: tuple[str, ...]
    seed: int

    @property
    def overrides(self) -> list[str]:
        """The overrides of the run's command."""
        return [*self.arm.command, *self.point, f"seed={self.seed}"]


Find = Callable[[Cell], Row]
"""From a cell to its run as a row (`collect.row_of`), which may be missing. Asked several times for a cell: remember it."""


@dataclass(frozen=True)
class Table:
    """A table file."""

    title: str
    metric: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    name: str = ""
    split: str = "test"
    mode: str | None = None
    percent: bool = False
    paper_setting: bool = False
    compare: tuple[tuple[str, str], ...] = ()
    processes: int | None = None
    notes: str = ""
    analyses: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What `tutelage analyse` is to find of every run, with its options."""
    beside: tuple[str, ...] = ()
    """Metrics that are shown beside the first, which alone chooses."""

    def tuning_cells(self) -> list[Cell]:
        """Return the runs that choices are made from: every arm with a grid, at every point."""
        tuned = [arm for arm in self.arms if len(arm.points) > 1]
        return [Cell(arm, point, seed) for arm in tuned for point in arm.points for seed in self.tuning_seeds]

    def cells(self, arm: Arm, point: tuple[str, ...]) -> list[Cell]:
        """Return the runs behind an arm's number."""
        return [Cell(arm, point, seed) for seed in self.seeds]


@dataclass(frozen=True)
class Choice:
    """The point chosen for an arm, and what to say about it."""

    point: tuple[str, ...]
    sentence: str = ""
    notes: tuple[str, ...] = ()
    pending: tuple[Cell, ...] = field(default=())
    """Tuning runs neither finished nor failed: until they are, the choice is provisional."""


def choose(table: Table, arm: Arm, find: Find) -> Choice:
    """Choose an arm's hyperparameters: the point with the best mean validation metric over the tuning seeds.

    Points with a run that failed, has no such metric or is not finite are out, and named; so are points with
    runs that are not finished, which makes the choice provisional. The first of equal points wins.
    """
    if len(arm.points) == 1:
        return Choice(arm.points[0])
    totals: dict[tuple[str, ...], float] = {}
    notes: list[str] = []
    pending: list[Cell] = []
    mode = table.mode
    for point in arm.points:
        cells = [Cell(arm, point, seed) for seed in table.tuning_seeds]
        rows = [find(cell) for cell in cells]
        pending += [
            c for c, row in zip(cells, rows, strict=True) if row.state not in (State.COMPLETE, State.FAILED)
        ]
        values = [row.metrics.get(f"validation/{table.metric}", math.nan) for row in rows]
        mode = mode or next(
            (row.directions[table.metric] for row in rows if table.metric in row.directions), None
        )
        if all(map(math.isfinite, values)):
            totals[point] = math.fsum(values)  # over as many seeds each: the best mean
        else:
            bad = next(row for row, value in zip(rows, values, strict=True) if not math.isfinite(value))
            reason = gap_reason(bad, f"validation/{table.metric}")
            notes.append(f"{arm.label}: {_point(point)} was not eligible ({reason})")
    if not totals:
        return Choice(arm.points[0], "nothing to choose from yet", tuple(notes), tuple(pending))
    if mode is None:
        raise UserError(
            f"'{table.title}': no run says which way {table.metric} is better; give the table 'mode: max' or 'mode: min'"
        )
    best = (max if mode == "max" else min)(totals, key=lambda point: totals[point])
    provisional = ", provisional" if pending else ""
    edge = f"; the grid's {', '.join(ends)}" if (ends := _edges(best, arm.points)) else ""
    seeds = counted(len(table.tuning_seeds), "seed")
    sentence = f"{_point(best)} (of {counted(len(totals), 'point')}, {seeds}{provisional}{edge})"
    return Choice(best, sentence, tuple(notes), tuple(pending))


def unfinished(table: Table, find: Find) -> list[Cell]:
    """Return the runs to make next: those that choices wait for; when there are none, the missing cells of the table.

    Failed runs are among them (they are tried again), except where a choice has already been made without
    them.

    Raises:
        UserError: the table's metric is none of its runs'.
    """
    tuning = {cell: find(cell) for cell in table.tuning_cells()}
    check_metric(table, table.metric, tuning.values())
    waiting = [cell for cell, row in tuning.items() if row.state not in (State.COMPLETE, State.FAILED)]
    if waiting:
        return waiting
    cells = [cell for arm in table.arms for cell in table.cells(arm, choose(table, arm, find).point)]
    check_metric(table, table.metric, map(find, cells))
    return [cell for cell in cells if find(cell).state is not State.COMPLETE]


def check_metric(table: Table, metric: str, rows: Iterable[Row]) -> None:
    """Raise UserError where a table asks for a metric that none of its runs has."""
    analysis = metric.partition(".")[0] if "." in metric else ""
    of = f"{table.split}/{analysis}." if analysis in table.analyses else f"{table.split}/"
    known = {name for row in rows for name in row.metrics if name.startswith(of)}
    if known and f"{table.split}/{metric}" not in known:
        names = sorted(name.partition("/")[2] for name in known)
        raise UserError(f"'{table.title}': no run has the metric '{metric}'; {choices(metric, names)}")


def _edges(best: Sequence[str], points: Iterable[Sequence[str]]) -> list[str]:
    """Return the settings of a chosen point whose number is the largest or smallest of those tried: a better one may lie beyond."""
    tried: dict[str, set[float]] = {}
    for point in points:
        for word in point:
            key, _, value = word.partition("=")
            with contextlib.suppress(ValueError):
                tried.setdefault(key, set()).add(float(value))
    found = []
    for key, _, value in (word.partition("=") for word in best):
        values = tried.get(key, set())
        with contextlib.suppress(ValueError):  # a word, such as null, has no edge
            if len(values) > 1 and float(value) in (min(values), max(values)):
                side = "largest" if float(value) == max(values) else "smallest"
                found.append(f"{side} {key.rpartition('.')[2]}")
    return found


def _point(point: Sequence[str]) -> str:
    return ", ".join(
        word.partition("=")[0].rpartition(".")[2] + "=" + word.partition("=")[2] for word in point
    )


def finder(
    words: Sequence[str],
    plan_of: Callable[[Sequence[str]], Plan],
    table: Table | None = None,
    *,
    recorded: bool = False,
) -> Find:
    """Return the function from a table's cell to its run, planning each cell once.

    words: added to every cell's command.
    plan_of: from a command to its plan.
    table: whose analyses' metrics are read too, where they have been made.
    recorded: where a setting has no value here, such as the place of data, take it from the runs that are there: they are only read.
    """
    plans: dict[tuple[str, ...], Plan | NoValue] = {}
    values: dict[tuple[Path, str, str], list[str]] = {}

    def plan_for(command: tuple[str, ...]) -> Plan | NoValue:
        try:
            return plan_of(command)
        except NoValue as error:
            if not recorded:
                raise
            store, name = Store(value_of(command, "runs_dir") or "runs"), value_of(command, "name") or ""
            known = (store.root, name, error.key)
            if known not in values:
                values[known] = _recorded(store, name, error.key)
            for value in values[known]:
                with contextlib.suppress(
                    UserError
                ):  # data that are elsewhere now, or of another command of this name
                    plan = plan_of((*command, f"{error.key}={value}"))
                    if store.run(plan.name, plan.identity).path.is_dir():
                        return plan
            return error

    def find(cell: Cell) -> Row:
        command = (*cell.overrides, *words)
        if command not in plans:
            plans[command] = plan_for(command)
        plan = plans[command]
        if isinstance(plan, NoValue):
            return Row(
                "", "", cell.seed, State.MISSING, {}, {}, reason=f"missing; {plan.key} has no value here"
            )
        store = Store(plan.config["runs_dir"])
        run = store.run(plan.name, plan.identity)
        row = row_of(run, store)
        if table is None or row.state is not State.COMPLETE:
            return row
        more = measured.metrics(store.root, run, table.split, table.analyses)
        return replace(row, metrics={**row.metrics, **more})

    return find


def _recorded(store: Store, name: str, key: str) -> list[str]:
    """Return the different values that runs of a name have for a setting."""
    found = []
    for run in store.runs(name) if name and (store.root / name).is_dir() else ():
        with contextlib.suppress(UserError, OSError):
            found += [str(value) for one, value in flatten(run.config) if one == key and value is not None]
    return list(dict.fromkeys(found))
