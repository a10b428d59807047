"""What a job of an in-process multirun costs beyond its training: composing, planning, locking, building, testing, recording."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
import time
from typing import Any

from tutelage.bench.timing import Row

WORDS = ["data=digits", "model=fcn", "model.depth=2", "model.width=16", "hardware.threads=1"]
ONE_UPDATE = ["fit.max_steps=1", "fit.validate_every_steps=1"]


def rows(jobs: int = 8) -> list[Row]:
    """Measure with and without the W&B mirror."""
    return [measure(logger, jobs) for logger in ("wandb", "none")]


def measure(logger: str, jobs: int) -> Row:
    """Return the seconds of each job after the first, of one update each."""
    from tutelage.cli import train
    from tutelage.jobs.outcomes import Jobs

    ends: list[float] = []
    original = Jobs.do

    def timed(*given: Any, **options: Any) -> float:
        value = original(*given, **options)
        ends.append(time.perf_counter())
        return value

    Jobs.do = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            seeds = ",".join(map(str, range(jobs + 1)))
            train.multirun([*WORDS, *ONE_UPDATE, f"logger={logger}", f"runs_dir={folder}", f"seed={seeds}"])
            from tutelage.engine import mirrors

            mirrors.drain()
    finally:
        Jobs.do = original  # type: ignore[method-assign]
    spent = sorted(later - earlier for earlier, later in itertools.pairwise(ends))
    middle = spent[len(spent) // 2]
    return Row(
        f"seconds per job of a multirun beyond its training (logger={logger})", middle, spent[0], spent[-1], len(spent),
        "at most 0.3", middle <= 0.3, "seconds, not a ratio",
    )  # fmt: skip
