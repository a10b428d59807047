"""What values a metric can have, and which of them are better: no band, interval or axis shows what cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tutelage.reporting.report_model import Line
from tutelage.reporting.statistics import bounds_of

_NEITHER = ("similarity", "kappa", "correlation", "share")
_SPOKEN = {"r2": "R²", "mse": "MSE", "mae": "MAE", "f1": "F1", "frechet_distance": "Fréchet distance"}


def usual_mode(metric: str) -> str | None:
    """Return "max" or "min" for a metric whose name says which is better, where no run does; None for others."""
    name = metric.rpartition("/")[2]
    if name in _NEITHER:
        return None
    low, high = bounds_of(name)
    return "max" if high == 1 and name != "ece" else "min" if low >= 0 else None


def direction(metric: str) -> str:
    """Return what an axis says after the name of a metric whose name says which is better: "; higher is better"."""
    return {"max": "; higher is better", "min": "; lower is better"}.get(usual_mode(metric) or "", "")


def clipped(value: float, metric: str, scale: float = 1.0) -> float:
    """Return the possible value nearest to a value; what is no number stays."""
    low, high = bounds_of(metric, scale)
    return value if math.isnan(value) else min(max(value, low), high)


def better(lines: Sequence[Line]) -> str:
    """Return "higher is better" or "lower is better" where the arms' runs say so and agree, else nothing."""
    modes = {row.directions.get(base(line.metric)) for line in lines for row in line.rows} - {None}
    agreed = modes.pop() if len(modes) == 1 else None
    return {"max": "higher is better", "min": "lower is better"}.get(agreed or "", "")


def most_frequent(metrics: Iterable[str]) -> str:
    """Return the name that stands most often, the first by the alphabet of several; "" of none."""
    names = list(metrics)
    return max(sorted(set(names)), key=names.count, default="")


def interval(line: Line, scale: float) -> tuple[float, float]:
    """Return the ends of an arm's interval, as far as they are possible values."""
    low, high = (clipped(end, line.metric, scale) for end in (line.summary.low, line.summary.high))
    return low, high


def base(metric: str) -> str:
    """Return a metric's name without its split."""
    return metric.partition("/")[2] or metric


def spoken(metric: str) -> str:
    """Return what axes call a metric, without its split: "balanced accuracy", "R²"."""
    name = base(metric)
    return _SPOKEN.get(name) or name.replace("_", " ")
