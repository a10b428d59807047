"""`tutelage train`: one run, or with -m a sweep whose finished runs are reused and whose failures are listed at the end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tutelage.cli.reader import Given
from tutelage.errors import UserError, counted
from tutelage.jobs.outcomes import headline

if TYPE_CHECKING:
    from tutelage.reporting.row import Row
    from tutelage.reporting.tables import Table
    from tutelage.runs.needs import Plan
    from tutelage.runs.run import Run

log = logging.getLogger("tutelage")


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    overrides = given.settings
    if given.flags or any(word.startswith("sweep=") for word in overrides):
        return multirun(overrides)
    if of_hydra := [word for word in overrides if word.startswith(("hydra.", "hydra/"))]:
        raise UserError(f"{of_hydra[0]} is for sweeps, whose jobs Hydra lists and launches: add -m")
    from tutelage.config.planner import plan_of
    from tutelage.engine.rank_environment import global_rank, in_ranks
    from tutelage.jobs.launch import run_plan
    from tutelage.runs.store import short

    plan = plan_of(overrides)
    if sys.stderr.isatty() and (not in_ranks() or global_rank() == 0):
        fit = plan.config["fit"]
        length = f"{fit['max_steps']:,} steps" if fit["max_steps"] is not None else f"{fit['epochs']} epochs"
        where = plan.config["hardware"]["accelerator"]
        log.info(f"{short(plan.key)} seed {plan.config['seed']}: {length} on {where}")
    result = run_plan(plan, rerun=plan.config["rerun"])
    if not in_ranks() or global_rank() == 0:
        show(result, plan.key, plan.config["runs_dir"])
    return 0


def multirun(overrides: Sequence[str]) -> int:
    """Run a sweep; afterwards list the failures and show its table."""
    from tutelage.config.compose import as_given, readable
    from tutelage.config.sweeps import sweeper_of

    search, words = sweeper_of(as_given(readable(overrides)))
    if search is None:
        return _commands(words)
    from tutelage.config.planner import Planner
    from tutelage.jobs.sweep import launcher_of, run_search

    launch, words = launcher_of(words, 1)
    jobs = run_search(words, search, launch, Planner(), _latency_ms)
    if search["cost"]:
        from tutelage.reporting.pareto_figure import draw

        if path := draw(jobs.folder / "trials.csv"):
            log.info("written: %s", path)
    return jobs.close()


def _latency_ms(run: Run) -> float:
    """Return the median milliseconds of one sample on one thread, measured once and kept beside the runs."""
    from tutelage.analysis.network_cost import latency_ms
    from tutelage.reporting import measured

    root = run.path.parents[len(run.key.split("/")) - 1]
    asked = {"batch": "1", "threads": "1"}
    if (found := measured.recall(root, run, "latency", asked)) is None:
        found = [{"latency_ms": latency_ms(run, root)}]
        measured.remember(root, run, "latency", asked, found)
    return float(found[0]["latency_ms"])


def _commands(overrides: Sequence[str]) -> int:
    """Run the commands that the words, or a table and the words, make; show the table of their runs."""
    from tutelage.cli.sweep_words import arms_of, table_of
    from tutelage.config.planner import Planner
    from tutelage.jobs.frozen_words import fitting
    from tutelage.jobs.sweep import PLACES, launcher_of, run_commands

    plan = Planner()
    table, words = table_of(overrides)
    launch, words = launcher_of(words, table.processes if table else 1)
    arms = arms_of(table, words)
    log.info("%s", counted(sum(map(len, arms.values())), "command"))  # a word at once
    given = [command for commands in arms.values() for command in commands]
    commands = fitting(given, plan.compose)
    if not commands:
        raise UserError(f"the sweep has no job: one of {' '.join(words)} has no value")
    runs_dir = plan.compose([word for word in words if word.startswith(PLACES)])["runs_dir"]
    jobs, plans = run_commands(commands, launch, runs_dir, plan)
    code = jobs.close()
    of_command = {command: plan for command, plan in zip(given, plans, strict=True) if plan is not None}
    _show_table(
        table,
        {label: [of_command[c] for c in arm if c in of_command] for label, arm in arms.items()},
        runs_dir,
    )
    return code


def _show_table(table: Table | None, arms: Mapping[str, Sequence[Plan]], runs_dir: str) -> None:
    from tutelage.reporting.collect import Known, row_of
    from tutelage.reporting.console import console
    from tutelage.reporting.facts import settings_of
    from tutelage.reporting.index import Index
    from tutelage.reporting.render import terminal
    from tutelage.reporting.runs_report import FILES, sweep_report, write
    from tutelage.runs.run import State
    from tutelage.runs.store import Store

    store = Store(runs_dir)
    known = Known(index := Index(store.root))

    def row(plan: Plan) -> Row:
        found = row_of(store.run(plan.name, plan.identity), store, known)
        if found.inputs:
            return found
        settings = settings_of(
            plan.config
        )  # of a run that was not begun its plan knows the seed and the fold
        return replace(found, seed=settings.seed, inputs=settings.inputs)

    rows = {label: [row(plan) for plan in plans] for label, plans in arms.items()}
    index.save()
    if not any(row.state is State.COMPLETE for found in rows.values() for row in found):
        return
    report = sweep_report(
        table.title if table else "this sweep",
        {label: found for label, found in rows.items() if found},
        sorted({row.seed for found in rows.values() for row in found}),
    )
    console().print(terminal(report))
    if table:
        write(report, store, store.root / table.name, FILES)
        written = [name for name in FILES.values() if (store.root / table.name / name).is_file()]
        print(f"written: {store.root / table.name}/{', '.join(written)}")


def show(result: dict[str, Any], key: str, runs_dir: str) -> None:
    """Print a finished run."""
    print(f"{key}: {headline(result)}\n{runs_dir}/{key}")
