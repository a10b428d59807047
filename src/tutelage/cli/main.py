"""The console script: finds the command, and turns a user's mistake into one message and exit code 2."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.cli import added
from tutelage.cli.commands import COMMANDS, RENAMED
from tutelage.cli.reader import help_of, overview, read, wants_help
from tutelage.engine import torch_room
from tutelage.engine.cpu import set_openmp_wait
from tutelage.engine.rank_environment import in_ranks, join_environment
from tutelage.errors import UserError, exit_code, out_of_memory, refused
from tutelage.jobs.plain_log import complain, speak_plainly, warnings_logged

IN_RANKS = ("train", "synthesize", "evaluate", "analyse", "doctor", "list")
"""What several ranks may be given, as torchrun or srun starts them."""
VERBOSE = ("-v", "--verbose")
"""Words of every command: show what goes into the log."""


def entry() -> None:
    """The console script. Once torch is loaded, Python would take its objects apart one by one: 1.5 s after the last word."""
    code = main()
    if "torch" not in sys.modules:
        sys.exit(code)
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            pass
        except OSError:
            code = code or 1  # a full disk: not all was written
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 1 a run failed, 2 a mistake in the command, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(COMMANDS, added.names()))
        return 0
    if arguments[0] in ("-V", "--version"):
        from tutelage import __version__

        print(f"tutelage {__version__}")
        return 0
    speak_plainly(verbose=(verbose := _says_verbose(arguments)))
    if verbose:
        arguments = [word for word in arguments if word not in VERBOSE]
    set_openmp_wait()
    torch_room.watch()
    try:
        with _terminable(), warnings_logged():
            return _run(arguments)
    except UserError as error:
        complain(str(error))
        return exit_code(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return 0
        if message := refused(error) or out_of_memory(error):
            complain(str(message))
            return 2
        complain(f"{error}\nWhat was saved before is whole: the same command continues from there")
        return 1
    except (MemoryError, RuntimeError, ImportError) as error:  # libraries that do not fit raise each its own
        if message := out_of_memory(error):
            complain(str(message))
            return 2
        raise
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except Terminated:
        complain("terminated; the same command continues where it stopped")
        return 143
    except KeyboardInterrupt:
        complain("interrupted; the same command continues where it stopped")
        return 130
    finally:
        if (mirrors := sys.modules.get("tutelage.engine.mirrors")) is not None:
            mirrors.drain()  # before W&B's own exit handlers take its service away


def _says_verbose(arguments: Sequence[str]) -> bool:
    return any(word in VERBOSE for word in arguments)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what a scheduler sends before it kills."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command the way an interrupt does: locks freed, records flushed, ranks ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: Sequence[str]) -> int:
    if arguments[0] in RENAMED:
        raise UserError(
            f"'{arguments[0]}' is called '{RENAMED[arguments[0]]}' now: tutelage {RENAMED[arguments[0]]} ..."
        )
    name, words = arguments[0], arguments[1:]
    module, command = added.find(name)
    if wants_help(command, words):
        print(help_of(name, command))
        return 0 if words else 2
    given = read(name, command, words)
    if name not in IN_RANKS and in_ranks() and (ranks := join_environment()[1]) > 1:
        raise UserError(
            f"{name} works in one process, and {ranks} were started here (torchrun, srun), each of which would write the same files: "
            "give it without them"
        )
    return int(importlib.import_module(module).run(given) or 0)


if __name__ == "__main__":
    entry()
