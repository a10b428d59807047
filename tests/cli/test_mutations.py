"""Generated wrong commands: one message, exit code 2, no traceback, nothing accepted in silence, nothing left behind as a result."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import COMMANDS, QUICK, VALID, everything

from tutelage.cli.main import main
from tutelage.config.compose import compose

ROOT = Path(__file__).parents[2]
ROOM = 6 * 2**30
FAST, ALL, REAL = 25, 200, 8
"""Mutations in the fast tier, in the slow one, and in processes of their own."""


def sample(count):
    mutations = everything(compose)
    random.Random(2026).shuffle(mutations)
    return mutations[:count]


def name_of(words):
    return " ".join(word for word in words if word not in QUICK)[-60:]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    # A number too large for this machine must end in a message, not in the machine's memory.
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def judge(code, output, error):
    assert code == 2, error or output
    assert "Traceback" not in output + error
    assert error.strip() or output.strip()
    assert len(error) < 2000, "nobody reads a message of a page"
    assert not list(Path("runs").rglob("result.json"))


def check(words, capsys):
    code = main(words)
    captured = capsys.readouterr()
    judge(code, captured.out, captured.err)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_wrong_word_of_a_command(capsys, words):
    check(words, capsys)


@pytest.mark.parametrize("number", range(FAST))
def test_a_wrong_command(capsys, number):
    check(sample(FAST)[number], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FAST, ALL))
def test_more_wrong_commands(capsys, number):
    check(sample(ALL)[number], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(REAL))
def test_wrong_commands_in_processes_of_their_own(number):
    words = sample(ALL + REAL)[ALL + number]
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", *words], capture_output=True, text=True, timeout=300
    )
    judge(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("name", VALID)
def test_what_the_mutations_are_made_from_is_accepted(name):
    assert main(["train", *QUICK, *VALID[name]]) == 0
