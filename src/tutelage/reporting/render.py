"""A report as Markdown, CSV and terminal text. The same report gives the same bytes."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tutelage.errors import visible
from tutelage.reporting.fitted import Fitted
from tutelage.reporting.long_table import LongTable
from tutelage.reporting.quantities import better, usual_mode
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.statistics import Summary
from tutelage.reporting.verdict import FEWEST_SEEDS, LEVEL, Verdict, exact_test_decides, smallest_corrected_p
from tutelage.runs.records import spreadsheet_safe

if TYPE_CHECKING:
    from rich.console import Group

GAP = "-"
_LONG = 200
"""Rows of a table that is printed without lines around its cells."""


def markdown(report: Report, *, figures: Sequence[str] = ()) -> str:
    """Return the report as a Markdown page; `figures` are file names beside it."""
    parts = [f"# {_prose(report.title)}", _markdown_table(*arms_table(report)), explanation(report)]
    if report.comparisons:
        parts += [
            "## Comparisons",
            _markdown_table(*comparisons_table(report)),
            comparisons_explained(report),
        ]
    for section in report.sections:
        parts += [f"## {_prose(section.title)}", _markdown_table(*arms_table(section))]
        if section.comparisons:
            parts += [_markdown_table(*comparisons_table(section))]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {_prose(note)}" for note in report.notes)]
    if commands := command_lines(report):
        parts += ["## Commands", "```\n" + "\n".join(map(_code, commands)) + "\n```"]
    if report.needed:
        parts += ["## Runs that others need", "\n".join(f"- {_prose(line)}" for line in needed_lines(report))]
    parts += [f"![{name.rpartition('.')[0]}]({name})" for name in figures]
    return "\n\n".join(parts) + "\n"


def comparisons_explained(report: Report) -> str:
    """Say what the columns of the comparisons are, and what a verdict rests on."""
    said = ["Differences over the seeds both arms have, with the 95 % t interval of their mean."]
    if exact_test_decides(report.comparisons):
        said.append(
            "p is that of the exact two-sided sign-flip test; p (Holm) is corrected for the number of comparisons."
        )
    elif tested := [
        item for item in report.comparisons if len(item.seeds) >= FEWEST_SEEDS and item.p == item.p
    ]:
        pairs = max(len(item.seeds) for item in tested)
        count = sum(item.p == item.p for item in report.comparisons)  # one without pairs is not tested
        many = f" in {count} comparisons" if count > 1 else ""
        said.append(
            f"No p values: in the exact sign-flip test of {pairs} pairs{many}, p is at least "
            f"{smallest_corrected_p(report.comparisons):.2g}, so it could not decide at {LEVEL:g}."
        )
    said.append("The verdict rests on the interval alone.")
    modes = {usual_mode(line.metric) for line in report.lines}
    if (better(report.lines) or ("lower is better" if modes == {"min"} else "")) == "lower is better":
        said.append("Lower is better: below 0, the first arm is ahead.")
    return " ".join(said)


def explanation(report: Report) -> str:
    """Say what the numbers are."""
    unit = f", in {report.unit}" if report.unit else ""
    return (
        f"Mean ± standard deviation over n seeds{unit}, of the checkpoint chosen on validation; the interval is the 95 % "
        f"t interval of the mean. `{GAP}`: no value, for the reason given below."
    )


def arms_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of arms, as text."""
    metrics = {line.metric for line in report.lines}
    shared = metrics.pop().replace("/", " ") if len(metrics) == 1 else None
    published = any(line.published for line in report.lines)
    chosen = any(line.choice for line in report.lines)
    header = ["arm", *([] if shared else ["metric"]), shared or "value", "n", "95 % interval"]
    header += [*(["published"] if published else []), *(["chosen on validation"] if chosen else [])]
    costs = list(dict.fromkeys(name for line in report.lines for name in line.costs))
    header += costs
    rows = []
    places_of = decimals(report)
    for line in report.lines:
        places = places_of[line.metric]
        row = [line.label, *([] if shared else [line.metric.replace("/", " ")])]
        row += [mean_std(line.summary, places), str(line.summary.n), interval(line.summary, places)]
        row += [_published(line)] if published else []
        row += [line.choice or GAP] if chosen else []
        row += [line.costs.get(name, GAP) for name in costs]
        rows.append(row)
    return header, rows


