"""What is drawn and recorded while a run trains: every line, row and boundary."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from tutelage.engine import callbacks, progress
from tutelage.engine.callbacks import EndEarly, Progress, Recording, StopBelow
from tutelage.engine.progress import Board, Relay, Status
from tutelage.errors import StoppedBelow


@pytest.mark.parametrize(("seconds", "said"), [
    (0, "0:00"), (-5, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (725, "12:05"), (3599.4, "59:59"), (3600, "1:00:00"), (11525, "3:12:05"),
    (360000, "100:00:00"),
])  # fmt: skip
def test_a_time_as_a_clock_has_it(seconds, said):
    assert progress.clock(seconds) == said


@pytest.mark.parametrize(("status", "facts"), [
    (Status("a", 1, 4), ["0:00 gone"]),
    (Status("a", 300, 1200, 84.34, 7.2, 0.3123, "accuracy", 0.875),
     ["84.3 steps/s", "0:07 gone", "0:11 left", "loss 0.312", "val. accuracy 0.875"]),
    (Status("a", 300, 1200, 99.96, 7.2), ["100 steps/s", "0:07 gone", "0:09 left"]),
    (Status("a", 300, 1200, 100.0, 7.2), ["100 steps/s", "0:07 gone", "0:09 left"]),
    (Status("a", 300, 1200, 1234.56, 7.2, 0.0, "m", 0.0), ["1235 steps/s", "0:07 gone", "0:01 left", "loss 0", "val. m 0"]),
])  # fmt: skip
def test_the_facts_of_a_run(status, facts):
    assert status.facts() == facts


@pytest.mark.parametrize(("share", "width", "bar"), [(0.0, 4, "────"), (0.5, 4, "━━──"), (1.0, 4, "━━━━"), (1.5, 4, "━━━━"),
                                                    (-1.0, 4, "────"), (0.3, 10, "━━━───────")])  # fmt: skip
def test_a_bar(share, width, bar):
    assert progress._bar(share, width) == bar


FACTS = ["one fact", "another", "third"]  # with their dots 26 characters


@pytest.mark.parametrize(("width", "lines"), [
    (200, ["run  " + "━" * 15 + "─" * 45 + "  one fact · another · third"]),
    (47, ["run  " + "━" * 4 + "─" * 10 + "  one fact · another · third"]),
    (45, ["run  " + "━" * 3 + "─" * 9 + "  one fact · another · third"]),
    (44, ["run  " + "━" * 8 + "─" * 24 + "   25 %", "  one fact · another · third"]),
    (28, ["run  " + "━" * 4 + "─" * 12 + "   25 %", "  one fact · another · third"]),
    (27, ["run  " + "━" * 4 + "─" * 11 + "   25 %", "  one fact · another", "  third"]),
    (24, ["run  " + "━" * 3 + "─" * 9 + "   25 %", "  one fact · another", "  third"]),
    (23, ["run   25 %", "  one fact · another", "  third"]),
    (20, ["run   25 %", "  one fact · another", "  third"]),
    (19, ["run   25 %", "  one fact", "  another · third"]),
    (5, ["run   25 %", "  one fact", "  another", "  third"]),
])  # fmt: skip
def test_a_runs_line_within_a_width(width, lines):
    found = progress._drawn("run", 0.25, FACTS, width, bars=True)
    assert found == lines
    assert max(map(len, found)) <= max(width, 10)
    assert progress._drawn("run", 0.25, FACTS, width, bars=False) == ["run: one fact, another, third"]


def test_the_lines_of_a_board(monkeypatch):
    board = Board(4)
    monkeypatch.setattr(progress.time, "monotonic", lambda: board.began + 90.0)
    board.done = 1
    board._at_work = {3: Status("c", 0, 0), 1: Status("a", 1000, 2000), 2: Status("b", 1500, 6000)}
    # of 4 runs 1 + 1/2 + 1/4 are done in 90 s, so that 2.25 are left
    assert board.lines(70) == [
        "all  " + "━" * 10 + "─" * 13 + "  1 of 4 runs done · 1:30 gone · 1:56 left",
        "a  " + "━" * 17 + "─" * 17 + "  step 1,000 of 2,000 · 0:00 gone",
        "b  " + "━" * 8 + "─" * 26 + "  step 1,500 of 6,000 · 0:00 gone",
        "c  " + "─" * 42 + "  step 0 of 0 · 0:00 gone",
    ]
    board.done, board._at_work = 0, {}
    assert board.lines(100, bars=False) == ["all: 0 of 4 runs done, 1:30 gone"]
    board._at_work = {0: Status("a", 2, 100)}  # 2 % of a run: it is too early to tell how long it takes
    assert board.lines(100, bars=False)[0] == "all: 0 of 4 runs done, 1:30 gone"
    board._at_work = {0: Status("a", 3, 100)}
    assert board.lines(100, bars=False)[0] == "all: 0 of 4 runs done, 1:30 gone, 3:18:30 left"
    one = Board()
    one._at_work = {0: Status("a", 9, 100)}
    assert one.lines(100, bars=False) == ["a: step 9 of 100, 0:00 gone"]


@pytest.mark.parametrize(
    ("runs", "last"), [(8, "run 7"), (9, "and 1 more at work"), (12, "and 4 more at work")]
)
def test_so_many_bars_and_the_rest_is_counted(runs, last):
    board = Board()
    board._at_work = {number: Status(f"run {number}", 1, 2) for number in range(runs)}
    lines = board.lines(200)
    assert lines[-1].startswith(last) and len(lines) == min(runs, 8) + (runs > 8)


@pytest.fixture
def clock(monkeypatch):
    """Give the time, in a list."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_on_a_terminal_it_is_drawn_not_too_often_but_at_once_when_something_ends(monkeypatch, clock):
    drawn = []

    class Live:
        def __init__(self, **more):
            self.console = SimpleNamespace(width=100)
            drawn.append("made")

        def start(self):
            drawn.append("started")

        def stop(self):
            drawn.append("stopped")

        def update(self, text, refresh):
            drawn.append(text.plain.count("\n") + 1)

    monkeypatch.setattr("rich.live.Live", Live)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "REFRESH_S", 0.25)
    empty = Board()
    empty.refresh(now=True)
    empty.close()
    assert drawn == []  # there is nothing to show
    board = Board(2)
    board.show(Status("a", 1, 2))
    assert drawn == ["made", "started", 2]
    clock[0] += 0.125
    board.show(Status("b", 1, 2), 1)
    assert drawn[3:] == []
    board.clear(1)
    board.advance()
    assert drawn[3:] == [2, 2] and board.done == 1
    clock[0] += 0.25
    board.show(Status("b", 1, 2), 1)
    assert drawn[5:] == [3]
    board.close()
    board.close()
    assert drawn[6:] == ["stopped"]
    for alone in (Board(1), Board()):
        alone._at_work = {} if alone.total else {0: Status("a", 1, 2)}
        alone.refresh()
    assert drawn[7:] == ["made", "started", 1] * 2


