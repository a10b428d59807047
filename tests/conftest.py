"""What tests of several packages share: one thread, small runs, and commands that a test can kill.

One thread for every test: small networks run best so, and results do not depend on the machine's cores. Nothing heavy is imported
before a test asks for it.
"""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")
# What commands note of the user's own modules stays with the tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tutelage-state-")

import ctypes
import logging
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from forked_command import Forked
    from tutelage.runs.run import Run


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Give a function that returns all that Tutelage has logged."""
    caplog.set_level(logging.INFO, "tutelage")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, lines: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """Give a function that returns what Tutelage has logged since it was last asked."""

    def since() -> list[str]:
        found = lines()
        caplog.clear()
        return found

    return since


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep decoded data in a folder of the test's own, and none in the process."""
    from tutelage.data import cache

    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    cache.forget()


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Run]:
    """Give a function that does the run of some overrides, through the real path, and returns it."""
    from small_runs import SMALL
    from tutelage.config.planner import plan_of
    from tutelage.jobs.launch import run_plan
    from tutelage.runs.store import Store

    def do(*words: str, folder: str = "runs", **options: Any) -> Run:
        runs_dir = tmp_path / folder
        plan = plan_of([*SMALL, f"runs_dir={runs_dir}", *words])
        run_plan(plan, **options)
        return Store(runs_dir).run(plan.name, plan.identity)

    return do


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    """Give a function that starts a command in a process of its own; none outlives the test.

    file_limit: no file grows larger, as on a disk that is full. Permissions bind the command, also where the tests are root's.
    """
    from forked_command import Forked

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
