"""Commands that a test can kill, and a disk of a size of its choice."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forked_command import Forked


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    """Give a function that starts a command in a process of its own; none outlives the test.

    file_limit: no file grows larger, as on a disk that is full. Permissions bind the command, also where the tests are root's.
    """
    started: list[Forked] = []

    def start(*words: str, file_limit: int = resource.RLIM_INFINITY) -> Forked:
        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
            _be_nobody_special()

        started.append(Forked(list(words), tmp_path / f"output-{len(started)}.txt", prepare))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def _be_nobody_special() -> None:
    """Give up the capabilities of root, one of which is to write what its permissions forbid (capset of Linux; version 3, this process)."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capset(header, nothing)
