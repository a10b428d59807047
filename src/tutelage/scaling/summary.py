"""The table of verdicts from a folder of results: predictions out of `predict`, measurements out of `verdicts`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.errors import UserError
from tutelage.runs.records import write_text
from tutelage.scaling.critical_samples import exponents
from tutelage.scaling.layers import Attention, Convolution, Dense
from tutelage.scaling.predict import energy_of, predict
from tutelage.scaling.verdicts import (
    Result,
    Verdict,
    collapse,
    critical,
    judge,
    of,
    power_law,
    ratio,
    sharpness,
    size_range,
    specialisation,
)


def _named(name: str) -> Callable[[Result], bool]:
    return lambda result: result["experiment"] == name


def _guided(strength: float) -> Callable[[Result], bool]:
    return lambda result: result["experiment"] == "guided" and result["sizes"]["strength"] == strength


def _power_of_d(power: float) -> Callable[[Mapping[str, float]], float]:
    return lambda sizes: sizes["d"] ** power


KNOWN = (
    "two_layer", "two_layer_adam", "two_layer_sgd", "two_layer_planted", "two_layer_width", "three_layer", "three_layer_width",
    "convolution", "convolution_channels", "attention", "guided",
)  # fmt: skip
"""Experiments that have verdicts of their own; any other is held against the exponent its points were planned with."""


def merged(results: Sequence[Result]) -> list[Result]:
    """Put points together that differ in nothing but their seed: their draws are draws of one point.

    Raises:
        UserError: when points of one experiment and size differ in anything else.
    """
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        key = json.dumps([result["experiment"], result["sizes"]], sort_keys=True)
        if key not in found:
            found[key] = dict(result)
            continue
        own = found[key]
        kinds = [
            json.dumps(
                [r["samples"], {k: v for k, v in r["settings"].items() if k not in ("seed", "draws")}],
                sort_keys=True,
            )
            for r in (own, result)
        ]
        if kinds[0] != kinds[1]:
            sizes = ", ".join(f"{name} = {value:g}" for name, value in own["sizes"].items())
            raise UserError(
                f"two points of {own['experiment']} at {sizes} differ in more than their seed, so they cannot be one result: "
                f"{kinds[0]:.200} and {kinds[1]:.200}"
            )
        _join(own, result)
    return list(found.values())


def _join(own: dict[str, Any], other: Result) -> None:
    draws = [own["settings"]["draws"], other["settings"]["draws"]]
    for name in ("alignment", "drift", "test_error", "train_error", "guide_alignment"):
        if name in own:
            own[name] = [[*a, *b] for a, b in zip(own[name], other[name], strict=True)]
    if "overlaps" in own:  # snapshots of every draw's neurons
        layers = {}
        for layer in own["overlaps"]:
            parts = [
                np.asarray(r["overlaps"][layer]).reshape(r["overlap_networks"] // n, n, -1)
                for r, n in zip((own, other), draws, strict=True)
            ]
            layers[layer] = np.concatenate(parts, axis=1).ravel().tolist()
        own["overlaps"] = layers
        own["overlap_networks"] += other["overlap_networks"]
    own["seconds"] += other["seconds"]
    own["settings"] = {**own["settings"], "draws": sum(draws)}


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Every verdict the results allow."""
    results = merged(results)
    degree = max(
        (int(m) for r in results for m in r["settings"].get("target", {}).get("mixture", {})), default=3
    )
    dense = float(predict([Dense("N")], degree=degree, scales={"N": 1}).exponent)
    three = float(predict([Dense("N1"), Dense("N2")], degree=degree, scales={"N1": 1, "N2": 1}).exponent)
    balanced = {"C": 0.5, "S": 0.5, "n": 0.5}
    patch = float(predict([Convolution("C", "S", "n")], degree=3, scales=balanced).exponent)
    head = (
        predict([Attention("L")], degree=3, scales={"L": 0.5})
        .winners[0]
        .scaling({"d": 1, "L": 0.5})["exponents"]
    )
    width = energy_of([Dense("N")], ["Sp"], degree=3).scaling({"d": 1, "N": 1.5})["exponents"]["N"]
    channels = energy_of([Convolution("C", "S", "n")], ["Sp"], degree=3)
    channel = channels.scaling(balanced)["exponents"]["C"]
    present = {r["experiment"] for r in results}
    rows: list[Verdict] = []
    for name, predicted in (
        ("two_layer", dense),
        ("two_layer_adam", dense),
        ("two_layer_sgd", dense),
        ("three_layer", three),
        ("convolution", patch),
    ):
        if name in present:
            rows += power_law(results, name, size="d", predicted=predicted, quantity="exponent of P* in d")
    for name, power in (("two_layer", dense), ("three_layer", three), ("convolution", patch)):
        if name in present:
            rows += collapse(
                results,
                name,
                scale=_power_of_d(power),
                quantity=f"collapse against P / d^{power:g}",
            )
            rows += sharpness(results, name)
    if "two_layer_width" in present:
        for d in sorted({r["sizes"]["d"] for r in of(results, "two_layer_width")}):
            own = [r for r in of(results, "two_layer_width") if r["sizes"]["d"] == d]
            rows += power_law(
                own,
                "two_layer_width",
                size="N",
                predicted=float(width),
                quantity=f"exponent of P* in N at d = {d:g}",
            )
        rows += specialisation(results, "two_layer_width", width="N", predicted=0.5)
    if "three_layer_width" in present:
        rows += specialisation(results, "three_layer_width", width="N1", predicted=1 / 3)
    if "convolution_channels" in present:
        rows += power_law(
            results,
            "convolution_channels",
            size="C",
            predicted=float(channel),
            quantity="exponent of P* in C",
        )
    if "attention" in present:
        rows += _attention(results, head)
    strengths = sorted({r["sizes"]["strength"] for r in of(results, "guided")} - {0})
    for strength in strengths:
        rows += ratio(
            results,
            "guided",
            base=_guided(0),
            other=_guided(strength),
            quantity=f"P* guided ({strength:g} nats a point) over unguided",
            predicted=1.0,
        )
    for name, label in (("adam", "Adam"), ("sgd", "SGD")):
        rows += ratio(
            results,
            f"two_layer_{name}",
            base=_named("two_layer"),
            other=_named(f"two_layer_{name}"),
            quantity=f"P* of {label} over Langevin",
        )
    rows += ratio(
        results,
        "two_layer_planted",
        base=_named("two_layer"),
        other=_named("two_layer_planted"),
        quantity="P* from a planted start over a random start",
        predicted=1.0,
    )
    for name in sorted(present - set(KNOWN)):
        rows += _planned(results, name)
    return rows


