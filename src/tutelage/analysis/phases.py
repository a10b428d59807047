"""A phase diagram of finished runs: the metric over two settings, the others chosen on validation, beside what was seen before training."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.analysis.analysis_request import Request
from tutelage.analysis.diagnosis import Subject as Network
from tutelage.analysis.diagnosis import state_of
from tutelage.analysis.drawing import literal
from tutelage.data.base import DataModule
from tutelage.engine import trust
from tutelage.engine.data_sets import build_data
from tutelage.engine.load import stored_config
from tutelage.engine.networks import build_network, sizes_of
from tutelage.engine.shared_work import shared
from tutelage.engine.signal import Signal
from tutelage.errors import UserError, choices
from tutelage.reporting.palette import RAMP, canvas, save
from tutelage.reporting.quantities import direction, spoken
from tutelage.reporting.statistics import summarize
from tutelage.runs.identity import flatten
from tutelage.runs.run import Run

Point = tuple[Any, ...]


def rows_of(runs: Sequence[Run], x: str, y: str) -> list[dict[str, Any]]:
    """Return a row a run: its arm (name), the two settings, the rate, the seed, the monitored metric on validation and test, and whether it
    is the one of its arm, point and seed with the best validation metric, which alone the diagram shows.

    Raises UserError where a setting is none of the runs'.
    """
    rows = []
    for run in runs:
        values, result = dict(flatten(run.config)), run.result or {}
        for key in (x, y):
            if key not in values:
                raise UserError(f"{run.key} has no setting '{key}'; {choices(key, values)}")
        monitor, best = result["selection"]["monitor"], result["best"]
        row = {
            "key": run.key,
            "arm": run.name,
            x: values[x],
            y: values[y],
            "lr": run.config["optimizer"].get("lr"),
        }
        row |= {"seed": run.config["seed"], "metric": monitor, "mode": result["selection"]["mode"]}
        rows.append(row | {split: best[split][monitor] for split in ("validation", "test")})
    order = {"max": 1, "min": -1}
    for _, group in itertools.groupby(sorted(rows, key=_cell(x, y)), key=_cell(x, y)):
        cell = list(group)
        best_row = max(cell, key=lambda row: order[row["mode"]] * row["validation"])
        for row in cell:
            row["chosen"] = int(row is best_row)
    return sorted(rows, key=lambda row: (*_cell(x, y)(row), row["lr"] or 0))


def _cell(x: str, y: str) -> Any:
    return lambda row: (row["arm"], row[y], row[x], row["seed"])


def before_training(subject: Network) -> tuple[dict[str, float], Signal]:
    """Return what `signal` and `state_of` say of a run's network at its initialisation, and the signal itself."""
    seen = subject.signal()
    state = state_of(subject.network, subject.data, [layer.name for layer in seen.layers])
    found = {
        "gradient_ratio": seen.gradient_ratio, "agreement": seen.agreement, "rank_left": seen.rank_left, "correlation": seen.correlation,
        "depth_read": state.depth_read,
    }  # fmt: skip
    return {key: float(f"{value:.4g}") for key, value in found.items()}, seen


def means(
    rows: Sequence[Mapping[str, Any]], x: str, y: str, value: str, arm: str | None = None
) -> dict[Point, tuple[float, float, int]]:
    """Return the mean, standard deviation and number over seeds of the chosen rows at each (x, y)."""
    found: dict[Point, list[float]] = {}
    for row in rows:
        if row["chosen"] and (arm is None or row["arm"] == arm) and row.get(value) is not None:
            found.setdefault((row[x], row[y]), []).append(float(row[value]))
    over = {point: summarize(values) for point, values in found.items()}
    return {point: (one.mean, one.std, one.n) for point, one in over.items()}


