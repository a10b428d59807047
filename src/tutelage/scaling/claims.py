"""What a case claims, as data: the `verdicts` of its YAML, each a kind of claim with its arguments.

    verdicts:
      - {kind: exponent, size: d}
      - {kind: collapse, label: P / d}

A prediction is what the rules say of the case's own `predict` node, unless the claim gives `predicted`: a number, a fraction such as 1/3,
or a pattern with the exponents of the sizes, {patterns: [Sp], scales: {N: 1.5}}. An experiment without a case of its name is held against
the exponent that its points were planned with.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.scaling import verdicts
from tutelage.scaling.critical_samples import exponents as fitted_exponents
from tutelage.scaling.energies import energy_of, predict
from tutelage.scaling.verdicts import Result, Verdict, critical, judge, of, size_range
from tutelage.typed import checked

PLANNED: tuple[dict[str, Any], ...] = ({"kind": "exponent", "size": "d"}, {"kind": "collapse"})
"""The claims of an experiment without a case."""
Predicted = int | float | str | dict[str, Any]


@dataclass(frozen=True)
class Case:
    """An experiment with what the rules say of it, and what it claims.

    layers, arguments: of `energies.predict`; None without a case of the experiment's name.
    claims: mappings with `kind` and its arguments.
    """

    experiment: str
    layers: tuple[Any, ...] | None
    arguments: Mapping[str, Any]
    claims: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, experiment: str, results: Sequence[Result]) -> Case:
        """Return the case that an experiment is named after, for the degree of its results' target."""
        from tutelage.config.compose import compose
        from tutelage.scaling.predict_command import built
        from tutelage.scaling.scale_request import PRIMARY, case_names

        if experiment not in case_names():
            return cls(
                experiment,
                None,
                {"planned": of(results, experiment)[0]["settings"].get("predicted")},
                PLANNED,
            )
        config = compose([f"scale={experiment}"], PRIMARY)
        layers, arguments = built(config["predict"])
        degrees = [
            int(degree)
            for result in of(results, experiment)
            for degree in result["settings"].get("target", {}).get("mixture", {})
        ]
        arguments["degree"] = max(degrees, default=arguments["degree"])
        claims = config.get("verdicts") or ()
        for place, claim in enumerate(claims):
            _check(f"scale={experiment}: verdicts[{place}]", claim)
        return cls(experiment, tuple(layers), arguments, tuple(claims))

    def along_d(self) -> float | None:
        """Return the exponent of P* in d where all sizes grow with it as the case says."""
        if self.layers is None:
            return self.arguments["planned"]
        return float(predict(self.layers, **self.arguments).exponent)

    def in_size(self, size: str) -> float:
        """Return the exponent of P* in one size, the others fixed, where the case lies."""
        assert self.layers is not None
        scales = {"d": 1, **self.arguments["scales"]}
        return float(predict(self.layers, **self.arguments).winners[0].scaling(scales)["exponents"][size])

    def predicted(self, size: str, given: Predicted | None) -> float | None:
        """Return the predicted exponent in a size: as given, or by the rules."""
        if given is None:
            return self.along_d() if size == "d" or self.layers is None else self.in_size(size)
        if isinstance(given, Mapping):
            rules = {key: self.arguments[key] for key in ("degree", "activation")}
            energy = energy_of(list(self.layers or ()), given["patterns"], **rules)
            return float(energy.scaling({"d": 1, **given["scales"]})["exponents"][size])
        return float(Fraction(str(given)))

    def claimed(self, kind: str) -> list[dict[str, Any]]:
        """Return the arguments of the case's claims of a kind."""
        return [
            {k: v for k, v in claim.items() if k != "kind"} for claim in self.claims if claim["kind"] == kind
        ]


def cases_of(results: Sequence[Result]) -> list[Case]:
    """Return the cases of the experiments among results, in their order."""
    return [Case.of(name, results) for name in dict.fromkeys(result["experiment"] for result in results)]


def verdicts_of(case: Case, results: Sequence[Result]) -> list[Verdict]:
    """Return the verdicts on a case's claims. results: of all experiments, since some compare two."""
    found: list[Verdict] = []
    for claim in case.claims:
        arguments = {key: value for key, value in claim.items() if key != "kind"}
        found += KINDS[claim["kind"]](case, results, **arguments)
    return found


def exponent(
    case: Case,
    results: Sequence[Result],
    *,
    size: str,
    each: str | None = None,
    predicted: Predicted | None = None,
    panel: str | None = None,
    label: str | None = None,
) -> list[Verdict]:
    """P* is a power of a size.

    each: another size, at each value of which the power is fitted for itself.
    panel, label: where the figure of P* shows it, and how it calls it.
    """
    own, power = of(results, case.experiment), case.predicted(size, predicted)
    if each is None:
        return verdicts.power_law(
            own, case.experiment, size=size, predicted=power, quantity=f"exponent of P* in {size}"
        )
    return [
        row
        for value in sorted({result["sizes"][each] for result in own})
        for row in verdicts.power_law(
            [result for result in own if result["sizes"][each] == value],
            case.experiment,
            size=size,
            predicted=power,
            quantity=f"exponent of P* in {size} at {each} = {value:g}",
        )
    ]


