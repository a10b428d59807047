"""Every `tutelage train` and `doctor` of README.md and docs/ composes as it is printed; those with placeholders are left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.config.planner import plan_of
from tutelage.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPEN = ("<", "...", "$", "{", "*", "|", "my_", "=mine", "=own", "norm_penalty", "restrained")
"""What says that a reader fills something in, or has a file of their own."""

ABSENT = ("there is no file or folder", "there is no such folder, and the local cache")
"""What is said of a reader's own file, or of a model to be fetched: the words before it were understood."""


def _commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if (found := re.match(r"tutelage (?:train|doctor)\b([^#]*)", line)) is None:
                    continue
                words = [word for word in shlex.split(found[1]) if "=" in word and not word.startswith("-")]
                if words and not any(mark in line.partition("#")[0] for mark in OPEN):
                    yield f"{page.name}: {line.strip()}", words


def _first(word: str) -> str:
    """A word without its sweep: the first of several values."""
    key, _, value = word.partition("=")
    if drawn := re.match(r"(?:range|tag\(log,interval|interval)\(([^,]+)", value):
        return f"{key}={drawn[1]}"
    return word if value.startswith(("[", "{", "'", '"')) else f"{key}={value.split(',')[0]}"


COMMANDS = dict(_commands())


def test_the_pages_have_commands_to_check():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_pages_composes(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in COMMANDS[line] if not word.startswith(("hydra", "sweep="))]
    try:
        plan_of([_first(word) for word in words])
    except UserError as error:
        if not any(said in str(error) for said in ABSENT):
            pytest.fail(f"{line}\n{error}")
