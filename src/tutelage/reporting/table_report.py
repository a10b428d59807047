"""The report of a paper's table: its lines beside the published numbers, what is missing, comparisons with verdicts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tutelage.reporting.collect import gap_reason
from tutelage.reporting.differences import same_test_data
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.runs_report import notes_on
from tutelage.reporting.statistics import bounds_of
from tutelage.reporting.tables import Arm, Choice, Find, Table, check_metric, choose
from tutelage.reporting.verdict import Comparison, compare, correct
from tutelage.runs.run import State


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
        check_metric(table, name, [row for of_arm in rows.values() for row in of_arm])
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


def command_of(table: Table, arm: Arm, point: tuple[str, ...], words: Sequence[str] = ()) -> str:
    """Return the command line that makes an arm's runs; words: what was added to every command."""
    seeds = ",".join(map(str, table.seeds))
    return shlex.join(["tutelage", "train", "-m", *arm.command, *point, *words, f"seed={seeds}"])