def comparisons_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of comparisons, as text."""
    published = any(item.published is not None for item in report.comparisons)
    tested = exact_test_decides(report.comparisons)
    header = ["comparison", "difference", "95 % interval", "pairs", *(["p", "p (Holm)"] if tested else [])]
    header += [*(["published"] if published else []), "verdict"]
    metric_of = {line.label: line.metric for line in report.lines}
    rows = []
    places_of = decimals(report)
    for item in report.comparisons:
        places = places_of[metric_of.get(item.first, "")]
        compared = item.verdict is not Verdict.APART
        row = [
            f"{item.first} - {item.second}",
            signed(item.difference.mean, places) if compared else GAP,
        ]
        row += [interval(item.difference, places, sign=True), str(len(item.seeds))]
        row += [p_text(item.p), p_text(item.p_holm)] if tested else []
        row += [GAP if item.published is None else signed(item.published, places)] if published else []
        rows.append([*row, item.sentence])
    return header, rows


def command_lines(report: Report) -> list[str]:
    """Return the command of each arm that names one."""
    return [line.command for line in report.lines if line.command]


def needed_lines(report: Report) -> list[str]:
    """Return a line for each run that was made because others need it."""
    lines = []
    for row in report.needed:
        metric = f"test/{row.monitor}"
        value = (
            f"{metric.replace('/', ' ')} {number(row.metrics[metric], 3)}"
            if metric in row.metrics
            else row.reason
        )
        lines.append(f"{row.key} (seed {row.seed}): {value or row.state}")
    return lines


def table_csv(report: Report) -> str:
    """Return `arm, metric, mean, std, n`, and what was asked of costs, a row an arm; undefined numbers are empty."""
    rows = []
    costs = list(dict.fromkeys(name for line in report.lines for name in line.costs))
    for line in (line for one in (report, *report.sections) for line in one.lines):
        summary = line.summary
        mean = _plain(summary.mean) if summary.n else ""
        std = _plain(summary.std) if summary.n > 1 else ""
        known = [line.costs.get(name, "") for name in costs]
        rows.append([line.label, line.metric, mean, std, str(summary.n), *known])
    return csv_text(["arm", "metric", "mean", "std", "n", *costs], rows)


def cells_csv(report: Report) -> str:
    """Return a row for each run of the report: where it lies, its seed, state, code and metrics."""
    metrics = sorted({name for line in report.lines for row in line.rows for name in row.metrics})
    header = ["arm", "run", "seed", "state", "reason", "code", "best_step", "train_s", *metrics]
    rows = []
    for line in report.lines:
        for row in line.rows:
            step = "" if row.best_step is None else str(row.best_step)
            values = [_plain(row.metrics[name]) if name in row.metrics else "" for name in metrics]
            seconds = "" if row.train_s is None else f"{row.train_s:.1f}"
            code = " then ".join(row.commits)
            rows.append(
                [line.label, row.key, str(row.seed), str(row.state), row.reason, code, step, seconds, *values]
            )
    return csv_text(header, rows)


def terminal(report: Report) -> Group:
    """Return what a terminal shows, for rich's `Console.print`."""
    from rich.console import Group
    from rich.text import Text

    shown: list[Any] = [_fitted(report.title, *arms_table(report))]
    if report.comparisons:
        shown.append(_fitted("comparisons", *comparisons_table(report)))
        shown.append(Text(comparisons_explained(report), style="dim"))
    for section in report.sections:
        shown.append(_fitted(section.title, *arms_table(section)))
        if section.comparisons:
            shown.append(_fitted("comparisons", *comparisons_table(section)))
    shown += [Text(note, style="dim") for note in report.notes]
    shown += [Text(f"needed: {line}", style="dim") for line in needed_lines(report)]
    return Group(*shown)


def decimals(report: Report) -> dict[str, int]:
    """Return how many decimals each metric's numbers get: three if all lie within ±1, two otherwise."""
    values: dict[str, list[float]] = {"": []}
    for line in report.lines:
        values.setdefault(line.metric, []).extend(map(abs, line.values.values()))
    return {metric: 3 if found and max(found) <= 1 else 2 for metric, found in values.items()}


def number(value: float, places: int) -> str:
    """Return a number as text; what is not finite is named."""
    return f"{value:.{places}f}" if math.isfinite(value) else str(value).replace("nan", "NaN")


def signed(value: float, places: int) -> str:
    """Return a difference as text, with its sign."""
    return f"{value:+.{places}f}" if math.isfinite(value) else GAP


def mean_std(summary: Summary, places: int) -> str:
    """Return "mean ± std", the mean alone for one value, or a gap."""
    if summary.n == 0:
        return GAP
    if not math.isfinite(summary.std):
        return number(summary.mean, places)
    return f"{number(summary.mean, places)} ± {number(summary.std, places)}"


def interval(summary: Summary, places: int, *, sign: bool = False) -> str:
    """Return "low to high", or a gap."""
    if not math.isfinite(summary.low):
        return GAP
    low, high = ((signed if sign else number)(value, places) for value in (summary.low, summary.high))
    return f"{low} to {high}"


def p_text(p: float) -> str:
    """Return a p value as text."""
    return GAP if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _published(line: Line) -> str:
    if line.published is None:
        return GAP
    error = "" if line.published.error is None else f" ± {line.published.error:g}"
    source = f" ({line.published.source})" if line.published.source else ""
    return f"{line.published.value:g}{error}{source}"


def _plain(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else number(value, 0)


def _markdown_table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(_prose(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _prose(text: str) -> str:
    """Return a line of a Markdown page that shows a text and no more: no tag, link or image, and no end of the line."""
    text = visible(text).replace("\n", " ").replace("](", "]\\(")
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", text)


def _code(text: str) -> str:
    return visible(text).replace("\n", "\\n").replace("```", "` ` `")


def _fitted(title: str, header: list[str], rows: list[list[str]]) -> Fitted:
    words = (header[0], "metric", "verdict", "published", "chosen on validation")
    kind = LongTable if len(rows) > _LONG else Fitted  # rich takes a millisecond for a row of boxes
    return kind(title, header, rows, left=words, wraps=words)


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV in which no cell is a formula of a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([spreadsheet_safe(cell) for cell in row] for row in rows)
    return text.getvalue()
