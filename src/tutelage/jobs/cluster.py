"""Jobs on a cluster, through submitit: submitted by their words, queued again when interrupted, noted like any other job."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.jobs import ranks
from tutelage.jobs.outcomes import Jobs, Outcome
from tutelage.runs.needs import Plan

log = logging.getLogger("tutelage")
CLUSTERS = ("slurm", "local", "debug")


class Task:
    """One job on a node of the cluster. Its words say everything, so nothing that needs this process is pickled."""

    def __init__(self, folder: str, words: Sequence[str]) -> None:
        self.folder, self.words = folder, list(words)

    def __call__(self) -> float:
        """Do the job; its outcome is in the notes."""
        import os

        from tutelage.config.compose import plan_of
        from tutelage.jobs.plain_log import speak_plainly

        if int(os.environ.get("SLURM_PROCID", "0")):
            return float("nan")  # of several nodes, the first starts the ranks on all
        speak_plainly()
        jobs = Jobs(Path(self.folder))
        # submitit's step has a task for each node. This one is no rank: where a run asks for several, it starts them, in a step of their
        # own.
        with ranks.environment(SLURM_NTASKS="1"):
            return jobs.do(lambda: plan_of(self.words), words=self.words)

    def checkpoint(self) -> Any:
        """Queue the job again: submitit asks for this when the cluster preempts it or its time is over. Its run resumes."""
        import submitit

        return submitit.helpers.DelayedSubmission(Task(self.folder, self.words))


def submit(
    jobs: Jobs, wanted: Sequence[tuple[Sequence[str], Plan | None, bool]], options: Mapping[str, Any]
) -> list[float]:
    """Submit jobs (words, plan, whether stored), wait, and return their values; one that dies is submitted again `retry` times.

    options: `cluster` and submitit's parameters, see `hydra_plugins.tutelage_slurm`.
    Raises UserError where submitit is missing or refuses them.
    """
    executor = _executor(jobs.folder / "jobs", options)
    # A stored result is taken here and now: it needs no place in a queue.
    values = [jobs.do(functools.partial(_planned, plan), words=words) if plan and stored else float("nan")
              for words, plan, stored in wanted]  # fmt: skip
    left = {
        number: 1 + (plan.config["retry"] if plan else 0)
        for number, (_, plan, stored) in enumerate(wanted)
        if not stored
    }
    running: dict[int, Any] = {}
    try:
        _work_off(jobs, executor, wanted, values, left, running)
    except BaseException:
        _leave(list(running.values()), str(options["cluster"]))
        raise
    return values


def _leave(running: Sequence[Any], cluster: str) -> None:
    """End the jobs that are processes of this machine; of a cluster's own say that they go on."""
    going = [job for job in running if not job.done()]
    if going and cluster == "slurm":
        ids = " ".join(str(job.job_id) for job in going)
        log.warning("the submitted jobs go on: `scancel %s` ends them, the same command waits for them", ids)
        return
    for job in going:
        job.cancel(check=False)


def _work_off(
    jobs: Jobs,
    executor: Any,
    wanted: Sequence[tuple[Sequence[str], Plan | None, bool]],
    values: list[float],
    left: dict[int, int],
    running: dict[int, Any],
) -> None:
    while left:
        with executor.batch():
            for number in left:
                running[number] = executor.submit(Task(str(jobs.folder.resolve()), wanted[number][0]))
        log.info("%d jobs submitted; logs: %s", len(left), jobs.folder / "jobs")
        for number in list(left):
            values[number], died = _wait(running[number])
            left[number] -= 1
            if not died or not left[number]:
                del left[number]
                if died:
                    words, plan, _ = wanted[number]
                    key = plan.key if plan else " ".join(words)
                    jobs.note(
                        key, Outcome.FAILED, died, False, str(running[number].paths.stderr), words=words
                    )
                    if plan is not None and plan.config["on_failure"] == "stop":
                        jobs.stop()


def _planned(plan: Plan) -> Plan:
    return plan


def _wait(job: Any) -> tuple[float, str]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

    try:
        return float(job.result()), ""
    except (FailedJobError, FailedSubmissionError, UncompletedJobError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return float(
            "nan"
        ), f"job {job.job_id} of the cluster ended without a result: {lines[-1] if lines else 'no reason'}"


def _executor(folder: Path, options: Mapping[str, Any]) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError("hydra/launcher=slurm needs submitit: pip install 'tutelage[slurm]'") from error
    cluster = options["cluster"]
    if cluster not in CLUSTERS:
        raise UserError(
            f"hydra.launcher.cluster must be one of {', '.join(CLUSTERS)}, got {cluster!r}; {choices(str(cluster), CLUSTERS)}"
        )
    general = {
        key: options[key] for key in ("timeout_min", "nodes", "gpus_per_node", "cpus_per_task", "mem_gb")
    }
    for key, value in general.items():
        if isinstance(value, int | float) and (isinstance(value, bool) or value < (key != "gpus_per_node")):
            raise UserError(f"hydra.launcher.{key} must be a positive number, got {value!r}")
    if not isinstance(options["more"], Mapping):
        raise UserError(
            f"hydra.launcher.more must be a mapping such as {{slurm_account: x}}, got {options['more']!r}"
        )
    if cluster == "slurm":
        general |= {f"slurm_{key}": options[key] for key in ("partition", "array_parallelism")}
        general |= options["more"]
    else:
        general["nodes"] = 1
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        executor.update_parameters(
            **{key: value for key, value in general.items() if value is not None}, tasks_per_node=1
        )
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"submitit cannot use cluster={cluster} with {general}: {error}") from error
    return executor
