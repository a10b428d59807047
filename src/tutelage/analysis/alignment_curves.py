"""Alignment over training: how similar each pair of layers became, step by step, from a run's recorded rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError

LOSS = "train/alignment"
MEAN = "mean over pairs"
PAIR = "train/similarity/"
"""What a column of one pair's similarity begins with, where a run recorded them."""

Curve = tuple[list[float], list[float]]
"""Steps and values."""


def curves_of(
    run: str, rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]
) -> dict[str, Curve]:
    """Return the recorded curves of a run: the mean over pairs, and one for each pair by its number and layers.

    pairs: as the run's record describes them, with `guide` and `network`. The mean similarity is 1 - loss / pairs; a row is a mean
    over the steps since the row before. Raises UserError for a run without an alignment.
    """
    if not pairs or not any(LOSS in row for row in rows):
        raise UserError(f"{run} recorded no alignment ({LOSS}): expected a run of method=guidance")
    names = {
        f"{PAIR}{i:02d}": f"{i} {pair['guide']} > {pair['network']}" for i, pair in enumerate(pairs, start=1)
    }
    found: dict[str, Curve] = {MEAN: ([], [])}
    for row in rows:
        if LOSS in row:
            _add(found[MEAN], row, 1 - row[LOSS] / len(pairs))
        for key in row.keys() & names.keys():
            _add(found.setdefault(names[key], ([], [])), row, row[key])
    return {name: found[name] for name in (MEAN, *names.values()) if name in found}


def _add(curve: Curve, row: Mapping[str, Any], value: float) -> None:
    if math.isfinite(value):
        curve[0].append(row["step"])
        curve[1].append(value)


def draw(curves: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Write the curves as a PNG."""
    from tutelage.analysis.drawing import lines, literal, save

    figure, axes = lines(curves, x="step", y="similarity to the guide", bold=MEAN)
    axes.set_title(literal(title), fontsize=10)
    save(figure, path)
