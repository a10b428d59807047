"""`tutelage doctor`: what a command would run, where each value comes from, layer pairs, splits, and what is missing."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.runs.identity import flatten
from tutelage.runs.needs import Plan
from tutelage.runs.provenance import changed_files, changed_packages
from tutelage.runs.store import Store
from tutelage.runs.weights import Weights, networks


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    build, overrides = "--build" in given.flags, given.settings
    from tutelage.config.compose import plan_of
    from tutelage.config.origins import origins
    from tutelage.reporting.console import console as console_of

    console = console_of(highlight=False, soft_wrap=True)
    plan = plan_of(overrides)
    where = origins(overrides)
    console.print("[bold]Values[/bold] (and what sets each)")
    values = dict(flatten(plan.config))
    width = max(map(len, values))
    for key, value in values.items():
        console.print(
            f"  {key:<{width}}  {value!r:<24}  {where.get(key) or where.get(key.rpartition('.')[0], 'resolved')}",
            markup=False,
        )
    console.print("\n[bold]Runs[/bold]")
    _runs(plan, console)
    problems = _build(plan, console) if build else []
    for problem in problems:
        console.print(f"missing: {problem}", style="red", markup=False)
    return 2 if problems and build else 0


def _runs(plan: Plan, console: Any) -> None:
    store = Store(plan.config["runs_dir"])
    for role, item in [
        *((f"need {i}", p) for i, p in enumerate(plan.prerequisites(), 1)),
        ("this run", plan),
    ]:
        run = store.run(item.name, item.identity)
        note = ""
        files = changed_files(run.attempts, item.config) if run.is_complete else []
        if run.is_complete and (packages := [*files, *changed_packages(run.attempts)]):
            note = f" (the code of {', '.join(packages)} has changed since)"
        console.print(f"  {role:<9} {item.key}  {run.state}{note}", markup=False)


def _build(plan: Plan, console: Any) -> list[str]:
    from tutelage.engine.build import build, build_data

    try:
        data = build_data(plan.config)
    except UserError as error:
        return [str(error)]
    console.print("\n[bold]Data[/bold]")
    _facts(data.summary(), console)
    missing = [
        p.key for p in plan.prerequisites() if not Store(plan.config["runs_dir"]).at(p.key).is_complete
    ]
    if missing:
        console.print(
            "\nneeded runs are not complete yet, so their weights are shown as scratch: "
            + ", ".join(missing),
            markup=False,
        )
    config = plan.config if not missing else _without_needs(plan.config)
    try:
        built = build(config, data)
    except UserError as error:
        return [str(error)]
    method = built.method
    console.print("\n[bold]Networks[/bold]")
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    final = {where: f", final layer {layer}" for where, layer in built.heads.items()}
    console.print(
        f"  trained: {type(method.network).__name__}, {trained:,} parameters{final.get('model', '')}",
        markup=False,
    )
    for role, frozen in method.frozen.items():
        console.print(
            f"  {role}: {sum(p.numel() for p in frozen.network.parameters()):,} frozen parameters{final.get(role, '')}",
            markup=False,
        )
    described = method.describe()
    objectives = described.pop("objectives", {})
    _facts(described, console)
    for name in method.objectives.names:
        facts = dict(objectives.get(name, {}))
        objective = method.objectives[name]
        schedule = "" if objective.schedule.name == "always" else f", {objective.schedule.name}"
        console.print(f"\n[bold]Objective {name}[/bold] (weight {objective.weight:g}{schedule})")
        pairs = facts.pop("pairs", None)
        _facts(facts, console)
        if pairs and isinstance(pairs[0], dict):
            console.print(f"Layer pairs ({len(pairs)})")
            console.print(_pair_table(pairs))
        elif pairs:
            _facts({"pairs": pairs}, console)
    return []


def _facts(facts: dict[str, Any], console: Any) -> None:
    """Print what is there to say, a line each."""
    shown = {key: _plain(value) for key, value in facts.items()}
    width = max((len(key) for key, value in shown.items() if value), default=0)
    for key, value in shown.items():
        if value:
            console.print(f"  {key:<{width}}  {value}", markup=False)


def _plain(value: Any) -> str:
    """Return a fact as a user would write it: no quotes, hashes by their first digits, nothing for what is empty."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, dict | list | tuple) for item in value)
        return (
            "; " if nested else " x " if 1 < len(value) <= 3 and all(type(v) is int for v in value) else ", "
        ).join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return f"{value[:12]}..."
    return "" if value is None else str(value)


def _pair_table(pairs: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "guide layer", "kind", "shape", "network layer", "kind", "shape"):
        table.add_column(title, no_wrap=True)
    for number, pair in enumerate(pairs, start=1):
        sides = [
            cell
            for role in ("guide", "network")
            for cell in (pair[role], pair[f"{role}_kind"], " x ".join(map(str, pair[f"{role}_shape"])))
        ]
        table.add_row(f"  {number:02d}", *sides)
    return table


def _without_needs(config: dict[str, Any]) -> dict[str, Any]:
    shown = copy.deepcopy(config)
    for where, node in networks(shown):
        if Weights.of(shown, where).need:
            node["weights"] = "scratch"
    return shown
