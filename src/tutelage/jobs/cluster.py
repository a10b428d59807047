"""Jobs on a cluster, through submitit: submitted by their words, queued again when interrupted, said in a line as each ends.

A job's outcome is its note (`outcomes.Jobs`), which it writes on its node; SLURM is asked only for what no note says: whether the job
still waits or runs, and why it ended without one. A job that an earlier command submitted is waited for, not submitted again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.engine import progress
from tutelage.errors import UserError, counted
from tutelage.jobs import cluster_request, slurm_queue
from tutelage.jobs.cluster_request import Request
from tutelage.jobs.cluster_task import Task
from tutelage.jobs.notes import Note, Outcome
from tutelage.jobs.outcomes import Jobs, monitored, plan_here, run_of, said_of
from tutelage.jobs.watched import Watch
from tutelage.runs.needs import Plan
from tutelage.runs.records import read_json, write_json
from tutelage.runs.words import distinguishing

log = logging.getLogger("tutelage")
SUBMITTED = "submitted.json"
"""In the folder of a command's submitted jobs: the cluster's number of each run's job."""
LOOK_EVERY_S = 1.0
ASK_EVERY_S = (1.0, 15.0)
"""How often SLURM is asked for its queue: at first, and at last."""
NOTE_WITHIN_S = 30.0
"""How long a note may take to be seen on a network file system after its job ended well."""


@dataclass
class _Job:
    """A job that is waited for.

    number: the cluster's. job: submitit's; None where an earlier command submitted it. folder: of the notes, where it writes its own.
    seen: what SLURM said last; over_since: when it first said that the job is over.
    """

    name: str
    words: Sequence[str]
    plan: Plan
    request: Request
    tries: int
    folder: Path
    number: str = ""
    job: Any = None
    seen: slurm_queue.Seen | None = None
    over_since: float | None = None

    @property
    def log(self) -> Path:
        """What it, and the cluster about it, wrote."""
        return self.folder / "jobs" / f"{self.number}_0_log.err"

    @property
    def nodes(self) -> int:
        """How many nodes its ranks need."""
        return int(self.plan.config["hardware"]["num_nodes"])

    @property
    def keys(self) -> tuple[str, str]:
        """What its note may be known by: its run, or, where its node could make no run of them, its words."""
        return self.plan.key, " ".join(self.words)

    @property
    def notes(self) -> list[Path]:
        """Where its note may be."""
        return [Jobs(self.folder).note_path(key) for key in self.keys]

    @property
    def note(self) -> Note | None:
        """Return its own note, if there is one."""
        found = map(Jobs(self.folder).note_of, self.keys)
        return next((note for note in found if note is not None), None)


def submit(
    jobs: Jobs, wanted: Sequence[tuple[Sequence[str], Plan | None, bool]], options: Mapping[str, Any]
) -> list[float]:
    """Submit jobs (words, plan, whether stored), wait, and return their values; one that dies is submitted again `retry` times.

    options: `cluster` and submitit's parameters, see `tutelage.config.hydra_choices`.
    Raises UserError where submitit is missing or refuses them, or the cluster refuses the jobs.
    """
    cluster_request.check(options)
    names = distinguishing([words for words, _, _ in wanted])
    values, keys = [float("nan")] * len(wanted), [""] * len(wanted)
    waiting: dict[str, _Job] = {}
    for place, (words, planned, stored) in enumerate(wanted):
        name = " ".join(names[place]) if len(wanted) > 1 else "the job"
        plan = planned or plan_here(jobs, words, name)
        if plan is None:
            continue
        # a stored result is taken here and now: it needs no place in a queue
        if stored and (value := jobs.take(plan, words)) is not None:
            values[place] = value
            continue
        keys[place] = plan.key
        request = cluster_request.request_of(plan, options)
        job = _Job(
            name if len(wanted) > 1 else plan.key, words, plan, request, 1 + plan.config["retry"], jobs.folder
        )
        waiting.setdefault(plan.key, job)  # the same run twice is one job
    if jobs.stopped:
        for job in waiting.values():
            jobs.note(job.plan.key, Outcome.LEFT, words=job.words)
        return values
    if (idle := options["nodes"]) and waiting and idle > (used := max(job.nodes for job in waiting.values())):
        log.warning(
            "hydra.launcher.nodes=%s, but hardware.num_nodes=%s: the other nodes are idle", idle, used
        )
    with progress.board(len(waiting)):
        made = _Queue(jobs, waiting, options).work_off()
    return [made.get(key, value) for key, value in zip(keys, values, strict=True)]


