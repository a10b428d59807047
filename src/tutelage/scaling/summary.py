"""The tables and figures of a folder of results, and what their cases claim held against them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.errors import UserError
from tutelage.runs.records import write_text
from tutelage.scaling.claims import cases_of, verdicts_of
from tutelage.scaling.verdicts import Result, Verdict, critical


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
    """Return every verdict that the results allow, experiment by experiment: what its case claims."""
    results = merged(results)
    return [row for case in cases_of(results) for row in verdicts_of(case, results)]


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
        raise UserError("there are no results to analyse: run `tutelage scale measure` first")
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