@pytest.mark.parametrize(
    ("total", "at_work", "lines"), [(0, {}, 0), (2, {}, 1), (0, {0: Status("a", 1, 2)}, 1)]
)
def test_without_a_terminal_a_line_comes_after_a_minute(monkeypatch, caplog, clock, total, at_work, lines):
    caplog.set_level(logging.INFO, "tutelage")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    board = Board(total)
    board._at_work = dict(at_work)
    for after, count in ((59.9, 0), (60.0, lines), (119.9, lines), (120.0, 2 * lines)):
        clock[0] = 1000.0 + after
        board.refresh(now=True)
        assert len(caplog.records) == count
    if total:
        assert caplog.records[0].getMessage() == "all: 0 of 2 runs done, 1:00 gone"


def test_a_relay_sends_not_too_often(clock):
    read, write = os.pipe()
    relay = Relay(write)
    every = progress.REFRESH_S  # the first is due so long after a moment that is zero
    for moment, step in ((every - 0.01, 1), (every, 2), (1.9 * every, 3), (2 * every, 4), (2.1 * every, 5)):
        clock[0] = moment
        relay.show(Status("a", step, 6))
    os.close(write)
    assert [json.loads(line)["step"] for line in os.read(read, 1 << 16).splitlines()] == [2, 4]
    os.close(read)
    relay._send({})  # nobody listens any more: that is no error


def test_a_board_within_a_board_is_that_one():
    with progress.board(3) as outer, progress.board(5) as inner:
        assert inner is outer is progress.current() and outer.total == 3
        outer._at_work = {2: Status("a", 1, 2)}
        progress.advance(2)
        progress.advance()
        assert outer.done == 2 and not outer._at_work
    assert progress.current() is None
    progress.advance(1)  # nothing is shown here


# --- beside the steps ---------------------------------------------------------------------------------------


class Writer:
    """Keeps rows."""

    def __init__(self, rows=0):
        self.rows, self.written, self.flushed = rows, [], 0

    def write(self, row):
        self.written.append(row)

    def flush(self):
        self.flushed += 1


def recording(writer, **more):
    logged = []
    mirrors = SimpleNamespace(log=logged.append)
    return Recording(writer, mirrors, **{"log_every": 3, "steps_per_epoch": 2.5, **more}), logged


def trainer(first=True, **group):
    return SimpleNamespace(
        is_global_zero=first,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.5, **group}, {"lr": 7.0}])],
        should_stop=False,
    )


