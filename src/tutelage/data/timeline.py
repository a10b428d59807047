"""The step between the rows of a table, and where rows are missing (no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tutelage.data.moments import Moments
from tutelage.errors import UserError, counted

NAMED_STEPS = ("row", "business day", "month")
"""Steps that are no duration. "row": whatever the times, each row is one step after the one before."""
SLACK = 0.1
"""Share of a step by which the time between two rows may deviate from it."""

_DAY = 86_400_000_000
_UNITS = {"day": _DAY, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000}


@dataclasses.dataclass(frozen=True)
class Timeline:
    """positions: (rows,) int64, steps since the first row. step: in words."""

    positions: np.ndarray
    step: str

    @property
    def gaps(self) -> np.ndarray:
        """The rows behind which others are missing."""
        return np.flatnonzero(np.diff(self.positions) > 1)

    @property
    def missing(self) -> int:
        """How many rows are missing."""
        return int((np.diff(self.positions) - 1).sum())


def check_order(
    moments: Moments, values: np.ndarray, *, lines: np.ndarray, where: str, words: str = ""
) -> None:
    """Raise UserError where times stand twice or go back.

    values: (rows, columns), what stands at the times. words: names of columns that may tell series of one table apart.
    """
    instants, texts = moments.instants, moments.texts
    back = np.flatnonzero(np.diff(instants) < 0)
    _, first, which, counts = np.unique(instants, return_index=True, return_inverse=True, return_counts=True)
    if (twice := counts > 1).any():
        rows = np.sort(first[twice])
        shown = ", ".join(texts[row] for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
        if not words and np.array_equal(values, values[first[which]], equal_nan=True):
            why = "each time with the same values: remove the rows that repeat others"
        else:
            why = _why_twice(moments, rows, len(counts), words)
        raise UserError(f"{where}: {twice.sum()} of {len(counts)} times stand more than once, {shown}: {why}")
    if back.size:
        row = back[0] + 1
        newest = " (the newest comes first: turn the rows around)" if len(back) == len(instants) - 1 else ""
        raise UserError(
            f"{where}: the rows are not in the order of time, so a split in time would train on the future: {texts[row]} in line "
            f"{lines[row]} comes after {texts[row - 1]}{newest}. Sort them, one series a file"
        )


def _why_twice(moments: Moments, rows: np.ndarray, times: int, words: str) -> str:
    clock = moments.clock[rows]
    hours = (clock - clock.astype("datetime64[D]")) // np.timedelta64(1, "h")
    days = np.unique(clock.astype("datetime64[D]"))
    whole_days = (moments.clock == moments.clock.astype("datetime64[D]")).all()
    is_autumn = np.isin(clock.astype("datetime64[M]").astype(int) % 12 + 1, (3, 4, 9, 10, 11)).all()
    if (
        not moments.has_offset
        and not whole_days
        and is_autumn
        and (hours <= 3).all()
        and len(days) * 30 < times
    ):
        return "a clock that was put back at the end of daylight saving? Write the times in UTC, or with their offset (+02:00)"
    kinds = f", which {words} may tell apart" if words else ""
    clocks = (
        ", or the time of day stands in a column of its own (`date`=[<day>,<time>])" if whole_days else ""
    )
    return (
        f"several series (stations, items) in one table{kinds}{clocks}? One series a column, or one file each"
    )


def timeline(moments: Moments, *, where: str, step: str | None = None) -> Timeline:
    """Find the step of rows in the order of time, and the place of each on it.

    step: one of `NAMED_STEPS`, or a duration such as 15min, 1h, 1D; by default the one at which the fewest rows are missing, of a
    duration, business days (Monday to Friday) and months. Raises UserError where none fits at least half of the rows.
    """
    if step is not None:
        return _asked(moments, where, step)
    if len(moments.instants) < 2:
        return Timeline(np.zeros(len(moments.instants), dtype=np.int64), "unknown")
    found = [
        candidate
        for candidate in (
            _even(moments.instants),
            _even(moments.clock.astype(np.int64)) if moments.has_offset else None,
            _months(moments.clock),
            _business_days(moments.clock),
            _uneven(moments.instants),
        )
        if candidate is not None
    ]
    best = min(found, key=lambda candidate: len(candidate.gaps), default=None)
    if best is None or 2 * len(best.gaps) > len(moments.instants) - 1:
        distances, counts = np.unique(np.diff(moments.instants), return_counts=True)
        common = np.argsort(-counts, kind="stable")[:3]
        shown = ", ".join(f"{in_words(int(distances[place]))} ({counts[place]} times)" for place in common)
        raise UserError(
            f"{where}: the rows have no common step, from one to the next it is {shown}{', ...' if len(distances) > 3 else ''}. Bring "
            "them to one step, say it (`step`=1h: rows are then missing), or let each row be a step whatever its time: `step`=row"
        )
    return best


def _asked(moments: Moments, where: str, step: str) -> Timeline:
    if step == "row":
        return Timeline(np.arange(len(moments.instants)), "row")
    if step in NAMED_STEPS:
        found = _business_days(moments.clock) if step == "business day" else _months(moments.clock, each=True)
        if found is None:
            what = (
                "Saturday, a Sunday or a day of two rows" if step == "business day" else "month of two rows"
            )
            raise UserError(f"{where}: the rows are not a {step} apart, as `step` says: there is a {what}")
        return found
    duration = _duration(step)
    clocks = (moments.instants, moments.clock.astype(np.int64))
    best = max(clocks, key=lambda clock: int((np.diff(clock) == duration).sum()))
    if (found := _uneven(best, duration)) is None:
        row = int(np.argmin(np.diff(best)))
        raise UserError(
            f"{where}: `step`={step} is longer than the time from {moments.texts[row]} to {moments.texts[row + 1]}"
        )
    return found


def _duration(step: str) -> int:
    import pandas as pd

    try:
        duration = pd.Timedelta(step)
        if not pd.isna(duration) and duration > pd.Timedelta(0):
            return round(duration / pd.Timedelta(microseconds=1))
    except ValueError:
        pass
    raise UserError(
        f"`step`={step!r} is no step: a duration such as 15min, 1h or 1D, or one of {', '.join(NAMED_STEPS)}"
    )


def _even(clock: np.ndarray, name: Callable[[int], str] | None = None) -> Timeline | None:
    """The distance of which all are multiples, if there is one: the smallest."""
    distances = np.unique(np.diff(clock))
    step = distances[0]
    if step <= 0 or (distances % step).any():
        return None
    return Timeline((clock - clock[0]) // step, (name or in_words)(int(step)))


def _months(clock: np.ndarray, *, each: bool = False) -> Timeline | None:
    months = clock.astype("datetime64[M]").astype(np.int64)
    if (np.diff(months) <= 0).any():
        return None
    if each:
        return Timeline(months - months[0], "1 month")
    return _even(months, lambda step: counted(step, "month"))


def _business_days(clock: np.ndarray) -> Timeline | None:
    days = clock.astype("datetime64[D]")
    if not np.is_busday(days).all():
        return None
    positions = np.busday_count(days[0], days)
    return Timeline(positions, "1 business day") if (np.diff(positions) > 0).all() else None


def _uneven(clock: np.ndarray, step: int | None = None) -> Timeline | None:
    """A step that rows keep within `SLACK` of it, from each to the next; longer distances are gaps, shorter ones are none of it."""
    distances = np.diff(clock)
    about, step = "" if step else "about ", step or int(np.median(distances))
    if step <= 0 or (distances < (1 - SLACK) * step).any():
        return None
    steps = np.where(distances <= (1 + SLACK) * step, 1, np.maximum(np.rint(distances / step), 2))
    return Timeline(np.concatenate([[0], np.cumsum(steps)]).astype(np.int64), f"{about}{in_words(step)}")


def in_words(duration: int) -> str:
    """Return a duration in microseconds in the largest unit that it is a whole or half number of."""
    for unit, length in _UNITS.items():
        if duration >= length and (duration * 2) % length == 0:
            return f"{duration / length:g} {unit}{'s' if duration != length else ''}"
    return f"{duration / 1_000_000:g} seconds"
