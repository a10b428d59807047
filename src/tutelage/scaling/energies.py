"""Energies of all pattern combinations, their minima, and the pattern that needs the least data.

`predict` is the entry point; `Energy` is one combination. The least number of samples scales as the energy
(times kappa, which is of order one): P* ~ min over patterns of sum_l cost_l + a_y. This is a *necessary*
condition, from the bound log Pr[A_f >= a] <= P k / (2 kappa) + log Pr_prior[A_f >= a] (arXiv 2512.04165):
what else an imperfect feature leaves in the output is not charged, so for very narrow layers the prediction
is a lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import sympy

from tutelage.errors import UserError
from tutelage.scaling import tropical
from tutelage.scaling.layers import Dense, Layer, Scale, check_stack
from tutelage.scaling.patterns import apply_pattern, fitting_patterns, inputs_features, pattern_name


@dataclass(frozen=True)
class Energy:
    """The energy of one combination of patterns: a sum of monomials in the sizes and the free quantities.

    `costs` has one entry per layer, `target_norm` is a_y; `bounds` are monomials that must be at least one.
    """

    patterns: tuple[str, ...]
    costs: tuple[Scale, ...]
    target_norm: Scale
    free: tuple[sympy.Symbol, ...]
    bounds: tuple[Scale, ...]

    @property
    def label(self) -> str:
        """Short name, e.g. 'GP-Sp'."""
        return "-".join(self.patterns)

    @property
    def total(self) -> Scale:
        """Sum of the costs and a_y."""
        return sympy.Add(*self.costs, self.target_norm)

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the given quantities (d, widths, ...)."""
        names = self.total.free_symbols | set().union(*(bound.free_symbols for bound in self.bounds))
        return tuple(sorted(str(symbol) for symbol in names - set(self.free)))

    @cached_property
    def _terms(self) -> list[tropical.Exponents]:
        return [tropical.exponents(term) for term in (*self.costs, self.target_norm) if term != 0]

    @cached_property
    def _limits(self) -> list[tropical.Exponents]:
        return [tropical.exponents(bound) for bound in self.bounds if not bound.is_number]

    @cached_property
    def minimum(self) -> tuple[tropical.Exponents, ...]:
        """Monomials whose largest is the minimal energy at all scales, bounds included."""
        return tuple(
            tropical.minimum_monomials(self._terms, self._limits, [symbol.name for symbol in self.free])
        )

    def stationary(self) -> dict[str, Scale] | None:
        """The interior minimum, bounds ignored: monomials of the 'energy' and of each free quantity.

        None when the terms do not determine it. It is the minimum where every bound, evaluated there, is at
        least one.
        """
        balanced = tropical.balance(self._terms, [symbol.name for symbol in self.free])
        if balanced is None:
            return None
        weights, inverse = balanced
        energy = tropical.product(self._terms, weights)
        found = {"energy": tropical.monomial(energy)}
        given = [{n: p for n, p in term.items() if n in self.sizes} for term in self._terms]
        for symbol, row in zip(self.free, inverse, strict=True):
            parts = [energy, *given]
            found[symbol.name] = tropical.monomial(
                tropical.product(parts, [sum(row, Fraction(0)), *(-w for w in row)])
            )
        return found

    def exponent(self, scales: Mapping[str, Any]) -> Fraction:
        """The exponent of the minimal energy at the given exponents of the sizes, bounds included."""
        at = _exponents_of(scales, self.sizes)
        return max(tropical.value(monomial, at) for monomial in self.minimum)

    def scaling(self, scales: Mapping[str, Any]) -> dict[str, Any]:
        """At given exponents: the energy's exponent, its exponent in each size, and the free quantities'.

        Where several monomials tie (a boundary between regimes) the first is given and `boundary` is True.
        """
        at = _exponents_of(scales, self.sizes)
        energy = self.exponent(scales)
        best = [monomial for monomial in self.minimum if tropical.value(monomial, at) == energy]
        free = tropical.free_range(self._terms, self._limits, [s.name for s in self.free], at, energy)
        return {
            "exponent": energy,
            "exponents": {name: best[0].get(name, Fraction(0)) for name in self.sizes},
            "monomial": tropical.monomial(best[0]),
            "boundary": len(best) > 1,
            "free": free,
        }

    def at(self, sizes: Mapping[str, float]) -> dict[str, float]:
        """Minimum at actual sizes, all constants taken as one: the 'energy' and the free quantities.

        Raises:
            UserError: naming the sizes that are missing.
        """
        missing = [name for name in self.sizes if name not in sizes]
        if missing:
            raise UserError(
                f"energy {self.label} needs sizes for {', '.join(missing)}; got {', '.join(sizes)}"
            )
        given = {name: float(sizes[name]) for name in self.sizes}
        return tropical.minimise_at(self._terms, self._limits, [s.name for s in self.free], given)


