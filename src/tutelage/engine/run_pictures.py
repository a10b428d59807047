"""The pictures of a run that mirrors show: what lies in its folder, and its layer pairs step by step, drawn when they are asked for."""

from __future__ import annotations

from pathlib import Path

from tutelage.runs.json_lines import read_metrics
from tutelage.runs.layer_pairs import LayerPairs, layer_pairs
from tutelage.runs.records import read_json, replacing

_MOST_NAMED = 40
_TICKS = 8


def pictures_in(folder: Path) -> dict[str, Path]:
    """Return the figures and sample grids of a run's folder, the last grid of those made while training, by name.

    Of a run that recorded layer pairs, `<alignment>-pairs.png` is drawn first: a heat map of their similarity, a pair a row.
    """
    setup = folder / "setup.json"
    if setup.is_file():
        rows = read_metrics(folder / "metrics.jsonl").rows
        for name, pairs in layer_pairs(rows, read_json(setup).get("method") or {}).items():
            _draw(pairs, name, folder / f"{name}-pairs.png")
    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    grids = sorted((folder / "samples").glob("*.png"))
    return found | ({"samples": grids[-1]} if grids else {})


def _draw(pairs: LayerPairs, title: str, path: Path) -> None:
    """Draw layer pairs by step. No pyplot and no global settings: mirrors have a thread of their own."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = np.ma.masked_invalid(pairs.values)
    figure = Figure(
        figsize=(8.0, 1.4 + 0.17 * min(len(pairs.names), _MOST_NAMED)), dpi=110, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = min(0.0, float(values.min() or 0)), max(1.0, float(values.max() or 0))
    drawn = axes.imshow(values, aspect="auto", cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
    places = np.unique(np.linspace(0, len(pairs.steps) - 1, _TICKS).round().astype(int))
    axes.set_xticks(places, [f"{pairs.steps[place]:,}" for place in places])
    if len(pairs.names) <= _MOST_NAMED:
        axes.set_yticks(range(len(pairs.names)), pairs.names, fontsize=7)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
    axes.set(xlabel="step", title=f"{title}: similarity of layer pairs, frozen > network")
    figure.colorbar(drawn, label="similarity")
    with replacing(path, durable=False) as part:
        figure.savefig(part, format="png")
