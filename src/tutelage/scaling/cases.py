"""The experiments: which networks learn what, at which sizes and over which grid of P. Their settings are in `conf/scale`.

Every function makes points (`grid.Point`), one for each combination of sizes; a size may be one number or a list.
`factors` are the values of P in units of the predicted P*; `settings` are further fields of `Point`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from tutelage.errors import UserError
from tutelage.scaling.ensembles import AttentionHead, Ensemble, PatchConvolution, ThreeLayer, TwoLayer
from tutelage.scaling.grid import Point
from tutelage.scaling.layers import Attention, Convolution, Dense, Layer
from tutelage.scaling.targets import AttentionTarget, HermiteTarget, PatchTarget, Target

Sizes = Mapping[str, int]


def samples_at(factors: Iterable[float], unit: float) -> list[int]:
    """Whole numbers of points, factor by factor of the predicted scale, without repetition."""
    return sorted({max(2, round(factor * unit)) for factor in factors})


def each(sizes: Any, what: str) -> list[Any]:
    """The values of a size: one number, or a list.

    Raises:
        UserError: for anything else, or numbers that are not positive.
    """
    values = list(sizes) if isinstance(sizes, Sequence) and not isinstance(sizes, str) else [sizes]
    numbers = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    if not numbers or not all(
        isinstance(n, int | float) and not isinstance(n, bool) and n > 0 for n in numbers
    ):
        raise UserError(
            f"{what} must be a positive number or a list of them such as [8,16,32], got {sizes!r}"
        )
    return values


def name_of(sizes: Mapping[str, float]) -> str:
    """A point's name from its sizes, such as d32_N64."""
    return "_".join(f"{name}{value:g}" for name, value in sizes.items())


def two_layer(
    *,
    inputs: int | Sequence[int],
    factors: Sequence[float],
    ratios: float | Sequence[float] = 1.0,
    experiment: str = "two_layer",
    degree: int = 3,
    mixture: Mapping[int, float] | None = None,
    classify: bool = False,
    **settings: Any,
) -> list[Point]:
    """A two-layer erf network of width ratio * d. Predicted: P* ~ sqrt(N d), by sqrt(N / d) specialised neurons.

    The target is He_degree of a hidden direction, or a `mixture` of degrees; `classify` takes its sign.
    """
    return [
        Point(
            experiment=experiment,
            name=name_of(sizes),
            network=TwoLayer(inputs=d, width=sizes["N"]),
            target=_hermite(d, degree, mixture, classify),
            samples=samples_at(factors, d * max(1.0, math.sqrt(ratio))),
            sizes=sizes,
            **settings,
        )
        for d, ratio in itertools.product(each(inputs, "inputs"), each(ratios, "ratios"))
        for sizes in [{"d": d, "N": max(1, round(ratio * d))}]
    ]


def three_layer(
    *,
    inputs: int | Sequence[int],
    factors: Sequence[float],
    ratios: float | Sequence[float] = 1.0,
    experiment: str = "three_layer",
    degree: int = 3,
    mixture: Mapping[int, float] | None = None,
    classify: bool = False,
    **settings: Any,
) -> list[Point]:
    """A three-layer erf network, N1 = ratio * d and N2 = d. Predicted at ratio 1: P* ~ d.

    With the ratio, layer 1 specialises about (N1 / d)^(1/3) neurons (Sp-Mag) until N1 > sqrt(N2 d), where GP-Sp
    takes over.
    """
    return [
        Point(
            experiment=experiment,
            name=name_of(sizes),
            network=ThreeLayer(inputs=d, width1=sizes["N1"], width2=d),
            target=_hermite(d, degree, mixture, classify),
            samples=samples_at(factors, d),
            sizes=sizes,
            **settings,
        )
        for d, ratio in itertools.product(each(inputs, "inputs"), each(ratios, "ratios"))
        for sizes in [{"d": d, "N1": max(1, round(ratio * d)), "N2": d}]
    ]


def convolution(
    *,
    sides: int | Sequence[int],
    factors: Sequence[float],
    channels: int | Sequence[int] | None = None,
    experiment: str = "convolution",
    degree: int = 3,
    **settings: Any,
) -> list[Point]:
    """Patch CNN with patches = patch dimension = sqrt(d), as many channels unless given. Predicted: P* ~ sqrt(C d)."""
    return [
        Point(
            experiment=experiment,
            name=name_of({"d": side * side, "C": count}),
            network=PatchConvolution(patch_dim=side, patches=side, channels=count),
            target=PatchTarget(inputs=side, patches=side, mixture={degree: 1.0}),
            samples=samples_at(factors, math.sqrt(count) * side),
            sizes={"d": side * side, "S": side, "n": side, "C": count},
            **settings,
        )
        for side in each(sides, "sides")
        for count in ([side] if channels is None else each(channels, "channels"))
    ]