@dataclass(frozen=True)
class Prediction:
    """All combinations at one scaling, cheapest first."""

    candidates: tuple[Energy, ...]
    exponents: tuple[Fraction, ...]
    scales: Mapping[str, Fraction]

    @property
    def winners(self) -> tuple[Energy, ...]:
        """The cheapest combinations; more than one is a tie that constants, not scales, decide."""
        return tuple(
            e for e, x in zip(self.candidates, self.exponents, strict=True) if x == self.exponents[0]
        )

    @property
    def exponent(self) -> Fraction:
        """P* ~ d^exponent under the given scaling."""
        return self.exponents[0]

    def table(self) -> list[dict[str, str]]:
        """Rows for people: pattern, energy, interior minimum, exponent at this scaling."""
        rows = []
        for energy, exponent in zip(self.candidates, self.exponents, strict=True):
            interior = energy.stationary()
            rows.append(
                {
                    "pattern": energy.label,
                    "energy": str(energy.total),
                    "minimised at": ", ".join(f"{s} = {interior[s.name]}" for s in energy.free)
                    if interior
                    else "",
                    "minimum": str(interior["energy"])
                    if interior
                    else str(tropical.monomial(energy.minimum[0])),
                    "exponent": str(exponent),
                    "wins": "yes" if exponent == self.exponents[0] else "",
                }
            )
        return rows


def energy_of(
    layers: Sequence[Layer],
    patterns: Sequence[str],
    *,
    degree: int,
    activation: str = "erf",
    inputs: str | int = "d",
) -> Energy:
    """Compose the energy of one combination by the rules of `patterns`.

    Args:
        layers: hidden layers from the inputs upwards; the linear readout is implied.
        patterns: one name per layer (GP, GFL, Sp, Mag, or the long names).
        degree: m of the target He_m of the hidden direction.
        activation: one of `layers.ACTIVATIONS`, for dense and convolutional layers.
        inputs: the input dimension, a symbol's name.

    Raises:
        UserError: when a pattern does not fit its layer or the network cannot express the target.
    """
    check_stack(layers)
    if len(patterns) != len(layers):
        raise UserError(
            f"expected one pattern per layer ({len(layers)}), got {len(patterns)}: {'-'.join(patterns)}"
        )
    if degree < 1:
        raise UserError(f"the target's degree must be at least 1, got {degree}")
    features = inputs_features(inputs)
    steps = []
    for place, (layer, pattern) in enumerate(zip(layers, patterns, strict=True), start=1):
        steps.append(
            apply_pattern(pattern, layer, features, place=place, degree=degree, activation=activation)
        )
        features = steps[-1].features
    if degree not in features.norms:
        raise UserError(
            f"this network (activation '{activation}') cannot express a target of degree {degree}; it makes "
            f"degrees {sorted(features.norms)}. Choose one of these, another activation or more layers"
        )
    return Energy(
        patterns=tuple(pattern_name(pattern) for pattern in patterns),
        costs=tuple(step.cost for step in steps),
        target_norm=features.norms[degree],
        free=tuple(symbol for step in steps for symbol in step.free),
        bounds=tuple(bound for step in steps for bound in step.bounds),
    )


