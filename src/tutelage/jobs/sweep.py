"""The jobs of a sweep, one configuration each, through Hydra's sweeper and launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tutelage.errors import UserError
from tutelage.jobs.outcomes import Jobs

if TYPE_CHECKING:
    from tutelage.config.compose import SweepJob


def run_sweep(overrides: Sequence[str]) -> tuple[Jobs, str]:
    """Run a sweep; return its jobs, none of which is busy any more, and the runs folder."""
    from tutelage.config import compose

    overrides = compose.readable(overrides)
    compose.prepare()
    runs_dir = compose.compose(fixed(overrides))["runs_dir"]
    jobs = Jobs.new(runs_dir)
    # Hydra's own folder of the sweep is that of the notes, so that a launcher finds them.
    compose.multirun(overrides, lambda node, swept: job(node, swept, jobs), folder=jobs.folder)
    jobs.finish_busy()
    if not jobs.notes():
        raise UserError(f"the sweep has no job: one of {' '.join(overrides)} has no value")
    return jobs, runs_dir


def fixed(overrides: Sequence[str]) -> list[str]:
    """Return the words that say where the runs of a sweep are; its jobs say the rest."""
    return [word for word in overrides if word.startswith(("runs_dir=", "sweep="))]


def job(node: Any, swept: SweepJob, jobs: Jobs) -> float:
    """Do one job of a sweep; a failure is noted and does not raise. Return the monitored validation metric."""
    from tutelage.config.compose import compose, resolve
    from tutelage.runs import needs

    return jobs.do(
        lambda: needs.plan(resolve(node), lambda words: compose(words)),
        words=swept.words,
        processes=swept.processes,
        wait=swept.searched,  # who searches needs the value now; a grid may look at the run again when the others are done
    )
