"""What the data say about a difference between two arms, next to what was published.

The rules, on the differences of the seeds that both arms have (`d`), their mean D and its 95 % t interval
[low, high]:

- fewer than three common seeds: *undecided*.
- a published difference P exists. The interval lies on P's side of zero: *reproduced in direction*; and if it
  also meets P ± its published error, in the paper's own setting: *reproduced in size*. The interval lies on
  the other side of zero, or does not reach a tenth of P: *not reproduced*. Otherwise *undecided*.
- the arms were tested on different data: no verdict, and no difference.
- nothing was published, or a difference no larger than its own printed error, which shows no direction. The
  interval excludes zero: *interval above 0* or *interval below 0*. Otherwise *undecided*.

Undecided comes with the number of seeds at which the interval would exclude zero if mean and spread stayed as
they are. The exact sign-flip p value, corrected over the table's comparisons (Holm), stands beside the
verdict where so many pairs could decide (`exact_test_decides`); where none could, its columns are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tutelage.errors import counted
from tutelage.reporting.statistics import (
    UNBOUNDED,
    Summary,
    holm,
    paired_differences,
    seeds_to_decide,
    sign_flip_p,
    smallest_p,
    summarize,
)

LEVEL = 0.05
FEWEST_SEEDS = 3
SMALLEST_SHARE = 0.1
"""A measured difference below this share of the published one counts as no effect."""


class Verdict(StrEnum):
    """The outcome of a comparison, as a table prints it."""

    SIZE = "reproduced in size"
    DIRECTION = "reproduced in direction"
    NOT = "not reproduced"
    UNDECIDED = "undecided"
    ABOVE = "interval above 0"
    BELOW = "interval below 0"
    APART = "none: tested on other data"


@dataclass(frozen=True)
class Published:
    """A number as printed in a paper, with its printed error and where it stands."""

    value: float
    error: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Comparison:
    """One arm against another over their common seeds; differences are first minus second."""

    first: str
    second: str
    difference: Summary
    seeds: tuple[int, ...]
    p: float
    verdict: Verdict
    seeds_needed: int | None = None
    published: float | None = None
    p_holm: float = math.nan

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict is not Verdict.UNDECIDED:
            return str(self.verdict)
        if len(self.seeds) < FEWEST_SEEDS:
            seeds = counted(len(self.seeds), "common seed")
            return f"undecided ({seeds}, at least {FEWEST_SEEDS} needed)"
        if not math.isfinite(self.difference.mean):
            return "undecided (a value is no finite number)"
        if self.difference.mean == self.difference.std == 0:
            return f"undecided (equal in all {len(self.seeds)} seeds)"
        needed = f"about {self.seeds_needed}" if self.seeds_needed else "more than 1,000"
        return f"undecided ({needed} seeds would decide)"


def compare(
    first: tuple[str, Mapping[int, float], Published | None],
    second: tuple[str, Mapping[int, float], Published | None],
    *,
    same_setting: bool,
    same_test_data: bool = True,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Comparison:
    """Compare two arms, each (label, value by seed, published number), values in the published numbers' unit.

    Args:
        first: the arm whose gain is asked for.
        second: the arm it is compared with.
        same_setting: whether the runs are in the paper's own setting, without which no size can be
            reproduced.
        same_test_data: whether values of the two arms may be subtracted.
        bounds: what the values lie between; their differences lie within the width of that.
    """
    if not same_test_data:
        return Comparison(first[0], second[0], summarize([]), (), math.nan, Verdict.APART)
    differences = paired_differences(first[1], second[1])
    values = list(differences.values())
    width = bounds[1] - bounds[0]
    summary = summarize(values, bounds=(-width, width))
    published, error = _published_difference(first[2], second[2])
    verdict = decide(summary, published=published, error=error, same_setting=same_setting)
    return Comparison(
        first=first[0],
        second=second[0],
        difference=summary,
        seeds=tuple(differences),
        p=sign_flip_p(values),
        verdict=verdict,
        seeds_needed=seeds_to_decide(summary.mean, summary.std) if verdict is Verdict.UNDECIDED else None,
        published=published,
    )


def decide(
    summary: Summary, *, published: float | None = None, error: float = 0.0, same_setting: bool = False
) -> Verdict:
    """Apply the rules of this module to the summary of the differences."""
    low, high = summary.low, summary.high
    if summary.n < FEWEST_SEEDS or not math.isfinite(low):
        return Verdict.UNDECIDED
    if published is None or abs(published) <= error or published == 0:
        return Verdict.ABOVE if low > 0 else Verdict.BELOW if high < 0 else Verdict.UNDECIDED
    if published < 0:  # turn everything, so that the published difference is a gain
        low, high, published = -high, -low, -published
    if low > 0 and high >= SMALLEST_SHARE * published:
        meets = low <= published + error and high >= published - error
        return Verdict.SIZE if same_setting and meets else Verdict.DIRECTION
    return Verdict.NOT if high < SMALLEST_SHARE * published else Verdict.UNDECIDED


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Fill in the p values corrected over all comparisons of a table."""
    adjusted = holm([comparison.p for comparison in comparisons])
    return [replace(comparison, p_holm=p) for comparison, p in zip(comparisons, adjusted, strict=True)]


def smallest_corrected_p(comparisons: Sequence[Comparison]) -> float:
    """Return the smallest corrected p value that the exact test can have in these comparisons, 1 where there is none."""
    tested = [len(item.seeds) for item in comparisons if not math.isnan(item.p)]
    return min(1.0, len(tested) * smallest_p(max(tested))) if tested else 1.0


def exact_test_decides(comparisons: Sequence[Comparison]) -> bool:
    """Say whether the exact test, corrected for their number, could reject at the level in any of these comparisons."""
    return smallest_corrected_p(comparisons) < LEVEL


def _published_difference(first: Published | None, second: Published | None) -> tuple[float | None, float]:
    if first is None or second is None:
        return None, 0.0
    return first.value - second.value, math.hypot(first.error or 0.0, second.error or 0.0)
