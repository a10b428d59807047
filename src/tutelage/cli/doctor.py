"""`tutelage doctor`: what a command would run, where each value comes from, layer pairs, splits, and what is missing."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.fitted import Fitted
from tutelage.runs.identity import flatten
from tutelage.runs.needs import Plan
from tutelage.runs.provenance import changed_files, changed_packages
from tutelage.runs.store import Store
from tutelage.runs.weights import Weights, networks
from tutelage.wrapping import wrapped


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    build, overrides = "--build" in given.flags, given.settings
    from tutelage.config.planner import plan_of
    from tutelage.reporting.console import console as console_of

    console = console_of(highlight=False, soft_wrap=True)
    plan = plan_of(overrides)
    _values(plan, overrides, console)
    console.print("\n[bold]Runs[/bold]")
    _runs(plan, console)
    problems = _build(plan, console) if build else []
    for problem in problems:
        console.print(f"missing: {problem}", style="red", markup=False)
    return 2 if problems and build else 0


def _values(plan: Plan, overrides: Sequence[str], console: Any) -> None:
    """Print every value and what sets it; where the terminal is too narrow for both in a line, what sets it stands above."""
    from tutelage.config.origins import SETS_OTHERS, origins_and_defaults

    where, defaults = origins_and_defaults(overrides)
    console.print("[bold]Values[/bold] (and what sets each; * differs from the default of what was chosen)")
    rows = []
    for key, value in flatten(plan.config):
        origin = where.get(key) or where.get(key.rpartition(".")[0], "resolved")
        said = origin.startswith(("command: ", *(f"conf/{group}" for group in SETS_OTHERS)))
        differs = said and (key not in defaults or defaults[key] != value)
        text = repr(value)
        if differs and key in defaults and not isinstance(defaults[key], dict):
            text += f" (default {defaults[key]!r})"
        rows.append(("*" if differs else " ", key, text, origin))
    keys, texts = (max(len(row[place]) for row in rows) for place in (1, 2))
    texts = min(texts, 40)
    wide = all(keys + max(texts, len(text)) + len(origin) + 6 <= console.width for _, _, text, origin in rows)
    above = None
    for mark, key, text, origin in rows:
        if wide:
            line = f"{mark} {key:<{keys}}  {text:<{texts}}  {origin}"
        else:
            if origin != above:
                _say(f"{origin}:", console, "dim", indent="    ")
            above = origin
            line = f"{mark} {key:<{min(keys, 40)}}  {text}"
        _say(line, console, "bold" if mark == "*" else None, indent="      ")


def _say(line: str, console: Any, style: str | None = None, *, indent: str = "  ") -> None:
    """Print a line within the terminal's width, broken between words."""
    for part in wrapped(line, console.width, indent) if len(line) > console.width else [line]:
        console.print(part, style=style, markup=False)


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
        _say(f"  {role:<9} {item.key}  {run.state}{note}", console, indent="            ")


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
            console.print(_pair_table(pairs), soft_wrap=False)
        elif pairs:
            _facts({"pairs": pairs}, console)
    return []


def _facts(facts: dict[str, Any], console: Any) -> None:
    """Print what is there to say, a line each."""
    shown = {key: _plain(value) for key, value in facts.items()}
    width = max((len(key) for key, value in shown.items() if value), default=0)
    for key, value in shown.items():
        if value:
            _say(f"  {key:<{width}}  {value}", console, indent="    ")


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


def _pair_table(pairs: Sequence[dict[str, Any]]) -> Fitted:
    header = [
        "",
        "guide layer",
        "guide kind",
        "guide shape",
        "network layer",
        "network kind",
        "network shape",
    ]
    rows = [
        [
            f"  {number:02d}",
            *(
                cell
                for role in ("guide", "network")
                for cell in (pair[role], pair[f"{role}_kind"], " x ".join(map(str, pair[f"{role}_shape"])))
            ),
        ]
        for number, pair in enumerate(pairs, start=1)
    ]
    return Fitted(
        "",
        header,
        rows,
        left=header,
        wraps=header[2:4] + header[5:],
        drop=("guide kind", "network kind"),
        boxed=False,
    )


def _without_needs(config: dict[str, Any]) -> dict[str, Any]:
    shown = copy.deepcopy(config)
    for where, node in networks(shown):
        if Weights.of(shown, where).need:
            node["weights"] = "scratch"
    return shown
