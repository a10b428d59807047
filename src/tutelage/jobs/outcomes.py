"""The jobs of one command: each tried as often as asked, its outcome noted (`notes`), what failed listed at the end."""

from __future__ import annotations

import functools
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.engine import progress
from tutelage.errors import StoppedBelow, UserError, counted, exit_code
from tutelage.jobs.notes import Note, Notes, Outcome
from tutelage.runs.folders import make_folder
from tutelage.runs.needs import Plan
from tutelage.runs.run import Run, RunBusy
from tutelage.runs.store import Store, short
from tutelage.runs.words import brief, distinguishing, key_of

log = logging.getLogger("tutelage")


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    make: makes a run complete; see `launch.Make`.
    headline: of a result, in a line.
    value: of a result, what a search would look at.
    """

    make: Callable[[dict[str, Any], Run], Any]
    headline: Callable[[dict[str, Any]], str]
    value: Callable[[dict[str, Any]], float]


class Jobs(Notes):
    """The jobs of one command, known by a folder of notes."""

    gpu_memory_gb: float | None = None
    """What each of several on one GPU may take of it."""

    @classmethod
    def new(cls, runs_dir: str) -> Jobs:
        """Begin a command: make its folder below the runs folder, which all machines of a sweep see."""
        above = Path(runs_dir).expanduser() / ".sweeps"
        make_folder(above)
        return cls(Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d_%H-%M-%S-"), dir=above)))

    def do(
        self,
        make_plan: Callable[[], Plan],
        *,
        words: Sequence[str],
        processes: int | None = 1,
        wait: bool = True,
        kind: Kind | None = None,
        here: bool = False,
        say: Callable[..., None] = log.info,
    ) -> float:
        """Do one job and note its outcome; an error ends in the notes, not here. Return the value of its result, or NaN.

        wait: whether to wait for another process that works on the same run; otherwise the job is noted as busy.
        kind: of run; None: one that trains.
        here: whether the outcome matters to this process alone, so that no file is written.
        say: takes lines on what went well.
        """
        from tutelage.jobs.launch import first_line, fit_or_synthesize, run_plan

        began = time.monotonic()

        def note(
            key: str, outcome: Outcome, reason: str = "", mistake: bool = False, log: str | None = None
        ) -> None:
            seconds = time.monotonic() - began
            self.note(key, outcome, reason, mistake, log, words, processes, seconds, here=here)

        key, plan = " ".join(words) or "the job", None
        try:
            plan = make_plan()
            key = plan.key
            if self.stopped:
                note(key, Outcome.LEFT)
                return float("nan")
            kind = kind or Kind(fit_or_synthesize, headline, monitored)
            stored = is_stored(plan)
            told = (lambda *_: None) if stored else say  # its one line is below
            result = run_plan(plan, rerun=plan.config["rerun"], wait=wait, make=kind.make, say=told)
        except RunBusy:
            note(key, Outcome.BUSY)
        except StoppedBelow as error:
            log.info("%s: %s", key, error)
            note(key, Outcome.STOPPED_BELOW, str(error))
        except Exception as error:
            mistake = exit_code(error) == 2
            self.say_failed(key, str(error), mistake)
            note(key, Outcome.FAILED, first_line(error), mistake, _log_of(plan))
            if plan is not None and plan.config["on_failure"] == "stop":
                self.stop()
        else:
            note(key, Outcome.DONE)
            say(
                "%s seed %s%s: %s",
                short(key),
                plan.config["seed"],
                ", stored" if stored else "",
                kind.headline(result),
            )
            return kind.value(result)
        return float("nan")

    def take(
        self, plan: Plan | None, words: Sequence[str], say: Callable[..., None] = log.info
    ) -> float | None:
        """Return the value of a job whose result is stored, and note it; None where it is not. Costs no process, no file, no torch."""
        if plan is None or self.stopped or not is_stored(plan):
            return None
        return self.do(lambda: plan, words=words, here=True, say=say)

    def run_all(
        self,
        commands: Sequence[Sequence[str]],
        processes: int | None,
        *,
        plans: Mapping[tuple[str, ...], Plan] | None = None,
        wait: bool = False,
    ) -> None:
        """Do the jobs of these commands: one after the other here, or each in a process of its own.

        plans: of commands that are planned already.
        """
        from tutelage.config.planner import plan_of

        known = plans or {}

        def job(words: Sequence[str]) -> float:
            return self.do(
                lambda: known.get(tuple(words)) or plan_of(words),
                words=words,
                processes=processes,
                wait=wait,
                here=processes == 1,
            )

        if processes == 1:
            with progress.board(len(commands)):
                for words in commands:
                    job(words)
                    progress.advance()
        elif commands:
            self.fork(
                [
                    (words, known.get(tuple(words)) or plan_or_none(words), functools.partial(job, words))
                    for words in commands
                ],
                processes,
            )

    def fork(
        self, jobs: Sequence[tuple[Sequence[str], Plan | None, Callable[[], float]]], processes: int | None
    ) -> list[float]:
        """Run (words, plan, job) in processes of their own and return the values; one that dies is tried again like one that fails."""
        from tutelage.jobs.longer import look_around
        from tutelage.jobs.parallel import preload, run_forked

        plans = [plan for _, plan, _ in jobs]
        known = [plan.config for plan in plans if plan is not None]
        if known:
            look_around(known, Store(known[0]["runs_dir"]))

        def died(number: int, how: str) -> None:
            words, plan, _ = jobs[number]
            key = plan.key if plan else " ".join(words)
            output = self.folder / f"{number}.txt"
            said = str(output) if output.is_file() and output.stat().st_size else _log_of(plan)
            self.note(key, Outcome.FAILED, f"its process {how}", False, said, words=words)
            if plan is not None and plan.config["on_failure"] == "stop":
                self.stop()

        def became(number: int, value: float) -> str:
            words, plan, _ = jobs[number]
            if value != value:
                noted = next((note.outcome for note in self.notes() if note.words == tuple(words)), None)
                return "another process works on it" if noted is Outcome.BUSY else noted or "no value"
            result = None if plan is None else Store(plan.config["runs_dir"]).at(plan.key).result
            monitor = (result or {}).get("selection", {}).get("monitor")
            return f"val. {monitor} {value:.4g}" if monitor else f"{value:.4g}"

        names = [
            " ".join([*([short(plan.key)] if plan else []), *_telling(words, plan)]) or "the job"
            for words, (_, plan, _) in zip(distinguishing([words for words, _, _ in jobs]), jobs, strict=True)
        ]
        with progress.board(len(jobs)) as shown:
            if known:
                if isinstance(shown, progress.Board):
                    shown.refresh(now=True)
                preload([config["data"] for config in known], known[0]["runs_dir"])
            return run_forked(
                [job for _, _, job in jobs],
                processes=processes,
                names=names,
                retries=[plan.config["retry"] if plan else 0 for plan in plans],
                died=died,
                became=became,
                outputs=self.folder,
                gpu_memory_gb=self.gpu_memory_gb,
            )

    def finish_busy(self) -> None:
        """Wait for the jobs that other processes work on, and take over what those leave."""
        busy = [note for note in self.notes() if note.outcome is Outcome.BUSY]
        if busy:
            log.info("waiting for %s that other processes work on", counted(len(busy), "run"))
            self.run_all([note.words for note in busy], busy[0].processes, wait=True)


def _telling(words: Sequence[str], plan: Plan | None) -> list[str]:
    """Return what a job's line says of its words: not those that its run's name says already."""
    said = () if plan is None else ("name", "experiment")
    return [brief(word) for word in words if key_of(word) not in said]


def monitored(result: dict[str, Any]) -> float:
    """Return the monitored validation metric; of a pseudo data set its images."""
    if "pseudo" in result:
        return float(result["pseudo"]["count"])
    return float(result["best"]["validation"][result["selection"]["monitor"]])


def headline(result: dict[str, Any]) -> str:
    """Return the result in a line: the monitored metric on validation and test, and the selected step where it is not the last."""
    if "pseudo" in result:
        return "{count} images of {classes} classes, labelling {labelling}".format(**result["pseudo"])
    best, monitor, steps = result["best"], result["selection"]["monitor"], result["cost"]["steps"]
    selected = f", at step {best['step']:,} of {steps:,}" if best["step"] != steps else ""
    early = (
        f", ended early at {steps:,} of {result['ended_early']['of']:,}" if "ended_early" in result else ""
    )
    return (
        f"val. {monitor} {best['validation'][monitor]:.4g}, test {best['test'][monitor]:.4g}{selected}{early}"
    )


def said_of(note: Note, run: Run, seconds: float | None = None) -> str:
    """Return how a job ended, in words: its result in a line, or its outcome with the reason, and how long it took."""
    said = f"{note.outcome.value}: {note.reason}" if note.reason else str(note.outcome.value)
    if note.outcome is Outcome.DONE:
        said = headline(run.result or {})
    seconds = note.seconds if note.seconds is not None else seconds
    return said + (f" ({seconds:.0f} s)" if seconds else "")


def run_of(plan: Plan) -> Run:
    """Return the run of a plan, whether or not it exists yet."""
    return Store(plan.config["runs_dir"]).run(plan.name, plan.identity)


def is_stored(plan: Plan | None) -> bool:
    """Whether a job's result is there already, and no other is asked for."""
    if plan is None or plan.config["rerun"]:
        return False
    return run_of(plan).is_complete


def _log_of(plan: Plan | None) -> str | None:
    if plan is None:
        return None
    path = run_of(plan).log
    return str(path) if path.is_file() else None


def plan_or_none(words: Sequence[str]) -> Plan | None:
    """Return the plan of a command, or None where it has none."""
    from tutelage.config.planner import plan_of

    try:
        return plan_of(words)
    except UserError:
        return None  # its own job says what is wrong


def plan_here(jobs: Jobs, words: Sequence[str], name: str) -> Plan | None:
    """Plan a job that others are to do; words that mean nothing are noted here: a node would say no more."""
    from tutelage.config.planner import plan_of

    try:
        return plan_of(words)
    except UserError as error:
        log.error("%s: %s", name, error)
        jobs.note(" ".join(words), Outcome.FAILED, str(error), True, words=words)
        if "on_failure=stop" in words:
            jobs.stop()
        return None
