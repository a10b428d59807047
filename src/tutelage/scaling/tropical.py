"""Exact minima of sums of monomials at the level of scales: a linear programme over exponents, by its dual.

Write every quantity as d^(exponent). A sum of monomials then scales as the largest exponent among its
terms, and minimising it over free quantities is the linear programme `min_t max_i (c_i.s + A_i.t)` subject
to `b_j.s + B_j.t >= 0` (each bound monomial >= 1), with s the given exponents. Its dual, `max sum_i y_i
c_i.s - sum_j l_j b_j.s` over `y, l >= 0, sum y = 1, A'y = B'l`, has a feasible set that does not depend on
s: enumerating its vertices once gives the minimum *for all scales*, `E(s) = max over vertices`, in exact
fractions. Each vertex is one monomial of the closed form, e.g. `max(d, sqrt(N d))` for min over M >= 1 of M
d + N/M.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy

Exponents = dict[str, Fraction]


def exponents(monomial: sympy.Expr) -> Exponents:
    """The exponents of a monomial, symbol by symbol; its numeric coefficient is dropped."""
    powers: Exponents = {}
    for factor, power in (
        sympy.powdenest(sympy.expand_power_base(monomial), force=True).as_powers_dict().items()
    ):
        if factor.is_Symbol:
            powers[factor.name] = Fraction(int(power.p), int(power.q))
        elif not factor.is_number:
            raise ValueError(f"not a monomial: {monomial}")
    return powers


def monomial(powers: Mapping[str, Fraction]) -> sympy.Expr:
    """The sympy expression with these exponents (all symbols positive)."""
    factors = [
        sympy.Symbol(name, positive=True) ** sympy.Rational(power.numerator, power.denominator)
        for name, power in powers.items()
    ]
    return sympy.powsimp(sympy.Mul(*factors), force=True)


def product(entries: Sequence[Exponents], powers: Sequence[Fraction]) -> Exponents:
    """The exponents of a product of monomials raised to powers, zeros left out."""
    found: Exponents = {}
    for entry, power in zip(entries, powers, strict=True):
        for name, exponent in entry.items():
            found[name] = found.get(name, Fraction(0)) + power * exponent
    return {name: value for name, value in sorted(found.items()) if value != 0}


def solve(matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]) -> list[Fraction] | None:
    """The unique solution of a square system in exact fractions, or None when it is singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = next((row for row in range(column, size) if rows[row][column] != 0), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        head = rows[column][column]
        rows[column] = [value / head for value in rows[column]]
        for row in range(size):
            if row != column and rows[row][column] != 0:
                lead = rows[row][column]
                rows[row] = [a - lead * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[-1] for row in rows]


def minimum_monomials(
    terms: Sequence[Exponents], bounds: Sequence[Exponents], free: Sequence[str]
) -> list[Exponents]:
    """The monomials whose largest is the minimum over the free quantities, at every value of the scales.

    Args:
        terms: exponents of the monomials that are summed.
        bounds: exponents of the monomials that must be at least one.
        free: names of the quantities minimised over.

    Returns:
        Exponents in the remaining symbols, one dict per dual vertex, those never the largest by repetition
        removed.
    """
    columns = [([entry.get(name, Fraction(0)) for name in free] + [Fraction(1)], entry) for entry in terms]
    columns += [
        ([-entry.get(name, Fraction(0)) for name in free] + [Fraction(0)], {k: -v for k, v in entry.items()})
        for entry in bounds
    ]
    right = [Fraction(0)] * len(free) + [Fraction(1)]
    found: list[Exponents] = []
    for basis in itertools.combinations(columns, len(right)):
        weights = solve(list(zip(*(column for column, _ in basis), strict=True)), right)
        if weights is None or any(weight < 0 for weight in weights):
            continue
        vertex = product([entry for _, entry in basis], weights)
        if vertex not in found:
            found.append(vertex)
    return found


def value(powers: Mapping[str, Fraction], scales: Mapping[str, Fraction]) -> Fraction:
    """The exponent of a monomial at given exponents of its symbols."""
    return sum((power * scales[name] for name, power in powers.items()), Fraction(0))


def free_range(
    terms: Sequence[Exponents],
    bounds: Sequence[Exponents],
    free: Sequence[str],
    scales: Mapping[str, Fraction],
    energy: Fraction,
) -> dict[str, tuple[Fraction, Fraction]]:
    """Exponents each free quantity may take at the minimum, (low, high); equal where it is determined."""
    from scipy.optimize import linprog

    def at(entry: Exponents) -> float:
        return float(sum((p * scales[n] for n, p in entry.items() if n not in free), Fraction(0)))

    rows = [[float(entry.get(name, 0)) for name in free] for entry in terms]
    limits = [float(energy) - at(entry) for entry in terms]
    rows += [[-float(entry.get(name, 0)) for name in free] for entry in bounds]
    limits += [at(entry) for entry in bounds]
    ranges = {}
    for place, name in enumerate(free):
        ends = []
        for sign in (1.0, -1.0):
            goal = [0.0] * len(free)
            goal[place] = sign
            found = linprog(goal, A_ub=rows, b_ub=[limit + 1e-12 for limit in limits], bounds=(None, None))
            ends.append(Fraction(sign * float(found.fun)).limit_denominator(240) if found.success else None)
        if ends[0] is not None and ends[1] is not None:
            ranges[name] = (ends[0], ends[1])
    return ranges


def balance(
    terms: Sequence[Exponents], free: Sequence[str]
) -> tuple[list[Fraction], list[list[Fraction]]] | None:
    """The interior minimum of a sum of monomials, where all terms have one scale.

    Returns:
        (weights, inverse): the minimum is the product of terms^weight, and log of free quantity i is
        `sum_j inverse[i][j] (log minimum - log coefficient_j)`; None where the terms do not determine it.
    """
    if len(terms) != len(free) + 1:
        return None
    slopes = [[term.get(name, Fraction(0)) for name in free] for term in terms]
    stationary = [list(column) for column in zip(*slopes, strict=True)] + [[Fraction(1)] * len(terms)]
    weights = solve(stationary, [Fraction(0)] * len(free) + [Fraction(1)])
    if weights is None or any(weight <= 0 for weight in weights):
        return None
    # All weights are positive, so any len(free) of the slopes are independent: leave out the last equation.
    transposed = [list(column) for column in zip(*slopes[:-1], strict=True)]
    inverse = []
    for place in range(len(free)):
        row = solve(transposed, [Fraction(int(other == place)) for other in range(len(free))])
        inverse.append([*(row or []), Fraction(0)])
    return weights, inverse


def minimise_at(
    terms: Sequence[Exponents], bounds: Sequence[Exponents], free: Sequence[str], sizes: Mapping[str, float]
) -> dict[str, float]:
    """Minimise the sum of monomials (coefficients one) at actual sizes: convex in the quantities' logs.

    Returns:
        The 'energy' and each free quantity.
    """
    import numpy as np
    from scipy.optimize import minimize

    def split(entries: Sequence[Exponents]) -> tuple[Any, Any]:
        fixed = [sum(float(p) * np.log(sizes[n]) for n, p in e.items() if n not in free) for e in entries]
        slopes = [[float(e.get(name, 0)) for name in free] for e in entries]
        return np.array(fixed), np.array(slopes).reshape(len(entries), len(free))

    fixed, slopes = split(terms)
    limit, limit_slopes = split(bounds)

    def log_energy(logs: Any) -> tuple[float, Any]:
        parts = fixed + slopes @ logs
        weights = np.exp(parts - parts.max())
        return float(parts.max() + np.log(weights.sum())), slopes.T @ (weights / weights.sum())

    if not free:
        return {"energy": float(np.exp(log_energy(np.zeros(0))[0]))}
    bound = {
        "type": "ineq",
        "fun": lambda logs: limit + limit_slopes @ logs,
        "jac": lambda logs: limit_slopes,
    }
    options = {"ftol": 1e-12, "maxiter": 500}
    start = np.full(len(free), 0.5)
    found = minimize(log_energy, start, jac=True, method="SLSQP", constraints=[bound], options=options)
    quantities = {name: float(np.exp(value)) for name, value in zip(free, found.x, strict=True)}
    return {"energy": float(np.exp(found.fun))} | quantities
