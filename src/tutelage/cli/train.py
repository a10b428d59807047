"""`tutelage train`: one run, or with -m a sweep whose finished runs are reused and whose failures are listed at the end."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.records import append_json_line

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
"""


class Sweep:
    """What became of the jobs of one command: a file of one line per job, which jobs in other processes append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, key: str, failure: str | None = None, mistake: bool = False) -> None:
        """Note that a job finished, or why it failed; mistake: whether the user can mend it."""
        append_json_line(self.path, {"key": key, "failure": failure, "mistake": mistake})

    def jobs(self) -> list[dict[str, Any]]:
        """Return the notes of all jobs."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


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
    from tutelage.cli.compose import plan_of
    from tutelage.engine.launch import run_plan

    plan = plan_of(overrides)
    show(run_plan(plan, rerun=plan.config["rerun"]), plan.key, plan.config["runs_dir"])
    return 0


def multirun(overrides: Sequence[str]) -> int:
    """Run a sweep through Hydra's sweeper and launcher; afterwards list the failures and show the sweep's report."""
    import hydra

    from tutelage.cli import compose

    compose.prepare()
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # Hydra passes errors on instead of printing and leaving: `main` words them
    )
    before = sys.argv
    notes = tempfile.TemporaryDirectory(prefix="tutelage-sweep-")
    sweep = Sweep(Path(notes.name) / "jobs.jsonl")
    sys.argv = ["tutelage", *compose.search_path(), *overrides, "-m"]
    try:
        hydra.main(version_base="1.3", config_path=str(compose.config_folder()), config_name=compose.PRIMARY)(
            lambda node: job(node, sweep)
        )()
    except Exception as error:
        if isinstance(error, UserError) or not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        raise compose.explain(error, overrides) from error
    finally:
        sys.argv = before
    with notes:
        return finish(sweep.jobs(), overrides)


def job(node: Any, sweep: Sweep) -> float:
    """Do one job of a sweep; a failure is remembered and does not stop the others. Return the monitored validation metric."""
    from tutelage.cli.compose import compose, resolve
    from tutelage.engine.launch import run_plan
    from tutelage.runs import needs

    key = "a job"
    try:
        config = resolve(node)
        plan = needs.plan(config, lambda words: compose(words))
        key = plan.key
        result = run_plan(plan, rerun=config["rerun"])
        sweep.note(key)
        selection = result["selection"]
        log.info("%s seed %s: %s", key, config["seed"], headline(result))
        return float(result["best"]["validation"][selection["monitor"]])
    except Exception as error:
        log.error("%s failed: %s", key, error)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        sweep.note(key, reason, isinstance(error, UserError))
        return float("nan")


def is_stored(node: Any) -> bool:
    """Whether a job's result is stored already, so that it costs no process and no import of torch."""
    from tutelage.cli.compose import compose, resolve
    from tutelage.runs import needs
    from tutelage.runs.store import Store

    try:
        config = resolve(node)
        plan = needs.plan(config, lambda words: compose(words))
        return not config["rerun"] and Store(config["runs_dir"]).run(plan.name, plan.identity).is_complete
    except UserError:
        return False  # its own job says what is wrong


def finish(jobs: list[dict[str, Any]], overrides: Sequence[str]) -> int:
    """Say what failed, then show the report if the sweep is a prepared one; return the exit code."""
    failed = [job for job in jobs if job["failure"] is not None]
    keys = [job["key"] for job in jobs if job["failure"] is None]
    if failed:
        log.error("%d of %d jobs failed; the same command tries them again:", len(failed), len(jobs))
        for job in failed:
            log.error("  %s: %s", job["key"], job["failure"])
    if keys and any(word.startswith("sweep=") for word in overrides):
        from tutelage.cli.report import report_runs

        report_runs(os.path.commonpath([key.rpartition("/")[0] for key in keys]), _runs_dir(overrides))
    if not failed:
        return 0
    return 2 if all(job["mistake"] for job in failed) else 1


def _runs_dir(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if word.startswith("runs_dir=")]


def headline(result: dict[str, Any]) -> str:
    """Return the result in a line: the selected step, and the monitored metric on validation and test."""
    best, monitor, steps = result["best"], result["selection"]["monitor"], result["cost"]["steps"]
    values = ", ".join(f"{best[split][monitor]:.4f} on {split}" for split in ("validation", "test"))
    return f"step {best['step']} of {steps}, {monitor} {values}"


def show(result: dict[str, Any], key: str, runs_dir: str) -> None:
    """Print a finished run."""
    print(f"{key}: {headline(result)}\n{runs_dir}/{key}")
