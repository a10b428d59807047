"""Do cheap runs rank networks as whole ones do? Kendall's tau between two sets of runs over the same networks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tutelage.analysis.analysis_request import Outcome, Request, Subject
from tutelage.analysis.drawing import literal
from tutelage.errors import UserError
from tutelage.reporting.palette import canvas, save
from tutelage.runs.identity import flatten

DRAWS = 4000
LEAST = 4  # networks: of fewer no ranking can be told from chance


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return tau-b (Kendall 1945): concordant less discordant pairs over the root of the untied pairs of each; NaN where one ties all.

    first, second: values of the same n things. Cost: n^2.
    """
    ours, theirs = (
        np.sign(np.subtract.outer(np.asarray(x, float), np.asarray(x, float))) for x in (first, second)
    )
    untied = math.sqrt(float((ours != 0).sum()) * float((theirs != 0).sum()))
    return float((ours * theirs).sum()) / untied if untied else math.nan


def tau_interval(
    first: Sequence[float], second: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of tau over networks drawn with replacement; draws that tie all are left out.

    Pairs of a network with itself say nothing and count as ties, as in tau-b.
    """
    generator = np.random.default_rng(seed)
    a, b = np.asarray(first, float), np.asarray(second, float)
    places = generator.integers(0, len(a), size=(draws, len(a)))
    found = [tau for place in places if not math.isnan(tau := kendall_tau(a[place], b[place]))]
    low, high = np.quantile(found, [0.025, 0.975]) if found else (math.nan, math.nan)
    return float(low), float(high)


def outcome(request: Request) -> Outcome:
    """Rank agreement of two names of runs: networks are matched by their model settings, judged by validation, mean over seeds."""
    names = list(dict.fromkeys(subject.run.name for subject in request.subjects))
    if len(names) != 2 or any(subject.role for subject in request.subjects):
        raise UserError(
            f"ranking compares two names of runs over the same networks, the cheap ones first, got {', '.join(names)}"
        )
    cheap, whole = (_by_network([s for s in request.subjects if s.run.name == name]) for name in names)
    shared = [key for key in cheap if key in whole]
    if len(shared) < LEAST:
        raise UserError(
            f"{names[0]} and {names[1]} share {len(shared)} networks (settings of `model` alike); at least {LEAST} are needed"
        )
    monitors = {(metric, mode) for of in (cheap, whole) for key in shared for metric, mode, _ in of[key]}
    if len(monitors) > 1:
        raise UserError(
            f"the runs are selected by different metrics: {', '.join(sorted(m for m, _ in monitors))}"
        )
    ((metric, mode),) = monitors
    first, second = (
        [math.fsum(value for *_, value in of[key]) / len(of[key]) for key in shared] for of in (cheap, whole)
    )
    tau, (low, high) = kendall_tau(first, second), tau_interval(first, second)
    best = max if mode == "max" else min
    picked = second[first.index(best(first))]
    labels = _labels(shared)
    rows = [
        {
            "networks": label,
            f"{names[0]}": a,
            f"{names[1]}": b,
            "seeds": f"{len(cheap[key])}, {len(whole[key])}",
        }
        for label, key, a, b in zip(labels, shared, first, second, strict=True)
    ]
    lines = [
        f"Kendall's tau {tau:.2f} (95 % interval {low:.2f} to {high:.2f}, over {len(shared)} networks drawn again) between the validation "
        f"{metric} of {names[0]} and of {names[1]}",
        f"the network that {names[0]} puts first has {picked:.4g} in {names[1]}, where the best has {best(second):.4g}",
    ]
    left = len({*cheap, *whole}) - len(shared)
    lines += [f"{left} networks are in one of them alone and left out"] if left else []
    record = {
        "tau": tau,
        "low": low,
        "high": high,
        "n": len(shared),
        "metric": metric,
        "picked": picked,
        "best": best(second),
    }
    return (
        lines,
        record,
        rows,
        lambda path: draw(labels, first, second, path, names=names, metric=metric, said=lines[0]),
    )


def _by_network(subjects: Sequence[Subject]) -> dict[str, list[tuple[str, str, float]]]:
    """Return (metric, mode, validation value) of the runs of each network, by its settings as text."""
    found: dict[str, list[tuple[str, str, float]]] = {}
    for subject in subjects:
        result = subject.run.result or {}
        if "selection" not in result:
            raise UserError(f"{subject.run.key} selects nothing by validation, so it ranks no network")
        monitor, mode = result["selection"]["monitor"], result["selection"]["mode"]
        key = json.dumps(subject.run.config["model"], sort_keys=True, default=str)
        found.setdefault(key, []).append((monitor, mode, float(result["best"]["validation"][monitor])))
    return found


def _labels(keys: Sequence[str]) -> list[str]:
    """Return what tells the networks apart, such as `depth=4, width=32`."""
    flat = [dict(flatten(json.loads(key))) for key in keys]
    names = sorted(
        {name for one in flat for name in one if len({str(other.get(name)) for other in flat}) > 1}
    )
    return [", ".join(f"{name}={one[name]}" for name in names if name in one) for one in flat]


def draw(
    labels: Sequence[str],
    first: Sequence[float],
    second: Sequence[float],
    path: Path,
    *,
    names: Sequence[str],
    metric: str,
    said: str,
) -> None:
    """Write the scatter of the two metrics, a point a network, with the best of each named."""
    figure = canvas(5.6, 4.4)
    axes = figure.subplots()
    axes.plot(first, second, "o", color="#0072B2", alpha=0.7)
    for place in {
        int(np.argmax(first)),
        int(np.argmin(first)),
        int(np.argmax(second)),
        int(np.argmin(second)),
    }:
        axes.annotate(
            literal(labels[place]),
            (first[place], second[place]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set(
        xlabel=f"validation {metric}, {literal(names[0])}", ylabel=f"validation {metric}, {literal(names[1])}"
    )
    axes.set_title(literal(said.partition(" between ")[0]), fontsize=9)
    axes.margins(0.12)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
