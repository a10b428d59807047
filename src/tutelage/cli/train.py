"""`tutelage train`: one run, or with -m a sweep whose finished runs are reused and whose failures are listed at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from tutelage.errors import UserError
from tutelage.jobs.outcomes import Outcome, headline

log = logging.getLogger("tutelage")
HELP = """usage: tutelage train [-m] [group=choice ...] [key=value ...]

One run in runs/<name>/<identity>: the same command gives the same folder. Complete: the stored result is shown. Interrupted: it
resumes exactly. With -m, values separated by commas make a sweep, and `sweep=<name>` is a prepared one; giving the same
sweep again finishes it.

  experiment=demo/plain           a prepared experiment (`tutelage list experiments`)
  data= model= method= optimizer= hardware= logger=     choices (`tutelage list models`, ...)
  model@guide= model@teacher=     the frozen network that a method learns under
  seed=0 fit.max_steps=2000       any setting (`tutelage doctor <the same words>` shows them all, and where each comes from)
  rerun=true                      archive the earlier attempt and run again
  retry=2                         try a job again that failed for no fault of its words (a full disk, a lost device)
  on_failure=continue|stop        of a sweep: go on with the other jobs (default), or begin no further one

A search: -m hydra/sweeper=optuna hydra.sweeper.trials=20 'model.depth=range(2,9)' 'optimizer.lr=tag(log,interval(1e-4,1e-1))'
What failed is listed at the end, with the reason and the log. Exit code: 0; 1 a run failed; 2 a mistake in the command.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    if any(word in ("-h", "--help") for word in arguments):
        print(HELP)
        return 0
    overrides = [word for word in arguments if word not in ("-m", "--multirun")]
    for word in overrides:
        if word.startswith("-"):
            raise UserError(f"train has no option '{word}'. Known: -m; settings are given as key=value")
    if len(overrides) != len(arguments) or any(word.startswith("sweep=") for word in overrides):
        return multirun(overrides)
    if of_hydra := [word for word in overrides if word.startswith(("hydra.", "hydra/"))]:
        raise UserError(f"{of_hydra[0]} is for sweeps, whose jobs Hydra lists and launches: add -m")
    from tutelage.config.compose import plan_of
    from tutelage.engine.rank_environment import global_rank, in_ranks
    from tutelage.jobs.launch import run_plan

    plan = plan_of(overrides)
    result = run_plan(plan, rerun=plan.config["rerun"])
    if not in_ranks() or global_rank() == 0:
        show(result, plan.key, plan.config["runs_dir"])
    return 0


def multirun(overrides: Sequence[str]) -> int:
    """Run a sweep; afterwards list the failures and show the sweep's report."""
    from tutelage.jobs.sweep import run_sweep

    jobs, runs_dir = run_sweep(overrides)
    done = [note.key for note in jobs.notes() if note.outcome is Outcome.DONE]
    code = jobs.close()
    searched = (jobs.folder / "trials.csv").exists()  # a search has its own table
    if done and not searched and any(word.startswith("sweep=") for word in overrides):
        from tutelage.cli.report import report_runs

        report_runs(os.path.commonpath([key.rpartition("/")[0] for key in done]), [f"runs_dir={runs_dir}"])
    return code


def show(result: dict[str, Any], key: str, runs_dir: str) -> None:
    """Print a finished run."""
    print(f"{key}: {headline(result)}\n{runs_dir}/{key}")
