"""Commands in processes that a test can kill: forked from pytest's own, which holds the imports, so that each costs milliseconds."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import tutelage.engine.fit  # noqa: F401 - imported once, here
from tutelage.cli.main import main


class Forked:
    """`tutelage <words>` in a forked process; its output goes to a file. prepare: called in the process before the command."""

    def __init__(self, words: list[str], output: Path, prepare: Callable[[], object] = lambda: None) -> None:
        self.output = output
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(target, 1)
                os.dup2(target, 2)
                # Python's own streams are pytest's here; each line is written at once, for `os._exit` flushes nothing.
                sys.stdout = sys.stderr = open(target, "w", buffering=1)  # noqa: SIM115, PTH123
                # A shell's background jobs ignore it, and so would what they start.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                prepare()
                code = main(words)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    @property
    def running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, timeout_s: float = 600) -> int:
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
