"""A paper's table: its runs, hyperparameters chosen on validation, and the report beside the published numbers.

The test set plays no part in a choice: hyperparameters are those with the best mean validation metric over the seeds.
`table_file.load` reads a table from its file.
"""

from __future__ import annotations

import contextlib
import csv
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.errors import UserError, choices
from tutelage.reporting import measured
from tutelage.reporting.collect import gap_reason, row_of
from tutelage.reporting.differences import same_test_data
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.runs_report import notes_on, write
from tutelage.reporting.runs_table import render_runs_table
from tutelage.reporting.statistics import bounds_of
from tutelage.reporting.verdict import Comparison, Published, compare, correct
from tutelage.runs.needs import Plan
from tutelage.runs.run import State
from tutelage.runs.store import Store

__all__ = [
    "Arm",
    "Cell",
    "Find",
    "Table",
    "build",
    "choose",
    "finder",
    "render_runs_table",
    "unfinished",
    "write_table",
]


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
    means: dict[tuple[str, ...], float] = {}
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
            means[point] = math.fsum(values) / len(values)
        else:
            bad = next(row for row, value in zip(rows, values, strict=True) if not math.isfinite(value))
            reason = gap_reason(bad, f"validation/{table.metric}")
            notes.append(f"{arm.label}: {_point(point)} was not eligible ({reason})")
    if not means:
        return Choice(arm.points[0], "nothing to choose from yet", tuple(notes), tuple(pending))
    if mode is None:
        raise UserError(
            f"'{table.title}': no run says which way {table.metric} is better; give the table 'mode: max' or 'mode: min'"
        )
    best = (max if mode == "max" else min)(means, key=lambda point: means[point])
    provisional = ", provisional" if pending else ""
    edge = f"; the grid's {', '.join(ends)}" if (ends := _edges(best, arm.points)) else ""
    seeds = "1 seed" if len(table.tuning_seeds) == 1 else f"{len(table.tuning_seeds)} seeds"
    sentence = f"{_point(best)} (of {len(means)} points, {seeds}{provisional}{edge})"
    return Choice(best, sentence, tuple(notes), tuple(pending))


def unfinished(table: Table, find: Find) -> list[Cell]:
    """Return the runs to make next: those that choices wait for; when there are none, the missing cells of the table.

    Failed runs are among them (they are tried again), except where a choice has already been made without
    them.

    Raises:
        UserError: the table's metric is none of its runs'.
    """
    tuning = {cell: find(cell) for cell in table.tuning_cells()}
    _check_metric(table, table.metric, tuning.values())
    waiting = [cell for cell, row in tuning.items() if row.state not in (State.COMPLETE, State.FAILED)]
    if waiting:
        return waiting
    cells = [cell for arm in table.arms for cell in table.cells(arm, choose(table, arm, find).point)]
    _check_metric(table, table.metric, map(find, cells))
    return [cell for cell in cells if find(cell).state is not State.COMPLETE]


def build(table: Table, find: Find, words: Sequence[str] = ()) -> Report:
    """Return the report of a table: values in the published unit, gaps, comparisons with verdicts, notes; a section for what stands beside.

    words: what was added to every command and can change a number.

    Raises:
        UserError: the table's metric is none of its runs'.
    """
    choices_of = {arm.label: choose(table, arm, find) for arm in table.arms}
    # A run that is not there cannot say its seed.
    rows = {
        arm.label: tuple(
            replace(find(cell), seed=cell.seed) for cell in table.cells(arm, choices_of[arm.label].point)
        )
        for arm in table.arms
    }
    wanted = dict.fromkeys((table.metric, *table.beside))
    for name in wanted:
        _check_metric(table, name, [row for of_arm in rows.values() for row in of_arm])
    shown = [_lines(table, name, choices_of, rows, words) for name in wanted]
    compared = [_comparisons(table, lines, all_pairs=lines is shown[0]) for lines in shown]
    corrected = iter(correct([pair for pairs in compared for pair in pairs]))  # all that a page tests at once
    sections = [
        Report(
            title=table.title if number == 0 else metric_name(lines[0].metric),
            lines=tuple(lines),
            comparisons=tuple(next(corrected) for _ in pairs),
            unit="%" if lines[0].scale == 100 else "",
            scale=lines[0].scale,
        )
        for number, (lines, pairs) in enumerate(zip(shown, compared, strict=True))
    ]
    tuning = [find(cell) for cell in table.tuning_cells()]
    grid = {word.partition("=")[0] for arm in table.arms for point in arm.points for word in point}
    return replace(
        sections[0],
        notes=(
            *([table.notes] if table.notes else []),
            *(note for choice in choices_of.values() for note in choice.notes),
            *notes_on(shown[0], grid, {"that only choose": tuning}),
            *(f"{metric_name(lines[0].metric)}, {said}" for lines in shown[1:] for said in _gaps_of(lines)),
        ),
        sections=tuple(sections[1:]),
    )


