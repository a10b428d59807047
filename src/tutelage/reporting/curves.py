"""Figures of a report: learning curves, every seed's test value, and the differences on whose intervals verdicts rest."""

from __future__ import annotations

import hashlib
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.reporting import quantities
from tutelage.reporting.palette import canvas, logarithmic, look, save, style
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.statistics import Summary, bounds_of, summarize
from tutelage.reporting.verdict import Comparison
from tutelage.runs.json_lines import read_metrics
from tutelage.runs.run import State
from tutelage.runs.store import Store

FEW = 5
"""Beyond so many arms each has a panel of its own, the others in grey behind it."""
MOST_PANELS = 24
MOST_ROWS = 60
"""Beyond so many arms, no curve and no row of values is drawn, but the arms' means in their order: no picture could be read otherwise."""
_DRAWING = 6
"""Raise it when the drawing changes, so that figures of unchanged data are drawn again."""

Curve = list[tuple[int, float, float, int]]
"""Points (step, mean, standard deviation, number of seeds)."""


def draw(report: Report, store: Store, path: Path) -> bool:
    """Write the figure of a report as PNG: validation curves, every seed's test value with mean and interval, and the differences.

    Curves are means over the finished seeds with a band of one standard deviation; the others have 95 % t intervals, on which verdicts
    rest. Nothing is drawn where no value can be. A figure of the same data is left as it is. Returns whether there is a figure;
    without a single finished run there is none.
    """
    metric = _shared_metric(report)
    if metric is None:
        return False
    lines = [line for line in report.lines if line.metric == metric]
    points = {line.label: dict(line.values) for line in lines if line.values}
    compared = [
        c
        for c in report.comparisons
        if c.first in points and c.second in points and math.isfinite(c.difference.low)
    ]
    curves: dict[str, Curve] = {}
    panels = MOST_PANELS if len(points) <= MOST_ROWS else 0
    for line in lines:  # of arms that have no panel nothing is read
        curves[line.label] = curve(line, store, report.scale) if panels else []
        panels -= bool(curves[line.label])
    better = quantities.better(lines)
    differences = [(c.first, c.second, tuple(c.difference), c.published) for c in compared]
    facts = [
        _DRAWING,
        metric,
        report.unit,
        better,
        [line.label for line in report.lines],
        curves,
        points,
        differences,
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    try:
        if path.is_file() and digest.encode() in path.read_bytes():
            return True
    except OSError as error:
        raise UserError(f"cannot write the figure {path}: {error.strerror}") from error
    drawing = _Drawing(metric, report.unit, report.scale, better, curves, points, compared)
    with look():
        figure = drawing.figure()
        figure.suptitle(_lines(report.title, 110), fontsize=10)
        save(figure, path, Description=digest)
    return True


def curve(line: Line, store: Store, scale: float = 1.0) -> Curve:
    """Return the validation curve of an arm: mean and spread at the steps that all its finished runs have."""
    key = f"validation/{line.metric.partition('/')[2]}"
    runs = [_validations(store, row.key, key) for row in line.rows if row.state is State.COMPLETE]
    if not runs:
        return []
    shared = set.intersection(*(set(values) for values in runs))
    result: Curve = []
    for step in sorted(shared):
        values = [scale * values[step] for values in runs]
        mean = math.fsum(values) / len(values)
        spread = (
            math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
            if len(values) > 1
            else 0.0
        )
        result.append((step, mean, spread, len(values)))
    return result


def _validations(store: Store, key: str, metric: str) -> dict[int, float]:
    rows = read_metrics(store.at(key).path / "metrics.jsonl", metric).rows
    found = ((int(row["step"]), row.get(metric)) for row in rows)
    return {step: float(x) for step, x in found if isinstance(x, int | float) and math.isfinite(x)}


def _shared_metric(report: Report) -> str | None:
    # Arms measured differently cannot share an axis: the figure shows the metric that most of them have.
    return quantities.most_frequent(line.metric for line in report.lines if line.values) or None


@dataclass(frozen=True)
class _Drawing:
    metric: str
    unit: str
    scale: float
    better: str
    curves: Mapping[str, Curve]
    points: Mapping[str, Mapping[int, float]]
    compared: Sequence[Comparison]

    def figure(self) -> Any:
        if len(self.points) > MOST_ROWS:
            figure = canvas(10.0, 4.5)
            self._ordered(figure.subplots())
            return figure
        below, differences = map(_height, (self._arms(), self._pairs()))
        drawn = [label for label, curve in self.curves.items() if curve]
        panels = 2 if self.compared else 1
        parts: Any
        if not any(len(curve) > 1 for curve in self.curves.values()):  # committed cells, or validated once
            figure = canvas(10.0, max(below, differences) + 0.3)
            sides = figure.subplots(1, panels, squeeze=False)[0]
        elif len(drawn) > FEW:
            rows = -(-len(drawn) // 4)
            above = 0.5 + 1.65 * rows
            figure = canvas(10.0, above + max(below, differences) + 0.3)
            parts = figure.subfigures(2, 1, height_ratios=(above, max(below, differences)))
            self._panels(parts[0], drawn, rows)
            sides = parts[1].subplots(1, panels, squeeze=False)[0]
        else:
            figure = canvas(10.0, max(3.4, below + differences) + 0.3)
            parts = figure.subfigures(1, 2, width_ratios=(11, 9))
            self._together(parts[0])
            heights = [below, differences][:panels]
            sides = parts[1].subplots(panels, 1, squeeze=False, height_ratios=heights)[:, 0]
        self._values(sides[0])
        if self.compared:
            self._differences(sides[1])
        return figure

    @property
    def name(self) -> str:
        """The metric as axes call it."""
        return quantities.spoken(self.metric) + (f" ({self.unit})" if self.unit else "")

    @property
    def n(self) -> str:
        """How many seeds there are, "3" or "1 to 3"."""
        counts = sorted({len(seeds) for seeds in self.points.values() if seeds})
        return " to ".join(dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:])))

    def _direction(self) -> str:
        return f"; {self.better}" if self.better else ""

    def _together(self, figure: Any) -> None:
        axes = figure.subplots()
        for place, label in enumerate(self.curves):
            self._curve(axes, label, *style(place))
        self._axis(axes)
        axes.set(xlabel="step", ylabel=f"validation {self.name}")
        axes.set_title(f"mean ± standard deviation over n = {self.n} seeds{self._direction()}", fontsize=8)
        if any(self.curves.values()):
            figure.legend(loc="outside lower center", ncols=2, fontsize=8)

    def _panels(self, figure: Any, shown: Sequence[str], rows: int) -> None:
        grid = figure.subplots(rows, 4, sharex=True, sharey=True, squeeze=False).ravel()
        places = {label: place for place, label in enumerate(self.curves)}
        gap = (math.nan, math.nan, 0.0, 0)
        behind = [point for label in shown for point in (*self.curves[label], gap)]  # as one line, with gaps
        for axes, label in zip(grid, shown, strict=False):
            axes.plot([p[0] for p in behind], [p[1] for p in behind], color="0.82", linewidth=0.7)
            self._curve(axes, label, style(places[label])[0], "-")
            axes.set_title(_lines(label, 34), fontsize=8)
        self._axis(grid[0])
        for axes in grid[len(shown) :]:
            axes.axis("off")
        for axes in grid[: len(shown)][-4:]:  # the lowest of each column
            axes.tick_params(labelbottom=True)
        grid[0].locator_params(axis="x", nbins=3)  # of all: more would touch, and the last be cut at the edge
        rest = (
            f"; the first {len(shown)} of {len(self.points)} arms"
            if len(shown) == MOST_PANELS < len(self.points)
            else ""
        )
        figure.supxlabel("step", fontsize=8)
        figure.supylabel(f"validation {self.name}", fontsize=8)
        figure.suptitle(
            f"mean ± standard deviation over n = {self.n} seeds, the other arms in grey{self._direction()}{rest}",
            fontsize=8,
        )

    def _curve(self, axes: Any, label: str, color: str, dashes: str) -> None:
        points = self.curves[label]
        if not points:
            return
        steps = [step for step, *_ in points]
        low, high = ([self._possible(m + side * s) for _, m, s, _ in points] for side in (-1, 1))
        alone = "o" if len(points) == 1 else None  # of which no line can be drawn
        axes.plot(steps, [m for _, m, _, _ in points], dashes, color=color, label=label, marker=alone)
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)

    def _axis(self, axes: Any) -> None:
        means = [mean for points in self.curves.values() for _, mean, _, _ in points]
        is_share = bounds_of(self.metric, self.scale)[1] < math.inf  # keeps its linear axis
        if means and min(means) > 0 and max(means) > 50 * min(means) and not is_share:
            logarithmic(axes.yaxis)

    def _possible(self, value: float) -> float:
        return quantities.clipped(value, self.metric, self.scale)

    def _values(self, axes: Any) -> None:
        places = {label: place for place, label in enumerate(self.curves)}
        for place, label in enumerate(self.points):
            values = [value for _, value in sorted(self.points[label].items())]
            known = [value for value in values if math.isfinite(value)]
            color = style(places[label])[0]
            axes.plot(
                known, [place] * len(known), "o", color=color, alpha=0.45, markersize=5, markeredgewidth=0
            )
            found = summarize(values)  # no mean of fewer seeds than the table's
            ends = self._possible(found.low), self._possible(found.high)
            _interval(axes, place, found, ends, color)
        self._labels(axes, self._arms())
        axes.set(xlabel=_axis(f"{self.metric.partition('/')[0]} {self.name}{self._direction()}"))
        axes.set_title(
            f"each of {self.n} seeds, and the mean with its 95 % interval", fontsize=8, loc="right"
        )

    def _ordered(self, axes: Any) -> None:
        found = {label: summarize([v for _, v in sorted(own.items())]) for label, own in self.points.items()}
        ordered = sorted((one.mean, label) for label, one in found.items() if math.isfinite(one.mean))
        low, high = ([self._possible(found[label][end]) for _, label in ordered] for end in (3, 4))
        color = style(0)[0]
        axes.vlines(range(len(ordered)), low, high, color=color, alpha=0.35, linewidth=0.8, snap=False)
        axes.plot([mean for mean, _ in ordered], ".", color=color, markersize=3, markeredgewidth=0)
        beside = " with their 95 % intervals" if any(map(math.isfinite, low)) else ""
        if away := len(found) - len(ordered):
            beside += f", less {away} without a finite mean"
        axes.set_title(
            f"the means of {len(found):,} arms over n = {self.n} seeds{beside}, in order; tables name them all",
            fontsize=8,
        )
        ends = f" ({ordered[0][1]} to {ordered[-1][1]})" if ordered else ""
        axes.set(
            xlabel=_lines(f"arms in the order of their means{ends}", 110),
            ylabel=_axis(f"{self.metric.partition('/')[0]} {self.name}{self._direction()}"),
        )

    def _differences(self, axes: Any) -> None:
        places = {label: place for place, label in enumerate(self.curves)}
        axes.axvline(0, color="0.35", linewidth=1, linestyle="--")
        for place, comparison in enumerate(self.compared):
            found = comparison.difference
            _interval(axes, place, found, (found.low, found.high), style(places[comparison.first])[0])
            if comparison.published is not None:
                axes.plot(comparison.published, place, "D", color="black", fillstyle="none", markersize=5)
        self._labels(axes, self._pairs())
        published = "; diamond: published" if any(c.published is not None for c in self.compared) else ""
        side = {"higher is better": "; above 0 is better", "lower is better": "; below 0 is better"}
        axes.set(xlabel=_axis(f"difference in {self.name}{side.get(self.better, '')}"))
        axes.set_title(f"difference over common seeds, 95 % interval{published}", fontsize=8, loc="right")

    def _arms(self) -> list[str]:
        return [_lines(label, 38) for label in self.points]

    def _pairs(self) -> list[str]:
        return [_difference(c.first, c.second) for c in self.compared]

    def _labels(self, axes: Any, labels: Sequence[str]) -> None:
        axes.set_yticks(range(len(labels)), labels, fontsize=8, linespacing=1.15)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)


