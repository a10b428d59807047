"""What a person sees while runs are at work: lines, warnings, and bars from the records."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from types import SimpleNamespace

import pytest

from made_plans import plan
from tutelage.engine import progress
from tutelage.jobs import plain_log, watched
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import write_json, write_yaml
from tutelage.runs.store import Store
from tutelage.wrapping import wrapped


@pytest.mark.parametrize(("line", "width", "shown"), [
    ("a bc", 4, ["a bc"]), ("a bcd", 4, ["a", "  bcd"]), ("abcdefgh-ij", 4, ["abcdefgh-ij"]), ("", 4, [""]),
    ("ab cd ef", 6, ["ab cd", "  ef"]), ("  a b", 3, ["  a", "  b"]), ("a\n\nbcd e", 3, ["a", "", "bcd", "  e"]),
    ("a  b ", 9, ["a  b"]), ("a   b", 3, ["a", "  b"]),
])  # fmt: skip
def test_a_line_is_broken_between_words(line, width, shown):
    assert wrapped(line, width) == shown


def test_on_a_terminal_lines_are_broken_and_elsewhere_not(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((14, 5)))
    plain_log.complain("ab \x1b[0m cd ef")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    plain_log.complain("ab cd ef gh")
    assert capsys.readouterr().err == "tutelage: ab \\x1b[0m cd ef\ntutelage: ab\n  cd ef gh\n"


@pytest.mark.parametrize(("file", "foreign"), [
    (logging.__file__, True), (pytest.__file__, True), ("<string>", True), (plain_log.__file__, False), ("/mine/code.py", False),
])  # fmt: skip
def test_a_warning_of_a_library_is_foreign(monkeypatch, file, foreign):
    monkeypatch.setattr(plain_log, "_foreign", set())
    assert plain_log._is_foreign(file) == foreign
    assert plain_log._in_a_line("beware", UserWarning, file) == "UserWarning: beware\n"
    assert plain_log._foreign == ({"UserWarning: beware\n"} if foreign else set())


def test_foreign_warnings_are_not_remembered_without_end(monkeypatch):
    known = {str(number) for number in range(999)}
    monkeypatch.setattr(plain_log, "_foreign", known)
    for text in ("a", "b"):
        plain_log._in_a_line(text, UserWarning, "<string>")
    assert len(known) == 1000 and "UserWarning: a\n" in known


def record(text, level=logging.INFO, **more):
    found = logging.LogRecord("tutelage", level, "f", 1, text, (), None)
    found.__dict__.update(more)
    return found


def test_what_is_said_once_and_what_libraries_say(monkeypatch):
    monkeypatch.setattr(plain_log, "_foreign", {"theirs"})
    monkeypatch.setattr(plain_log, "_once", set())
    plain, verbose = plain_log._Stderr(), plain_log._Stderr()
    plain.setLevel(logging.INFO)
    verbose.setLevel(logging.DEBUG)
    shown = [
        bool(plain.filter(one))
        for one in (
            record("theirs"),
            record("a", once=True),
            record("a", once=True),
            record("b"),
            record("b"),
        )
    ]
    assert shown == [False, True, False, True, True]
    assert verbose.filter(record("theirs")) and verbose.filter(record("a", once=True))


def test_what_libraries_said_before_a_run_is_kept_up_to_a_number_and_handed_over(monkeypatch):
    held = plain_log._Held(2)
    monkeypatch.setattr(plain_log, "_held", held)
    for text in ("a", "b", "c"):
        held.emit(record(text))
    taken = []
    handler = SimpleNamespace(handle=lambda one: taken.append(one.getMessage()))
    plain_log.take_held(handler)
    plain_log.take_held(handler)
    assert taken == ["a", "b"]


def test_warnings_are_logged_until_the_last_who_asked_is_done(monkeypatch):
    switched = []
    monkeypatch.setattr(logging, "captureWarnings", switched.append)
    monkeypatch.setattr(plain_log, "_capturing", 0)
    with plain_log.warnings_logged():
        with plain_log.warnings_logged():
            pass
        assert switched == [True]
    assert switched == [True, False]


def test_quietly_shows_warnings_alone_and_gives_back_what_was(monkeypatch):
    handlers = [logging.Handler(level) for level in (logging.DEBUG, logging.ERROR)]
    monkeypatch.setattr(plain_log, "_screen", handlers)
    with plain_log.quietly():
        assert [one.level for one in handlers] == [logging.WARNING, logging.ERROR]
    assert [one.level for one in handlers] == [logging.DEBUG, logging.ERROR]


@pytest.mark.parametrize(("train_s", "rate"), [(12.5, 4.0), (0.0, 0.0)])
def test_a_status_from_the_records(tmp_path, train_s, rate):
    run = Store(tmp_path).at("x/000000000001")
    run.path.mkdir(parents=True)
    write_yaml(run.path / "config.yaml", {"name": "x", "seed": 5})
    write_json(run.path / "setup.json", {"steps": 200, "selection": {"monitor": "loss"}})
    with MetricsWriter(run.path / "metrics.jsonl") as writer:
        writer.write({"step": 20, "train_s": 1.0, "validation/loss": 0.5})
        writer.write({"step": 40, "train_s": 2.0, "validation/loss": 0.25})
        writer.write({"step": 50, "train_s": train_s})
    assert watched.status_of(run) == progress.Status(
        "x/000000 seed 5", 50, 200, rate, train_s, None, "loss", 0.25
    )


def test_so_many_bars_and_not_too_often(tmp_path, monkeypatch):
    shown, board = [], progress.Board(1)
    monkeypatch.setattr(progress, "_current", board)
    monkeypatch.setattr(board, "show", lambda status, number: shown.append(number))
    monkeypatch.setattr(board, "clear", lambda number: shown.append(-number))
    monkeypatch.setattr(watched, "MOST", 2)
    monkeypatch.setattr(watched, "status_of", lambda run: None if run.identity.endswith("2") else "status")
    monkeypatch.setattr("tutelage.runs.run.Run.is_locked", True)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(board, "refresh", lambda: shown.append("drawn"))
    plans = [(number, plan(tmp_path, number)) for number in range(1, 6)]
    watch = watched.Watch()
    watch.look(plans)
    assert shown == [1, 3, "drawn"]  # of the second nothing is known, the others are too many
    now[0] = 101.9
    watch.look(plans)
    assert shown == [1, 3, "drawn"]  # it was looked at just now
    now[0] = 102.0
    watch.look(plans[3:])
    assert shown[3:5] == [4, 5] and set(shown[5:7]) == {-1, -3} and shown[7:] == ["drawn"]
