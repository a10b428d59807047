"""Colours and looks that all figures share: told apart under colour blindness, and by dashes where there are more lines than colours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import UserError
from tutelage.runs.records import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A1FC9", "#000000")
"""After Okabe and Ito (2008), https://jfly.uni-koeln.de/color; with violet in the place of yellow, which is faint on white."""
DASHES = ("-", "--", ":", "-.")
RAMP = "cividis"
"""For values between two ends: seen alike with and without colour blindness (Nunez, Anderton, Renslow 2018)."""
DIVERGING = "PuOr"
"""For values on both sides of 0: the two sides differ in blue against orange."""
LOOK: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a label is a $
}


@contextlib.contextmanager
def look(**more: Any) -> Iterator[None]:
    """Have figures look as `LOOK` says, whatever the user's own style file does."""
    import matplotlib

    settings: Any = {**dict(matplotlib.rcParamsDefault), **LOOK, **more}
    with matplotlib.rc_context(settings):
        yield


def canvas(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure of a size in inches that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, **metadata: str) -> None:
    """Write a figure as PNG, atomically, in a folder that is made. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None, **metadata})
    except OSError as error:
        raise UserError(f"cannot write the figure {path}: {error.strerror}") from error


def style(place: int) -> tuple[str, str]:
    """Return the colour and the dashes of the line at a place."""
    return PALETTE[place % len(PALETTE)], DASHES[place // len(PALETTE) % len(DASHES)]


def logarithmic(axis: Any) -> None:
    """Give an axis a logarithmic scale with numbers in full at its ticks: formulas are off in `LOOK`."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:,.6g}" if super().__call__(x, pos) else ""

    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(1.2, 0.4)))
