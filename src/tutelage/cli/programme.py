"""`tutelage reproduce <programme>`: stages of long work, in the order of worth per minute here, as far as the time goes.

Nothing is kept of a programme but its runs, and a note for each stage that is a command: copied to another machine, they are where it
goes on.
"""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.cli.programme_stages import PlanOf, Work, measured, missing, note_path, planner, timed, works_of
from tutelage.cli.reader import Given
from tutelage.cli.report import report_table
from tutelage.cli.speed import Speed
from tutelage.config.groups import PRIMARY, config_folder, groups
from tutelage.errors import UserError, choices, counted
from tutelage.jobs.notes import Outcome
from tutelage.jobs.outcomes import Jobs
from tutelage.jobs.plain_log import quietly
from tutelage.reporting.committed import write_table
from tutelage.reporting.console import console, say
from tutelage.reporting.programme_file import Programme, load
from tutelage.reporting.tables import finder
from tutelage.runs.bounded import load_yaml
from tutelage.runs.needs import Plan
from tutelage.runs.records import write_json
from tutelage.runs.run import State
from tutelage.runs.store import Store
from tutelage.runs.words import key_of, value_of

log = logging.getLogger("tutelage")
RESERVE_S = 5.0
"""Seconds that the end of the time keeps for tables and what is to be said."""

AGAIN_S = 2.0
"""Seconds after which the time is looked at again once it is over."""


class TimeIsUp(KeyboardInterrupt):
    """The minutes that were given are over: what runs stops as at an interrupt."""


def run(path: Path, given: Given) -> int:
    """Run a programme; return the exit code: 0 also where the time was over, 1 where something failed."""
    begun = time.monotonic()
    until = begun + 60 * _minutes(given.options["minutes"]) - RESERVE_S
    programme, tiny = load(path), "--tiny" in given.flags
    places, extra = _places(programme, given)
    runs_dir = value_of(extra, "runs_dir") or "runs"
    from tutelage.config.compose import hydra_ready

    speed = Speed()
    failed: list[str] = []
    with hydra_ready():
        plan_of = planner(tiny)
        works, left_out = works_of(programme, places, extra, tiny, runs_dir)
        if left_out and not works:
            _say_left_out(left_out)
            raise UserError(
                f"nothing of the programme {path.stem} can be done here: give what is asked for, or --tiny for a rehearsal"
            )
        ahead = ", ".join(work.stage.label for work in works) or "nothing"
        say(f"{programme.title}\nmeasuring the speed of this machine on: {ahead}")
        with _alarm(until):
            try:
                works = measured(works, plan_of, speed, left_out)
                console().print(_plan_table(works, until - time.monotonic()))
                _say_left_out(left_out)
                if "--dry" in given.flags:
                    return 0
                _work_off(works, plan_of, until, runs_dir, speed, failed)
                over = False
            except TimeIsUp:
                over = True
        _report(works, plan_of, runs_dir, tiny)
        return _end(works, plan_of, failed, over, time.monotonic() - begun, runs_dir, len(left_out))


def _minutes(text: str) -> float:
    try:
        minutes = float(text) if text else math.inf
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise UserError(f"minutes must be a number above 0, such as minutes=15, got {text!r}")
    return minutes


def _places(programme: Programme, given: Given) -> tuple[dict[str, str], list[str]]:
    """Return the places that the command names, and its other words."""
    words = given.as_settings("processes")
    if value_of(words, "processes") is not None or any(key_of(w).startswith("hydra") for w in words):
        raise UserError(
            "a programme does its runs one after the other in this process: leave processes= and hydra/launcher= away"
        )
    named = {key_of(word): word.partition("=")[2] for word in words if key_of(word) in programme.places}
    for key, value in named.items():
        if not Path(value).expanduser().exists():
            raise UserError(f"{key}={value}: there is nothing; expected {programme.places[key]}")
    others = [word for word in words if key_of(word) not in programme.places]
    known = [*programme.places, *load_yaml(config_folder() / f"{PRIMARY}.yaml"), *groups()]
    for key in map(key_of, others):
        if not set(key) & set(".@/") and key not in known:
            raise UserError(
                f"there is no place '{key}' in this programme, and no setting; {choices(key, programme.places)}"
            )
    return named, others


def _plan_table(works: Sequence[Work], left: float) -> Any:
    from rich.table import Table

    table = Table(title="in the order of worth per minute on this machine", title_justify="left")
    for title in ("stage", "decides", "missing", "each", "all of it", "fits into the time"):
        table.add_column(title, justify="left" if title in ("stage", "decides") else "right")
    for work in works:
        known = [seconds for _, seconds in work.missing if seconds == seconds]
        fits = 0
        for seconds in known:
            if seconds > left:
                break
            left, fits = left - seconds, fits + 1
        each = (
            f"{_time(min(known))}" + (f" to {_time(max(known))}" if max(known) > 1.2 * min(known) else "")
            if known
            else "not known"
        )
        of = "all" if fits == len(work.missing) else f"{fits} of {len(work.missing)}"
        table.add_row(
            work.stage.label, work.stage.decides, str(len(work.missing)), each, _time(work.seconds), of
        )
    return table


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _say_left_out(left_out: dict[str, str]) -> None:
    for label, why in left_out.items():
        say(f"left out, {label}: {why}")


