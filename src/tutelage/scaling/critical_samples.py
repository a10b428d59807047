"""From alignment curves to P*, exponents and collapse, each with an interval. Pure numpy: no networks here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.errors import UserError

LEVEL = 0.5


@dataclass(frozen=True)
class Estimate:
    """A number with a bootstrap interval (2.5% to 97.5%) and the resamples it came from."""

    value: float
    low: float
    high: float
    resamples: np.ndarray

    @classmethod
    def of(cls, value: float, resamples: np.ndarray) -> Estimate:
        """Percentile interval of the resamples."""
        low, high = np.percentile(resamples, [2.5, 97.5])
        return cls(float(value), float(low), float(high), resamples)


def isotonic(values: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to `values` in squares (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value2, weight2 = blocks.pop()
            value1, weight1 = blocks.pop()
            blocks.append([(value1 * weight1 + value2 * weight2) / (weight1 + weight2), weight1 + weight2])
    return np.concatenate([np.full(int(weight), value) for value, weight in blocks])


def crossing(samples: np.ndarray, curve: np.ndarray, level: float = LEVEL) -> float:
    """Where the isotonic fit of a curve crosses `level`, linear in log P; -inf or inf where it lies above or below."""
    fit = isotonic(curve)
    if fit[0] >= level:
        return -np.inf
    if fit[-1] < level:
        return np.inf
    above = int(np.argmax(fit >= level))
    share = (level - fit[above - 1]) / (fit[above] - fit[above - 1])
    logs = np.log(samples[above - 1 : above + 1])
    return float(np.exp(logs[0] + share * (logs[1] - logs[0])))


def critical_samples(
    samples: Sequence[float],
    alignments: np.ndarray,
    *,
    level: float = LEVEL,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """P*: where the mean alignment crosses `level`, with a bootstrap over data draws; of one draw the interval is NaN.

    Args:
        samples: the P grid, increasing.
        alignments: (len(samples), draws), one posterior-mean A_f per P and data draw.

    Raises:
        UserError: when the grid never crosses the level, saying on which side to extend it.
    """
    grid, curve = np.asarray(samples, float), np.asarray(alignments, float)
    if curve.ndim != 2 or len(grid) != len(curve) or len(grid) < 2 or (np.diff(grid) <= 0).any():
        raise UserError(
            f"expected an increasing P grid of at least 2 values and alignments (grid, draws), got {len(grid)} values "
            f"and shape {curve.shape}"
        )
    middle = crossing(grid, curve.mean(1), level)
    if not np.isfinite(middle):
        side = "below" if middle > 0 else "above"
        advice = f"larger P (beyond {2 * grid[-1]:g})" if middle > 0 else f"smaller P (under {grid[0] / 2:g})"
        raise UserError(
            f"the P grid {grid[0]:g} to {grid[-1]:g} never crosses A_f = {level:g}: the alignment stays {side} it "
            f"({curve.mean(1).min():.2f} to {curve.mean(1).max():.2f}). Add {advice}, or train longer"
        )
    rng = np.random.default_rng(seed)
    draws = curve.shape[1]
    if draws < 2:  # the bootstrap of one draw has no spread, which is not to say that there is none
        return Estimate(middle, np.nan, np.nan, np.full(resamples, np.nan))
    found = np.array(
        [
            crossing(grid, np.take_along_axis(curve, rng.integers(draws, size=curve.shape), 1).mean(1), level)
            for _ in range(resamples)
        ]
    )
    # A resample without crossing only says "beyond the grid": the grid's end is its most modest reading.
    return Estimate.of(middle, np.clip(found, grid[0], grid[-1]))


def exponent(sizes: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """Slope of log estimate against log size, by least squares; the interval resamples every estimate together.

    Raises:
        UserError: for fewer than two different sizes.
    """
    return exponents({"size": sizes}, estimates)["size"]


def exponents(sizes: Mapping[str, Sequence[float]], estimates: Sequence[Estimate]) -> dict[str, Estimate]:
    """Exponents of a power law in several sizes at once, e.g. P* ~ d^a L^b, as `exponent` does for one.

    Raises:
        UserError: when the sizes do not determine the exponents.
    """
    logs = np.log(np.stack([np.asarray(values, float) for values in sizes.values()], axis=1))
    design = np.concatenate([np.ones((len(logs), 1)), logs], axis=1)
    if len(logs) != len(estimates) or np.linalg.matrix_rank(design) < design.shape[1]:
        raise UserError(
            f"exponents in {', '.join(sizes)} need estimates at two values or more of each, varied independently; got "
            f"{len(estimates)} estimates at {[tuple(row) for row in np.exp(logs).round(3).tolist()]}"
        )
    fit = np.linalg.pinv(design)[1:]
    values = fit @ np.log([estimate.value for estimate in estimates])
    # Shuffled apart: resamples drawn with one seed would be correlated between sizes.
    rng = np.random.default_rng(0)
    shuffled = np.log(np.stack([rng.permutation(estimate.resamples) for estimate in estimates]))
    # Where all estimates are equal rounding leaves an exponent of some 1e-17, whose sign would decide a verdict.
    values, drawn = (np.where(np.abs(found) < 1e-12, 0.0, found) for found in (values, fit @ shuffled))
    return {name: Estimate.of(value, row) for name, value, row in zip(sizes, values, drawn, strict=True)}


Curves = Mapping[float, tuple[np.ndarray, np.ndarray]]


def collapse_score(curves: Curves, scale: Mapping[float, float], *, points: int = 40) -> float:
    """How far curves A(P) fail to fall on one another as functions of P / scale: 0 for a perfect collapse.

    Args:
        curves: size -> (P grid, mean alignment).
        scale: size -> the predicted P*, up to a constant.

    Returns:
        Variance between the curves, averaged over the range of log(P / scale) that all share, over the
        variance of all values in that range. 0: one curve; about 1: the rescaled P says nothing about A.

    Raises:
        UserError: for fewer than two curves, or rescaled grids that do not overlap.
    """
    if len(curves) < 2:
        raise UserError(f"a collapse needs at least two curves, got {len(curves)}")
    logs = {size: np.log(np.asarray(grid, float) / scale[size]) for size, (grid, _) in curves.items()}
    low, high = max(log[0] for log in logs.values()), min(log[-1] for log in logs.values())
    if low >= high:
        raise UserError(
            "the rescaled P grids do not overlap, so no collapse can be judged: choose each size's grid in proportion to "
            "its predicted P*"
        )
    common = np.linspace(low, high, points)
    stacked = np.stack(
        [np.interp(common, logs[size], np.asarray(curve)) for size, (_, curve) in curves.items()]
    )
    total = stacked.var()
    return float(stacked.var(axis=0).mean() / total) if total > 0 else 0.0


def best_collapse(curves: Curves, exponents: Sequence[float]) -> tuple[float, float]:
    """The exponent alpha whose scale size^alpha collapses the curves best, and its score.

    Exponents for which the rescaled grids share less than a third of the shortest one are passed over: a
    sliver of common range collapses trivially.

    Raises:
        UserError: when no exponent leaves a common range.
    """
    spans = {size: np.log(grid[-1] / grid[0]) for size, (grid, _) in curves.items()}
    found: list[tuple[float, float]] = []
    for alpha in exponents:
        ends = [
            np.log(np.asarray(grid)[[0, -1]]) - alpha * np.log(size) for size, (grid, _) in curves.items()
        ]
        if min(end[1] for end in ends) - max(end[0] for end in ends) > min(spans.values()) / 3:
            found.append((collapse_score(curves, {size: size**alpha for size in curves}), float(alpha)))
    if not found:
        raise UserError("no exponent leaves a common range of P: widen the P grids")
    score, alpha = min(found)
    return alpha, score
