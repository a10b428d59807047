"""Means with intervals beside the rows of a table, as inline SVG in shares of the column's width: the same on a phone and a wide screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from tutelage.errors import visible

HEIGHT = 26
_MOST_DOTS = 60
_NARROW = 340
"""Pixels of the narrowest plot, at which numbers must not cover each other."""


@dataclass(frozen=True)
class Axis:
    """What the plots of a column share: the values at its left and right end."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], *, zero: bool = False) -> Axis:
        """Return the axis that holds all finite values, with a margin; zero: also 0."""
        known = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        return cls(low - margin, high + margin)

    def at(self, value: float) -> str:
        """Return where a value lies, in percent of the width."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{100 * share:.2f}%"

    def ticks(self) -> list[float]:
        """Return three to seven round values inside."""
        power = 10.0 ** math.floor(math.log10(self.high - self.low))
        for step in (2 * power, power, power / 2, power / 5):
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            if last - first >= 2:
                break
        return [round(i * step, 12) for i in range(first, last + 1)]


def plot(
    axis: Axis,
    mean: float,
    interval: tuple[float, float],
    *,
    dots: Mapping[str, tuple[str, float]],
    colour: str,
    said: str,
    published: float | None = None,
    zero: bool = False,
) -> str:
    """Return the plot of one row.

    Args:
        axis: the column's.
        mean: where the mark stands; NaN: none.
        interval: its ends; NaN: none.
        dots: a link each to (title, value), drawn as small circles.
        colour: a CSS colour.
        said: what a screen reader says.
        published: a value to mark with a diamond.
        zero: draw the line of no difference.
    """
    middle = HEIGHT / 2
    parts = [f'<line class="tick" x1="{axis.at(t)}" x2="{axis.at(t)}" y1="0" y2="{HEIGHT}"/>' for t in axis.ticks()]  # fmt: skip
    if zero:
        parts.append(f'<line class="zero" x1="{axis.at(0)}" x2="{axis.at(0)}" y1="0" y2="{HEIGHT}"/>')
    if all(map(math.isfinite, interval)):
        low, high = map(axis.at, interval)
        parts.append(f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}" stroke="{colour}" stroke-width="3"/>')  # fmt: skip
        parts += [
            f'<line x1="{x}" x2="{x}" y1="{middle - 5}" y2="{middle + 5}" stroke="{colour}" stroke-width="2"/>'
            for x in (low, high)
        ]
    for link, (title, value) in list(dots.items())[:_MOST_DOTS]:
        if math.isfinite(value):
            parts.append(
                f'<a href="{escape(link)}" tabindex="-1"><title>{escape(visible(title))}</title>'
                f'<circle class="dot" cx="{axis.at(value)}" cy="{middle}" r="4" fill="{colour}"/></a>'
            )
    if published is not None and math.isfinite(published):
        parts.append(
            f'<text class="published" x="{axis.at(published)}" y="{middle + 5}" text-anchor="middle">◇</text>'
        )
    if math.isfinite(mean):
        at = axis.at(mean)
        parts.append(f'<line class="mean" x1="{at}" x2="{at}" y1="{middle - 8}" y2="{middle + 8}"/>')
    return (
        f'<svg class="forest" width="100%" height="{HEIGHT}" role="img" aria-label="{escape(visible(said))}">'
        f"{''.join(parts)}</svg>"
    )


def scale(axis: Axis, unit: str = "") -> str:
    """Return the labels below a column of plots."""
    ticks = axis.ticks()
    labels = "".join(
        f'<text x="{axis.at(tick)}" y="13" text-anchor="middle">{tick:g}'
        f"{' ' + escape(unit) if unit and tick == ticks[-1] else ''}</text>"
        for tick in ticks
    )
    return f'<svg class="forest scale" width="100%" height="16" aria-hidden="true">{labels}</svg>'


def _free(x: float, y: float, placed: list[tuple[float, float]], lowest: float) -> float:
    """Return where the number of a point may stand above or below it without covering another's, and add it to those that are placed."""
    away = sorted((side * 20.0 * i for i in range(12) for side in (1, -1)), key=abs)
    heights = [y + d for d in away if 10 <= y + d <= lowest - 10]
    found = next((h for h in heights if all(abs(x - u) > 19 or abs(h - v) > 19 for u, v in placed)), y)
    placed.append((x, found))
    return found