def _work_off(
    works: Sequence[Work], plan_of: PlanOf, until: float, runs_dir: str, speed: Speed, failed: list[str]
) -> None:
    """Do what fits, in order; then begin what does not, which another machine ends."""
    jobs = Jobs.new(runs_dir)
    tried: set[tuple[str, ...]] = set()
    try:
        for whole in (True, False):
            for work in works:
                room = until - time.monotonic()
                if work.stage.command:
                    if work.missing and work.missing[0][0] not in tried and (work.seconds <= room) == whole:
                        _in_time(until)
                        tried.add(work.missing[0][0])
                        failed += [] if _command(work, runs_dir) else [work.stage.label]
                    continue
                # A choice of hyperparameters makes new cells: a stage is asked until it has no more that fit.
                while words := _next(timed(work, plan_of, speed), tried, room if whole else math.inf):
                    _in_time(until)
                    tried.add(words)
                    _one(jobs, plan_of(words), words, speed)
                    room = until - time.monotonic()
    finally:
        failed += [note.key for note in jobs.notes() if note.outcome is Outcome.FAILED]
        jobs.close()


def _in_time(until: float) -> None:
    """Raise TimeIsUp where nothing may begin any more, though the signal that says so was lost."""
    if time.monotonic() >= until:
        raise TimeIsUp


def _next(
    commands: Sequence[tuple[tuple[str, ...], float]], tried: set[tuple[str, ...]], room: float
) -> tuple[str, ...] | None:
    """Return the first command that was not tried and takes no longer than there is room; what is not known fits into no bounded room."""
    fits = (
        words for words, seconds in commands if words not in tried and (seconds <= room or room == math.inf)
    )
    return next(fits, None)


def _one(jobs: Jobs, plan: Plan, command: Sequence[str], speed: Speed) -> None:
    jobs.do(lambda: plan, words=command)
    result = Store(plan.config["runs_dir"]).run(plan.name, plan.identity).result
    if result and not result["cost"].get("resumed_at_step"):
        speed.learn(plan, result["cost"]["total_s"])


def _command(work: Work, runs_dir: str) -> bool:
    """Do a stage that is a command of this Python; say whether it went well. Its output is shown, its outcome noted."""
    from tutelage.runs import provenance
    from tutelage.runs.folders import make_folder

    words = work.missing[0][0]
    say(f"{work.stage.label}: python {' '.join(words)}")
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, *words])
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    path = note_path(work.stage, runs_dir)
    make_folder(path.parent)
    seconds = round(time.monotonic() - begun, 1)
    record = {"command": list(words), "exit_code": code, "seconds": seconds}
    write_json(path, record | {"machine": provenance.machine(), "date": provenance.now()})
    if code == 0:
        work.missing = []
    return code == 0


@contextmanager
def _alarm(until: float) -> Iterator[None]:
    """Raise TimeIsUp in the main thread when the time is over; again where it was lost, as in a `__del__` or a callback from C."""
    if until == math.inf or threading.current_thread() is not threading.main_thread():
        yield
        return
    raised: list[weakref.ref[TimeIsUp]] = []

    def made() -> TimeIsUp:
        error = TimeIsUp()
        raised[:] = [weakref.ref(error)]
        return error

    def ring(*_: Any) -> None:
        if (
            not raised or raised[0]() is None
        ):  # one that is alive is being handled: what runs comes to its end
            raise made()  # not held by this frame, which its traceback holds

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, until - time.monotonic()), AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _report(works: Sequence[Work], plan_of: PlanOf, runs_dir: str, tiny: bool) -> None:
    """Write the table of every stage that has a complete run; of a rehearsal below the runs."""
    shown: set[str] = set()
    for work in works:
        if not work.stage.table or work.stage.table in shown:
            continue
        path, table = work.stage.read_table()
        find = finder(list(work.words), plan_of, table)
        cells = [cell for arm in table.arms for point in arm.points for cell in table.cells(arm, point)]
        if not any(find(cell).state is State.COMPLETE for cell in cells):
            continue
        if tiny:
            _, said = write_table(table, find, Store(runs_dir), Path(runs_dir) / table.name, path.stem)
            say(said)
            continue
        shown.add(work.stage.table)
        with quietly():
            report_table(path, list(work.words))


def _end(
    works: Sequence[Work],
    plan_of: PlanOf,
    failed: Sequence[str],
    over: bool,
    seconds: float,
    runs_dir: str,
    left_out: int,
) -> int:
    left = {}
    for work in works:
        count = len(work.missing) if work.stage.command else len(missing(work, plan_of))
        if count:
            left[work.stage.label] = count
    if not left:
        but = f", but for {counted(left_out, 'stage')} left out here" if left_out else ""
        say(f"the programme is complete{but} ({_time(seconds)})")
    else:
        listed = ", ".join(f"{label} ({count})" for label, count in left.items())
        say(
            f"{'the time is over' if over else 'stopped'} after {_time(seconds)}; missing: {listed}.\nThe same command continues, here or "
            f"on another machine to which {runs_dir}/ was copied: complete runs are found, begun ones go on from their last checkpoint"
        )
    return 1 if failed else 0
