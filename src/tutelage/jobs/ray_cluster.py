"""Jobs on a Ray cluster: each a task that is given its plan. Runs that others need are tasks of their own, begun first.

A run's lock, not Ray, sees to it that nothing is made twice: a task that Ray gave up while its process still works is waited for by the
next one. What dies with its node is given again; with the driver all tasks end, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.engine import progress
from tutelage.errors import UserError, counted, extra
from tutelage.jobs import run_parcels
from tutelage.jobs.notes import Note, Outcome
from tutelage.jobs.outcomes import Jobs, is_stored, plan_here, run_of, said_of
from tutelage.jobs.parallel import cores
from tutelage.jobs.ray_request import Request, check, request_of
from tutelage.jobs.watched import EVERY_S, Watch
from tutelage.runs.needs import Plan
from tutelage.runs.words import distinguishing

log = logging.getLogger("tutelage")
LOST = 10
"""How often a job is given again whose node died, which is not its fault."""


@dataclass
class _Job:
    """A run that is to be made. tries: left to it, of its own faults; lost: how often its node died; wanted: by the command itself."""

    name: str
    words: Sequence[str]
    plan: Plan
    request: Request
    tries: int
    wanted: bool
    lost: int = 0

    @property
    def needs(self) -> list[str]:
        return [need.key for need in self.plan.prerequisites()]


def submit(
    jobs: Jobs, wanted: Sequence[tuple[Sequence[str], Plan | None, bool]], options: Mapping[str, Any]
) -> list[float]:
    """Have jobs (words, plan, whether stored) done by a cluster, wait, and return their values; NaN where there is none.

    options: see `tutelage.config.hydra_choices`.
    Raises UserError where Ray is missing, no cluster can be reached, or the settings ask for what no job can be given.
    """
    check(options)
    names = distinguishing([words for words, _, _ in wanted])
    values, keys = [float("nan")] * len(wanted), [""] * len(wanted)
    left: dict[str, _Job] = {}
    for place, (words, planned, stored) in enumerate(wanted):
        name = " ".join(names[place]) or "the job"
        plan = planned or plan_here(jobs, words, name)
        if plan is None:
            continue
        if stored and (value := jobs.take(plan, words)) is not None:
            values[place] = value
            continue
        keys[place] = plan.key
        for need in plan.prerequisites():
            if need.key not in left and not is_stored(need):
                left[need.key] = _job(
                    need, f"{need.key}, which others need", [f"name={need.name}"], options, wanted=False
                )
        left[plan.key] = _job(plan, name, words, options, wanted=True)  # the same run twice is one job
    if jobs.stopped:
        for job in left.values():
            jobs.note(job.plan.key, Outcome.LEFT, words=job.words)
        return values
    with progress.board(len(left)):
        made = _Work(jobs, left, options).work_off() if left else {}
    return [made.get(key, value) for key, value in zip(keys, values, strict=True)]


def _job(plan: Plan, name: str, words: Sequence[str], options: Mapping[str, Any], *, wanted: bool) -> _Job:
    return _Job(name, words, plan, request_of(plan, options), 1 + plan.config["retry"], wanted)


class _Work:
    """The jobs of a command on the cluster, from the first one given to the last one's end."""

    def __init__(self, jobs: Jobs, left: dict[str, _Job], options: Mapping[str, Any]) -> None:
        self.ray = connected(options["address"], [job.request for job in left.values()])
        self.jobs, self.left, self.shared = jobs, left, options["shared"]
        self.total, self.values = len(left), dict[str, float]()
        self.failed: dict[str, str] = {}
        self.tasks: dict[Any, _Job] = {}
        self.parcels: dict[str, Any] = {}
        self.watch, self.plans = Watch(), list(enumerate(job.plan for job in left.values()))
        self.remote = self.ray.remote(work)

    def work_off(self) -> dict[str, float]:
        """Give out the jobs as what they need is there, until the last has ended; return their values by run."""
        waiting = list(self.left.values())
        try:
            while waiting or self.tasks:
                waiting = [job for job in waiting if not self._begin(job)]
                if self.tasks:
                    done, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=EVERY_S)
                    for task in done:
                        self._end(task)
                    self.watch.look(self.plans)
        except BaseException:
            for task in self.tasks:
                self.ray.cancel(task, force=False)
            raise
        return self.values

    def _begin(self, job: _Job) -> bool:
        """Give a job to the cluster if nothing stands before it; say whether it needs no more waiting."""
        if self.jobs.stopped:
            self._finish(job, Note(job.plan.key, Outcome.LEFT))
            return True
        if lacking := [key for key in job.needs if key in self.failed]:
            said = f"it needs {lacking[0]}, which failed: {self.failed[lacking[0]]}"
            self._finish(job, Note(job.plan.key, Outcome.FAILED, said))
            return True
        if any(key in self.left for key in job.needs):
            return False
        self._give(job)
        return True

    def _give(self, job: _Job) -> None:
        asked = {
            "num_cpus": job.request.cpus,
            "num_gpus": job.request.gpus,
            "memory": job.request.memory_bytes,
        }
        task = self.remote.options(
            max_retries=0, name=job.name, **{k: v for k, v in asked.items() if v is not None}
        )
        parcels = [] if self.shared else [self._parcel(one) for one in (*job.plan.prerequisites(), job.plan)]
        self.tasks[task.remote(job.plan, list(job.words), str(Path.cwd()), self.shared, *parcels)] = job

    def _parcel(self, plan: Plan) -> Any:
        """Put what there is of a run into the object store; of a complete one once."""
        if plan.key not in self.parcels:
            packed = self.ray.put(run_parcels.pack(run_of(plan)))
            if not is_stored(plan):
                return packed
            self.parcels[plan.key] = packed
        return self.parcels[plan.key]

    def _end(self, task: Any) -> None:
        job = self.tasks.pop(task)
        errors = self.ray.exceptions
        try:
            note, value, parcel = self.ray.get(task)
        except errors.NodeDiedError as error:
            job.lost += 1
            self._again(job, job.lost <= LOST, f"the node that it ran on died ({_first(error)})")
        except errors.RayError as error:  # its process died, or had to: too little memory
            job.tries -= 1
            self._again(job, job.tries > 0, f"its process ended without a result ({_first(error)})")
        else:
            if parcel is not None:
                run_parcels.unpack(parcel, run_of(job.plan))
            if note.outcome is Outcome.DONE:
                self.values[job.plan.key] = value
            self._finish(job, note)

    def _again(self, job: _Job, may: bool, reason: str) -> None:
        if is_stored(replace(job.plan, config={**job.plan.config, "rerun": False})):
            log.info("%s: %s, after its work was done", job.name, reason)
            plan = replace(job.plan, config={**job.plan.config, "rerun": False})
            self.values[job.plan.key] = self.jobs.take(plan, job.words) or 0.0
            self._finish(job, Note(job.plan.key, Outcome.DONE))
        elif may and not self.jobs.stopped:
            log.warning("%s: %s; it is given to the cluster again", job.name, reason)
            self._give(job)
        else:
            self._finish(job, Note(job.plan.key, Outcome.FAILED, reason))

    def _finish(self, job: _Job, note: Note) -> None:
        """Note how a job ended, and say it."""
        key, run = job.plan.key, run_of(job.plan)
        del self.left[key]
        if note.outcome is Outcome.FAILED:
            self.failed[key] = note.reason
            if job.plan.config["on_failure"] == "stop":
                self.jobs.stop()
        if job.wanted:
            written = str(run.log) if note.outcome is Outcome.FAILED and run.log.is_file() else None
            self.jobs.note(
                key, note.outcome, note.reason, note.mistake, written, job.words, seconds=note.seconds
            )
        progress.advance()
        said = said_of(note, run)
        log.info("[%d/%d] %s: %s", self.total - len(self.left), self.total, job.name, said)


