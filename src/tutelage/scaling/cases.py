"""The scaling experiments, one function each: which networks learn what, at which sizes and over which grid of P."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tutelage.scaling.grid import Point
from tutelage.scaling.networks import AttentionHead, PatchConvolution, ThreeLayer, TwoLayer
from tutelage.scaling.targets import AttentionTarget, HermiteTarget, PatchTarget

CUBIC = {3: 1.0}
# In units of the predicted P*: chosen by short pilots so that A_f crosses 0.5 inside.
TWO_LAYER_GRID = (3, 4, 5, 6, 7, 8, 10, 12, 16, 24)
WIDTH_GRID = (2, 3, 4, 5, 6, 8, 11, 16, 24)
THREE_LAYER_GRID = (3, 4, 5, 6, 8, 10, 12, 16, 24)
CONVOLUTION_GRID = (2, 3, 4, 6, 8, 12, 16, 24)
ATTENTION_GRID = (0.7, 1, 1.4, 2, 2.8, 4)
GUIDED_GRID = (6, 9, 12, 16, 20, 26, 36)


def grid(factors: Iterable[float], unit: float) -> list[int]:
    """Whole numbers of points, factor by factor of the predicted scale, without repetition."""
    return sorted({max(2, round(factor * unit)) for factor in factors})


def two_layer(
    *,
    inputs: Sequence[int],
    ratio: float = 1.0,
    start: str = "prior",
    method: str = "langevin",
    factors: Sequence[float] = TWO_LAYER_GRID,
    **settings: Any,
) -> list[Point]:
    """P* of a two-layer erf network on He_3 against d, width = ratio * d. Predicted: P* ~ d."""
    label = {"langevin": "two_layer", "sgd": "two_layer_sgd", "adam": "two_layer_adam"}[method]
    return [
        Point(
            experiment=label if start == "prior" else f"{label}_planted",
            name=f"d{d}",
            network=TwoLayer(inputs=d, width=round(ratio * d)),
            target=HermiteTarget(inputs=d, mixture=CUBIC),
            samples=grid(factors, d),
            sizes={"d": d, "N": round(ratio * d)},
            start=start,
            method=method,
            **settings,
        )
        for d in inputs
    ]


def two_layer_width(
    *,
    inputs: Sequence[int],
    ratios: Sequence[float],
    factors: Sequence[float] = WIDTH_GRID,
    **settings: Any,
) -> list[Point]:
    """P* and specialised neurons against N / d. Predicted: P* ~ sqrt(N d), specialised ~ sqrt(N / d)."""
    return [
        Point(
            experiment="two_layer_width",
            name=f"d{d}_N{round(ratio * d)}",
            network=TwoLayer(inputs=d, width=round(ratio * d)),
            target=HermiteTarget(inputs=d, mixture=CUBIC),
            samples=grid(factors, d * max(1.0, math.sqrt(ratio))),
            sizes={"d": d, "N": round(ratio * d)},
            record=("overlaps", "spectrum"),
            **settings,
        )
        for d in inputs
        for ratio in ratios
    ]


def three_layer(
    *, inputs: Sequence[int], factors: Sequence[float] = THREE_LAYER_GRID, **settings: Any
) -> list[Point]:
    """Three layers of widths in proportion to d. Predicted: P* ~ d, curves collapse against P / d."""
    return [
        Point(
            experiment="three_layer",
            name=f"d{d}",
            network=ThreeLayer(inputs=d, width1=d, width2=d),
            target=HermiteTarget(inputs=d, mixture=CUBIC),
            samples=grid(factors, d),
            sizes={"d": d, "N1": d, "N2": d},
            record=("overlaps",),
            **settings,
        )
        for d in inputs
    ]


def three_layer_width(
    *,
    inputs: Sequence[int],
    ratios: Sequence[float],
    factors: Sequence[float] = THREE_LAYER_GRID,
    **settings: Any,
) -> list[Point]:
    """The first layer widened at N2 = d: specialised neurons of layer 1, then the switch to layer 2.

    Predicted: layer 1 specialises about (N1 / d)^(1/3) neurons (Sp-Mag) until N1 > sqrt(N2 d), where GP-Sp
    takes over.
    """
    return [
        Point(
            experiment="three_layer_width",
            name=f"d{d}_N{round(ratio * d)}",
            network=ThreeLayer(inputs=d, width1=round(ratio * d), width2=d),
            target=HermiteTarget(inputs=d, mixture=CUBIC),
            samples=grid(factors, d),
            sizes={"d": d, "N1": round(ratio * d), "N2": d},
            record=("overlaps",),
            **settings,
        )
        for d in inputs
        for ratio in ratios
    ]


def convolution(
    *, sides: Sequence[int], factors: Sequence[float] = CONVOLUTION_GRID, **settings: Any
) -> list[Point]:
    """Patch CNN with patches = patch dimension = channels = sqrt(d). Predicted: P* ~ d^(3/4)."""
    return [
        Point(
            experiment="convolution",
            name=f"d{side * side}",
            network=PatchConvolution(patch_dim=side, patches=side, channels=side),
            target=PatchTarget(inputs=side, patches=side, mixture=CUBIC),
            samples=grid(factors, side**1.5),
            sizes={"d": side * side, "S": side, "n": side, "C": side},
            **settings,
        )
        for side in sides
    ]


def convolution_channels(
    *, side: int, channels: Sequence[int], factors: Sequence[float] = CONVOLUTION_GRID, **settings: Any
) -> list[Point]:
    """The number of channels alone, at fixed patches. Predicted: P* ~ sqrt(C d)."""
    return [
        Point(
            experiment="convolution_channels",
            name=f"d{side * side}_C{count}",
            network=PatchConvolution(patch_dim=side, patches=side, channels=count),
            target=PatchTarget(inputs=side, patches=side, mixture=CUBIC),
            samples=grid(factors, math.sqrt(count) * side),
            sizes={"d": side * side, "S": side, "n": side, "C": count},
            **settings,
        )
        for count in channels
    ]


def attention(
    *, pairs: Sequence[tuple[int, int]], factors: Sequence[float] = ATTENTION_GRID, **settings: Any
) -> list[Point]:
    """Softmax attention head on the cubic target, at (d, L). Predicted: P* ~ sqrt(L d^3)."""
    return [
        Point(
            experiment="attention",
            name=f"d{d}_L{context}",
            network=AttentionHead(inputs=d),
            target=AttentionTarget(inputs=d, context=context),
            samples=grid(factors, math.sqrt(context * d**3)),
            sizes={"d": d, "L": context},
            **settings,
        )
        for d, context in pairs
    ]


def guided(
    *,
    sides: Sequence[int],
    strengths: Sequence[float],
    patches: int = 4,
    factors: Sequence[float] = GUIDED_GRID,
    **settings: Any,
) -> list[Point]:
    """A fully connected network on a patch target, drawn toward an untrained convolutional guide, or not (0)."""
    return [
        Point(
            experiment="guided",
            name=f"d{patches * side}_g{strength:g}",
            network=TwoLayer(inputs=patches * side, width=2 * patches * side),
            target=PatchTarget(inputs=side, patches=patches, mixture=CUBIC, flat=True),
            samples=grid(factors, patches * side),
            sizes={"d": patches * side, "N": 2 * patches * side, "strength": strength},
            guide=PatchConvolution(patch_dim=side, patches=patches, channels=32, weight_variance=4.0),
            guide_strength=strength,
            **settings,
        )
        for side in sides
        for strength in strengths
    ]
