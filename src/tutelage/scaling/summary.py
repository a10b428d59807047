"""The table of verdicts from a folder of results: predictions out of `predict`, measurements out of `verdicts`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.errors import UserError
from tutelage.scaling.layers import Attention, Convolution, Dense
from tutelage.scaling.predict import energy_of, predict
from tutelage.scaling.statistics import exponents
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


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Every verdict the results allow."""
    dense = float(predict([Dense("N")], degree=3, scales={"N": 1}).exponent)
    three = float(predict([Dense("N1"), Dense("N2")], degree=3, scales={"N1": 1, "N2": 1}).exponent)
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
                "95% interval": f"{found[0][1].low:.0f} to {found[0][1].high:.0f}" if found else "",
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


def analyse(results: Sequence[Result], folder: Path) -> str:
    """Write verdicts.md, verdicts.csv, critical_samples.csv and the figures to `folder`; the Markdown is returned.

    Raises:
        UserError: when there are no results.
    """
    if not results:
        raise UserError("There are no results to analyse: run a suite first")
    from tutelage.scaling.figures import draw_all

    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "verdicts": [row.row() for row in verdicts(results)],
        "critical_samples": critical_rows(results),
    }
    for name, rows in tables.items():
        if rows:
            with (folder / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    text = "\n".join(markdown(rows) for rows in tables.values() if rows)
    (folder / "verdicts.md").write_text(text)
    draw_all(results, folder)
    return text