def work(
    plan: Plan, words: list[str], folder: str, shared: bool, *parcels: bytes
) -> tuple[Note, float, bytes | None]:
    """Do one job on a node; return its outcome, its value and, where the folder is not shared, the run.

    folder: where the command was given; it is looked for here, for relative paths and the user's own modules.
    parcels: what there is of the runs it needs and of its own, where the runs folder is not shared.
    """
    from tutelage.jobs.plain_log import speak_plainly

    speak_plainly()
    with contextlib.ExitStack() as stack:
        if Path(folder).is_dir():
            stack.enter_context(contextlib.chdir(folder))
            if folder not in sys.path:
                sys.path.insert(0, folder)
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tutelage-")))
        if not shared:
            plan = _moved(plan, str(here / "runs"))
            for parcel, one in zip(parcels, (*plan.prerequisites(), plan), strict=True):
                run_parcels.unpack(parcel, run_of(one))
        (here / "notes").mkdir()
        jobs = Jobs(here / "notes")
        value = jobs.do(lambda: plan, words=words)
        (note,) = jobs.notes()
        return note, value, None if shared else run_parcels.pack(run_of(plan))


def _moved(plan: Plan, runs_dir: str) -> Plan:
    """Return a plan whose runs, those it needs too, lie in another folder; identities know no folder."""
    needs = {role: _moved(need, runs_dir) for role, need in plan.needs.items()}
    return replace(plan, config={**plan.config, "runs_dir": runs_dir}, needs=needs)


def _first(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def connected(address: str | None, requests: Sequence[Request]) -> Any:
    """Return Ray, connected to a cluster: the named one, the one that runs here, or one made here.

    Raises UserError where there is none, or where one made here could never give what the jobs ask for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers nothing
    with extra("ray", "hydra/launcher=ray needs Ray"):
        import ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    own = False
    if not ray.is_initialized():
        try:
            ray.init(address=address or "auto", **quiet)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            if address or os.environ.get("RAY_ADDRESS"):
                raise UserError(
                    f"no Ray cluster answers at {address or os.environ['RAY_ADDRESS']}: {_first(error)}"
                ) from error
            ray.init(address="local", num_cpus=cores(), include_dashboard=False, **quiet)
            own = True
    most = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for one in dict.fromkeys(requests):
        if any(one.fits(node) for node in most):
            continue
        said = f"no node of the cluster has room for a job that asks for {one}"
        if own:
            gpus = math.floor(sum(node.get("GPU", 0) for node in most))
            raise UserError(f"{said}: this machine has {counted(cores(), 'CPU')} and {counted(gpus, 'GPU')}")
        log.warning("%s: it waits until one comes", said)
    return ray
