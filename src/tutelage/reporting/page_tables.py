"""What the template of a page is given of a report: tables whose cells are links, plots beside them, the runs."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import visible
from tutelage.reporting import forest, page_data, quantities, render
from tutelage.reporting.report_model import Line, Report
from tutelage.runs.identity import identity_of
from tutelage.runs.run import State
from tutelage.runs.store import Store

COLOURS = 8
_MOST_SEEDS = 24
MOST_ROWS = 500
"""Rows of a table; each says of how many they are the first."""
_COLUMNS = (
    ("arm", False), ("seed", True), ("test", True), ("validation", True), ("state", False), ("progress", False), ("training", True),
    ("started (UTC)", False), ("code", False), ("run", False), ("remark", False),
)  # fmt: skip


def facts(report: Report, data: Mapping[str, Any], store: Store, folder: Path | None) -> dict[str, Any]:
    """Return what the template shows of a report."""
    better = data["better"]
    has = {
        "has_curves": any(curve["steps"] for curves in data["curves"].values() for curve in curves),
        "has_pairs": "train/similarity" in data["curves"],
        "has_axes": bool(data["axes"]) and len(data["runs"]) > 2,
    }
    scatter, compared = _scatter(report, data), _comparisons(report)
    parts = [
        ("arms-title", "Arms", True),
        ("comparisons-title", "Comparisons", bool(compared)),
        ("curves-title", "Curves", has["has_curves"]),
        ("pairs-title", "Layer pairs", has["has_pairs"]),
        ("cost-title", "Cost", bool(scatter)),
        ("sweep-title", "Settings", has["has_axes"]),
        ("runs-title", "Runs", True),
        ("notes-title", "Notes", bool(report.notes)),
    ]  # fmt: skip
    return {
        **has,
        "title": report.title,
        "states": list(page_data.states(report)),
        "parts": [(id, name) for id, name, there in parts if there],
        "arms": _arms(report, better),
        "comparisons": compared,
        "sections": [
            {"title": one.title, "arms": _arms(one, ""), "comparisons": _comparisons(one)} for one in report.sections
        ],
        "scatter": scatter,
        "explanation": render.explanation(report).replace("`", ""),
        "better": f"{better[:1].upper()}{better[1:]}." if better else "",
        "comparisons_explained": render.comparisons_explained(report),
        "runs": {"header": _COLUMNS, "rows": _runs(report, data, store, folder), "first": _first(len(data["runs"]), "runs")},
        "notes": report.notes,
        "commands": render.command_lines(report),
    }  # fmt: skip


def _first(count: int, what: str, most: int | None = None) -> str:
    """Say how many are shown where not all are. most: how many that is; default: `MOST_ROWS`."""
    most = most or MOST_ROWS
    return f"The first {most:,} of {count:,} {what}; the CSV files beside have all. " if count > most else ""


def colour(place: int | None) -> str:
    """Return the CSS colour of the arm at a place."""
    return "var(--quiet)" if place is None else f"var(--c{place % COLOURS})"


def _arms(report: Report, better: str) -> dict[str, Any]:
    header, rows = render.arms_table(report)
    places_of = render.decimals(report)
    metrics = {line.metric for line in report.lines}
    axes = {
        metric: forest.Axis.over(
            value
            for line in report.lines
            if line.metric == metric
            for value in (*line.values.values(), *quantities.interval(line, report.scale), *_published(line))
        )
        for metric in metrics
    }
    shown = []
    for place, (line, row) in enumerate(zip(report.lines[:MOST_ROWS], rows, strict=False)):
        there = {row.seed: row for row in line.rows if row.state is not State.MISSING}
        links = {
            f"#run-{identity_of(there[seed].key)}": (
                f"{line.label}, seed {seed}: {line.values[seed]:.4g}",
                line.values[seed],
            )
            for seed in sorted(line.values)
            if seed in there
        }
        low, high = quantities.interval(line, report.scale)
        mean = render.mean_std(line.summary, places_of[line.metric])
        said = f"{line.label}: {mean}" + (
            f", 95 % interval {low:.4g} to {high:.4g}" if math.isfinite(low) else ""
        )
        plot = forest.plot(
            axes[line.metric], line.summary.mean, (low, high), dots=links, colour=colour(place), said=said,
            published=next(iter(_published(line)), None),
        )  # fmt: skip
        swatch = f'<span class="swatch d{place // COLOURS % 4}" style="--c:{colour(place)}" aria-hidden="true"></span>'
        label = markup(swatch) + _escape(line.label)
        by_seed = _seeds(line, links, places_of[line.metric])
        shown.append([label, _Cell(plot, ' class="plot"'), *row[1:], by_seed])
    scale = markup(forest.scale(next(iter(axes.values())), report.unit)) if len(metrics) == 1 else ""
    caption = (
        _first(len(rows), "arms")
        + f"{' and '.join(sorted(m.replace('/', ' ') for m in metrics)) or 'Values'} of every arm; {better or 'a dot is a seed'}"
    )
    if better:
        caption += "; a dot is a seed, the bar the mean with its 95 % interval"
    return {
        "header": [header[0], "", *header[1:], "by seed"],
        "rows": shown,
        "caption": caption,
        "scale": scale,
    }


def _seeds(line: Line, links: Mapping[str, tuple[str, float]], places: int) -> Any:
    shown = [
        f'<a href="{link}">{_escape(render.number(value, places))}</a>'
        for link, (_, value) in list(links.items())[:_MOST_SEEDS]
    ]
    rest = f" <span>and {len(links) - _MOST_SEEDS} more</span>" if len(links) > _MOST_SEEDS else ""
    return markup(f'<span class="seeds">{" ".join(shown) or render.GAP}{rest}</span>')


def _comparisons(report: Report) -> dict[str, Any] | None:
    if not report.comparisons:
        return None
    header, rows = render.comparisons_table(report)
    axis = forest.Axis.over(
        (
            x
            for c in report.comparisons
            for x in (c.difference.low, c.difference.high, c.difference.mean, c.published or 0.0)
        ),
        zero=True,
    )
    place = {line.label: i for i, line in enumerate(report.lines)}
    shown = []
    for comparison, row in zip(report.comparisons[:MOST_ROWS], rows, strict=False):
        summary = comparison.difference
        said = f"{row[0]}: {row[1]}, 95 % interval {row[2]}, {row[-1]}"
        plot = forest.plot(
            axis, summary.mean, (summary.low, summary.high), dots={}, colour=colour(place.get(comparison.first)), said=said,
            published=comparison.published, zero=True,
        )  # fmt: skip
        between = markup(
            f'{_escape(comparison.first)} <span class="less">less</span> {_escape(comparison.second)}'
        )
        shown.append([between, _Cell(plot, ' class="plot"'), *row[1:]])
    caption = _first(len(rows), "comparisons") + (
        "Differences with the 95 % interval on which the verdict rests; the dashed line is no difference"
    )
    scale = markup(forest.scale(axis, report.unit))
    return {"header": [header[0], "", *header[1:]], "rows": shown, "caption": caption, "scale": scale}


def _scatter(report: Report, data: Mapping[str, Any]) -> dict[str, Any] | None:
    points, listed, places_of, counted = [], [], render.decimals(report), 0
    for place, (line, arm) in enumerate(zip(report.lines, data["arms"], strict=True)):
        if arm["train_s"] and math.isfinite(line.summary.mean) and line.metric == data["metric"]:
            ends = quantities.interval(line, report.scale)
            counted += 1
            if counted > page_data.MOST_LINES:
                continue
            points.append((line.label, arm["train_s"], line.summary.mean, ends, colour(place)))
            places = places_of[line.metric]
            listed.append(
                f"{line.label}: {render.number(line.summary.mean, places)}{report.unit and ' ' + report.unit}, {_duration(arm['train_s'])}"
            )
    if len(points) < 2:
        return None
    name = data["metric"].replace("/", " ")
    caption = _first(counted, "arms", page_data.MOST_LINES)
    caption += f"{name}{f' in {report.unit}' if report.unit else ''} with its 95 % interval against the mean seconds of training of a run"
    machines = {row.machine for line in report.lines for row in line.rows if row.machine}
    caption += f"; {data['better']}" if data["better"] else ""
    caption += "; the runs come from different machines" if len(machines) > 1 else ""
    return {
        "plot": markup(forest.scatter(points, x="seconds of training", y=name)),
        "list": listed,
        "caption": caption,
    }


def _runs(report: Report, data: Mapping[str, Any], store: Store, folder: Path | None) -> list[dict[str, Any]]:
    places_of = render.decimals(report)
    return [
        _run(cell, found, report, places_of, store, folder)
        for cell, found in zip(page_data.cells(report), data["runs"][:MOST_ROWS], strict=False)
    ]


def _run(
    cell: page_data.Cell,
    found: Mapping[str, Any],
    report: Report,
    places_of: Mapping[str, int],
    store: Store,
    folder: Path | None,
) -> dict[str, Any]:
    row, arm = cell.row, "needed by others"
    places = 4
    if cell.arm is not None:
        arm = report.lines[cell.arm].label
        places = places_of[report.lines[cell.arm].metric]
    done = found["done"]
    validation = row.metrics.get(f"validation/{row.monitor}")
    validation = None if validation is None else report.scale * validation
    return {
        **found,
        "arm": arm,
        "done": "" if done is None else done,
        "done_text": "" if done is None else f"{100 * done:.0f} %",
        "test": render.GAP if cell.value is None else render.number(cell.value, places),
        "test_v": "" if cell.value is None else cell.value,
        "validation": render.GAP if validation is None else render.number(validation, places),
        "validation_v": "" if validation is None else validation,
        "train": _duration(row.train_s) if row.train_s else render.GAP,
        "train_v": row.train_s or "",
        "folder": Path(os.path.relpath(store.at(row.key).path, folder)).as_posix() + "/" if folder else "",
    }


def _published(line: Line) -> list[float]:
    return [] if line.published is None else [line.published.value]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Cell(str):
    """A cell of finished HTML, with attributes of its `td`."""

    attributes: Any

    def __new__(cls, content: str, attributes: str) -> _Cell:
        made = super().__new__(cls, content)
        made.attributes = markup(attributes)
        return made

    def __html__(self) -> str:
        return str(self)


def markup(text: str) -> Any:
    """Return finished HTML, which the template leaves as it is."""
    from markupsafe import Markup

    return Markup(text)


def _escape(text: str) -> Any:
    from markupsafe import escape

    return escape(visible(text))