def exponents(case: Case, results: Sequence[Result], *, sizes: list[str]) -> list[Verdict]:
    """P* is a product of powers of sizes, fitted together."""
    found = critical(of(results, case.experiment))
    try:
        fit = fitted_exponents({n: [r["sizes"][n] for r, _ in found] for n in sizes}, [e for _, e in found])
    except UserError as few:
        return [Verdict(case.experiment, "exponents of P*", None, None, "", "undecided", str(few))]
    rows = []
    for name, estimate in fit.items():
        power = case.in_size(name)
        where = f"{name} {size_range([result['sizes'][name] for result, _ in found])}"
        quantity = f"exponent of P* in {name}"
        rows.append(Verdict(case.experiment, quantity, power, estimate, where, judge(power, estimate)))
    return rows


def collapse(
    case: Case, results: Sequence[Result], *, sizes: list[str] | None = None, label: str | None = None
) -> list[Verdict]:
    """Curves of A_f fall on one another against P over the predicted P*.

    sizes: those that P* is a product of powers of; None: d alone, with which all others grow.
    label: of P over it.
    """
    unit = unit_of(case, sizes)
    if unit is None:
        return []
    shown = label if sizes else f"P / d^{case.along_d():g}"
    return verdicts.collapse(results, case.experiment, scale=unit, quantity=f"collapse against {shown}")


def unit_of(case: Case, sizes: Sequence[str] | None) -> Callable[[Mapping[str, float]], float] | None:
    """Return the predicted P* as a function of a point's sizes, up to a constant; None where nothing was predicted."""
    powers = {name: case.in_size(name) for name in sizes} if sizes else {"d": case.along_d()}

    def unit(at: Mapping[str, float]) -> float:
        product = 1.0
        for name, power in powers.items():
            product *= at[name] ** (power or 0.0)
        return product

    return None if None in powers.values() else unit


def sharpness(case: Case, results: Sequence[Result]) -> list[Verdict]:
    """The transition sharpens with d."""
    return verdicts.sharpness(results, case.experiment)


def specialised_neurons(
    case: Case, results: Sequence[Result], *, width: str, predicted: Predicted
) -> list[Verdict]:
    """The number of the first layer's specialised neurons is a power of its width."""
    power = case.predicted(width, predicted)
    return verdicts.specialisation(results, case.experiment, width=width, predicted=power or 0.0)


def ratio(
    case: Case, results: Sequence[Result], *, to: str, quantity: str, predicted: Predicted | None = None
) -> list[Verdict]:
    """P* over that of another experiment at the same d."""
    return verdicts.ratio(
        results,
        case.experiment,
        base=lambda result: result["experiment"] == to,
        other=lambda result: result["experiment"] == case.experiment,
        quantity=quantity,
        predicted=None if predicted is None else float(Fraction(str(predicted))),
    )


def arms(
    case: Case,
    results: Sequence[Result],
    *,
    size: str,
    base: int | float,
    quantity: str,
    predicted: Predicted,
) -> list[Verdict]:
    """P* at each value of a size over that at its base value, at the same d. quantity: with {} for the value."""

    def at(value: float) -> Callable[[Result], bool]:
        return lambda result: result["experiment"] == case.experiment and result["sizes"][size] == value

    return [
        row
        for value in sorted({result["sizes"][size] for result in of(results, case.experiment)} - {base})
        for row in verdicts.ratio(
            results,
            case.experiment,
            base=at(base),
            other=at(value),
            quantity=quantity.replace("{}", f"{value:g}"),
            predicted=float(Fraction(str(predicted))),
        )
    ]


KINDS: dict[str, Callable[..., list[Verdict]]] = {
    one.__name__: one for one in (exponent, exponents, collapse, sharpness, specialised_neurons, ratio, arms)
}
"""The kinds of claim, by the name that a YAML gives them."""


def _check(where: str, claim: Any) -> None:
    if not isinstance(claim, Mapping) or claim.get("kind") not in KINDS:
        kind = claim.get("kind") if isinstance(claim, Mapping) else claim
        raise UserError(f"{where}: there is no kind of claim {kind!r}; {choices(str(kind), KINDS)}")
    kind = KINDS[claim["kind"]]
    hints, parameters = typing.get_type_hints(kind), inspect.signature(kind).parameters
    taken = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for key, value in claim.items():
        if key == "kind":
            continue
        if key not in taken:
            raise UserError(f"{where}: {claim['kind']} takes no '{key}'; {choices(str(key), taken)}")
        checked(f"{where}.{key}", value, hints[key])
    if missing := [
        name for name in taken if name not in claim and parameters[name].default is inspect.Parameter.empty
    ]:
        raise UserError(f"{where}: {claim['kind']} needs {', '.join(missing)}")
