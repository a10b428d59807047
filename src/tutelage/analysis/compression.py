"""`tutelage analyse int8`: trained networks in floats and quantised, each with its accuracy, size and latency, in one figure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import literal
from tutelage.analysis.opening import monitored, opened, over_runs
from tutelage.engine.export import onnx_of
from tutelage.engine.quantise import KINDS, quantise
from tutelage.errors import UserError, counted, named
from tutelage.reporting.palette import canvas, save, style
from tutelage.reporting.quantities import direction
from tutelage.reporting.statistics import Summary, bounds_of, summarize
from tutelage.runs.provenance import cpu_model

FORMS = KINDS[1:]
USUAL = ("static",)
_MARKERS = {"float": "o", "static": "s", "dynamic": "^", "weights": "D"}


def outcome(request: Request) -> Outcome:
    """Return what is printed, recorded, tabulated and drawn; nothing of the runs is changed."""
    forms = named("forms", request.options["forms"], FORMS) or USUAL
    rows: list[dict[str, Any]] = []
    metric = ""
    for subject in request.subjects:
        if subject.role:
            raise UserError(f"int8 is of a run's own network, not of its {subject.role}: {subject.label}")
        network, data, _ = opened(subject, request)
        metric, _ = monitored(subject)
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            whole, file = Path(folder) / "whole.onnx", Path(folder) / "network.onnx"
            served, masked = onnx_of(network.network, data, whole)
            for form in forms:
                shutil.copy(whole, file)
                found |= quantise(form, file, served, data, masked=masked)["measured"]
        for form, one in found.items():
            row = {"network": subject.label, "arm": subject.arm, "seed": subject.seed, "form": form}
            row |= {f"test_{metric}": one["metrics"][metric], "size_mb": one["size_mb"]}
            row |= {f"latency_ms, {name}": value for name, value in one["latency_ms"].items()}
            rows.append(row)
    arms: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault((str(row["arm"]), str(row["form"])), []).append(row)
    points = [(arm, form, of) for (arm, form), of in arms.items()]
    lines = [_line(arm, form, of, metric) for arm, form, of in points]
    record = {"machine": {"cpu": cpu_model(), "runtime": "onnxruntime"}, "metric": metric}
    return lines, record, rows, lambda path: draw(points, path, metric=metric)


def _line(arm: str, form: str, rows: Sequence[dict[str, Any]], metric: str) -> str:
    over = _over(rows, metric)
    times = [
        f"{median([row[key] for row in rows]):.3g} ms for {key.removeprefix('latency_ms, ')}"
        for key in _times(rows)
    ]
    size = median([row["size_mb"] for row in rows])
    return f"{arm}, {form}: {metric} {over.mean:.3f}{over_runs(over)}; {size:.3g} MiB; {'; '.join(times)}"


def _over(rows: Sequence[dict[str, Any]], metric: str) -> Summary:
    return summarize([row[f"test_{metric}"] for row in rows], bounds=bounds_of(metric))


def _times(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [key for key in rows[0] if key.startswith("latency_ms, ")]


def draw(points: Sequence[tuple[str, str, Sequence[dict[str, Any]]]], path: Path, *, metric: str) -> None:
    """Write the figure of the metric against latency, a panel for each size of batch, on one thread.

    points: an arm, its form (float, static, ...) and the rows of its runs.
    """
    arms = list(dict.fromkeys(arm for arm, _, _ in points))
    keys = [key for key in _times(points[0][2]) if key.endswith(", 1 thread")]
    figure = canvas(5.2 + 3.6 * len(keys), 4.6)
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=True)[0]
    for panel, key in zip(panels, keys, strict=True):
        for arm, form, rows in points:
            over, x = _over(rows, metric), median([row[key] for row in rows])
            colour = style(arms.index(arm))[0]
            hollow = {"markerfacecolor": "white"} if arms.index(arm) >= 8 else {}
            panel.plot([x, x], [over.low, over.high], "-", color=colour, linewidth=1)
            panel.plot(x, over.mean, _MARKERS[form], color=colour, markersize=6, **hollow)
        panel.set(xscale="log", xlabel=f"{key.removeprefix('latency_ms, ')}, ms; lower is better")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.tick_params(axis="x", which="both", labelsize=8)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"test {metric}{direction(metric)}")
    last = panels[-1]
    for place, arm in enumerate(arms):
        hollow = {"markerfacecolor": "white"} if place >= 8 else {}
        last.plot([], [], "o", color=style(place)[0], label=literal(arm.rpartition("/")[2]), **hollow)
    for form in dict.fromkeys(form for _, form, _ in points):
        name = form if form == "float" else f"int8, {form}"
        last.plot([], [], _MARKERS[form], color="grey", label=name)
    last.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    count = min(len(rows) for _, _, rows in points)
    figure.suptitle(
        f"Mean over at least {counted(count, 'run')} with its 95 % interval, against median latency",
        fontsize=9,
    )
    save(figure, path)
