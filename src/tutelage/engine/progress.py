"""What a person sees of runs at work: a bar for each and one for the whole. Without a terminal, a line a minute. Loads no torch."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

log = logging.getLogger("tutelage")
REFRESH_S = 0.2
LINE_S = 60.0
"""Without a terminal, how long it is from one line to the next."""
QUIET = "TUTELAGE_SHOWN_ELSEWHERE"
"""An environment variable: who started this process shows how far it is."""
MOST_BARS = 8
_FULL, _EMPTY = "━", "─"
_LEAST_BAR = 12


@dataclass(frozen=True)
class Status:
    """How far a run is.

    title: which run. rate: steps a second, validation included. seconds: since it began or was resumed.
    loss: of the training term, as last recorded. value: of the metric that selects, on validation.
    """

    title: str
    step: int
    steps: int
    rate: float = 0.0
    seconds: float = 0.0
    loss: float | None = None
    metric: str = ""
    value: float | None = None

    @property
    def left_s(self) -> float | None:
        """How long it takes to the last step at this rate."""
        return (self.steps - self.step) / self.rate if self.rate > 0 else None

    def facts(self) -> list[str]:
        """Return speed, times, loss and metric as a person reads them."""
        speed = f"{self.rate:.3g}" if self.rate < 100 else f"{self.rate:.0f}"
        return [
            *([f"{speed} steps/s"] if self.rate else []),
            f"{clock(self.seconds)} gone",
            *([] if self.left_s is None else [f"{clock(self.left_s)} left"]),
            *([] if self.loss is None else [f"loss {self.loss:.3g}"]),
            *([] if self.value is None else [f"val. {self.metric} {self.value:.3g}"]),
        ]


class Board:
    """The bars of one command. Drawn by whoever shows something, never by a thread: this process forks others.

    total: how many runs the command makes; 0: it is one run, which needs no bar for the whole.
    """

    def __init__(self, total: int = 0) -> None:
        self.total, self.done = total, 0
        self.began = time.monotonic()
        self._at_work: dict[int, Status] = {}
        self._live: Any = None
        self._drawn_at, self._said_at = 0.0, self.began

    def show(self, status: Status, worker: int = 0) -> None:
        """Take how far a worker's run is."""
        self._at_work[worker] = status
        self.refresh()

    def clear(self, worker: int = 0) -> None:
        """Take a worker's bar away: its run has ended."""
        self._at_work.pop(worker, None)
        self.refresh(now=True)

    def advance(self) -> None:
        """Count a run that has ended."""
        self.done += 1
        self.refresh(now=True)

    def refresh(self, *, now: bool = False) -> None:
        """Draw, if that was not done just now."""
        at = time.monotonic()
        if not sys.stderr.isatty():
            if (self._at_work or self.total) and at - self._said_at >= LINE_S:
                self._said_at = at
                log.info("%s", "; ".join(self.lines(10_000, bars=False)))
            return
        if not now and at - self._drawn_at < REFRESH_S:
            return
        self._drawn_at = at
        from rich.text import Text

        if self._live is None:
            if not (self._at_work or self.total):
                return
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Text("\n".join(self.lines(self._live.console.width))), refresh=True)

    def lines(self, width: int, *, bars: bool = True) -> list[str]:
        """Return the lines to draw within a width: the whole first, then each worker's run."""
        shown = []
        if self.total:
            whole = self.done + sum(one.step / max(one.steps, 1) for one in self._at_work.values())
            gone = time.monotonic() - self.began
            facts = [f"{self.done} of {self.total} runs done", f"{clock(gone)} gone"]
            if whole > 0.02:
                facts.append(f"{clock(gone * (self.total - whole) / whole)} left")
            shown += _drawn("all", whole / self.total, facts, width, bars)
        at_work = [one for _, one in sorted(self._at_work.items())]
        for one in at_work[:MOST_BARS]:
            at = f"step {one.step:,} of {one.steps:,}"
            shown += _drawn(one.title, one.step / max(one.steps, 1), [at, *one.facts()], width, bars)
        if (more := len(at_work) - MOST_BARS) > 0:
            shown.append(f"and {more} more at work")
        return shown

    def close(self) -> None:
        """Take the bars off the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class Relay:
    """In a forked job: sends what its parent is to show through a pipe. What does not go through at once is left out."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self._sent_at = 0.0

    def show(self, status: Status, worker: int = 0) -> None:
        """See `Board.show`."""
        if time.monotonic() - self._sent_at >= REFRESH_S:
            self._sent_at = time.monotonic()
            self._send(asdict(status))

    def clear(self, worker: int = 0) -> None:
        """See `Board.clear`."""

    def _send(self, what: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(self.pipe, json.dumps(what).encode() + b"\n")


_current: Board | Relay | None = None


def current() -> Board | Relay | None:
    """Return where this process shows how far it is, if its command has opened something."""
    return _current


def advance(worker: int | None = None) -> None:
    """Count a run that has ended, and take its worker's bar away; nothing where this process shows nothing of its own."""
    if isinstance(_current, Board):
        if worker is not None:
            _current.clear(worker)
        _current.advance()


def relay(pipe: int) -> None:
    """Let this forked process send what it has to show."""
    global _current
    _current = Relay(pipe)


@contextlib.contextmanager
def board(total: int) -> Iterator[Board | Relay]:
    """Open the board of a command that makes so many runs; within one that is open already, that one."""
    global _current
    if _current is not None:
        yield _current
        return
    _current = made = Board(total)
    try:
        yield made
    finally:
        _current = None
        made.close()


def clock(seconds: float) -> str:
    """Return a time as 0:07, 12:05 or 3:12:05."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _drawn(title: str, share: float, facts: list[str], width: int, bars: bool) -> list[str]:
    """Return a run's line: title, bar, facts; where they are too long for that, the facts below the bar, cut at none of them."""
    said = " · ".join(facts)
    if not bars:
        return [f"{title}: {', '.join(facts)}"]
    room = width - len(title) - len(said) - 4
    if room >= _LEAST_BAR:
        return [f"{title}  {_bar(share, min(room, 60))}  {said}"]
    lines, line = [], ""
    for fact in facts:
        if line and len(line) + len(fact) + 5 > width:
            lines.append(f"  {line}")
            line = fact
        else:
            line = f"{line} · {fact}" if line else fact
    percent = f"{100 * share:3.0f} %"
    room = width - len(title) - len(percent) - 4
    first = (
        f"{title}  {_bar(share, min(room, 60))}  {percent}" if room >= _LEAST_BAR else f"{title}  {percent}"
    )
    return [first, *lines, f"  {line}"]


def _bar(share: float, width: int) -> str:
    full = round(min(max(share, 0.0), 1.0) * width)
    return _FULL * full + _EMPTY * (width - full)
