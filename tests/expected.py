"""What tests expect: whole outputs, as files that a person has read, `expected/<name>` in the folder of the test; and messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.errors import UserError


def same_as(name: str, text: str) -> None:
    """Assert that a text is that of a file. One that is not there yet is written, and the test fails: read it, it is a promise."""
    path = Path(inspect.stack()[1].filename).parent / "expected" / name
    text = text.rstrip("\n") + "\n"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        raise AssertionError(f"{path} is new: read it")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


def refused(function: Callable[..., Any], *words: Any, **more: Any) -> str:
    """Return the message of the UserError in which a call ends."""
    with pytest.raises(UserError) as error:
        function(*words, **more)
    return str(error.value)
