"""`tutelage reproduce`: run what a table under `experiments/` still misses, tuning first, then report."""

from __future__ import annotations

import logging
import shlex

from tutelage.cli.reader import Given
from tutelage.cli.report import report_table
from tutelage.errors import UserError, choices
from tutelage.reporting.programme_file import programme_path, programmes
from tutelage.reporting.table_paths import TABLES, table_path, tables

log = logging.getLogger("tutelage")


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    name, dry = given.names[0], "--dry" in given.flags
    if (programme := programme_path(name)) is not None:
        from tutelage.cli import programme as stages

        return stages.run(programme, given)
    path = table_path(name)
    if path is None:
        raise UserError(
            f"there is no table or programme '{name}': tables are files {TABLES}/<paper>/<table>.yaml of the folder in which the "
            f"command is given; {choices(name, [*tables(), *programmes()])}"
        )
    if only := [word for word in ("--tiny", "minutes") if word in given.flags | given.spoken]:
        raise UserError(f"{only[0]} belongs to a programme ({', '.join(programmes())}); {name} is a table")
    from tutelage.config.compose import compose, hydra_ready
    from tutelage.config.planner import Planner
    from tutelage.jobs.outcomes import Jobs
    from tutelage.jobs.sweep import launcher_of
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import finder, unfinished

    launch, extra = launcher_of(given.as_settings("processes"), 1)
    table = load(path)
    with hydra_ready():
        jobs: Jobs | None = None
        planner = Planner()
        tried: set[tuple[str, ...]] = set()
        # The finder remembers states, so each round asks anew; a failed cell is tried once.
        while cells := [
            c for c in unfinished(table, finder(extra, planner)) if tuple(c.overrides) not in tried
        ]:
            tried |= {tuple(cell.overrides) for cell in cells}
            log.info("%d runs of %s are missing", len(cells), path)
            commands = [[*cell.overrides, *extra] for cell in cells]
            if dry:
                print("\n".join(shlex.join(["tutelage", "train", *command]) for command in commands))
                return 0
            jobs = jobs or Jobs.new(compose([w for w in extra if w.startswith("runs_dir=")])["runs_dir"])
            launch(jobs, commands, {})
            jobs.finish_busy()  # choices of the next round need the values
            if jobs.stopped:
                break
    if dry:
        print(f"every run of {path} is there: tutelage report {name}")
        return 0
    code = jobs.close() if jobs else 0
    report_table(path, extra)
    return code
