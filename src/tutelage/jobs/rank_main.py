"""One rank of a run: `python -m tutelage.jobs.rank_main <run folder>`, started by torch elastic with the finished configuration."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch

from tutelage.errors import UserError
from tutelage.jobs.launch import attempt, logging_to
from tutelage.jobs.parallel import die_with_parent
from tutelage.runs.store import Store


def main(folder: str) -> int:
    """Fit the run in `folder`; return the exit code. Only the first rank writes; every rank's own failure is recorded."""
    die_with_parent()  # the launching process holds the run's lock, and with it the right to write
    path = Path(folder)
    run = Store(path.parent).at_path(path)
    config = run.config
    logging.basicConfig(format="%(message)s")
    logging.getLogger().handlers[0].setLevel(logging.WARNING)  # the rest is in the run's log
    try:
        with logging_to(path / "log.txt"):
            attempt(config, run)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # before the interpreter ends, whose end can abort the group's threads
    except UserError:
        return 2  # recorded; the launching process prints it once
    except Exception:
        return 1  # recorded likewise, with its traceback
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
