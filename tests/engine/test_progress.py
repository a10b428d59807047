"""What a person sees of runs at work: bars within any width, lines where there is no terminal, and the first word at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from small_runs import SMALL
from tutelage.cli.main import main
from tutelage.engine import progress
from tutelage.engine.progress import Board, Relay, Status
from tutelage.jobs.plain_log import _foreign, _in_a_line
from tutelage.runs.store import Store
from tutelage.wrapping import wrapped

AT_WORK = Status("demo/guided-untrained seed 0", 300, 1200, 84.3, 7.2, 0.3123, "accuracy", 0.87)


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_bars_lie_within_the_width_and_cut_no_fact(width):
    board = Board(4)
    board.done = 1
    board._at_work = {0: AT_WORK, 1: AT_WORK}
    lines = board.lines(width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for fact in ("1 of 4 runs done", "300 of 1,200", "84.3 steps/s", "0:07 gone", "0:11 left", "loss 0.312"):
        assert fact in text
    assert text.count("val. accuracy 0.87") == 2


def test_the_whole_counts_what_is_half_done(monkeypatch):
    board = Board(4)
    monkeypatch.setattr(progress.time, "monotonic", lambda: board.began + 150.0)
    board.done, board._at_work = 1, {0: Status("a", 50, 100)}
    assert (
        "1 of 4 runs done · 2:30 gone · 4:10 left" in board.lines(200)[0]
    )  # 2.5 of 4 are left, at 100 s each


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch):
    lines, board, clock = [], Board(2), [0.0]
    monkeypatch.setattr(progress.log, "info", lambda form, *words: lines.append(form % words))
    monkeypatch.setattr(progress.time, "monotonic", lambda: board.began + clock[0])
    for second in range(0, 200, 5):
        clock[0] = float(second)
        board.show(AT_WORK)
    assert len(lines) == 3 and all("0 of 2 runs done" in line and "loss 0.312" in line for line in lines)


def test_a_forked_job_sends_what_its_parent_shows_and_never_waits_for_it():
    read, write = os.pipe()
    os.set_blocking(write, False)
    relay = Relay(write)
    for _ in range(3000):  # more than a pipe holds
        relay._sent_at = 0.0
        relay.show(AT_WORK)
    first = os.read(read, 1 << 16).split(b"\n")[0]
    assert Status(**json.loads(first)) == AT_WORK
    os.close(read)
    os.close(write)


FIRST_WORD = """
import io, os, sys
class Screen(io.StringIO):
    def isatty(self):
        return True
    def write(self, text):
        if text.strip():
            os.write(1, f"{'torch' in sys.modules} {text}".encode())
            os._exit(0)
sys.stderr = Screen()
from tutelage.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [(["seed=0"], "adhoc/"), (["-m", "seed=0,1"], "2 commands"), (["-m", "seed=0"], "1 command")],
)
def test_the_first_word_comes_before_torch_is_imported(tmp_path, words, said):
    command = ["train", *words, f"runs_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_WORD, *command], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.startswith(f"False {said}"), done.stdout + done.stderr


def test_a_sweep_says_what_it_will_do_and_layer_pairs_are_behind_a_word(tmp_path, capsys):
    words = [
        "train",
        "-m",
        *SMALL,
        "method=guidance",
        "model@guide=convnet",
        "fit.max_steps=2",
        f"runs_dir={tmp_path}",
    ]
    assert main([*words, "seed=0,1"]) == 0
    said = capsys.readouterr()
    assert "2 runs, 0 stored, 1 at a time" in said.err and "guide layer" not in said.err
    assert said.err.count("layer pairs") == 1  # of the command, not of each run
    assert "test accuracy" in said.out  # it ends with its table
    assert all("guide layer" in run.log.read_text() for run in Store(tmp_path).runs())
    assert main([*words, "seed=0,1,2", "--verbose"]) == 0
    said = capsys.readouterr()
    assert "3 runs, 2 stored" in said.err and "guide layer" in said.err


def test_what_libraries_warn_of_is_in_the_log_and_not_on_the_screen():
    own = _in_a_line("mine", UserWarning, __file__)
    theirs = _in_a_line("theirs", UserWarning, str(Path(pytest.__file__).parent / "x.py"))
    ours = _in_a_line("ours", UserWarning, sys.modules["tutelage.tasks"].__file__)
    standard = _in_a_line("standard", UserWarning, warnings.__file__)
    assert {theirs, standard} <= _foreign and not {own, ours} & _foreign


def test_lines_break_between_words():
    assert wrapped("val. accuracy 0.9861, test 0.9813", 24) == [
        "val. accuracy 0.9861,",
        "  test 0.9813",
    ]
    path = "runs/" + "x" * 40
    assert wrapped(f"see {path}", 24) == ["see", f"  {path}"]
