"""One job on a node of a cluster: what submitit starts there, and what it does when the cluster wants its place."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.jobs import slurm_queue
from tutelage.jobs.outcomes import Jobs, run_of
from tutelage.runs.needs import Plan

log = logging.getLogger("tutelage")
KILLED_WITHIN_S = 900.0
"""How long a job that is told to end waits for the cluster to say that it has ended it."""

FRUITLESS = 3
"""How often in a row a job may use up its time for nothing."""


class Task:
    """One job. Its words say everything, so nothing that needs the submitting process is pickled.

    folder: of the notes. timeout_min: the time that the cluster gives it. submitted: when it was asked for, first. fruitless: how many
    times in a row its time was over before anything was saved.
    """

    def __init__(
        self, folder: str, words: Sequence[str], timeout_min: float, submitted: float, fruitless: int = 0
    ) -> None:
        self.folder, self.words = folder, list(words)
        self.timeout_min, self.submitted, self.fruitless = timeout_min, submitted, fruitless
        self.began: float | None = None
        self.plan: Plan | None = None

    def __call__(self) -> float:
        """Do the job; its outcome is in the notes."""
        from tutelage.jobs.plain_log import speak_plainly

        self.began = time.time()
        speak_plainly()
        jobs = Jobs(Path(self.folder))
        try:
            with _ended_by_sigterm():
                return jobs.do(self._planned, words=self.words)
        except KeyboardInterrupt:  # SIGTERM, here or in the group of ranks that this process starts
            log.warning("the cluster ends this job (SIGTERM)")
            _outlast()
            raise SystemExit(128 + signal.SIGTERM) from None

    def checkpoint(self) -> Any:
        """Queue the job again: submitit asks for this when the cluster preempts it or its time is over. Its run resumes.

        Raises UserError where the job has saved nothing, several times in a row: it would do the same for ever.
        """
        import submitit

        ran_min = (time.time() - self.began) / 60 if self.began else 0.0
        used_up = ran_min > self.timeout_min / 10  # one that is preempted soon has done nothing wrong
        fruitless = 0 if self._saved() else self.fruitless + used_up
        if fruitless >= FRUITLESS:
            raise UserError(
                f"{fruitless} times in a row the time on the cluster was over before a checkpoint was written (now {ran_min:.1f} minutes): "
                "give it more (hydra.launcher.timeout_min), or save more often (fit.validate_every_steps, fit.checkpoint_every_s)"
            )
        return submitit.helpers.DelayedSubmission(
            Task(self.folder, self.words, self.timeout_min, self.submitted, fruitless)
        )

    def _planned(self) -> Plan:
        """Plan the job, and remember the plan: a signal's handler had better compose nothing."""
        from tutelage.config.planner import plan_of

        self.plan = plan_of(self.words)
        if self.plan.config["rerun"]:
            config = run_of(self.plan).path / "config.yaml"
            if config.is_file() and config.stat().st_mtime >= self.submitted:
                # an earlier try of this job has begun it anew: to do so again would lose what that has done
                self.plan = plan_of([*self.words, "rerun=false"])
        return self.plan

    def _saved(self) -> bool:
        """Whether this job, or a run that it needs first, has got further since it began."""
        if self.plan is None or self.began is None:
            return False
        return any(_saved_since(one, self.began) for one in (self.plan, *self.plan.prerequisites()))


def _saved_since(plan: Plan, moment: float) -> bool:
    run = run_of(plan)
    files = (run.checkpoint("last"), run.path / "result.json")
    return any(file.exists() and file.stat().st_mtime >= moment for file in files)


class Cancelled(KeyboardInterrupt):
    """SIGTERM came: the cluster ends the job."""


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt training, which ends the ranks and frees the run's lock for the job that follows."""
    if "SUBMITIT_EXECUTOR" not in os.environ:  # within the command itself, whose own handler is as good
        yield
        return

    def leave(*_: Any) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _outlast() -> None:
    """Wait until SLURM has taken this job from its node: one that ends by itself in the time before that is not queued again."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    number = f"{array}_{place}" if array else os.environ["SLURM_JOB_ID"]
    until = time.monotonic() + KILLED_WITHIN_S
    while time.monotonic() < until:
        with contextlib.suppress(slurm_queue.NoAnswer):
            if slurm_queue.look([number])[number].state != "RUNNING":
                return
        time.sleep(5)
