"""A command from its words to its exit code: a user's mistake is one message, and what ends it early leaves all whole."""

from __future__ import annotations

import contextlib
import gc
import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.cli import added
from tutelage.cli.commands import RENAMED
from tutelage.cli.reader import help_of, read, wants_help
from tutelage.engine import torch_room
from tutelage.engine.cpu import set_openmp_wait
from tutelage.engine.rank_environment import in_ranks, join_environment
from tutelage.errors import UserError, exit_code, out_of_memory, refused
from tutelage.jobs.plain_log import complain, speak_plainly, warnings_logged

IN_RANKS = ("train", "synthesize", "evaluate", "analyse", "doctor", "list")
"""What several ranks may be given, as torchrun or srun starts them."""
OF_ALL_RUNS = ("list", "report", "remove")
"""What makes objects of every run that live until the end, and no tensors: a fifth of its time went into looking for garbage among them."""


def run(name: str, words: Sequence[str], *, verbose: bool = False) -> int:
    """Run a command; return the exit code. verbose: show what goes into the log."""
    speak_plainly(verbose=verbose)
    set_openmp_wait()
    torch_room.watch()
    try:
        with _terminable(), warnings_logged():
            return _run(name, words)
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
    except Terminated as interrupt:
        complain(f"terminated; {_what_follows(interrupt)}")
        return 143
    except KeyboardInterrupt as interrupt:
        complain(f"interrupted; {_what_follows(interrupt)}")
        return 130
    finally:
        if (mirrors := sys.modules.get("tutelage.engine.mirrors")) is not None:
            mirrors.drain()  # before W&B's own exit handlers take its service away


def _what_follows(interrupt: KeyboardInterrupt) -> str:
    """Say what the same command does; which run had no state yet is noted where runs are made (`jobs.launch.execute`)."""
    if key := getattr(interrupt, "begins_anew", ""):
        return f"no state of {key} was saved yet (that takes fit.checkpoint_every_s, and a validation): the same command begins it anew"
    return "the same command continues from what was saved"


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


def _run(name: str, words: Sequence[str]) -> int:
    if name in RENAMED:
        raise UserError(f"'{name}' is called '{RENAMED[name]}' now: tutelage {RENAMED[name]} ...")
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
    with _collecting_seldom() if name in OF_ALL_RUNS else contextlib.nullcontext():
        return int(importlib.import_module(module).run(given) or 0)


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
