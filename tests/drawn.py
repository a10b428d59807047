"""What a figure shows, as lines of text: its artists with their places, colours and words, so that a test can say all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator


def figures(monkeypatch: Any) -> list[Figure]:
    """Return the list to which every figure goes that is saved from here on: not drawn, an empty file in its place."""
    saved: list[Figure] = []

    def save(figure: Figure, path: Any, **_: Any) -> None:
        saved.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", save)
    return saved


def drawn(figure: Any) -> list[str]:
    """Return a figure's lines, those of its parts below it."""
    return list(_of_figure(figure))


def _of_figure(figure: Any) -> Iterator[str]:
    size = f" {_numbers(figure.get_size_inches())} inches" if isinstance(figure, Figure) else ""
    said = {"title": figure.get_suptitle(), "x": figure.get_supxlabel(), "y": figure.get_supylabel()}
    yield f"figure{size}" + _words(said)
    yield from (f"  legend: {_legend(one)}" for one in figure.legends)
    for part in figure.subfigs:
        yield from (f"  {line}" for line in _of_figure(part))
    for axes in figure._localaxes:
        yield from (f"  {line}" for line in _of_axes(axes))


def _of_axes(axes: Any) -> Iterator[str]:
    if not axes.axison:
        yield "no axes"
        return
    titles = {where: axes.get_title(where) for where in ("left", "center", "right")}
    yield "axes" + _words({"title": next(filter(None, titles.values()), "")})
    for axis in (axes.xaxis, axes.yaxis):
        scale = "" if axis.get_scale() == "linear" else f" {axis.get_scale()}"
        ticks = [text.get_text() for text in axis.get_ticklabels()]
        named = f", ticks {ticks}" if isinstance(axis.get_major_locator(), FixedLocator) else ""
        label = repr(axis.get_label_text())
        yield f"  {axis.axis_name}{scale} {label} {_numbers(axis.get_view_interval())}{named}"
    for line in axes.lines:
        look = f"{line.get_linestyle()} {line.get_marker()}".replace("None", "").strip()
        label = "" if line.get_label().startswith("_") else f" {line.get_label()!r}"
        yield f"  line {look} {to_hex(line.get_color())}{label}: {_points(zip(*line.get_data(), strict=True))}"
    for band in axes.collections:
        if (cells := getattr(band, "get_coordinates", None)) is not None:
            yield f"  cells {band.cmap.N} colours {_numbers(band.get_clim())}, corner {_numbers(cells()[0, 0])}"
            yield from (f"    {_numbers(row)}" for row in band.get_array().tolist())
            continue
        colour = next(iter([*band.get_facecolor(), *band.get_edgecolor()]), (0, 0, 0))
        for path in band.get_paths():
            yield f"  area {to_hex(colour)} {band.get_alpha() or 1:g}: {_points(path.vertices)}"
    for bar in axes.patches:
        yield f"  bar {to_hex(bar.get_facecolor())}: {_numbers(bar.get_bbox().bounds)}"
    for picture in axes.images:
        yield f"  image {picture.get_cmap().name} {_numbers(picture.get_clim())}"
        yield from (f"    {_numbers(row)}" for row in picture.get_array().tolist())
    for text in axes.texts:
        yield f"  text {text.get_text()!r} at {_numbers(getattr(text, 'xy', text.get_position()))}"
    if legend := axes.get_legend():
        yield f"  legend: {_legend(legend)}"


def _words(said: dict[str, str]) -> str:
    return "".join(f", {name} {text!r}" for name, text in said.items() if text)


def _legend(legend: Any) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def _points(points: Iterable[Any]) -> str:
    return " ".join(_numbers(point, ",") for point in points)


def _numbers(values: Iterable[Any], between: str = " ") -> str:
    shown: Callable[[Any], str] = lambda value: f"{float('nan' if value is None else value):.4g}"  # noqa: E731
    return between.join(map(shown, values))
