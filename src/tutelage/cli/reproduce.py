"""`tutelage reproduce`: run what a table under `experiments/` still misses, tuning first, then report."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tutelage.cli.report import finder, report_table, table_path
from tutelage.errors import UserError

log = logging.getLogger("tutelage")
HELP = """usage: tutelage reproduce <table> [--dry] [key=value ...]

<table>: a file such as experiments/guidance/digits.yaml, or guidance/digits. Runs the cells that are not complete (first those that
hyperparameters are chosen from, on validation), one after the other, then reports. Interrupted, the same command continues.
--dry lists the commands that would run. key=value words are added to every command (data.root=..., hardware=gpu).
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
    from tutelage.cli.compose import hydra_ready
    from tutelage.reporting.table_file import load
    from tutelage.reporting.tables import unfinished

    table, find, failed = load(path), finder(words[1:]), 0
    with hydra_ready():
        tried: set[tuple[str, ...]] = set()
        while cells := [cell for cell in unfinished(table, find) if tuple(cell.overrides) not in tried]:
            log.info("%d runs of %s are missing", len(cells), path)
            for cell in cells:
                tried.add(tuple(cell.overrides))
                if "--dry" in arguments:
                    print("tutelage train", *cell.overrides, *words[1:])
                else:
                    failed += not run([*cell.overrides, *words[1:]])
            if "--dry" in arguments:
                return 0
    report_table(path, words[1:])
    return 1 if failed else 0


def run(overrides: Sequence[str]) -> bool:
    """Do one run; a failure is logged and returned, so that the others go on."""
    from tutelage.cli.compose import plan_of
    from tutelage.cli.train import headline
    from tutelage.engine.launch import run_plan

    plan = plan_of(overrides)
    try:
        result = run_plan(plan, say=log.debug)
    except Exception as error:
        log.error("%s failed: %s", plan.key, error)
        return False
    log.info("%s seed %s: %s", plan.key, plan.config["seed"], headline(result))
    return True
