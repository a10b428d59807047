"""`tutelage reproduce`: run what a table under `experiments/` still misses, tuning first, then report."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tutelage.cli.reader import Given
from tutelage.cli.report import load_table, report_table
from tutelage.errors import UserError, choices, counted
from tutelage.reporting.programme_file import programme_path, programmes
from tutelage.reporting.table_paths import TABLES, table_path, tables

if TYPE_CHECKING:
    from tutelage.reporting.tables import Find, Table

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
    table = load_table(path)
    log.info(
        "looking for the runs of %s", path
    )  # a word at once: Hydra is loaded and every cell composed first
    from tutelage.config.compose import compose, hydra_ready
    from tutelage.config.planner import Planner
    from tutelage.jobs.outcomes import Jobs
    from tutelage.jobs.sweep import at_a_time, launcher_of, plans_of
    from tutelage.reporting.tables import finder, unfinished

    launch, extra = launcher_of(given.as_settings("processes"), 1)
    with hydra_ready():
        jobs: Jobs | None = None
        planner = Planner()
        tried: set[tuple[str, ...]] = set()
        # The finder remembers states, so each round asks anew; a failed cell is tried once.
        while cells := [
            c for c in unfinished(table, finder(extra, planner)) if tuple(c.overrides) not in tried
        ]:
            tried |= {tuple(cell.overrides) for cell in cells}
            together = "" if dry else at_a_time(launch, len(cells))
            log.info("%s of %s to make%s", counted(len(cells), "run"), path, together)
            commands = [[*cell.overrides, *extra] for cell in cells]
            if dry:
                print("\n".join(shlex.join(["tutelage", "train", *command]) for command in commands))
                return 0
            jobs = jobs or Jobs.new(compose([w for w in extra if w.startswith("runs_dir=")])["runs_dir"])
            plans, _ = plans_of(commands, planner)
            launch(jobs, commands, {tuple(c): plan for c, plan in zip(commands, plans, strict=True) if plan})
            jobs.finish_busy()  # choices of the next round need the values
            if jobs.stopped:
                break
        missing = list(_analyses(table, finder(extra, planner), extra))
    if dry and missing:
        print("\n".join(shlex.join(["tutelage", "analyse", *words]) for words in missing))
        return 0
    if dry:
        print(f"every run of {path} is there: tutelage report {name}")
        return 0
    code = jobs.close() if jobs else 0
    if not (jobs and jobs.stopped):
        from tutelage.cli import analyse
        from tutelage.cli.commands import COMMANDS
        from tutelage.cli.reader import read

        for words in missing:
            runs = counted(sum("=" not in word for word in words) - 1, "run")
            log.info("%s of %s of %s", words[0], runs, path)
            analyse.run(read("analyse", COMMANDS["analyse"], words))
    report_table(path, extra)
    return code


def _analyses(table: Table, find: Find, extra: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of `tutelage analyse` for what the table wants to know of its complete runs, where some of it is not known."""
    from tutelage.reporting import measured
    from tutelage.reporting.tables import choose
    from tutelage.runs.run import State
    from tutelage.runs.store import Store

    if not table.analyses:
        return
    rows = [find(cell) for arm in table.arms for cell in table.cells(arm, choose(table, arm, find).point)]
    keys = list(dict.fromkeys(row.key for row in rows if row.state is State.COMPLETE))
    root = next((word.partition("=")[2] for word in extra if word.startswith("runs_dir=")), "runs")
    store = Store(root)
    for name, asked in table.analyses.items():
        left = [key for key in keys if measured.recall(store.root, store.at(key), name, asked) is None]
        if left:
            yield [name, *left, *(f"{key}={value}" for key, value in asked.items()), f"runs_dir={root}"]