def energies(
    layers: Sequence[Layer], *, degree: int, activation: str = "erf", inputs: str | int = "d"
) -> tuple[Energy, ...]:
    """The energies of all combinations that fit.

    Raises:
        UserError: when none does, because the network cannot express the target.
    """
    found, refusal = [], None
    for patterns in fitting_patterns(layers):
        try:
            found.append(energy_of(layers, patterns, degree=degree, activation=activation, inputs=inputs))
        except UserError as misfit:
            refusal = (
                refusal or misfit
            )  # the lazy combination comes first: its refusal is about the whole network
    if not found and refusal:
        raise refusal
    return tuple(found)


def predict(
    layers: Sequence[Layer],
    *,
    degree: int,
    scales: Mapping[str, Any],
    activation: str = "erf",
    inputs: str | int = "d",
    patterns: Sequence[str] | None = None,
) -> Prediction:
    """Which pattern learns the target, and with how much data, when sizes grow as powers of a base.

    Args:
        layers, degree, activation, inputs: see `energy_of`. scales: exponent of each size, e.g. {"d": 1,
        "N1": 1, "N2": 1} for widths in proportion to d (d defaults to 1). patterns: labels to compare, e.g.
        ["GP-GP", "GP-Sp", "Sp-Mag"]; all that fit if None.

    Raises:
        UserError: for a size without an exponent, a pattern that does not fit, or a target out of reach.
    """
    if patterns is None:
        candidates = energies(layers, degree=degree, activation=activation, inputs=inputs)
    else:
        candidates = tuple(
            energy_of(layers, label.split("-"), degree=degree, activation=activation, inputs=inputs)
            for label in patterns
        )
    given = {"d": 1, **scales}
    ranked = sorted(
        candidates, key=lambda energy: energy.exponent(given)
    )  # stable: ties keep the order of preference
    at = _exponents_of(given, tuple(given))
    return Prediction(tuple(ranked), tuple(energy.exponent(given) for energy in ranked), at)


def published_patterns(layers: Sequence[Layer], degree: int) -> tuple[str, ...]:
    """Return the patterns whose energies arXiv 2512.04165 tabulates for an architecture and He_degree; none where it has no such table."""
    is_three_layer = len(layers) == 2 and all(isinstance(layer, Dense) for layer in layers)
    return ("GP-GP", "GP-Sp", "Sp-Mag") if is_three_layer and degree == 3 else ()


def crossover(first: Energy, second: Energy, size: str) -> Scale:
    """The value of `size` at which two interior minima meet, e.g. N1 = sqrt(N2 d) for GP-Sp and Sp-Mag.

    Raises:
        UserError: when either has no interior minimum, or the ratio does not depend on `size`.
    """
    minima = [energy.stationary() for energy in (first, second)]
    if minima[0] is None or minima[1] is None:
        raise UserError(
            f"{first.label} or {second.label} has no interior minimum: compare them by `exponent` instead"
        )
    ratio = tropical.exponents(sympy.powsimp(minima[0]["energy"] / minima[1]["energy"], force=True))
    if ratio.get(size, Fraction(0)) == 0:
        raise UserError(
            f"the ratio of {first.label} to {second.label} does not depend on {size}: it has {sorted(ratio)}"
        )
    power = ratio.pop(size)
    return tropical.monomial({name: -value / power for name, value in ratio.items() if value != 0})


def _exponents_of(scales: Mapping[str, Any], sizes: Sequence[str]) -> dict[str, Fraction]:
    missing = [name for name in sizes if name not in scales]
    if missing:
        raise UserError(
            f"no exponent given for {', '.join(missing)}: give one for each of {', '.join(x for x in sizes if x != 'd')}, "
            f"e.g. {missing[0]}=1 for proportional to d, 0 for constant"
        )
    return {name: Fraction(scales[name]).limit_denominator(1000) for name in sizes}
