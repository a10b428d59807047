"""How signal and gradients passed the layers during training, from the rows of runs that were watched (fit.watch_layers=true)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import MOST_TICKS, literal
from tutelage.errors import UserError
from tutelage.reporting.palette import RAMP, canvas, save

COLUMN = "layers"
SHOWN = {
    "gradient": "log10 of the task's gradient over the weights",
    "rank": "effective rank of what a layer is given",
    "agreement": "agreement of two batches' gradients",
    "steadiness": "cosine of the gradient before and after a small step",
}
_TINY = 1e-30


@dataclass(frozen=True)
class Watched:
    """What a run recorded: its layers in order, the steps, and of each quantity its values (layers, steps)."""

    layers: tuple[str, ...]
    steps: tuple[int, ...]
    values: Mapping[str, np.ndarray]

    @property
    def gradient_ratio(self) -> np.ndarray:
        """Gradient of the first layer over the last one's, by step."""
        gradient = self.values["gradient"]
        return gradient[0] / np.maximum(gradient[-1], _TINY)


def watched(run: str, rows: Sequence[Mapping[str, Any]]) -> Watched:
    """Return what a run's rows hold of its layers. Raises UserError for a run that was not watched."""
    prefix = f"{COLUMN}/gradient/"
    kept = [row for row in rows if any(key.startswith(prefix) for key in row)]
    if not kept:
        raise UserError(
            f"{run} recorded nothing of its layers: train it with fit.watch_layers=true, which changes none of its numbers"
        )
    layers = tuple(key.removeprefix(prefix) for key in kept[0] if key.startswith(prefix))
    quantities = dict.fromkeys(key.split("/")[1] for key in kept[0] if key.startswith(f"{COLUMN}/"))
    values = {
        quantity: np.array(
            [
                [float(row.get(f"{COLUMN}/{quantity}/{layer}", float("nan"))) for row in kept]
                for layer in layers
            ]
        )
        for quantity in quantities
    }
    return Watched(layers, tuple(int(row["step"]) for row in kept), values)


def mean_of(arm: str, found: Sequence[Watched]) -> Watched:
    """Return the mean of an arm's runs at the steps that all have; gradients and scales by their logarithm.

    Raises UserError where the runs do not have the same layers or no common step.
    """
    first = found[0]
    if any(one.layers != first.layers for one in found):
        raise UserError(f"{arm}: its runs have different layers; give networks of one kind")
    steps = sorted(set.intersection(*(set(one.steps) for one in found)))
    if not steps:
        raise UserError(
            f"{arm}: its runs were looked at, at no common step; give them the same fit.validate_every_steps"
        )
    values = {}
    for quantity in first.values:
        at = np.stack([one.values[quantity][:, [one.steps.index(step) for step in steps]] for one in found])
        by_logarithm = quantity in ("gradient", "scale")
        values[quantity] = np.exp(np.log(np.maximum(at, _TINY)).mean(0)) if by_logarithm else at.mean(0)
    return Watched(first.layers, tuple(steps), values)


def draw(arms: Mapping[str, Watched], path: Path) -> None:
    """Write a PNG: a row for each arm, a column for each of `SHOWN` that all recorded, layers over steps, the first layer above."""
    import matplotlib

    columns = {q: label for q, label in SHOWN.items() if all(q in one.values for one in arms.values())}
    figure = canvas(4.0 * len(columns), 1.2 + 2.6 * len(arms))
    grid = figure.subplots(len(arms), len(columns), squeeze=False)
    colours = matplotlib.colormaps[RAMP].with_extremes(bad="0.85")
    for place, (quantity, label) in enumerate(columns.items()):
        shown = {name: _scaled(quantity, one.values[quantity]) for name, one in arms.items()}
        every = np.concatenate([values[np.isfinite(values)] for values in shown.values()])
        for row, (name, one) in enumerate(arms.items()):
            axes = grid[row, place]
            image = axes.imshow(
                shown[name],
                vmin=every.min(),
                vmax=every.max(),
                cmap=colours,
                aspect="auto",
                interpolation="nearest",
            )
            every_step, every_layer = (
                -(-len(x) // most) for x, most in ((one.steps, 7), (one.layers, MOST_TICKS // 5))
            )
            axes.set_xticks(
                range(0, len(one.steps), every_step), [f"{s:,}" for s in one.steps[::every_step]], fontsize=7
            )
            numbers = range(0, len(one.layers), every_layer)
            axes.set_yticks(numbers, [str(number + 1) for number in numbers], fontsize=7)
            if place == 0:
                axes.set_ylabel(f"{literal(name)}\nlayer", fontsize=8)
            if row == 0:
                axes.set_title(label, fontsize=8)
            if row == len(arms) - 1:
                axes.set_xlabel("step", fontsize=8)
        figure.colorbar(image, ax=list(grid[:, place]), shrink=0.8)
    save(figure, path)


def _scaled(quantity: str, values: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(values, _TINY)) if quantity == "gradient" else values


def outcome(request: Request) -> Outcome:
    """Gradients, effective rank and agreement by layer and step; loads no network."""
    by_arm: dict[str, list[Watched]] = {}
    rows: list[dict[str, Any]] = []
    for subject in request.subjects:
        one = watched(subject.run.key, subject.run.metrics.rows)
        by_arm.setdefault(subject.arm, []).append(one)
        rows += [
            {"run": subject.label, "step": step, "layer": layer}
            | {quantity: float(values[i, j]) for quantity, values in one.values.items()}
            for j, step in enumerate(one.steps)
            for i, layer in enumerate(one.layers)
        ]
    arms = {f"{arm} (n = {len(found)})": mean_of(arm, found) for arm, found in by_arm.items()}
    lines, record = [], {}
    for name, one in arms.items():
        ratio, rank, agreement = (
            one.gradient_ratio,
            one.values["rank"][-1],
            np.median(one.values["agreement"], axis=0),
        )
        lines.append(f"{name}, {len(one.layers)} layers, step {one.steps[0]:,} to {one.steps[-1]:,}:")
        lines += [
            f"  gradient of the first layer over the last's: {ratio[0]:.3g} to {ratio[-1]:.3g}",
            f"  effective rank of what the last layer is given: {rank[0]:.3g} to {rank[-1]:.3g}",
            f"  agreement of two batches' gradients, median over layers: {agreement[0]:.3g} to {agreement[-1]:.3g}",
        ]
        record[name] = {
            "steps": list(one.steps),
            "gradient_ratio": ratio.tolist(),
            "last_rank": rank.tolist(),
            "agreement": agreement.tolist(),
        }
        if "steadiness" in one.values:  # runs of before had none
            steady = np.median(one.values["steadiness"], axis=0)
            lines.append(
                f"  a small step against the gradient leaves a cosine, median over layers: {steady[0]:.3g} to {steady[-1]:.3g}"
            )
            record[name]["steadiness"] = steady.tolist()
    return lines, {"arms": record}, rows, lambda path: draw(arms, path)
