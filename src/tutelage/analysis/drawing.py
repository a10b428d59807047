"""Figures of the analyses: heat maps and lines, drawn without a display, the same from the same numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.reporting.palette import DIVERGING, PALETTE, RAMP, canvas, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERED = 14
"""Rows and columns up to which the cells of a heat map show their numbers."""
MOST_TICKS = 40
"""Layers up to which every one is named on an axis."""


def heat_map(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    low: float,
    high: float,
    label: str,
    diverging: bool = False,
) -> tuple[Figure, Axes]:
    """Return a figure of a matrix (rows, columns), dark to light from `low` to `high`; NaN cells are grey.

    diverging: two colours on the two sides of 0, which is to lie in the middle.
    """
    import matplotlib

    figure = canvas(
        min(14.0, 3.0 + 0.28 * len(columns) + 0.06 * max(map(len, rows))),
        min(12.0, 2.4 + 0.26 * len(rows) + 0.04 * max(map(len, columns))),
    )
    axes = figure.subplots()
    colours = matplotlib.colormaps[DIVERGING if diverging else RAMP].with_extremes(bad="0.85")
    image = axes.imshow(values, vmin=low, vmax=high, cmap=colours, aspect="auto", interpolation="nearest")
    for ticks, names, rotation in ((axes.set_xticks, columns, 90), (axes.set_yticks, rows, 0)):
        step = -(-len(names) // MOST_TICKS)
        ticks(range(0, len(names), step), [*map(literal, names[::step])], rotation=rotation, fontsize=7)
    if max(values.shape) <= MOST_NUMBERED:
        for (i, j), value in np.ndenumerate(values):
            if value == value:
                red, green, blue, _ = colours((value - low) / (high - low))
                shade = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=7)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure, axes


def mark_cells(axes: Axes, cells: Sequence[tuple[int, int]]) -> None:
    """Frame cells (row, column) of a heat map."""
    from matplotlib.patches import Rectangle

    for i, j in cells:
        for colour, width in (("white", 3.0), ("black", 1.2)):  # seen on dark and on light
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=width))


def separate(axes: Axes, sizes: Sequence[int]) -> None:
    """Draw lines between groups of rows, and of columns, of a square heat map."""
    for end in np.cumsum(sizes)[:-1]:
        axes.axhline(end - 0.5, color="black", linewidth=1.4)
        axes.axvline(end - 0.5, color="black", linewidth=1.4)


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    bold: str = "",
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    title: str = "",
) -> tuple[Figure, Axes]:
    """Return a figure of named curves, each (x values, y values), with the legend outside.

    bold: the one to see first; the others are then shaded in their order, from dark to light.
    bands: of a curve, its lower and upper ends.
    """
    import matplotlib

    figure = canvas(9.0, 4.2)
    axes = figure.subplots()
    ordered = len(curves) > len(PALETTE) or (bold and len(curves) > 2)
    shades: Any = matplotlib.colormaps[RAMP](np.linspace(0, 0.95, max(len(curves), 2)))
    for place, (name, (xs, ys)) in enumerate(curves.items()):
        colour, dashes = (shades[place], "-") if ordered else style(place)
        look: dict[str, Any] = {"color": "black", "linewidth": 2.6} if name == bold else {"color": colour}
        marker = "o" if len(xs) == 1 else None
        axes.plot(xs, ys, dashes, label=literal(name), marker=marker, **look)
        if bands and name in bands:
            axes.fill_between(xs, *bands[name], color=look["color"], alpha=0.18, linewidth=0)
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    if title:
        axes.set_title(literal(title), fontsize=10)
    if len(curves) <= MOST_TICKS:
        axes.legend(
            fontsize=7,
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            ncols=1 + len(curves) // 25,
        )
    return figure, axes


def direction(modes: Collection[str | None]) -> str:
    """Say which values are better where all are selected alike ("max" or "min"); else nothing."""
    mode = next(iter(modes)) if len(modes) == 1 else None
    return {"max": "higher is better", "min": "lower is better"}.get(mode or "", "")


def literal(text: str) -> str:
    """Return a name as matplotlib shows it as it is: a $ begins no formula, a leading _ hides nothing."""
    return ("\u2009" if text.startswith("_") else "") + text.replace("$", r"\$")
