"""Phase diagrams: which pattern is cheapest over two of the sizes' exponents, as data and as a figure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.errors import UserError, choices
from tutelage.reporting.palette import style
from tutelage.scaling.energies import Energy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PhaseDiagram:
    """Winners and energies on a grid of exponents (sizes are d^exponent).

    `winner[i, j]` indexes `labels` at y[i], x[j]; `tied` counts the patterns of equal least exponent there;
    `exponent` is that of P*.
    """

    x_name: str
    y_name: str
    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...]
    winner: np.ndarray
    tied: np.ndarray
    exponent: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """One row per grid point, for a CSV file."""
        return [
            {
                self.x_name: float(self.x[j]),
                self.y_name: float(self.y[i]),
                "pattern": self.labels[self.winner[i, j]],
                "tied": int(self.tied[i, j]),
                "exponent": float(self.exponent[i, j]),
            }
            for i in range(len(self.y))
            for j in range(len(self.x))
        ]


def phase_diagram(
    candidates: Sequence[Energy],
    *,
    x: tuple[str, Sequence[float]],
    y: tuple[str, Sequence[float]],
    fixed: Mapping[str, float] | None = None,
) -> PhaseDiagram:
    """Evaluate the exact minima of all candidates over a grid of exponents.

    Args:
        candidates: energies, in the order in which ties are named (`predict.energies` gives it).
        x, y: a size's name and its exponents along the axis.
        fixed: exponents of the other sizes; d has 1 unless given.

    Raises:
        UserError: for an axis that no energy depends on, or a size without an exponent.
    """
    at: dict[str, Any] = {"d": 1.0, **(fixed or {})}
    known = sorted({name for energy in candidates for name in energy.sizes})
    for axis in (x[0], y[0]):
        if axis not in known:
            raise UserError(f"no energy depends on '{axis}': axes can be {', '.join(known)}")
    missing = [name for name in known if name not in {*at, x[0], y[0]}]
    if missing:
        raise UserError(f"no exponent given for {', '.join(missing)}: pass it in `fixed`")
    xs, ys = np.asarray(x[1], float), np.asarray(y[1], float)
    at |= dict(zip((x[0], y[0]), np.meshgrid(xs, ys), strict=True))
    surfaces = []
    for energy in candidates:
        monomials = [sum(float(power) * at[name] for name, power in m.items()) for m in energy.minimum]
        surfaces.append(np.max([np.broadcast_to(m, (len(ys), len(xs))) for m in monomials], axis=0))
    stacked = np.stack(surfaces)
    least = stacked.min(axis=0)
    ties = stacked <= least + 1e-9
    labels = tuple(energy.label for energy in candidates)
    return PhaseDiagram(x[0], y[0], xs, ys, labels, ties.argmax(axis=0), ties.sum(axis=0), least)


@dataclass(frozen=True)
class Stretch:
    """The patterns that win while a size's exponent runs from `low` to `high`, and the exponents of P* at both ends."""

    low: Fraction
    high: Fraction
    winners: tuple[str, ...]
    ends: tuple[Fraction, Fraction]


def transitions(
    candidates: Sequence[Energy],
    size: str,
    *,
    fixed: Mapping[str, Any],
    low: Fraction = Fraction(0),
    high: Fraction = Fraction(6),
) -> list[Stretch]:
    """Which patterns win along one size, d^low to d^high, the others fixed: exact, with bounds and ties.

    Raises:
        UserError: for a size that no energy depends on, or another one without an exponent.
    """
    known = sorted({name for energy in candidates for name in energy.sizes})
    if size not in known:
        raise UserError(f"no energy depends on '{size}'; {choices(size, known)}")
    at = {name: Fraction(value) for name, value in {"d": 1, **fixed}.items()}

    def least(exponent: Fraction) -> tuple[Fraction, tuple[str, ...]]:
        values = [energy.exponent({**at, size: exponent}) for energy in candidates]
        best = min(values)
        return best, tuple(e.label for e, v in zip(candidates, values, strict=True) if v == best)

    # Every energy is the largest of some straight lines: winners can only change where two lines meet.
    lines = {
        (m.get(size, Fraction(0)), sum((p * at[n] for n, p in m.items() if n != size), Fraction(0)))
        for energy in candidates
        for m in energy.minimum
    }
    meetings = {
        (c2 - c1) / (s1 - s2)
        for s1, c1 in lines
        for s2, c2 in lines
        if s1 != s2 and low < (c2 - c1) / (s1 - s2) < high
    }
    stops = [low, *sorted(meetings), high]
    found: list[Stretch] = []
    for first, last in itertools.pairwise(stops):
        winners = least((first + last) / 2)[1]
        ends = (least(first)[0], least(last)[0])
        if found and found[-1].winners == winners:
            found[-1] = Stretch(found[-1].low, last, winners, (found[-1].ends[0], ends[1]))
        else:
            found.append(Stretch(first, last, winners, ends))
    return found


def plot_transitions(
    candidates: Sequence[Energy], size: str, axes: Axes, *, fixed: Mapping[str, Any]
) -> None:
    """Draw the exponent of every pattern's energy against one size's exponent, the least one thick."""
    xs = np.linspace(0, 6, 121)
    at = {"d": 1.0, **{name: float(Fraction(value)) for name, value in fixed.items()}}
    curves = {}
    for energy in candidates:
        values = [sum(float(p) * (xs if n == size else at[n]) for n, p in m.items()) for m in energy.minimum]
        curves[energy.label] = np.max([np.broadcast_to(v, xs.shape) for v in values], axis=0)
        colour, dashes = style(len(curves) - 1)
        axes.plot(xs, curves[energy.label], dashes, color=colour, lw=1.2, label=energy.label)
    axes.plot(xs, np.min(list(curves.values()), axis=0), color="black", lw=3, alpha=0.3, label="least")
    axes.set_xlabel(f"log {size} / log d")
    axes.set_ylabel("log energy / log d")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title(f"Energy of every pattern against {size}: the least wins", fontsize=9)


def plot_phase_diagram(diagram: PhaseDiagram, axes: Axes) -> None:
    """Draw the regions with their names, hatched where patterns tie, and contours of the exponent of P*."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    present = sorted(set(diagram.winner.ravel().tolist()))
    colours = [style(place)[0] for place in range(len(present))]
    region = np.searchsorted(present, diagram.winner)
    axes.pcolormesh(
        diagram.x,
        diagram.y,
        region,
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(present) - 0.5,
        alpha=0.6,
    )
    if (diagram.tied > 1).any():
        axes.contourf(
            diagram.x, diagram.y, diagram.tied > 1, levels=[0.5, 1.5], colors="none", hatches=["//"]
        )
    if np.ptp(diagram.exponent) > 0:
        lines = axes.contour(diagram.x, diagram.y, diagram.exponent, colors="black", linewidths=0.6)
        axes.clabel(lines, fontsize=7)
    axes.set_xlabel(f"log {diagram.x_name} / log d")
    axes.set_ylabel(f"log {diagram.y_name} / log d")
    handles = [
        Patch(color=c, alpha=0.6, label=diagram.labels[p]) for c, p in zip(colours, present, strict=True)
    ]
    if (diagram.tied > 1).any():
        handles.append(Patch(facecolor="white", edgecolor="black", hatch="//", label="patterns tie"))
    axes.legend(handles=handles, fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.set_title("The pattern that learns with the least data; lines: exponent of P*", fontsize=9)
