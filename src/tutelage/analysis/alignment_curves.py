"""Alignment over training: how similar each pair of layers became, step by step, from a run's recorded rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError

MEAN = "mean over pairs"

Curve = tuple[list[float], list[float]]
"""Steps and values."""


def curves_of(run: str, rows: Sequence[Mapping[str, Any]], method: Mapping[str, Any]) -> dict[str, Curve]:
    """Return the recorded curves of a run: of each alignment the mean over pairs, and one for each pair by its number and layers.

    method: what the run's record says of its method. The mean similarity is 1 - loss / pairs; a row is a mean over the steps since the
    row before. Raises UserError for a run without an alignment.
    """
    aligned = {
        name: pairs for name, pairs in pairs_of(method).items() if any(f"train/{name}" in row for row in rows)
    }
    if not aligned:
        raise UserError(f"{run} recorded no alignment of layers: expected a run of method=guidance")
    found: dict[str, Curve] = {}
    for name, pairs in aligned.items():
        label = "" if len(aligned) == 1 else f"{name}: "
        columns = "train/similarity" if name == "alignment" else f"train/similarity/{name}"
        names = {
            f"{columns}/{i:02d}": f"{label}{i} {pair['guide']} > {pair['network']}"
            for i, pair in enumerate(pairs, start=1)
        }
        curves: dict[str, Curve] = {f"{label}{MEAN}": ([], [])}
        for row in rows:
            if f"train/{name}" in row:
                _add(curves[f"{label}{MEAN}"], row, 1 - row[f"train/{name}"] / len(pairs))
            for key in row.keys() & names.keys():
                _add(curves.setdefault(names[key], ([], [])), row, row[key])
        found |= {key: curves[key] for key in (f"{label}{MEAN}", *names.values()) if key in curves}
    return found


def pairs_of(method: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the layer pairs of each alignment that a run's record describes; records of before objectives had names hold one's."""
    described = method.get("objectives") or {"alignment": {"pairs": method.get("pairs") or []}}
    return {
        name: facts["pairs"]
        for name, facts in described.items()
        if facts.get("pairs") and isinstance(facts["pairs"][0], Mapping)
    }


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