def _lines(
    table: Table,
    name: str,
    choices_of: Mapping[str, Choice],
    rows: Mapping[str, tuple[Row, ...]],
    words: Sequence[str],
) -> list[Line]:
    """Return the arms' lines of one metric."""
    metric = f"{table.split}/{name}"
    share = bounds_of(metric) == (0.0, 1.0) or name == table.metric
    scale = 100.0 if table.percent and share else 1.0
    lines = []
    for arm in table.arms:
        done = {
            row.seed: row for row in rows[arm.label] if row.state is State.COMPLETE and metric in row.metrics
        }
        lines.append(
            Line(
                label=arm.label,
                metric=metric,
                values={seed: scale * row.metrics[metric] for seed, row in done.items()},
                gaps={row.seed: _gap(row, metric, table) for row in rows[arm.label] if row.seed not in done},
                rows=tuple(_shown(row, table) for row in rows[arm.label]),
                published=arm.published if name == table.metric else None,
                choice=choices_of[arm.label].sentence,
                command=command_of(table, arm, choices_of[arm.label].point, words),
                scale=scale,
            )
        )
    return lines


def _shown(row: Row, table: Table) -> Row:
    """Return a row without what analyses found that the table does not show: that is a number for every condition."""
    wanted = {f"{table.split}/{name}" for name in (table.metric, *table.beside)}
    beginnings = tuple(f"{table.split}/{analysis}." for analysis in table.analyses)
    if not beginnings:
        return row
    kept = {
        name: value
        for name, value in row.metrics.items()
        if name in wanted or not name.startswith(beginnings)
    }
    return replace(row, metrics=kept)


def _gap(row: Row, metric: str, table: Table) -> str:
    analysis = metric.rpartition("/")[2].partition(".")[0]
    if row.state is State.COMPLETE and analysis in table.analyses and "." in metric:
        done = any(name.startswith(f"{table.split}/{analysis}.") for name in row.metrics)
        return (
            f"the analysis {analysis} has no such number of it"
            if done
            else f"not analysed (tutelage analyse {analysis}, or reproduce)"
        )
    return gap_reason(row, metric)


def _gaps_of(lines: Sequence[Line]) -> list[str]:
    """Return what a section lacks that the first has."""
    return [
        f"{line.label}, seed {', '.join(map(str, line.gaps))}: {next(iter(line.gaps.values()))}"
        for line in lines
        if line.gaps and any(row.state is State.COMPLETE for row in line.rows)
    ]


def _comparisons(table: Table, lines: Sequence[Line], *, all_pairs: bool) -> list[Comparison]:
    """Return the comparisons of one metric. all_pairs: also of arms without a value, which a metric beside the first may never have."""
    by_label = {line.label: line for line in lines}
    return [
        compare(
            *((line.label, line.values, line.published) for line in pair),
            same_setting=table.paper_setting,
            same_test_data=same_test_data(*pair),
            bounds=pair[0].bounds,
        )
        for pair in ((by_label[a], by_label[b]) for a, b in table.compare)
        if all_pairs or (pair[0].values and pair[1].values)
    ]


def metric_name(metric: str) -> str:
    """Return "<split>/<name>" as text."""
    return metric.replace("/", " ")


def _check_metric(table: Table, metric: str, rows: Iterable[Row]) -> None:
    analysis = metric.partition(".")[0] if "." in metric else ""
    of = f"{table.split}/{analysis}." if analysis in table.analyses else f"{table.split}/"
    known = {name for row in rows for name in row.metrics if name.startswith(of)}
    if known and f"{table.split}/{metric}" not in known:
        names = sorted(name.partition("/")[2] for name in known)
        raise UserError(f"'{table.title}': no run has the metric '{metric}'; {choices(metric, names)}")


def command_of(table: Table, arm: Arm, point: tuple[str, ...], words: Sequence[str] = ()) -> str:
    """Return the command line that makes an arm's runs; words: what was added to every command."""
    seeds = ",".join(map(str, table.seeds))
    return shlex.join(["tutelage", "train", "-m", *arm.command, *point, *words, f"seed={seeds}"])


def write_table(
    table: Table,
    find: Find,
    store: Store,
    folder: Path,
    stem: str,
    *,
    words: Sequence[str] = (),
    replace: bool = False,
    finish: Callable[[Report], Report] = lambda report: report,
) -> tuple[Report, str]:
    """Write a table's `<stem>.md`, `<stem>.csv`, `<stem>-cells.csv` and `<stem>.png`, and return the report and what became of it in words.

    A table on the disk that is of more complete runs stays, unless `replace`: in a fresh clone all runs are missing. Then the report is
    of the cells on the disk, and its page is written, with a figure where there is none. finish: adds to a report of the runs.
    """
    from tutelage.reporting.committed import committed_report

    cells = folder / f"{stem}-cells.csv"
    had = 0 if replace else _complete_in(cells)
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
    write(report, store, folder, names)
    return report, f"written: {folder}/{stem}.html, and beside it {stem}.md, .csv, -cells.csv and .png"


def _complete_in(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(row.get("state") == State.COMPLETE for row in csv.DictReader(file))


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
    words: Sequence[str], plan_of: Callable[[Sequence[str]], Plan], table: Table | None = None
) -> Find:
    """Return the function from a table's cell to its run, planning each cell once.

    words: added to every cell's command.
    plan_of: from a command to its plan.
    table: whose analyses' metrics are read too, where they have been made.
    """
    plans: dict[tuple[str, ...], Plan] = {}

    def find(cell: Cell) -> Row:
        command = (*cell.overrides, *words)
        if command not in plans:
            plans[command] = plan_of(command)
        plan = plans[command]
        store = Store(plan.config["runs_dir"])
        run = store.run(plan.name, plan.identity)
        row = row_of(run, store)
        if table is None or not table.analyses or row.state is not State.COMPLETE:
            return row
        more = measured.metrics(store.root, run, table.split, table.analyses)
        return replace(row, metrics={**row.metrics, **more})

    return find
