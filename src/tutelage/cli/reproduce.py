"""`tutelage reproduce`: run what a table under `experiments/` still misses, tuning first, then report."""

from __future__ import annotations

import functools
import logging
import shlex
from collections.abc import Sequence

from tutelage.cli.report import finder, report_table, table_path
from tutelage.errors import UserError

log = logging.getLogger("tutelage")
HELP = """usage: tutelage reproduce <table> [--dry] [processes=N] [key=value ...]

<table>: a file such as experiments/guidance/digits.yaml, or guidance/digits. Runs the cells that are not complete (first those that
hyperparameters are chosen from, on validation), then reports. Interrupted, the same command continues.
processes: runs at a time, each in a process of its own (default 1, in this process). --dry lists the commands that would run.
key=value words are added to every command (data.root=..., hardware=gpu).
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    words = [word for word in arguments if word != "--dry"]
    if not words or any(word in ("-h", "--help") for word in words):
        print(HELP)
        return 0 if words else 2
    path = table_path(words[0])
    if path is None:
        raise UserError(
            f"there is no table '{words[0]}': expected a file such as experiments/guidance/digits.yaml, or guidance/digits"
        )
    processes, extra = _processes(words[1:])
    from tutelage.cli.compose import hydra_ready
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import unfinished

    table, failed = load(path), 0
    with hydra_ready():
        tried: set[tuple[str, ...]] = set()
        # The finder remembers states, so each round asks anew; a failed cell is tried once.
        while cells := [c for c in unfinished(table, finder(extra)) if tuple(c.overrides) not in tried]:
            tried |= {tuple(cell.overrides) for cell in cells}
            log.info("%d runs of %s are missing", len(cells), path)
            commands = [[*cell.overrides, *extra] for cell in cells]
            if "--dry" in arguments:
                print("\n".join(shlex.join(["tutelage", "train", *command]) for command in commands))
                return 0
            failed += sum(value != value for value in run_all(commands, processes))
    report_table(path, extra)
    return 1 if failed else 0


def _processes(words: Sequence[str]) -> tuple[int, list[str]]:
    given = [word.partition("=")[2] for word in words if word.startswith("processes=")]
    if given and not (given[-1].isdigit() and int(given[-1]) >= 1):
        raise UserError(f"processes must be a whole number of at least 1, got {given[-1]!r}")
    return int(given[-1]) if given else 1, [word for word in words if not word.startswith("processes=")]


def run_all(commands: Sequence[Sequence[str]], processes: int) -> list[float]:
    """Run every command and return the monitored validation metrics; NaN where one failed."""
    if processes == 1:
        return [run(command) for command in commands]
    from tutelage.cli.compose import compose
    from tutelage.engine.parallel import preload, run_forked

    configs = [compose(command) for command in commands]
    preload([config["data"] for config in configs], configs[0]["runs_dir"])
    jobs = [functools.partial(run, command) for command in commands]
    return run_forked(jobs, processes=processes, names=[" ".join(command) for command in commands])


def run(overrides: Sequence[str]) -> float:
    """Do one run; a failure is logged and the others go on."""
    from tutelage.cli.compose import plan_of
    from tutelage.cli.train import headline
    from tutelage.engine.launch import run_plan

    try:
        plan = plan_of(overrides)
        result = run_plan(plan, say=log.debug)
    except Exception as error:
        log.error("%s failed: %s", " ".join(overrides), error)
        return float("nan")
    log.info("%s seed %s: %s", plan.key, plan.config["seed"], headline(result))
    return float(result["best"]["validation"][result["selection"]["monitor"]])
