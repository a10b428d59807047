"""What a command says while it works: plain lines on standard error, in its own process and in those of its jobs."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from tutelage.errors import visible


class _Visible(logging.Formatter):
    """Spells out the control characters that a file put into a message."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _Stderr(logging.StreamHandler):
    """Writes to whatever standard error is at the moment: a progress bar may have put itself in front of it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


def speak_plainly() -> None:
    """Show what is logged, and what is warned of while a run's log takes the warnings, as plain lines on standard error."""
    logger = logging.getLogger("tutelage")
    if not logger.handlers:
        for name, end in (("tutelage", "\n"), ("py.warnings", "")):  # a warning brings its own end of line
            handler = _Stderr()
            handler.setFormatter(_Visible("%(message)s"))
            handler.setLevel(logging.INFO)
            handler.terminator = end
            logging.getLogger(name).addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
