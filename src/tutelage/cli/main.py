"""The console script: helps and tells the version at once; any other command it hands to `guarded`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

VERBOSE = ("-v", "--verbose")
"""Words of every command: show what goes into the log."""


def entry() -> None:
    """The console script. Once torch is loaded, Python would take its objects apart one by one: 1.5 s after the last word."""
    try:
        code = main()
    except BrokenPipeError:
        code = 0  # who reads has seen enough
    except OSError as error:
        sys.exit(f"tutelage: {error}")
    if quick := "torch" in sys.modules:
        import atexit
        import threading

        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python flushes once more
        except OSError:
            code = code or 1  # a full disk: not all was written
    if quick:
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 1 a run failed, 2 a mistake in the command, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, *words = [word for word in arguments if word not in VERBOSE] or ["--help"]
    if name in ("-V", "--version"):
        from tutelage import __version__

        print(f"tutelage {__version__}")
        return 0
    from tutelage.cli.commands import COMMANDS
    from tutelage.cli.reader import help_of, overview, wants_help

    if name in ("-h", "--help", "help"):
        from tutelage.cli import added

        print(overview(COMMANDS, added.names()))
        return 0
    if name in COMMANDS and wants_help(COMMANDS[name], words):
        print(help_of(name, COMMANDS[name]))
        return 0 if words else 2
    from tutelage.cli import guarded

    return guarded.run(name, words, verbose=len(words) + 1 < len(arguments))


if __name__ == "__main__":
    entry()
