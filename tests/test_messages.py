"""Messages for users begin, join and end alike: read from the source, every one of them."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import tutelage
from tutelage.errors import choices

SOURCE = Path(tutelage.__file__).parent
ERRORS = {"UserError", "RunFailed", "StoppedBelow"}
GAP = "\N{WHITE SQUARE}"
"""Stands for what is put into a message."""
OF_A_NAME = re.compile(r"([A-Z]+\b|[A-Z]\w*[A-Z]|[A-Z]\w*-[A-Z]|Cutout|Lightning|Transformer)")
"""What a message may begin with that has a capital: a name, such as CRD, RandomCrop or Grad-CAM."""
CHOICES = "choices("


def _template(node: ast.expr) -> str:
    """Return a message with gaps for what is put into it; of what is no literal, a gap."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    if isinstance(node, ast.FormattedValue) and (said := ast.unparse(node.value)).startswith(CHOICES):
        return said
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    return GAP


@functools.cache
def _nodes() -> list[tuple[str, ast.AST]]:
    return [
        (f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}", node)
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.JoinedStr)
    ]


def _messages() -> list[tuple[str, str]]:
    calls = [
        (at, node) for at, node in _nodes() if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return [(at, _template(node.args[0])) for at, node in calls if node.func.id in ERRORS and node.args]


def _choices_in_strings() -> list[tuple[str, str]]:
    said = [(at, _template(node)) for at, node in _nodes() if isinstance(node, ast.JoinedStr)]
    return [(at, one) for at, one in said if CHOICES in one]


def test_messages_begin_as_a_sentence_that_goes_on_and_end_without_a_stop() -> None:
    found = _messages()
    assert len(found) > 900
    begin = [(at, said) for at, said in found if said[:1].isupper() and not OF_A_NAME.match(said)]
    end = [(at, said) for at, said in found if said.rstrip() != said or re.search(r"(?<!\.\.)[.!]$", said)]
    assert begin == [] and end == []


def test_what_there_is_stands_behind_a_semicolon() -> None:
    found = _choices_in_strings()
    assert len(found) > 70
    wrong = [(at, said) for at, said in found if not re.search(r"(^|; )choices\(", said)]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plian", "did you mean 'plain'? Known: guided, plain"),
        ("zzz", "known: guided, plain"),
    ],
)
def test_choices_go_on_behind_a_semicolon(name: str, said: str) -> None:
    assert choices(name, ["plain", "guided"]) == said
    assert choices(name, []) == "known: none"
