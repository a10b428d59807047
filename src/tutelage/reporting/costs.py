"""What the networks of a report's arms cost, as columns: counted and stored by their runs, or measured here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.reporting.report_model import Line, Report
from tutelage.runs.run import Run, State
from tutelage.runs.store import Store

COLUMNS = ("parameters", "flops", "size", "latency", "memory")
MEASURED = ("latency", "memory")
Measure = Callable[[Run, Path], dict[str, str]]
"""From a run and the runs folder to columns in words, each beginning with the name of one of `MEASURED`."""
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def with_costs(
    report: Report, store: Store, names: Sequence[str], measure: Measure | None = None, machine: str = ""
) -> Report:
    """Return a report with columns of costs: of the first complete run of each arm, as its other seeds have the same network.

    measure: needed where one of `MEASURED` is among the names. machine: what it measures on, in words.
    """
    if not names:
        return report
    lines = tuple(_with(line, store, names, measure) for line in report.lines)
    notes = [f"Latency and memory: {machine}; median of many warm forwards"] if measure else []
    if "flops" in names:
        notes.append(
            "flops: operations of one sample's forward, a multiplication and an addition being two; products, convolutions and attention"
        )
    return replace(report, lines=lines, notes=(*report.notes, *notes))


def _with(line: Line, store: Store, names: Sequence[str], measure: Measure | None) -> Line:
    done = [row for row in line.rows if row.state is State.COMPLETE]
    if not done:
        return line
    run = store.at(done[0].key)
    costs: dict[str, str] = {}
    for name in names:
        if name not in MEASURED:
            costs[name] = _recorded(name, run)
    if measure is not None:
        found = measure(run, store.root)
        costs |= {key: value for key, value in found.items() if any(key.startswith(name) for name in names)}
    return replace(line, costs=costs)


def _recorded(name: str, run: Run) -> str:
    """A column of what a run recorded: of its network, and in brackets of its frozen ones."""
    if name == "size":
        file = run.path / "network.safetensors"
        return f"{file.stat().st_size / 2**20:.3g} MiB" if file.is_file() else "-"
    networks = (run.result or {}).get("networks")
    if not networks:
        return "not recorded"
    own = _number(networks["model"], name)
    return own + "".join(
        f" ({role} {_number(found, name)})" for role, found in networks.items() if role != "model"
    )


def _number(found: dict[str, Any], name: str) -> str:
    if name == "flops":
        return "-" if found["operations"] is None else short(found["operations"])
    held, alive = found["parameters"], found["nonzero"]
    # the odd zero is an initial bias
    return short(held) + (f", {1 - alive / held:.0%} of them 0" if held and alive < 0.9 * held else "")


def short(value: float) -> str:
    """Return a count in three digits, such as 1.23M."""
    shown = float(f"{value:.3g}")  # 999,999 is 1M
    unit, letter = next((pair for pair in _UNITS if shown >= pair[0]), (1, ""))
    return f"{shown / unit:g}{letter}"