class Method:
    """A method at a step, with batches that wait to be recorded."""

    def __init__(self, step=0, pending=0, **validation):
        self.step, self.history, self.max_steps = step, range(pending), 100
        self.values = {"validation": validation}
        self.flushed = []

    def flush(self, batch):
        self.flushed.append((self.step, batch))
        return {"train/loss": self.step / 10}


def test_rows_are_written_at_the_steps_for_them_and_after_each_validation(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    writer = Writer()
    one, logged = recording(writer, accumulate=2)
    loop = trainer(lr_factor=4.0)
    one.on_train_epoch_start(loop, Method())
    for step, pending, writes in ((2, 9, False), (3, 5, False), (3, 6, True), (5, 9, False), (6, 7, True)):
        before, method = len(writer.written), Method(step, pending)
        one.on_train_batch_end(loop, method, None, f"batch {step}", 0)
        assert (len(writer.written) > before) == writes == bool(method.flushed)
    now[0] = 102.0004
    one.on_validation_start(loop, method)
    method = Method(7, accuracy=0.75)
    one.on_validation_end(loop, method)
    rows = [
        {"step": 3, "epoch": 1.2, "train_s": 0.0, "lr": 0.125, "train/loss": 0.3},
        {"step": 6, "epoch": 2.4, "train_s": 0.0, "lr": 0.125, "train/loss": 0.6},
        {
            "step": 7,
            "epoch": 2.8,
            "train_s": 2.0,
            "lr": 0.125,
            "train/loss": 0.7,
            "validation/accuracy": 0.75,
        },
    ]
    assert writer.written == logged == rows and writer.flushed == 1
    assert method.flushed == [(7, "batch 6")]
    assert (one.rows, one.step, one.loss) == (3, 7, 0.7)
    state = one.state_dict()
    assert state == {"train_s": one.train_s, "step": 7, "rows": 3, "threads": torch.get_num_threads()}
    now[0] = 110.0
    one.on_train_epoch_start(loop, method)
    now[0] = 111.0
    one.on_validation_start(loop, method)
    assert one.train_s == pytest.approx(3.0004)


def test_ranks_but_the_first_write_nothing_and_nothing_is_no_row():
    one, logged = recording(None)
    one.on_train_batch_end(trainer(), Method(3, 3), None, "b", 0)
    assert len(logged) == one.rows == 1  # mirrors alone
    other, logged = recording(Writer())
    other.on_train_batch_end(trainer(first=False), Method(3, 3), None, "b", 0)
    assert not logged and other.rows == 0 and other.loss is None
    other._write(trainer(), 3, {})
    assert not logged
    other._write(trainer(), 3, {"validation/m": 1.0})
    assert other.loss is None and logged[0]["lr"] == 0.5


@pytest.mark.parametrize(("kept", "lost"), [(7, 0), (8, 0), (6, 1), (0, 7)])
def test_rows_that_were_lost_are_told(caplog, kept, lost):
    writer = Writer(kept)
    one, _ = recording(writer)
    one.load_state_dict({"train_s": 1.5, "step": 40, "rows": 7})
    one.on_fit_start(trainer(first=False), None)
    assert one.rows == 7 and not caplog.records
    one.on_fit_start(trainer(), None)
    assert one.rows == 7 - lost and one.train_s == 1.5
    said = (
        f"metrics.jsonl has {kept} of the 7 rows written up to step 40: {lost} were lost, and its curves have a gap; "
        "rerun=true makes the run anew"
    )
    assert [record.getMessage() for record in caplog.records] == ([said] if lost else [])


@pytest.mark.parametrize(("theirs", "asked", "now", "after"), [
    (3, None, 1, 3), (3, 2, 1, 1), (1, None, 1, 1), (None, None, 1, 1), (0, None, 1, 1),
])  # fmt: skip
def test_a_resumed_run_goes_on_with_the_threads_that_it_began_with(
    monkeypatch, caplog, theirs, asked, now, after
):
    caplog.set_level(logging.INFO, "tutelage")
    threads = [now]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    one, _ = recording(None, threads=asked)
    one.load_state_dict({"train_s": 0.0, "step": 0, "threads": theirs})
    assert threads[-1] == after and len(threads) == 1 + (after != now) == 1 + len(caplog.records)


def checkpoints(mode="max", best=None, best_step=4, last_step=8):
    return SimpleNamespace(
        monitor="m", mode=mode, best=best and {"validation": {"m": best}, "step": best_step}, last={"step": last_step}, saved=[],
    )  # fmt: skip


@pytest.mark.parametrize(("mode", "step", "value", "best", "stops"), [
    ("max", 3, 0.1, None, None),  # nothing is asked yet
    ("max", 4, 0.5, None, None), ("max", 4, 0.49, None, 0.49), ("max", 4, 0.1, 0.5, None), ("max", 4, 0.1, 0.4, 0.4),
    ("max", 4, 0.4, 0.1, 0.4),
    ("max", 9, 0.6, None, 0.6), ("max", 9, 0.7, None, None),  # the last of what is asked counts
    ("max", 4, math.nan, 0.5, None), ("max", 4, math.nan, 0.4, 0.4), ("max", 99, 0.1, None, 0.1), ("max", 100, 0.1, None, None),
    ("min", 4, 0.5, None, None), ("min", 4, 0.51, None, 0.51), ("min", 4, 0.9, 0.5, None), ("min", 4, 0.9, 0.6, 0.6),
    ("min", 4, 0.6, 0.9, 0.6),
])  # fmt: skip
def test_a_run_below_what_is_asked_stops(mode, step, value, best, stops):
    one = StopBelow([[8, 0.7], [4.0, 0.5]], checkpoints(mode, best))
    method = Method(step, m=value)
    if stops is None:
        one.on_validation_end(None, method)
        return
    asked = 0.5 if step < 8 else 0.7
    with pytest.raises(StoppedBelow) as error:
        one.on_validation_end(None, method)
    assert (
        str(error.value)
        == f"stopped at step {step}: the best validation m is {stops:.4g}, fit.stop_below asks for {asked:.4g}"
    )
    assert error.value.facts == {"step": step, "value": stops, "asked": [[4, 0.5], [8, 0.7]]}


@pytest.mark.parametrize(
    ("best", "last", "over"), [(None, 99, False), (4, 9, False), (4, 10, True), (4, 11, True)]
)
def test_the_patience_runs_out(best, last, over):
    kept = checkpoints(best=None if best is None else 0.5, best_step=best, last_step=last)
    kept.save = kept.saved.append
    one = EndEarly(3, 2, kept)
    assert one.over == over
    loop = trainer()
    one.on_train_start(loop, None)
    assert loop.should_stop == over
    one.on_train_epoch_end(loop, None)
    assert not kept.saved  # it was over before: its state is kept
    loop.should_stop = False
    one.on_train_epoch_end(loop, None)
    assert loop.should_stop == over and len(kept.saved) == over
    loop.should_stop = True
    one.on_train_start(loop, None)
    assert loop.should_stop


@pytest.fixture
def shown(monkeypatch):
    """Give what a board was shown, and the time in a list; the board is this command's."""
    found, now = [], [100.0]

    class Shown(Board):
        def show(self, status, worker=0):
            found.append(status)

        def clear(self, worker=0):
            found.append("cleared")

        def close(self):
            found.append("closed")

    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "Board", Shown)
    monkeypatch.setattr(progress, "_current", None)
    monkeypatch.delenv(progress.QUIET, raising=False)
    return found, now


