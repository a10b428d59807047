"""Statistics of a few seeds: summaries with intervals, exact paired tests, how many seeds decide."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

EXACT_PAIRS = 20
"""Up to so many pairs the sign-flip test counts every flip (a million); beyond, it draws them."""


class Summary(NamedTuple):
    """n values: mean, standard deviation (n - 1 in the denominator) and an interval for the mean.

    NaN where it is not defined: everything without values, spread and interval with one value.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float


UNBOUNDED = (-math.inf, math.inf)
_BOUNDS = {
    (0.0, 1.0): (
        *("accuracy", "precision", "recall", "specificity", "jaccard", "exact_match", "auroc"),
        *("f1", "f1_micro", "f1_weighted", "share", "ece"),
    ),
    (-1.0, 1.0): ("similarity", "kappa", "correlation", "mcc"),
    (-math.inf, 1.0): ("r2",),
    (0.0, math.inf): ("loss", "mse", "mae", "task", "alignment", "train_s", "frechet_distance"),
    (1.0, math.inf): ("perplexity",),
}


def bounds_of(metric: str, scale: float = 1.0) -> tuple[float, float]:
    """Return what a metric's values lie between, times `scale`: by its name, or the last word of it ("test/top5_accuracy" is a share)."""
    name = metric.rpartition("/")[2]
    last = re.split(r"[._]", name)[-1]
    low, high = next((ends for ends, known in _BOUNDS.items() if name in known or last in known), UNBOUNDED)
    return scale * low, scale * high


def summarize(
    values: Sequence[float], *, level: float = 0.95, bounds: tuple[float, float] = UNBOUNDED
) -> Summary:
    """Return the summary with the t interval: mean ± t(n - 1) * std / sqrt(n), as far as it lies within the bounds.

    A value that is not finite makes spread and interval NaN, and the mean what it is in arithmetic, infinite or NaN: a diverged seed is
    not left out silently.

    Args:
        values: one of each seed.
        level: how often such an interval holds the mean.
        bounds: what the values lie between. A mean lies there, too, so that what is cut off costs nothing of the level. They do not
            count where a value lies outside: then the metric is another than its name says.
    """
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        return Summary(n, sum(values) / n if n else math.nan, math.nan, math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1, (1 + level) / 2) * std / math.sqrt(n)
    least, most = bounds if all(bounds[0] <= value <= bounds[1] for value in values) else UNBOUNDED
    return Summary(n, mean, std, max(mean - half, least), min(mean + half, most))


@functools.cache
def t_quantile(degrees: int, probability: float) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # not scipy.stats, which takes two seconds to import

    return float(stdtrit(degrees, probability))


def sign_flip_p(differences: Sequence[float], *, draws: int = 100_000, seed: int = 0) -> float:
    """Return the two-sided p value of the paired sign-flip permutation test (Fisher 1935).

    Under the null hypothesis each difference is as likely with either sign. The p value is the share of all
    2^n sign patterns whose sum is at least as far from zero as the observed one; its smallest value is 2 /
    2^n, so that five pairs cannot go below 0.0625. Beyond 20 pairs, `draws` random patterns are used and
    counted with the observed one.
    """
    import numpy as np

    if not differences or not all(map(math.isfinite, differences)):
        return math.nan
    data = np.asarray(differences, dtype=float)
    observed = abs(data.sum())
    # Sums of the same terms in another order differ in their last digits; those are ties, not smaller sums.
    bar = observed - 1e-9 * np.abs(data).sum()
    if len(data) <= EXACT_PAIRS:
        sums = np.zeros(1)
        for value in data:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= bar))
    generator = np.random.default_rng(seed)
    hits = sum(
        int(np.sum(np.abs(generator.choice((-1.0, 1.0), size=(1000, len(data))) @ data) >= bar))
        for _ in range(draws // 1000)
    )
    return (hits + 1) / (draws // 1000 * 1000 + 1)


def smallest_p(pairs: int) -> float:
    """Return the smallest two-sided p value that the sign-flip test of so many pairs can have: 2 of its 2^n patterns."""
    return min(1.0, 2.0 ** (1 - pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number (Holm 1979), in their order; NaN stays, uncounted."""
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def paired_differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """Return ours - theirs for every seed that both have, in the order of the seeds."""
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def seeds_to_decide(mean: float, std: float, *, level: float = 0.95, most: int = 1000) -> int | None:
    """Return the smallest n at which the t interval excludes zero if mean and spread stay as they are.

    None if more than `most` would be needed. At least six: fewer pairs cannot reach p < 0.05 in an exact
    test.
    """
    if not math.isfinite(mean) or not math.isfinite(std) or mean == 0:
        return None
    for n in range(6, most + 1):
        if t_quantile(n - 1, (1 + level) / 2) * std / math.sqrt(n) < abs(mean):
            return n
    return None