def _lines(text: str, width: int) -> str:
    """A label in as many lines as it needs, of about one length: none is cut."""
    lines = textwrap.wrap(text, width)
    while len(lines) > 1 and len(narrower := textwrap.wrap(text, width := width - 1)) == len(lines):
        lines = narrower
    return "\n".join(lines)


def _difference(first: str, second: str) -> str:
    """What a difference is called: in a line, or each arm on lines of its own."""
    whole = f"{first} - {second}"
    return whole if len(whole) <= 38 else f"{_lines(first, 40)}\n{_lines(f'- {second}', 40)}"


def _axis(label: str) -> str:
    """What an axis is called: which way is better on a line of its own where there is no room beside it."""
    return label if len(label) <= 38 else label.replace("; ", "\n")


def _height(labels: Sequence[str]) -> float:
    """The height in inches of a panel whose rows have these labels; 0 for none."""
    most = max((label.count("\n") for label in labels), default=0)
    return (
        1.2 + (0.3, 0.38)[most > 0] * len(labels) + 0.14 * max(most - 1, 0) * len(labels) if labels else 0.0
    )


def _interval(axes: Any, place: int, found: Summary, ends: tuple[float, float], color: str) -> None:
    if all(map(math.isfinite, ends)):
        axes.plot(ends, [place] * 2, "-", color=color, linewidth=2)
    if math.isfinite(found.mean):
        axes.plot([found.mean], [place], "|", color=color, markersize=15, markeredgewidth=2.4)