class _Queue:
    """The jobs of a command on the cluster, from their submission to the last one's end."""

    def __init__(self, jobs: Jobs, waiting: dict[str, _Job], options: Mapping[str, Any]) -> None:
        self.jobs, self.left, self.options = jobs, waiting, options
        self.total, self.began = len(waiting), time.time()
        self.values: dict[str, float] = {}
        self.places = {key: place for place, key in enumerate(waiting)}
        self.on_slurm = options["cluster"] == "slurm"
        requests = dict.fromkeys(job.request for job in waiting.values())
        self.executors = {
            one: cluster_request.executor(jobs.folder / "jobs", options, one) for one in requests
        }
        self.submitted: dict[str, dict[str, Any]] = {}
        self.ask_every_s, self.ask_at, self.answers = ASK_EVERY_S[0], 0.0, True

    def work_off(self) -> dict[str, float]:
        """Submit the jobs, wait until the last has ended, and return their values by run."""
        try:
            if self.on_slurm:
                self._take_over()
            self._submit([job for job in self.left.values() if not job.number])
            watch = Watch()
            while self.left:
                for job in self._ended():
                    self._finish(job)
                if self.left:
                    watch.look((self.places[key], job.plan) for key, job in self.left.items())
                    time.sleep(LOOK_EVERY_S)
        except BaseException:
            self._leave()
            raise
        return self.values

    def _take_over(self) -> None:
        """Find the jobs that earlier commands have submitted for these runs and that wait or run."""
        found: dict[str, tuple[_Job, Path, Any]] = {}
        for file in self.jobs.folder.parent.glob(f"*/jobs/{SUBMITTED}"):
            with contextlib.suppress(UserError, OSError, AttributeError, TypeError, KeyError):
                for key, one in read_json(file).items():
                    job, folder = self.left.get(key), file.parent.parent
                    # what is to be made anew is not what an earlier command makes
                    if job is None or job.plan.config["rerun"] or Jobs(folder).note_of(key):
                        continue
                    if re.fullmatch(r"\d+(_\d+)?", one["number"]):
                        found[one["number"]] = job, folder, one["options"]
        if not found:
            return
        with contextlib.suppress(slurm_queue.NoAnswer):  # then it takes no jobs either, and says why
            for number, seen in slurm_queue.look(found).items():
                job, folder, options = found[number]
                if seen.state == "PENDING" and options != dict(self.options):  # perhaps it could never begin
                    log.warning(
                        "%s is submitted again: job %s of an earlier command waits with other hydra.launcher settings "
                        "(`scancel %s` ends it)",
                        job.name, number, number,
                    )  # fmt: skip
                elif not seen.is_over:
                    job.number, job.folder, job.seen = number, folder, seen
        if taken := [job for job in self.left.values() if job.number]:
            log.info("waiting for %s of an earlier command: %s", counted(len(taken), "job"), _list(taken))

    def _submit(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            for path in (Jobs(self.jobs.folder).note_path(key) for key in job.keys):
                path.unlink(missing_ok=True)  # of an earlier try within this command
        folder = str(self.jobs.folder.resolve())
        for request in dict.fromkeys(job.request for job in jobs):
            group = [job for job in jobs if job.request == request]
            try:
                # what sbatch says is said once, in the message
                with contextlib.redirect_stderr(io.StringIO()), self.executors[request].batch():
                    for job in group:
                        task = Task(folder, job.words, float(self.options["timeout_min"]), self.began)
                        job.job = self.executors[request].submit(task)
            except RuntimeError as error:
                raise _refusal(error, self.options) from error
            for job in group:
                job.number, job.folder = str(job.job.job_id), self.jobs.folder
                job.seen = job.over_since = None
                self.submitted[job.plan.key] = {"number": job.number, "options": dict(self.options)}
            if self.on_slurm:  # elsewhere they end with this command
                write_json(self.jobs.folder / "jobs" / SUBMITTED, self.submitted)
        if jobs:
            log.info("%s submitted; logs: %s", counted(len(jobs), "job"), self.jobs.folder / "jobs")
            self.ask_every_s, self.ask_at = ASK_EVERY_S[0], 0.0

    def _ended(self) -> list[_Job]:
        """Return the jobs that have ended: their notes are there, or the cluster says so."""
        present = {file for folder in {job.folder for job in self.left.values()} for file in folder.iterdir()}
        noted = [job for job in self.left.values() if present.intersection(job.notes)]
        others = [job for job in self.left.values() if job not in noted]
        if not self.on_slurm:
            return noted + [job for job in others if job.job.done()]
        self._ask(others)
        now, over = time.monotonic(), []
        for job in others:
            if job.seen is None or not job.seen.is_over:
                job.over_since = None
                continue
            job.over_since = job.over_since or now
            well = job.seen.state in ("COMPLETED", "GONE")
            if now - job.over_since >= (NOTE_WITHIN_S if well else 2 * LOOK_EVERY_S):
                over.append(job)
        return noted + over

    def _ask(self, jobs: Sequence[_Job]) -> None:
        """Ask SLURM how the jobs are, now and then, and say what needs to be known."""
        now = time.monotonic()
        if not jobs or now < self.ask_at:
            return
        self.ask_at, self.ask_every_s = now + self.ask_every_s, min(1.3 * self.ask_every_s, ASK_EVERY_S[1])
        try:
            seen = slurm_queue.look(job.number for job in jobs)
        except slurm_queue.NoAnswer as error:
            if self.answers:
                log.warning("SLURM does not answer (%s); it is asked again until it does", error)
            self.answers = False
            return
        self.answers = True
        for job in jobs:
            before, job.seen = job.seen, seen[job.number]
            if before is not None and job.seen.comes_after_an_interruption_of(before):
                log.info("%s: interrupted and queued again (job %s); its run resumes", job.name, job.number)
            unusual = job.seen.state == "PENDING" and job.seen.reason not in slurm_queue.ORDINARY
            if unusual and (before is None or before.reason != job.seen.reason):
                log.warning(
                    "%s waits in the queue (job %s): SLURM gives the reason %s",
                    job.name, job.number, job.seen.reason,
                )  # fmt: skip

    def _finish(self, job: _Job) -> None:
        """Note how a job ended and say it, or submit it again."""
        key = job.plan.key
        note = job.note
        run = run_of(job.plan)
        if note is None and run.is_complete and not job.plan.config["rerun"]:
            note = Note(key, Outcome.DONE, words=tuple(job.words))  # it died after its work was done
        if note is None:
            reason, again = self._death(job)
            if again:
                log.warning("%s: %s; it is submitted again", job.name, reason)
                self._submit([job])
                return
            written = str(job.log) if job.log.is_file() else None
            note = Note(key, Outcome.FAILED, reason, False, written, tuple(job.words))
            if job.plan.config["on_failure"] == "stop":
                self.jobs.stop()
        del self.left[key]
        self.jobs.note(
            key, note.outcome, note.reason, note.mistake, note.log, job.words, seconds=note.seconds
        )
        if note.outcome is Outcome.DONE:
            self.values[key] = monitored(run.result or {})
        progress.advance(self.places[key])
        said = said_of(note, run, job.seen.seconds if job.seen else None)
        log.info("[%d/%d] %s: %s", self.total - len(self.left), self.total, job.name, said)

    def _death(self, job: _Job) -> tuple[str, bool]:
        """Return why a job ended without a note, and whether it is to be submitted again."""
        state = job.seen.state if job.seen else "FAILED"
        reason = (
            f"job {job.number} of the cluster {job.seen.ending if job.seen else 'ended without a result'}"
        )
        # What the cluster does to a job it says; what a job does itself stands in its log.
        if state in ("FAILED", "COMPLETED", "GONE") and (words := slurm_queue.last_words(job.log)):
            reason += f": {words}"
        if state == "CANCELLED" or self.jobs.stopped:
            return reason, False
        if state != "PREEMPTED":  # which is nobody's fault
            job.tries -= 1
        return reason, job.tries > 0

    def _leave(self) -> None:
        """End the jobs that are processes of this machine; of a cluster's own say that they go on."""
        going = [job for job in self.left.values() if job.number]
        if self.on_slurm:
            going = [job for job in going if job.seen is None or not job.seen.is_over]
            if going:
                log.warning(
                    "%d submitted jobs go on: `scancel %s` ends them, the same command waits for them",
                    len(going), _list(going),
                )  # fmt: skip
            return
        for job in going:
            if not job.job.done():
                job.job.cancel(check=False)


def _list(jobs: Sequence[_Job]) -> str:
    return " ".join(job.number for job in jobs)


def _refusal(error: Exception, options: Mapping[str, Any]) -> UserError:
    """Say in a line why the cluster takes no job."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line.partition("error: ")[2] for line in lines if line.startswith("sbatch: error: ")]
    given = {
        key: value for key, value in options.items() if value and key not in ("cluster", "array_parallelism")
    }
    asked = ", ".join(f"{key}={value}" for key, value in given.items())
    reason = "; ".join(said) or (lines or ["no reason given"])[-1]
    return UserError(f"the cluster takes no job: {reason} (hydra.launcher: {asked})")
