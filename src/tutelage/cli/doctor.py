"""`tutelage doctor`: what a command would run, where each value comes from, layer pairs, splits, and what is missing."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from tutelage.cli.reader import Given
from tutelage.cli.speed import alone
from tutelage.errors import UserError
from tutelage.reporting.console import console, say, width
from tutelage.reporting.fitted import Fitted
from tutelage.runs.identity import flatten
from tutelage.runs.needs import Plan
from tutelage.runs.provenance import changed_files, changed_packages
from tutelage.runs.store import Store
from tutelage.wrapping import wrapped

log = logging.getLogger("tutelage")


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    overrides = given.settings
    log.info("composing the command's configuration")  # a word at once: Hydra is loaded first
    from tutelage.config.planner import plan_of

    plan = plan_of(overrides)
    _values(plan, overrides)
    say("\nRuns", "bold")
    _runs(plan)
    problems = _build(plan) if "--build" in given.flags else []
    for problem in problems:
        say(f"missing: {problem}", "red")
    return 2 if problems else 0


def _values(plan: Plan, overrides: Sequence[str]) -> None:
    """Print every value and what sets it; where the terminal is too narrow for both in a line, what sets it stands above."""
    from tutelage.config.origins import SETS_OTHERS, origins_and_defaults

    where, defaults = origins_and_defaults(overrides)
    say("Values (and what sets each; * differs from the default of what was chosen)", "bold", len("Values"))
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
    wide = all(keys + max(texts, len(text)) + len(origin) + 6 <= width() for _, _, text, origin in rows)
    above = None
    for mark, key, text, origin in rows:
        if wide:
            line = f"{mark} {key:<{keys}}  {text:<{texts}}  {origin}"
        else:
            if origin != above:
                _say(f"{origin}:", "dim", indent="    ")
            above = origin
            line = f"{mark} {key:<{min(keys, 40)}}  {text}"
        _say(line, "bold" if mark == "*" else "", indent="      ")


def _say(line: str, style: str = "", *, indent: str = "  ") -> None:
    """Print a line within the terminal's width, broken between words."""
    for part in wrapped(line, width(), indent):
        say(part, style)


def _runs(plan: Plan) -> None:
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
        _say(f"  {role:<9} {item.key}  {run.state}{note}", indent="            ")


def _build(plan: Plan) -> list[str]:
    from tutelage.engine.build import build
    from tutelage.engine.data_sets import build_data

    try:
        data = build_data(plan.config)
    except UserError as error:
        return [str(error)]
    say("\nData", "bold")
    _facts(data.summary())
    missing = [
        p.key for p in plan.prerequisites() if not Store(plan.config["runs_dir"]).at(p.key).is_complete
    ]
    if missing:
        say(
            "\nneeded runs are not complete yet, so their weights are shown as scratch: " + ", ".join(missing)
        )
    config = plan.config if not missing else alone(plan.config)
    try:
        built = build(config, data)
    except UserError as error:
        return [str(error)]
    method = built.method
    say("\nNetworks", "bold")
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    final = {where: f", final layer {layer}" for where, layer in built.heads.items()}
    say(f"  trained: {type(method.network).__name__}, {trained:,} parameters{final.get('model', '')}")
    for role, frozen in method.frozen.items():
        say(
            f"  {role}: {sum(p.numel() for p in frozen.network.parameters()):,} frozen parameters{final.get(role, '')}"
        )
    described = method.describe()
    objectives = described.pop("objectives", {})
    _facts(described)
    for name in method.objectives.names:
        facts = dict(objectives.get(name, {}))
        objective = method.objectives[name]
        schedule = "" if objective.schedule.name == "always" else f", {objective.schedule.name}"
        say(f"\nObjective {name} (weight {objective.weight:g}{schedule})", "bold", len(f"\nObjective {name}"))
        pairs = facts.pop("pairs", None)
        _facts(facts)
        if pairs and isinstance(pairs[0], dict):
            say(f"Layer pairs ({len(pairs)})")
            console().print(_pair_table(pairs))
        elif pairs:
            _facts({"pairs": pairs})
    return []


def _facts(facts: dict[str, Any]) -> None:
    """Print what is there to say, a line each."""
    shown = {key: _plain(value) for key, value in facts.items()}
    keys = max((len(key) for key, value in shown.items() if value), default=0)
    for key, value in shown.items():
        if value:
            _say(f"  {key:<{keys}}  {value}", indent="    ")


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
    header = ["", *(f"{role} {what}" for role in ("guide", "network") for what in ("layer", "kind", "shape"))]
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
