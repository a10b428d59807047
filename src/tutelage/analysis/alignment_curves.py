"""Alignment over training: how similar each pair of layers became, step by step, from a run's recorded rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import lines
from tutelage.analysis.opening import method_of
from tutelage.errors import UserError
from tutelage.reporting.palette import save
from tutelage.reporting.statistics import summarize
from tutelage.runs.layer_pairs import MEAN, LayerPairs, layer_pairs

Curve = tuple[list[float], list[float]]
"""Steps and values."""


def pairs_of(run: str, rows: Sequence[Mapping[str, Any]], method: Mapping[str, Any]) -> dict[str, LayerPairs]:
    """Return what a run recorded of its layer pairs, by alignment. Raises UserError for a run without one."""
    if not (found := layer_pairs(rows, method)):
        raise UserError(f"{run} recorded no alignment of layers: expected a run of method=guidance")
    return found


def curves_of(run: str, rows: Sequence[Mapping[str, Any]], method: Mapping[str, Any]) -> dict[str, Curve]:
    """Return the recorded curves of a run: of each alignment the mean over pairs, and one for each pair by its number and layers.

    method: what the run's record says of its method. The mean similarity is 1 - loss / pairs; a row is a mean over the steps since the
    row before. Raises UserError for a run without an alignment.
    """
    found = pairs_of(run, rows, method)
    curves: dict[str, Curve] = {}
    for name, pairs in found.items():
        label = "" if len(found) == 1 else f"{name}: "
        curves[f"{label}{MEAN}"] = _finite(pairs.steps, pairs.mean)
        for pair, values in zip(pairs.names, pairs.values, strict=True):
            if (curve := _finite(pairs.steps, values))[0]:
                curves[f"{label}{pair}"] = curve
    return curves


def _finite(steps: Sequence[int], values: Sequence[float]) -> Curve:
    kept = [
        (float(step), value) for step, value in zip(steps, values, strict=True) if abs(value) < float("inf")
    ]
    return [step for step, _ in kept], [value for _, value in kept]


def over_seeds(curves: Sequence[Curve]) -> tuple[Curve, Curve, Curve]:
    """Return mean, lower and upper end of the 95 % interval over runs at the steps that all have, the ends at most 1 and at least -1."""
    shared = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
    at = [dict(zip(*curve, strict=True)) for curve in curves]
    summaries = [summarize([values[step] for values in at]) for step in shared]
    mean = [one.mean for one in summaries]
    alone = len(curves) < 2
    low = mean if alone else [max(-1.0, one.low) for one in summaries]
    high = mean if alone else [min(1.0, one.high) for one in summaries]
    return (shared, mean), (shared, low), (shared, high)


def draw(curves: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Write the curves of a run as a PNG."""
    figure, _ = lines(curves, x="step", y="similarity to the guide", bold=MEAN, title=title)
    save(figure, path)


def draw_arms(arms: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Write the mean over pairs of every arm as a PNG: the mean over its runs with the 95 % interval."""
    found = {f"{arm} (n = {len(curves)})": over_seeds(curves) for arm, curves in arms.items()}
    bands = {name: (low[1], high[1]) for name, (_, low, high) in found.items()}
    several = any(len(curves) > 1 for curves in arms.values())
    figure, _ = lines(
        {name: mean for name, (mean, _, _) in found.items()},
        x="step",
        y="similarity to the guide, mean over layer pairs",
        bands=bands,
        title="Alignment over training: mean over runs" + (" with its 95 % interval" if several else ""),
    )
    save(figure, path)


def outcome(request: Request) -> Outcome:
    """Similarity of the guided layers over training; loads no network."""
    curves: dict[str, Curve] = {}
    arms: dict[str, list[Curve]] = {}
    several = len(request.subjects) > 1
    for subject in request.subjects:
        found = curves_of(subject.run.key, subject.run.metrics.rows, method_of(subject))
        mean = next(iter(found.values()))
        arms.setdefault(subject.arm, []).append(mean)
        curves |= {subject.label: mean} if several else found
    rows = [
        {"curve": name, "step": step, "similarity": value}
        for name, (steps, values) in curves.items()
        for step, value in zip(steps, values, strict=True)
    ]
    lines = [
        f"{name}: {values[0]:.3f} at step {steps[0]:g}, {values[-1]:.3f} at step {steps[-1]:g}"
        for name, (steps, values) in curves.items()
        if values
    ]
    if several:
        return lines, {}, rows, lambda path: draw_arms(arms, path)
    title = f"{request.subjects[0].label}: similarity of its layer pairs"
    return lines, {}, rows, lambda path: draw(curves, path, title=title)
