"""Plans and results that are made up: as much of each as those look at who only wait for runs, name them and list them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.runs.needs import Plan
from tutelage.runs.records import write_json


def plan(
    runs_dir: Path | str = "runs", seed: int = 0, needs: Sequence[Plan] = (), name: str = "x", **settings: Any
) -> Plan:
    """Give a plan of the run `<name>/<seed in twelve digits>`, which needs others."""
    hardware = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    config = {
        "hardware": hardware | settings.pop("hardware", {}),
        "data": {},
        "seed": seed,
        "retry": 0,
        "rerun": False,
        "on_failure": "continue",
        "runs_dir": str(runs_dir),
    }
    named = {f"need{number}": need for number, need in enumerate(needs)}
    return Plan(config | settings, name, f"{seed:012}", named)


def stored(path: Path, accuracy: float = 0.5, step: int = 1, steps: int = 1, **more: Any) -> None:
    """Give a run a result."""
    path.mkdir(parents=True, exist_ok=True)
    best = {"validation": {"accuracy": accuracy}, "test": {"accuracy": accuracy}, "step": step}
    result = {
        "state": "complete",
        "best": best,
        "selection": {"monitor": "accuracy"},
        "metrics": {},
        "cost": {"steps": steps},
    }
    write_json(path / "result.json", result | more)
