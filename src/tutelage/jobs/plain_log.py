"""What a command says while it works: plain lines on standard error, in its own process and in those of its jobs."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from tutelage.errors import visible
from tutelage.wrapping import wrapped


class _Visible(logging.Formatter):
    """Spells out the control characters that a file put into a message."""

    def format(self, record: logging.LogRecord) -> str:
        return _shown(super().format(record))


def complain(message: str) -> None:
    """Print the one message in which a command ends."""
    print(_shown(f"tutelage: {message}"), file=sys.stderr)


def _shown(text: str) -> str:
    text = visible(text)
    if not sys.stderr.isatty():
        return text
    import shutil  # here, as below: every command waits for this file, and these take as long to load as the interpreter

    return "\n".join(wrapped(text, shutil.get_terminal_size().columns))


class _Stderr(logging.StreamHandler):
    """Writes to whatever standard error is at the moment: a progress bar may have put itself in front of it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass

    def filter(self, record: logging.LogRecord) -> Any:
        """Leave out what a library warns of, and what is to be said `once` and was, unless everything is shown."""
        said = record.getMessage()
        if self.level >= logging.INFO and (said in _foreign or said in _once):
            return False
        if getattr(record, "once", False):
            _once.add(said)
        return super().filter(record)


class _Held(logging.Handler):
    """Keeps what libraries say until a run's log takes it. The screen has none of it."""

    def __init__(self, most: int) -> None:
        super().__init__(logging.WARNING)
        self.most, self.records = most, list[logging.LogRecord]()

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.records) < self.most:
            self.records.append(record)


_screen: list[logging.Handler] = []
_held = _Held(200)
_foreign: set[str] = set()
_once: set[str] = set()
_capturing = 0


def speak_plainly(*, verbose: bool = False) -> None:
    """Show what is logged as plain lines on standard error; what libraries say and warn of goes into the run's log alone.

    verbose: show what goes into the log, too.
    """
    _once.clear()
    logger = logging.getLogger("tutelage")
    if not _screen:
        for name, end in (("tutelage", "\n"), ("py.warnings", "")):  # a warning brings its own end of line
            handler = _Stderr()
            handler.setFormatter(_Visible("%(message)s"))
            handler.terminator = end
            logging.getLogger(name).addHandler(handler)
            _screen.append(handler)
    for one in _screen:
        one.setLevel(logging.DEBUG if verbose else logging.INFO)
    if _held not in logging.root.handlers:
        logging.root.addHandler(_held)  # without a handler there, Python prints warnings of every library
    logger.setLevel(logging.INFO)
    logger.propagate = False
    warnings.formatwarning = _in_a_line


def _in_a_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int = 0, line: str | None = None
) -> str:
    text = f"{category.__name__}: {message}\n"
    if _is_foreign(filename) and len(_foreign) < 1000:
        _foreign.add(text)
    return text


def _is_foreign(filename: str) -> bool:
    """Whether a file is a library's or Python's own: neither Tutelage's nor the user's."""
    import site
    import sysconfig
    from pathlib import Path

    path = Path(filename)
    if path.is_relative_to(Path(__file__).parents[1]):
        return False
    libraries = {
        *site.getsitepackages(),
        site.getusersitepackages(),
        *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")),
    }
    return filename.startswith("<") or any(path.is_relative_to(folder) for folder in libraries)


@contextlib.contextmanager
def warnings_logged() -> Iterator[None]:
    """Log warnings instead of printing them."""
    global _capturing
    _capturing += 1
    if _capturing == 1:
        logging.captureWarnings(True)
    try:
        yield
    finally:
        _capturing -= 1
        if not _capturing:
            logging.captureWarnings(False)


def take_held(handler: logging.Handler) -> None:
    """Hand over to a run's log what libraries have said before there was one."""
    for record in _held.records:
        handler.handle(record)
    _held.records.clear()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Show warnings alone of what is logged; a run's own log has the rest."""
    shown = _screen[:]
    levels = [handler.level for handler in shown]
    for handler in shown:
        handler.setLevel(max(handler.level, logging.WARNING))
    try:
        yield
    finally:
        for handler, level in zip(shown, levels, strict=True):
            handler.setLevel(level)