def attention(
    *,
    pairs: Sequence[Sequence[int]],
    factors: Sequence[float],
    experiment: str = "attention",
    **settings: Any,
) -> list[Point]:
    """Softmax attention head on the cubic target, at pairs (d, L). Predicted: P* ~ sqrt(L d^3)."""
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in each(pairs, "pairs")):
        raise UserError(f"pairs must be a list of pairs [d, L] such as [[8,4],[12,4]], got {pairs!r}")
    return [
        Point(
            experiment=experiment,
            name=name_of({"d": d, "L": context}),
            network=AttentionHead(inputs=d),
            target=AttentionTarget(inputs=d, context=context),
            samples=samples_at(factors, math.sqrt(context * d**3)),
            sizes={"d": d, "L": context},
            **settings,
        )
        for d, context in pairs
    ]


def guided(
    *,
    sides: int | Sequence[int],
    strengths: float | Sequence[float],
    patches: int,
    channels: int,
    factors: Sequence[float],
    experiment: str = "guided",
    degree: int = 3,
    **settings: Any,
) -> list[Point]:
    """A fully connected network on a patch target, drawn toward an untrained convolutional guide, or not (0).

    The network has width 2 d, the guide `channels`; d = patches * side.
    """
    levels = [strengths] if isinstance(strengths, int | float) else list(strengths)
    return [
        Point(
            experiment=experiment,
            name=f"d{patches * side}_g{strength:g}",
            network=TwoLayer(inputs=patches * side, width=2 * patches * side),
            target=PatchTarget(inputs=side, patches=patches, mixture={degree: 1.0}, flat=True),
            samples=samples_at(factors, patches * side),
            sizes={"d": patches * side, "N": 2 * patches * side, "strength": strength},
            guide=PatchConvolution(patch_dim=side, patches=patches, channels=channels, weight_variance=4.0),
            guide_strength=strength,
            **settings,
        )
        for side in each(sides, "sides")
        for strength in levels
    ]


def described(
    *,
    layers: Sequence[Layer],
    scales: Mapping[str, float | str],
    inputs: int | Sequence[int],
    factors: Sequence[float],
    degree: int = 3,
    activation: str = "erf",
    experiment: str = "described",
    **settings: Any,
) -> list[Point]:
    """Networks of any described architecture whose sizes are powers of d, beside the P* predicted for it.

    A size named N with scales {"N": 1.5} is d^1.5, rounded; a number in a layer is itself.

    Raises:
        UserError: for an architecture that can be predicted but not sampled.
    """
    from tutelage.scaling.energies import predict

    prediction = predict(layers, degree=degree, scales=scales, activation=activation)
    if activation != "erf":
        raise UserError(
            f"networks are sampled with activation erf, got '{activation}': only `predict` knows it"
        )
    points = []
    for d in each(inputs, "inputs"):
        sizes = {"d": d} | {
            name: max(1, round(d ** float(Fraction(power)))) for name, power in scales.items()
        }
        sizes |= {"d": d if not isinstance(layers[0], Convolution) else _patches(layers[0], sizes)}
        network, target = _sampled(layers, sizes, degree)
        points.append(
            Point(
                experiment=experiment,
                name=name_of(sizes),
                network=network,
                target=target,
                samples=samples_at(factors, float(d) ** float(prediction.exponent)),
                sizes=sizes,
                predicted=float(prediction.exponent),
                **settings,
            )
        )
    return points


def _patches(layer: Convolution, sizes: Sizes) -> int:
    # The input dimension that the rounded patch dimension and number of patches make.
    return math.prod(sizes[s] if isinstance(s, str) else s for s in (layer.patch_dim, layer.patches))


def _sampled(layers: Sequence[Layer], sizes: Sizes, degree: int) -> tuple[Ensemble, Target]:
    def count(size: str | int) -> int:
        return sizes[size] if isinstance(size, str) else size

    first, d = layers[0], sizes["d"]
    if all(isinstance(layer, Dense) for layer in layers) and len(layers) <= 2:
        widths = [count(layer.width) for layer in layers if isinstance(layer, Dense)]
        target = HermiteTarget(inputs=d, mixture={degree: 1.0})
        if len(widths) == 1:
            return TwoLayer(inputs=d, width=widths[0]), target
        return ThreeLayer(inputs=d, width1=widths[0], width2=widths[1]), target
    if isinstance(first, Convolution) and len(layers) == 1:
        side, patches = count(first.patch_dim), count(first.patches)
        network = PatchConvolution(patch_dim=side, patches=patches, channels=count(first.channels))
        return network, PatchTarget(inputs=side, patches=patches, mixture={degree: 1.0})
    if isinstance(first, Attention) and len(layers) == 1 and count(first.heads) == 1 and degree == 3:
        return AttentionHead(inputs=d), AttentionTarget(inputs=d, context=max(2, count(first.context)))
    raise UserError(
        "this architecture and target can be predicted but not sampled. Sampled are one or two dense layers, one convolution, "
        f"and one attention head on a cubic target; got {', '.join(type(layer).__name__ for layer in layers)} and degree {degree}"
    )


def _hermite(d: int, degree: int, mixture: Mapping[int, float] | None, classify: bool) -> HermiteTarget:
    degrees = {int(m): weight for m, weight in (mixture or {degree: 1.0}).items()}
    if not any(m % 2 for m in degrees):
        raise UserError(
            f"an erf network without biases is an odd function: it learns nothing of a target of degree {sorted(degrees)}. "
            "Choose an odd degree, or a mixture with one"
        )
    return HermiteTarget(inputs=d, mixture=degrees, classify=classify)