def scatter(points: Iterable[tuple[str, float, float, tuple[float, float], str]], *, x: str, y: str) -> str:
    """Return a scatter plot: of each point (label, x, y, interval of y, colour), numbered in its order.

    The axis of x is logarithmic where the values span a factor of more than 8. x, y: what the axes are called.
    """
    shown = [point for point in points if math.isfinite(point[1]) and math.isfinite(point[2])]
    if not shown:
        return ""
    height, above, below = 300, 12, 40
    wide = min(p[1] for p in shown) > 0 and max(p[1] for p in shown) > 8 * min(p[1] for p in shown)
    along = Axis.over(math.log10(p[1]) if wide else p[1] for p in shown)
    up = Axis.over(value for p in shown for value in (p[2], *p[3]))

    def across(value: float) -> str:
        return f"{8 + 0.9 * float(along.at(math.log10(value) if wide else value)[:-1]):.2f}%"

    def down(value: float) -> float:
        return above + (height - above - below) * (1 - float(up.at(value)[:-1]) / 100)

    parts = []
    for tick in up.ticks():
        parts.append(f'<line class="tick" x1="8%" x2="98%" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>')
        parts.append(f'<text x="7%" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    if wide:
        low, high = 10**along.low, 10**along.high
        ticks = [
            m * 10.0**e
            for e in range(math.floor(along.low), math.ceil(along.high) + 1)
            for m in (1, 2, 5)
            if low <= m * 10.0**e <= high
        ]
    else:
        ticks = along.ticks()
    for tick in ticks:
        parts.append(
            f'<line class="tick" x1="{across(tick)}" x2="{across(tick)}" y1="{above}" y2="{height - below}"/>'
        )
        parts.append(f'<text x="{across(tick)}" y="{height - below + 16}" text-anchor="middle">{tick:g}</text>')  # fmt: skip
    placed: list[tuple[float, float]] = []
    for number, (label, cost, value, ends, colour) in enumerate(shown, start=1):
        at, height_of = across(cost), down(value)
        badge = _free(float(at[:-1]) / 100 * _NARROW, height_of, placed, height - below)
        if all(map(math.isfinite, ends)):
            parts.append(
                f'<line x1="{at}" x2="{at}" y1="{down(ends[0]):.1f}" y2="{down(ends[1]):.1f}" stroke="{colour}" stroke-width="2.5"/>'
            )
        parts.append(
            f"<g><title>{escape(visible(label))}</title>"
            f'<line x1="{at}" x2="{at}" y1="{height_of:.1f}" y2="{badge:.1f}" stroke="{colour}"/>'
            f'<circle cx="{at}" cy="{height_of:.1f}" r="4" fill="{colour}"/><circle cx="{at}" cy="{badge:.1f}" r="9" fill="{colour}"/>'
            f'<text class="number" x="{at}" y="{badge + 4:.1f}" text-anchor="middle">{number}</text></g>'
        )
    parts.append(
        f'<text x="53%" y="{height - 6}" text-anchor="middle">{escape(x)}{" (logarithmic)" if wide else ""}</text>'
    )
    said = "; ".join(f"{label}: {value:.4g} at {cost:.4g}" for label, cost, value, _, _ in shown)
    return (
        f'<svg class="scatter" width="100%" height="{height}" role="img" aria-label="{escape(visible(f"{y} against {x}: {said}"))}">'
        f"{''.join(parts)}</svg>"
    )
