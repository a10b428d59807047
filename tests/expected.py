"""Whole outputs beside the tests, as files that a person has read: `expected/<name>` in the folder of the test."""

from __future__ import annotations

import inspect
from pathlib import Path


def same_as(name: str, text: str) -> None:
    """Assert that a text is that of a file. One that is not there yet is written, and the test fails: read it, it is a promise."""
    path = Path(inspect.stack()[1].filename).parent / "expected" / name
    text = text.rstrip("\n") + "\n"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        raise AssertionError(f"{path} is new: read it")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()
