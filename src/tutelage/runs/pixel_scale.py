"""How images must be scaled where some are generated: said of a plan, before the runs that it needs are made (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.declared import makes
from tutelage.runs.frozen_networks import objectives_of


def check(config: Mapping[str, Any]) -> None:
    """Hold the normalisation of a configuration's images against what its method makes or reads.

    Pseudo images have no training set to take mean and deviation from, and generators work in [-1, 1]. What numbers make of the images
    is checked when they are there, by the method.

    Raises:
        UserError: numbers are needed, and `data.normalization` gives none.
    """
    data = config.get("data") or {}
    given = data.get("normalization", 0)
    reading = [
        name
        for name, node in objectives_of(config)
        if node.get("pseudo") and isinstance(node.get("normalization"), str)
    ]
    if reading:
        raise UserError(
            f"the images of method.objectives.{reading[0]}.pseudo must be scaled as those of data, which data.normalization={given} says "
            f"in words that mean nothing for generated images: give numbers, {_advice(data)}, and the same where its weights come from"
        )
    if makes(config) == "generator" and (given is None or isinstance(given, str)):
        raise UserError(
            f"generators are trained on images in [-1, 1], and data.normalization={'null' if given is None else given} gives others: "
            f"set {_advice(data)}, for the source classifier as well"
        )


def _advice(data: Mapping[str, Any]) -> str:
    channels = data.get("channels")
    if not isinstance(channels, int):
        return "data.normalization=[[0.5],[0.5]], with a 0.5 for each channel"
    halves = ",".join(["0.5"] * channels)
    return f"data.normalization=[[{halves}],[{halves}]]"
