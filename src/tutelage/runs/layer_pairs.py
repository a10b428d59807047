"""What a run recorded of its layer pairs: how similar each pair of layers was, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MEAN = "mean over pairs"


@dataclass(frozen=True)
class LayerPairs:
    """The similarity of an alignment's layer pairs over training.

    pairs: (guide's layer, network's layer). steps: where rows were recorded, each a mean over the steps since the row before.
    values: for each pair its similarity at each step; NaN where none was recorded. mean: over the pairs, at each step.
    """

    pairs: tuple[tuple[str, str], ...]
    steps: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]

    @property
    def names(self) -> list[str]:
        """The pairs as figures call them, numbered from 1."""
        return [f"{i} {guide} > {network}" for i, (guide, network) in enumerate(self.pairs, start=1)]


def described(method: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the layer pairs of each alignment that a run's record describes; records of before objectives had names hold one's."""
    objectives = method.get("objectives") or {"alignment": {"pairs": method.get("pairs") or []}}
    return {
        name: facts["pairs"]
        for name, facts in objectives.items()
        if isinstance(facts, Mapping) and facts.get("pairs") and isinstance(facts["pairs"][0], Mapping)
    }


def layer_pairs(rows: Sequence[Mapping[str, Any]], method: Mapping[str, Any]) -> dict[str, LayerPairs]:
    """Return what was recorded of each alignment by its name; of those that recorded nothing, none.

    rows: a run's metrics. method: what the run's `setup.json` says of its method. The mean similarity is 1 - loss / pairs.
    """
    found = {}
    for name, pairs in described(method).items():
        column = "train/similarity" if name == "alignment" else f"train/similarity/{name}"
        keys = [f"{column}/{i:02d}" for i in range(1, len(pairs) + 1)]
        kept = [row for row in rows if f"train/{name}" in row]
        if kept:
            found[name] = LayerPairs(
                pairs=tuple((str(pair["guide"]), str(pair["network"])) for pair in pairs),
                steps=tuple(int(row["step"]) for row in kept),
                values=tuple(tuple(_number(row.get(key)) for row in kept) for key in keys),
                mean=tuple(1 - _number(row[f"train/{name}"]) / len(pairs) for row in kept),
            )
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
