"""The picture of `tutelage analyse explain`: samples beside what each network's answer rests on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from tutelage.analysis.drawing import literal
from tutelage.analysis.question import Question
from tutelage.reporting.palette import DIVERGING, RAMP, canvas, save, style
from tutelage.tasks import Batch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PLACES = 40
"""Tokens and columns up to which each is named."""


@dataclass(frozen=True)
class Picture:
    """What one network makes of the figure's samples: maps (n, *places) by explainer."""

    label: str
    maps: dict[str, Tensor]


def draw(
    pictures: Sequence[Picture],
    path: Path,
    *,
    batch: Batch,
    data: Any,
    question: Question,
    count: int,
    signed: Collection[str],
) -> None:
    """Write the grid: a row for each sample and network, a column for each explainer.

    signed: explainers whose maps speak for and against a class.
    """
    names = list(dict.fromkeys(name for picture in pictures for name in picture.maps))
    chosen = np.linspace(0, len(batch.inputs) - 1, min(count, len(batch.inputs))).round().astype(int)
    classes = data.facts.get("classes")
    is_image = question.is_image
    columns, rows = len(names) + is_image, len(chosen) * len(pictures)
    figure = canvas(1.2 + (1.3 if is_image else 3.6) * columns, 0.6 + (1.3 if is_image else 1.5) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, sample in enumerate(chosen):
        wanted = int(batch.targets[sample])
        label = str(classes[wanted]) if classes and wanted < len(classes) else str(wanted)
        for j, picture in enumerate(pictures):
            axes = grid[i * len(pictures) + j]
            name = picture.label.rpartition("/")[2].replace(" ", "\n")
            said = [f"class {label}"] * (j == 0) + [name] * (len(pictures) > 1)
            axes[0].set_ylabel(literal("\n".join(said)), fontsize=7)
            if is_image:
                _image(axes[0], batch.inputs[sample], data)
            for k, name in enumerate(names):
                place = axes[k + is_image]
                if name not in picture.maps:
                    place.set_axis_off()
                    continue
                values = picture.maps[name][sample].cpu().numpy()
                if is_image:
                    _map(place, values, signed=name in signed)
                else:
                    _bars(place, values, _names(batch, sample, data, question))
    for k, name in enumerate((["sample"] if is_image else []) + names):
        grid[0][k].set_title(name.replace("_", " "), fontsize=8)
    title = f"{pictures[0].label}: what its answer rests on"
    if len(pictures) > 1:
        title = "What answers rest on"
    meaning = "violet speaks for the true class, orange against it"
    if is_image and not set(names) <= set(signed):
        meaning += "; one hue: the lighter, the more it matters"
    figure.suptitle(f"{literal(title)}\n{meaning}", fontsize=9)
    save(figure, path)


def _image(axes: Axes, image: Any, data: Any) -> None:
    shown = image.float().cpu()
    if data.normalization is not None:
        mean, std = (shown.new_tensor(list(part)).view(-1, 1, 1) for part in data.normalization)
        shown = shown * std + mean
    pixels = shown.clamp(0, 1).permute(1, 2, 0).numpy()
    if pixels.shape[2] == 3:
        axes.imshow(pixels, interpolation="nearest")
    else:
        axes.imshow(pixels.mean(axis=2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _map(axes: Axes, values: np.ndarray, *, signed: bool) -> None:
    most = float(np.abs(values).max()) or 1.0
    low = -most if signed else 0.0
    axes.imshow(values, cmap=DIVERGING if signed else RAMP, vmin=low, vmax=most, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _names(batch: Batch, sample: int, data: Any, question: Question) -> list[str]:
    """What the places of a sample that are there are called."""
    real = question.real[sample]
    if question.tokens:
        entries = getattr(data, "entries", None) or []
        numbers = batch.inputs[sample][real].tolist()
        return [entries[one] if one < len(entries) else str(one) for one in numbers]
    features = data.facts.get("features") or []
    count = int(real.sum())
    return list(map(str, features)) if len(features) == count else list(map(str, range(count)))


def _bars(axes: Axes, values: np.ndarray, names: Sequence[str]) -> None:
    shown = values[: len(names)]
    axes.bar(range(len(names)), shown, color=[style(0 if one >= 0 else 1)[0] for one in shown])
    axes.axhline(0, color="black", linewidth=0.6)
    step = -(-len(names) // MOST_PLACES)
    axes.set_xticks(range(0, len(names), step), [*map(literal, names[::step])], rotation=90, fontsize=5)
    axes.tick_params(axis="y", labelsize=5)
    axes.spines[["top", "right"]].set_visible(False)
