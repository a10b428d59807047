"""What is printed, on a terminal and where there is none: widths, styles, control characters."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from tutelage.reporting import console


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(console.shutil, "get_terminal_size", lambda: os.terminal_size((20, 9)))
    monkeypatch.setenv("TERM", "xterm")


LONG = "one two three four five six"


def test_where_there_is_no_terminal_lines_are_whole_and_plain(capsys):
    console.say(f"{LONG} \x1b[2J", "bold")
    assert capsys.readouterr().out == f"{LONG} \\x1b[2J\n" and console.width() == 160
    assert console.console().width == 160


@pytest.mark.parametrize(
    ("text", "style", "letters", "printed"),
    [
        ("a b", "", None, "a b"),
        (LONG, "", None, "one two three four\n  five six"),
        (f"  {LONG}", "", None, "  one two three four\n    five six"),
        (f"{LONG[:18]}\nx", "", None, f"{LONG[:18]}\nx"),
        ("x" * 20, "", None, "x" * 20),
        ("x" * 19 + " y", "", None, "x" * 19 + "\n  y"),
        (
            "  tutelage train a.long.word=1 b=2",
            "",
            None,
            "  tutelage train a.long.word=1 b=2",
        ),  # to be copied
        ("abc", "bold", None, "\x1b[1mabc\x1b[0m"),
        ("abc", "dim", 1, "\x1b[2ma\x1b[0mbc"),
        ("abc", "red", 3, "\x1b[31mabc\x1b[0m"),
        ("abc", "bold", 0, "abc"),
        ("a\x07", "bold", 1, "\x1b[1ma\x1b[0m\\x07"),
    ],
)
def test_a_terminal_gets_styles_and_lines_within_its_width(terminal, capsys, text, style, letters, printed):
    console.say(text, style, letters)
    assert capsys.readouterr().out == f"{printed}\n" and console.width() == 20


def test_a_dumb_terminal_gets_no_style(terminal, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console.say("abc", "bold")
    assert capsys.readouterr().out == "abc\n"


def test_tables_spell_out_control_characters_too(capsys):
    console.console().print("a\x1b[2Jb")
    assert capsys.readouterr().out == "a\\x1b[2Jb\n"
