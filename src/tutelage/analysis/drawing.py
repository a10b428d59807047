"""Figures of the analyses: heat maps and lines, drawn without a display, the same from the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NUMBERED = 14
"""Rows and columns up to which the cells of a heat map show their numbers."""
MOST_TICKS = 40
"""Layers up to which every one is named on an axis."""


def heat_map(
    values: np.ndarray, *, rows: Sequence[str], columns: Sequence[str], low: float, high: float, label: str
) -> tuple[Figure, Axes]:
    """Return a figure of a matrix (rows, columns), dark to light from `low` to `high`; NaN cells stay empty."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (
        min(14.0, 3.0 + 0.28 * len(columns) + 0.06 * max(map(len, rows))),
        min(12.0, 2.4 + 0.26 * len(rows) + 0.04 * max(map(len, columns))),
    )
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto", interpolation="nearest")
    for ticks, names, rotation in ((axes.set_xticks, columns, 90), (axes.set_yticks, rows, 0)):
        step = -(-len(names) // MOST_TICKS)
        ticks(range(0, len(names), step), [*map(literal, names[::step])], rotation=rotation, fontsize=7)
    if max(values.shape) <= MOST_NUMBERED:
        for (i, j), value in np.ndenumerate(values):
            if value == value:
                shade = "white" if value < (low + high) / 2 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=7)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    return figure, axes


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str, bold: str = ""
) -> tuple[Figure, Axes]:
    """Return a figure of named curves, each (x values, y values), coloured in their order; `bold` names the one to see first."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shades: Any = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, max(len(curves), 2)))
    for (name, (xs, ys)), shade in zip(curves.items(), shades, strict=False):
        look: dict[str, Any] = {"color": "black", "linewidth": 2.6} if name == bold else {"color": shade}
        axes.plot(xs, ys, label=literal(name), **look)
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    if len(curves) <= MOST_TICKS:
        axes.legend(
            fontsize=7,
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            ncols=1 + len(curves) // 25,
        )
    return figure, axes


def literal(text: str) -> str:
    """Return a name as matplotlib shows it as it is: a $ begins no formula, a leading _ hides nothing."""
    return ("\u2009" if text.startswith("_") else "") + text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically. Raises UserError where the folder cannot be written."""
    from tutelage.runs.records import replacing

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    except OSError as error:
        raise UserError(f"cannot write the figure {path}: {error.strerror}") from error