def test_a_run_shows_how_far_it_is(shown, monkeypatch):
    found, now = shown
    rows, _ = recording(None)
    rows.loss = 0.25
    one = Progress("x seed 0", 40, "m", rows)
    one.on_fit_start(trainer(), Method(10))
    assert one._own is not None
    one._shown_at = 100.0
    monkeypatch.setattr(progress, "REFRESH_S", 0.25)
    for moment, shows in ((100.25, False), (100.5, True), (100.75, False)):
        now[0] = moment
        before = len(found)
        one.on_train_batch_end(None, Method(12), None, None, 0)
        assert (len(found) > before) == shows
    now[0] = 102.0
    one.on_validation_end(None, Method(14, m=0.5))
    assert found == [
        Status("x seed 0", 12, 40, 4.0, 0.5, 0.25, "m", None),
        Status("x seed 0", 14, 40, 2.0, 2.0, 0.25, "m", 0.5),
    ]
    one.on_fit_end(None, None)
    one.on_exception(None, None, KeyboardInterrupt())
    assert found[2:] == ["cleared", "closed"]
    one.on_validation_end(None, Method(14, m=0.5))
    one.on_train_batch_end(None, Method(15), None, None, 0)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("first", "quiet", "shows"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_of_ranks_the_first_shows_unless_whoever_started_it_does(shown, monkeypatch, first, quiet, shows):
    if quiet:
        monkeypatch.setenv(progress.QUIET, "1")
    one = Progress("x", 40, "m", recording(None)[0])
    one.on_fit_start(trainer(first), Method())
    assert (one._board is not None) == shows


def test_a_run_below_a_command_is_shown_on_its_board(shown):
    found, _ = shown
    with progress.board(2) as board:
        one = Progress("x", 40, "m", recording(None)[0])
        one.on_fit_start(trainer(), Method())
        assert one._board is board and one._own is None
        one._show(0)  # at once: no time has passed to have a rate
        assert found[-1].rate == 0.0
        one.close()
        assert found[-1] == "cleared"
