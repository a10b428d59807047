"""The figure of a search with costs: every trial, and the front on which none is better in one thing without being worse in another."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from tutelage.reporting.palette import canvas, logarithmic, look, save
from tutelage.reporting.quantities import direction

UNITS = {"latency": "latency (ms, one sample, one thread)", "flops": "operations per sample (forward)"}


def draw(trials: Path) -> Path | None:
    """Write `pareto.png` beside a search's `trials.csv` and return its path; None where no trial is complete.

    A panel for every cost, with the validation metric, by which the search judges, against it. The front is that of all costs together.
    """
    with trials.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
    if not rows:
        return None
    names = list(rows[0])
    costs = names[names.index("run") + 1 : names.index("pareto")]
    metric = next(name for name in names if name.startswith("validation/"))

    with look():
        figure = canvas(5.2 * len(costs), 3.8)
        for axes, cost in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
            places = [(float(row[cost]), float(row[metric]), row) for row in rows]
            places = [place for place in places if math.isfinite(place[0]) and math.isfinite(place[1])]
            front = sorted(place[:2] for place in places if place[2]["pareto"] == "yes")
            rest = [place for place in places if place[2]["pareto"] != "yes"]
            axes.plot(
                [x for x, _, _ in rest], [y for _, y, _ in rest], "o", color="0.7", label="other trials"
            )
            marks = "o-" if len(costs) == 1 else "o"  # in one panel of several the front is no line
            axes.plot(
                [x for x, _ in front], [y for _, y in front], marks, color="#0072B2", label="Pareto front"
            )
            by_run = {row["run"]: (x, y, row) for x, y, row in reversed(places)}  # the first trial of each
            for x, y, row in by_run.values():
                if row["pareto"] == "yes":
                    axes.annotate(row["trial"], (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
            if places and max(p[0] for p in places) > 8 * min(p[0] for p in places) > 0:
                logarithmic(axes.xaxis)
            axes.set(
                xlabel=f"{UNITS.get(cost, cost)}; lower is better",
                ylabel=metric.replace("/", " ") + direction(metric),
            )
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
        figure.suptitle("Trials of the search by number; each one seed, judged on validation", fontsize=9)
        path = trials.with_name("pareto.png")
        save(figure, path)
    return path
