"""How far runs are that work elsewhere, as ranks or on a cluster's nodes: read from their records by who waits for them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator

from tutelage.engine import progress
from tutelage.engine.progress import Status
from tutelage.errors import UserError
from tutelage.runs.json_lines import read_metrics
from tutelage.runs.needs import Plan
from tutelage.runs.records import read_json
from tutelage.runs.run import Run
from tutelage.runs.store import Store, short

EVERY_S = 2.0
"""How often records are read: their folder may lie on a network."""
MOST = 16
"""How many runs at work are looked at, in the order in which they were given."""


def status_of(run: Run) -> Status | None:
    """Return how far a run's records say that it is, None while they say nothing.

    Speed is that of its training so far, resumed attempts included.
    """
    try:
        rows = read_metrics(run.path / "metrics.jsonl").rows
        setup, seed = read_json(run.path / "setup.json"), run.config["seed"]
        last, monitor = rows[-1], setup["selection"]["monitor"]
        seconds = float(last["train_s"])
        return Status(
            title=f"{short(run.key)} seed {seed}",
            step=int(last["step"]),
            steps=int(setup["steps"]),
            rate=last["step"] / seconds if seconds > 0 else 0.0,
            seconds=seconds,
            loss=last.get("train/loss"),
            metric=monitor,
            value=next(
                (r[f"validation/{monitor}"] for r in reversed(rows) if f"validation/{monitor}" in r), None
            ),
        )
    except (UserError, OSError, LookupError, TypeError, ValueError):
        return None  # nothing is recorded yet, or it is being written just now


class Watch:
    """Shows runs at work on the board of this command, one worker's bar each."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        self._shown: set[int] = set()

    def look(self, plans: Iterable[tuple[int, Plan]]) -> None:
        """Show those of the plans, by their numbers, whose runs are at work; of a run that has ended the bar goes."""
        shown = progress.current()
        if shown is None or time.monotonic() - self._looked_at < EVERY_S:
            return
        self._looked_at = time.monotonic()
        there: set[int] = set()
        for number, plan in plans:
            run = Store(plan.config["runs_dir"]).run(plan.name, plan.identity)
            if len(there) < MOST and run.is_locked and (status := status_of(run)) is not None:
                there.add(number)
                shown.show(status, number)
        for number in self._shown - there:
            shown.clear(number)
        self._shown = there
        if isinstance(shown, progress.Board):
            shown.refresh()


@contextlib.contextmanager
def ranks_shown(plan: Plan) -> Iterator[None]:
    """Show a run of several ranks where this command shows its runs; its ranks, whom this process waits for, then draw nothing.

    A thread reads the records: the process itself stands in torch elastic, or in srun.
    """
    if progress.current() is None:
        yield
        return
    over, watch = threading.Event(), Watch()

    def look() -> None:
        while not over.wait(EVERY_S):
            watch.look([(0, plan)])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    os.environ[progress.QUIET] = "1"
    try:
        yield
    finally:
        os.environ.pop(progress.QUIET, None)
        over.set()
        thread.join()
