"""Commands in processes that a test can kill: forked from pytest's own, which holds the imports, so that each costs milliseconds."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Forked:
    """`tutelage <words>` in a forked process; its output goes to a file."""

    def __init__(self, words: list[str], output: Path, file_limit: int | None = None) -> None:
        self.output = output
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(target, 1)
                os.dup2(target, 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                from tutelage.cli.main import main

                # A shell's background jobs are deaf to it, and so would be what they start.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                if file_limit is not None:  # what a full disk does, at a size of our choice
                    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
                code = main(words)
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(BaseException):
                    sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)

    @property
    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, timeout_s: float = 120) -> int:
        end = time.monotonic() + timeout_s
        while self.running:
            assert time.monotonic() < end, self.text()
            time.sleep(0.005)
        return self.code or 0

    def kill(self, number: int = signal.SIGKILL) -> int:
        if self.running:
            os.kill(self.pid, number)
        return self.wait()

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[Callable[..., Forked]]:
    """Give a function that starts a command in a process of its own; none outlives the test."""
    import tutelage.engine.fit  # noqa: F401 - imported once, here

    started: list[Forked] = []

    def start(*words: str, file_limit: int | None = None) -> Forked:
        started.append(Forked(list(words), tmp_path / f"output-{len(started)}.txt", file_limit))
        return started[-1]

    yield start
    for one in started:
        one.kill()
