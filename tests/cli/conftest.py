"""Commands that a test can kill, and a disk of a size of its choice."""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forked_command import Forked


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    """Give a function that starts a command in a process of its own; none outlives the test.

    file_limit: no file grows larger, as on a disk that is full.
    """
    started: list[Forked] = []

    def start(*words: str, file_limit: int = resource.RLIM_INFINITY) -> Forked:
        limits = (file_limit, resource.RLIM_INFINITY)
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        started.append(Forked(list(words), tmp_path / f"output-{len(started)}.txt", limit))
        return started[-1]

    yield start
    for one in started:
        one.kill()
