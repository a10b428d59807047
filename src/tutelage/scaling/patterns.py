"""The patterns of feature learning as rules: what each costs, and what it does to the features.

The rules (Rubin, Davidovich, Ringel, arXiv 2512.04165), with z the hidden feature, nu(k) the norm of its
k-th power (see `layers`), and `units` the neurons, channels or heads of the layer:

| pattern | free | cost | norms handed on |
|---|---|---|---|
| GP (lazy) | - | 0 | nu(k) passes; a power not yet present is made from others, norms multiply |
| GFL | D | units D | nu(1) is divided by D, so the k-th power is made with (nu(1)/D)^k |
| specialisation | M | M nu(1) | a spike: units / M for every power of z |
| magnetisation | beta | beta nu(m) | the units' mean carries the target: units / beta for its power m |

Why (our words): a Gaussian of D times its variance costs (D - 1 - log D)/2 ~ D per unit; a unit whose pre-
activation is fixed to a function costs half its squared norm; M fixed units of N add M/N to the kernel
along each power; a mean of mu per unit, beta = units mu^2 in all, costs mu^2 nu(m) per unit and adds
beta/units. Magnetisation moves all units a little, so it responds linearly and the target must already be
among the features; specialisation locks a unit at order one, so the activation makes the powers. For the
paper's three-layer case the cost of magnetisation is N1 beta/M1, as nu(3) = N1/M1 after a specialised first
layer.

Two consequences are not in the paper's table, and follow from the same rules: amplifying the *target* by
GFL in a later layer has the scale of magnetisation (D = beta nu(m) / units), and GFL of z has the scale of
specialisation as far as first powers matter (M = units D / nu(1)). Such ties are reported as ties by
`predict`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import sympy

from tutelage.errors import UserError, choices
from tutelage.scaling.layers import Features, Layer, Scale, check_stack, has_power, scale

# The order is the tie-break of `predict`: at equal scale the earlier of two is named first. Magnetisation
# is feasible wherever
# specialisation on the same feature is (beta need not reach 1), and a spike carries every power where GFL
# pays for each again.
PATTERNS = {"GP": "lazy", "Mag": "magnetisation", "Sp": "specialisation", "GFL": "Gaussian feature learning"}
_ALIASES = {
    "lazy": "GP",
    "magnetisation": "Mag",
    "magnetization": "Mag",
    "specialisation": "Sp",
    "specialization": "Sp",
}


@dataclass(frozen=True)
class LayerPattern:
    """One pattern applied to one layer.

    `bounds` are expressions that must be at least one (on scales: exponents of at least zero).
    """

    cost: Scale
    features: Features
    free: tuple[sympy.Symbol, ...] = ()
    bounds: tuple[Scale, ...] = ()


def pattern_name(name: str) -> str:
    """The short name of a pattern from its short or long one.

    Raises:
        UserError: for a name that is neither.
    """
    known = {short.lower(): short for short in PATTERNS} | _ALIASES
    if name.lower() not in known:
        raise UserError(f"unknown pattern '{name}'; {choices(name, [*PATTERNS, *_ALIASES])}")
    return known[name.lower()]


def _lazy(features: Features, degree: int, activation: str) -> dict[int, Scale]:
    # A power is made from the fewest parts: every norm is at least 1 and never above the product of its
    # parts' norms.
    made: dict[int, Scale] = {}
    for power in range(1, degree + 1):
        most_parts = power if features.composable else 1
        for parts in range(1, most_parts + 1):
            if not has_power(activation, parts):
                continue
            ways = [
                sympy.prod(features.norms[part] for part in way)
                for way in itertools.combinations_with_replacement(sorted(features.norms), parts)
                if sum(way) == power
            ]
            if ways:
                made[power] = ways[0]
                break
    return made


def apply_pattern(
    pattern: str, layer: Layer, incoming: Features, *, place: int, degree: int, activation: str
) -> LayerPattern:
    """Charge one layer for a pattern and propagate the features (the table of this module).

    Raises:
        UserError: when the pattern does not fit the layer, with the patterns that do.
    """
    features, activation, units = layer.incoming(incoming), layer.activation(activation), layer.units
    lazy = _lazy(features, degree, activation)
    composable = features.composable
    kind = pattern_name(pattern)
    misfit = _misfit(kind, layer, features, place=place, degree=degree)
    if misfit:
        raise UserError(misfit)

    powers = [power for power in range(1, degree + 1) if has_power(activation, power)]
    free: tuple[sympy.Symbol, ...] = ()
    bounds: tuple[Scale, ...] = ()
    if kind == "GP":
        cost, norms = sympy.Integer(0), lazy
    elif kind == "GFL":
        amplification = sympy.Symbol(f"D{place}", positive=True)
        lifted = features.norms[1] / amplification
        cost, free = units * amplification, (amplification,)
        norms = {power: lifted**power for power in powers}
        bounds = (amplification, lifted)  # beyond its norm the feature fills the kernel
    elif kind == "Sp":
        locked = sympy.Symbol(f"M{place}", positive=True)
        cost, free = locked * features.norms[1], (locked,)
        norms = lazy | dict.fromkeys(powers, units / locked)
        bounds = (locked, units / locked)
    else:
        shift = sympy.Symbol(f"beta{place}", positive=True)
        cost, free = shift * features.norms[degree], (shift,)
        norms = lazy | {degree: units / shift}
        bounds = (units / shift,)
    out = layer.outgoing(Features(norms, composable), degree)
    return LayerPattern(cost, out, free, bounds)


def _misfit(kind: str, layer: Layer, features: Features, *, place: int, degree: int) -> str | None:
    name = f"Layer {place} ({type(layer).__name__})"
    if kind == "Mag" and place == 1:
        return (
            f"{name} cannot magnetise: raw inputs do not carry the target. Choose GP, GFL or Sp for layer 1"
        )
    if kind == "Mag" and degree not in features.norms:
        return f"{name} cannot magnetise: the layers below do not carry power {degree} of the feature"
    if kind in ("Sp", "GFL") and not features.composable:
        return (
            f"{name} cannot follow {PATTERNS[kind]} on one direction: here it is one per patch or token, "
            "and a power of the sum is not the target. Choose GP or Mag"
        )
    return None


def fitting_patterns(layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    """All combinations of patterns that fit the stack, in the order of the tie-break."""
    check_stack(layers)
    per_layer = [
        ["GP", "Sp", "GFL"] if place == 0 else (["GP", "Mag"] if layers[0].first_only else list(PATTERNS))
        for place in range(len(layers))
    ]
    return list(itertools.product(*per_layer))


def inputs_features(inputs: str | int) -> Features:
    """The raw inputs: the hidden direction is one of `inputs` equal ones, present in its first power."""
    return Features({1: scale(inputs)})
