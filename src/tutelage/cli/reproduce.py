"""`tutelage reproduce`: run what a table under `experiments/` still misses, tuning first, then report."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence

from tutelage.cli.report import report_table
from tutelage.errors import UserError, choices
from tutelage.reporting.table_paths import TABLES, table_path, tables

log = logging.getLogger("tutelage")
HELP = """usage: tutelage reproduce <table> [--dry] [processes=N | hydra/launcher=...] [key=value ...]

<table>: a file such as experiments/guidance/digits.yaml, or guidance/digits. Runs the cells that are not complete (first those that
hyperparameters are chosen from, on validation), then reports. Interrupted, the same command continues.
processes: runs at a time, each in a process of its own (default 1, in this process). hydra/launcher=local and slurm, with their
hydra.launcher.key=value, are those of a sweep. --dry lists the commands that would run.
key=value words are added to every command (data.root=..., hardware=gpu, retry=2, on_failure=stop).
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
            f"there is no table '{words[0]}': tables are files {TABLES}/<paper>/<table>.yaml of the folder in which the command is given; "
            f"{choices(words[0], tables())}"
        )
    from tutelage.config.compose import compose, hydra_ready, plan_of
    from tutelage.jobs.outcomes import Jobs
    from tutelage.jobs.sweep import launcher_of
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import finder, unfinished

    launch, extra = launcher_of(words[1:], 1)
    table = load(path)
    with hydra_ready():
        jobs: Jobs | None = None
        tried: set[tuple[str, ...]] = set()
        # The finder remembers states, so each round asks anew; a failed cell is tried once.
        while cells := [
            c for c in unfinished(table, finder(extra, plan_of)) if tuple(c.overrides) not in tried
        ]:
            tried |= {tuple(cell.overrides) for cell in cells}
            log.info("%d runs of %s are missing", len(cells), path)
            commands = [[*cell.overrides, *extra] for cell in cells]
            if "--dry" in arguments:
                print("\n".join(shlex.join(["tutelage", "train", *command]) for command in commands))
                return 0
            jobs = jobs or Jobs.new(compose([w for w in extra if w.startswith("runs_dir=")])["runs_dir"])
            launch(jobs, commands, {})
            jobs.finish_busy()  # choices of the next round need the values
            if jobs.stopped:
                break
    if "--dry" in arguments:
        print(f"every run of {path} is there: tutelage report {words[0]}")
        return 0
    code = jobs.close() if jobs else 0
    report_table(path, extra)
    return code