def draw(rows: Sequence[Mapping[str, Any]], path: Path, *, x: str, y: str) -> None:
    """Draw a map for each arm, and one of the gradient ratio at initialisation where the rows have it."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    metric, xs, ys = rows[0]["metric"], sorted({row[x] for row in rows}), sorted({row[y] for row in rows})
    has_ratio = any(row.get("gradient_ratio") for row in rows)
    panels = [(arm, means(rows, x, y, "test", arm)) for arm in arms]
    figure = canvas(3.1 * (len(panels) + has_ratio) + 0.8, 0.42 * len(ys) + 1.7)
    axes = np.atleast_1d(figure.subplots(1, len(panels) + has_ratio, sharey=True))
    tested = [mean for _, found in panels for mean, _, _ in found.values()]
    image: Any = None
    for place, (arm, found) in zip(axes, panels, strict=False):
        grid = np.array([[found.get((a, b), (math.nan,))[0] for a in xs] for b in ys])
        image = place.imshow(grid, vmin=min(tested), vmax=max(tested), cmap=RAMP, aspect="auto")
        _number(place, grid, "{:.2f}", (min(tested) + max(tested)) / 2)
        place.set_title(literal(arm.rpartition("/")[2]), fontsize=9)
    figure.colorbar(
        image, ax=list(axes[: len(panels)]), label=f"test {spoken(metric)}{direction(metric)}", shrink=0.9
    )
    if has_ratio:
        found = means(rows, x, y, "gradient_ratio")
        grid = np.log10(np.array([[found.get((a, b), (math.nan,))[0] for a in xs] for b in ys]))
        last = axes[-1].imshow(grid, cmap=RAMP, aspect="auto")
        _number(axes[-1], grid, "{:.1f}", float(np.nanmean(grid)))
        axes[-1].set_title("before training", fontsize=9)
        figure.colorbar(last, ax=axes[-1], label="log10 gradient, first / last layer", shrink=0.9)
    for place in axes:
        place.set_xticks(range(len(xs)), [str(a) for a in xs])
        place.set_yticks(range(len(ys)), [str(b) for b in ys])
        place.set_xlabel(x.rpartition(".")[2])
    axes[0].set_ylabel(y.rpartition(".")[2])
    seeds = sorted({n for _, found in panels for *_, n in found.values()})
    over = " to ".join(dict.fromkeys(str(n) for n in (seeds[0], seeds[-1])))
    figure.suptitle(f"Mean over {over} seeds, the other settings chosen on validation", fontsize=10)
    save(figure, path)


def _number(axes: Any, grid: np.ndarray, form: str, middle: float) -> None:
    for (row, column), value in np.ndenumerate(grid):
        if value == value:
            axes.text(
                column,
                row,
                form.format(value),
                ha="center",
                va="center",
                color="white" if value < middle else "black",
                fontsize=7,
            )


def outcome(
    request: Request,
) -> tuple[list[str], dict[str, Any], list[dict[str, Any]], Callable[[Path], None]]:
    """Return what `tutelage analyse phases` prints, records, tabulates and draws."""
    x, y = request.options["x"], request.options["y"]
    if not x or not y:
        raise UserError("phases needs two settings of the runs: x=model.width y=model.depth")
    if roles := [subject.label for subject in request.subjects if subject.role]:
        raise UserError(f"phases is of trained networks, not of {roles[0]}")
    rows = rows_of([subject.run for subject in request.subjects], x, y)
    at = {row["key"]: row for row in rows}
    # Arms that differ in method alone begin with one network: it is looked at once.
    networks: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for subject in request.subjects:
        code = trust.modules(request.options["code"])
        config = copy.deepcopy(stored_config(subject.run, runs_dir=request.options["runs_dir"], code=code))
        config["data"] |= request.data
        key = repr((config["model"], config["data"], config["seed"]))
        networks.setdefault(key, (config, []))[1].append(subject.run.key)
    data: dict[str, DataModule] = {}

    def look(config: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
        if (of_data := repr(config["data"])) not in data:
            data[of_data] = build_data(config)
        network = build_network("model", config, sizes_of(data[of_data]))
        seen, signal = before_training(Network(config, data[of_data], network))
        names = ("gradient", "rank", "correlation", "agreement")
        return seen, {
            name: [float(f"{getattr(layer, name):.3g}") for layer in signal.layers] for name in names
        }

    layers: list[dict[str, Any]] = []
    found_of = shared((config for config, _ in networks.values()), look)
    for (config, keys), (seen, by_layer) in zip(networks.values(), found_of, strict=True):
        layers.append({x: at[keys[0]][x], y: at[keys[0]][y], "seed": config["seed"], **by_layer})
        for key in keys:
            at[key] |= seen
    for row in rows:
        del row["key"], row["mode"]
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found = means(rows, x, y, "test", arm)
        for below in sorted({point[1] for point in found}):
            row = {point[0]: value for point, value in sorted(found.items()) if point[1] == below}
            cells = [f"{beside}: {mean:.3f} (n {n})" for beside, (mean, _, n) in row.items()]
            lines.append(f"{arm}, {y} {below}, {x} " + ", ".join(cells))
    return lines, {"layers": layers}, rows, lambda path: draw(rows, path, x=x, y=y)
