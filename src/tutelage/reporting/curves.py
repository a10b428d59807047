"""Figures of a report: learning curves, and every seed's test value, in colours that all readers can tell."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.reporting.report_model import Line, Report
from tutelage.runs.records import read_metrics, replacing
from tutelage.runs.run import State
from tutelage.runs.store import Store

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6A00", "#000000")
"""After Okabe and Ito (2008), https://jfly.uni-koeln.de/color; with a darker yellow."""
FEW = 5
"""Beyond so many arms curves are drawn without bands, and the legend stands below."""
DASHES = ("-", "--", ":", "-.")
LOOK: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a label is a $
}
_DRAWING = 2
"""Raise it when the drawing changes, so that figures of unchanged data are drawn again."""

Curve = list[tuple[int, float, float, int]]
"""Points (step, mean, standard deviation, number of seeds)."""


def draw(report: Report, store: Store, path: Path) -> bool:
    """Write the figure of a report as PNG: left validation curves, right every seed's test value and the mean.

    Curves are means over the finished seeds with a band of one standard deviation. A figure of the same data
    is left as it is. Returns whether there is a figure; without a single finished run there is none.
    """
    metric = _shared_metric(report)
    curves = {line.label: curve(line, store, report.scale) for line in report.lines if line.metric == metric}
    points = {line.label: dict(line.values) for line in report.lines if line.metric == metric and line.values}
    if metric is None or not points:
        return False
    facts = [_DRAWING, metric, report.unit, [line.label for line in report.lines], curves, points]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    try:
        if path.is_file() and digest.encode() in path.read_bytes():
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw(report, metric, curves, points, path, digest)
    except OSError as error:
        raise UserError(f"cannot write the figure {path}: {error.strerror}") from error
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
    metrics = [line.metric for line in report.lines if line.values]
    return max(sorted(set(metrics)), key=metrics.count) if metrics else None


def _draw(
    report: Report,
    metric: str,
    curves: Mapping[str, Curve],
    points: Mapping[str, Mapping[int, float]],
    path: Path,
    digest: str,
) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = metric.partition("/")[2].replace("_", " ") + (f" ({report.unit})" if report.unit else "")
    styles = {
        label: (PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)])
        for i, label in enumerate(curves)
    }
    look: Any = {**dict(matplotlib.rcParamsDefault), **LOOK}  # whatever the user's own style file says
    with matplotlib.rc_context(look):
        many = len(curves) > FEW
        figure = Figure(
            figsize=(9.0, max(3.4, 1.2 + (0.4 if many else 0.32) * len(points))), layout="constrained"
        )
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_curves(left, curves, styles, report.scale, bands=not many)
        if many:
            figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        elif any(curves.values()):
            left.legend(fontsize=8)
        counts = sorted({len(seeds) for seeds in points.values() if seeds})
        n = " to ".join(dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:])))
        left.set(xlabel="step", ylabel=f"validation {name}")
        left.set_title(f"mean{'' if many else ' ± standard deviation'} over n = {n} seeds", fontsize=8)
        _draw_points(right, points, styles)
        right.set(xlabel=f"{metric.partition('/')[0]} {name}")
        right.set_title("every seed, and the mean (bar)", fontsize=8)
        with replacing(path) as temporary:
            metadata = {"Software": None, "Description": digest}
            figure.savefig(temporary, format="png", dpi=120, metadata=metadata)


def _draw_curves(
    axes: Any,
    curves: Mapping[str, Curve],
    styles: Mapping[str, tuple[str, str]],
    scale: float,
    *,
    bands: bool,
) -> None:
    means = [mean for points in curves.values() for _, mean, _, _ in points]
    is_share = bool(means) and max(means) <= scale  # an accuracy keeps its linear axis
    if means and min(means) > 0 and max(means) > 50 * min(means) and not is_share:
        axes.set_yscale("log")
    for label, points in curves.items():
        if not points:
            continue
        color, dashes = styles[label]
        steps = [step for step, *_ in points]
        low, high = [m - s for _, m, s, _ in points], [m + s for _, m, s, _ in points]
        alone = "o" if len(points) == 1 else None  # of which no line can be drawn
        axes.plot(steps, [m for _, m, _, _ in points], dashes, color=color, label=label, marker=alone)
        if bands:
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_points(
    axes: Any, points: Mapping[str, Mapping[int, float]], styles: Mapping[str, tuple[str, str]]
) -> None:
    labels: Sequence[str] = list(points)
    for place, label in enumerate(labels):
        values = [value for _, value in sorted(points[label].items()) if math.isfinite(value)]
        color = styles[label][0]
        axes.plot(
            values, [place] * len(values), "o", color=color, alpha=0.45, markersize=5, markeredgewidth=0
        )
        if values:
            axes.plot(
                [math.fsum(values) / len(values)],
                [place],
                "|",
                color=color,
                markersize=16,
                markeredgewidth=2.2,
            )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