def _planned(results: Sequence[Result], name: str) -> list[Verdict]:
    own = of(results, name)
    power = own[0]["settings"].get("predicted")
    rows = power_law(results, name, size="d", predicted=power, quantity="exponent of P* in d")
    if power is not None:
        rows += collapse(
            results, name, scale=_power_of_d(power), quantity=f"collapse against P / d^{power:g}"
        )
    return rows


def _attention(results: Sequence[Result], predicted: Mapping[str, Any]) -> list[Verdict]:
    found = critical(of(results, "attention"))
    rows = []
    try:
        fit = exponents({n: [r["sizes"][n] for r, _ in found] for n in ("d", "L")}, [e for _, e in found])
        for name, estimate in fit.items():
            power = float(predicted[name])
            where = f"{name} {size_range([r['sizes'][name] for r, _ in found])}"
            rows.append(
                Verdict(
                    "attention", f"exponent of P* in {name}", power, estimate, where, judge(power, estimate)
                )
            )
    except UserError as few:
        rows.append(Verdict("attention", "exponents of P*", None, None, "", "undecided", str(few)))
    return rows + collapse(
        results,
        "attention",
        scale=lambda s: (s["L"] * s["d"] ** 3) ** 0.5,
        quantity="collapse against P / sqrt(L d^3)",
    )


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row[name] for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def critical_rows(results: Sequence[Result]) -> list[dict[str, str]]:
    """P* of every point, with its interval, how far from equilibrium it was, and what it cost."""
    rows = []
    for result in sorted(results, key=lambda r: (r["experiment"], list(r["sizes"].values()))):
        found = critical([result])
        drift = np.abs(np.asarray(result["drift"]).mean(1)).max()
        stiffness = result.get("largest_curvature", 0.0) * result["settings"]["step_size"] ** 2
        rows.append(
            {
                "experiment": result["experiment"],
                "sizes": ", ".join(f"{name} = {value:g}" for name, value in result["sizes"].items()),
                "P*": f"{found[0][1].value:.0f}" if found else "no crossing",
                "95% interval": f"{found[0][1].low:.0f} to {found[0][1].high:.0f}"
                if found and found[0][1].low == found[0][1].low
                else "",
                "P grid": f"{result['samples'][0]} to {result['samples'][-1]}",
                "largest A_f": f"{max(np.mean(row) for row in result['alignment']):.2f}",
                "largest drift": f"{drift:.2f}",
                "dt^2 h": f"{stiffness:.2f}" if stiffness else "",
                "networks": str(len(result["samples"]) * result["settings"]["draws"]),
                "steps": str(result["settings"]["steps"]),
                "seconds": f"{result['seconds']:.0f} ({result['device']})",
            }
        )
    return rows


def analyse(results: Sequence[Result], folder: Path) -> dict[str, list[dict[str, str]]]:
    """Write verdicts.md, verdicts.csv, critical_samples.csv and the figures to `folder`; the tables' rows are returned.

    Raises:
        UserError: when there are no results.
    """
    if not results:
        raise UserError("There are no results to analyse: run `tutelage scale measure` first")
    from tutelage.scaling.figures import draw_all

    results = merged(results)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"critical_samples": critical_rows(results), "verdicts": [row.row() for row in verdicts(results)]}
    tables = {name: found for name, found in rows.items() if found}
    for name, found in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    write_text(folder / "verdicts.md", "\n".join(markdown(tables[name]) for name in reversed(tables)))
    draw_all(results, folder)
    return tables
