"""`tutelage synthesize`: a pseudo data set as a run, made or finished, and mended where a shard is damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.reader import Given
from tutelage.errors import UserError

if TYPE_CHECKING:
    from tutelage.runs.needs import Plan


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    from tutelage.config.planner import plan_of
    from tutelage.jobs.launch import mend, run_plan
    from tutelage.jobs.outcomes import headline
    from tutelage.runs.setting import is_synthesis

    words = given.settings
    if given.names:
        plan = _plan_of_run(given.names[0], words, given.options["code"])
    else:
        spoken = {word.partition("=")[0] for word in words}
        name = [] if spoken & {"experiment", "name"} else ["name=pseudo"]
        plan = plan_of([*([] if "method" in spoken else ["method=synthesis"]), *name, *words])
    if not is_synthesis(plan.config):
        raise UserError(
            f"{plan.name} makes no pseudo data set: the file of its method ({plan.config['method']['_target_']}) does not declare "
            "`_makes_: pseudo_data`"
        )
    result = mend(plan) or run_plan(plan, rerun=plan.config["rerun"])
    print(f"{plan.key}: {headline(result)}\n{plan.config['runs_dir']}/{plan.key}/shards")
    return 0


def _plan_of_run(name: str, words: Sequence[str], code: str) -> Plan:
    from tutelage.config.compose import compose, hydra_ready
    from tutelage.engine import trust
    from tutelage.runs import needs
    from tutelage.runs.store import Store

    runs_dir = ""
    for word in words:
        key, _, value = word.partition("=")
        if key != "runs_dir":
            raise UserError(f"synthesize <run> takes runs_dir=<folder> and code=<modules>, got {word!r}")
        runs_dir = value
    run = Store(runs_dir or "runs").find(name)
    trust.check_stored(run.config, run.path, code=trust.modules(code))
    # The folder of runs is the one that it lies in here, not the one that its configuration tells of.
    lies, stored = run.path.resolve().parent, str(run.config.get("name"))
    root = lies.parents[stored.count("/")] if str(lies).endswith(f"/{stored}") else Path("runs")
    config = run.config | {"runs_dir": runs_dir or _short(root)}
    with hydra_ready():
        return needs.plan(config, lambda overrides: compose(overrides))


def _short(folder: Path) -> str:
    """Return a folder as a user would give it: below the working folder by its relative path."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
