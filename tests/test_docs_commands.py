"""Every command of README.md, docs/ and experiments/ exists and takes its words; every `tutelage train` and `doctor` composes as printed.

What has placeholders is left out; of the pages of experiments/*/results, which commands wrote, every name of a group is asked for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.cli.commands import COMMANDS as EXISTING
from tutelage.cli.reader import read
from tutelage.config.groups import group_options, groups
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.reporting.table_paths import table_path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(page for page in (ROOT / "experiments").rglob("*.md") if page.parent.name not in ("results",)),
]
OPEN = ("<", "...", "$", "{", "*", "|", "my_", "=mine", "=own", "norm_penalty", "restrained")
"""What says that a reader fills something in, or has a file of their own."""

ABSENT = ("there is no file or folder", "there is no such folder, and the local cache")
"""What is said of a reader's own file, or of a model to be fetched: the words before it were understood."""


def _said() -> Iterator[tuple[str, list[str]]]:
    """Every command in a block, or between backticks, with where it stands; up to a comment, a pipe or a second command."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        spans = [
            " ".join(span.split())
            for span in re.findall(
                r"`(tutelage [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
            )
        ]
        for line in [*lines, *spans]:
            if found := re.match(r"(?:\$ )?(?:\.venv/bin/)?tutelage ([a-z][^#|&;]*)", line.strip()):
                yield f"{page.relative_to(ROOT)}: {line.strip()}", found[1].split()


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


def test_every_command_of_the_pages_exists_and_takes_its_words():
    wrong, checked = [], 0
    for where, (name, *words) in _said():
        filled = [
            word
            for word in words
            if word != "..." and not word.startswith(("[", "<")) and not word.endswith("]")
        ]
        if name not in EXISTING:
            wrong.append(f"{where}: there is no command {name}")
            continue
        try:
            read(name, EXISTING[name], filled)
            checked += 1
            tables = [
                value
                for value in words
                if name == "reproduce" and re.fullmatch("[a-z0-9_]+/[a-z0-9_]+", value)
            ]
            tables += [
                word.partition("=")[2]
                for word in words
                if word.startswith("sweep=") and "/" in word and "<" not in word
            ]
            wrong += [
                f"{where}: there is no table {one}"
                for one in tables
                if table_path(one) is None and not one.startswith("mine/")
            ]
        except UserError as error:
            if filled == words:
                wrong.append(f"{where}: {error}")
    assert not wrong, "\n".join(wrong)
    assert checked > 150


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_pages_composes(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in COMMANDS[line] if not word.startswith(("hydra", "sweep="))]
    try:
        plan_of([_first(word) for word in words])
    except UserError as error:
        if not any(said in str(error) for said in ABSENT):
            pytest.fail(f"{line}\n{error}")


def test_the_commands_of_committed_results_name_what_exists():
    wrong, checked = [], 0
    known = {group: group_options(group) for group in groups()}
    for page in sorted((ROOT / "experiments").glob("*/results/*.md")):
        for line in re.findall(r"^tutelage train .*", page.read_text(encoding="utf-8"), re.MULTILINE):
            for word in shlex.split(line):
                group, _, value = word.lstrip("+").partition("=")
                group = group.partition("@")[0]
                if group not in known or not re.fullmatch(r"[\w./-]+", value):
                    continue
                checked += 1
                if value not in known[group]:
                    wrong.append(f"{page.relative_to(ROOT)}: {group}={value}")
    assert not wrong, "\n".join(wrong)
    assert checked > 500
