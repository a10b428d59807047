"""Jobs in parallel on one machine: forked from a process that holds the imports, one GPU or a share of the cores each."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import UserError

log = logging.getLogger("tutelage")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
GRACE_S = 30.0
"""How long interrupted jobs may take to write what they have."""


@dataclass(frozen=True)
class _Child:
    number: int
    slot: int
    pipe: int
    started: float


def preload(data_nodes: Sequence[Any], runs_dir: str) -> None:
    """Import what jobs need and load their data once, in the process they are forked from: they share its memory.

    data_nodes: the `data` nodes of the jobs. What is wrong with one is left for its job to say.
    """
    import torch

    from tutelage.engine.build import build_data

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    seen: list[Any] = []
    for node in data_nodes:
        if node not in seen:
            seen.append(node)
            with contextlib.suppress(UserError):
                build_data({"data": node, "runs_dir": runs_dir})


def run_forked(
    jobs: Sequence[Callable[[], float]],
    *,
    processes: int | None = None,
    names: Sequence[str] | None = None,
    retries: Sequence[int] | None = None,
    died: Callable[[int, str], None] | None = None,
    outputs: Path | None = None,
) -> list[float]:
    """Run each job in a process of its own and return their values in order; NaN for one that raised or died.

    processes: jobs at a time; None: the number of GPUs, or of cores where there are none. Each of `processes` slots has its own GPU
    (CUDA_VISIBLE_DEVICES) or share of the cores. retries: how often each job is started again whose process dies (for what it
    raises, the job itself is responsible); died: called with the job's number and how, when no try is left.
    outputs: a folder for what jobs print, `<number>.txt`; none: it goes nowhere, since a run has its log.
    An interrupt reaches the jobs too, and is raised here when they have ended; they do not outlive this process.
    Raises UserError on a system that cannot fork, or for another number of processes.
    """
    if not hasattr(os, "fork"):
        raise UserError(
            "hydra/launcher=local forks processes, which this system cannot: use hydra/launcher=basic"
        )
    if processes is not None and (type(processes) is not int or processes < 1):
        raise UserError(f"hydra.launcher.processes must be a whole number of at least 1, got {processes!r}")
    import tutelage.engine.fit  # noqa: F401 - torch and Lightning are imported once, here; the children share the pages

    gpus = _gpus()
    slots = min(len(jobs), processes or gpus or cores())
    values = [float("nan")] * len(jobs)
    tries = [1 + (retries[i] if retries else 0) for i in range(len(jobs))]
    waiting, running = list(range(len(jobs))), dict[int, _Child]()
    free = list(range(slots))
    try:
        while waiting or running:
            while waiting and free:
                number, slot = waiting.pop(0), free.pop(0)
                output = outputs / f"{number}.txt" if outputs else None
                pid, pipe = _start(jobs[number], slot, slots, gpus, output)
                running[pid] = _Child(number, slot, pipe, time.monotonic())
            pid, status = os.wait()
            if pid not in running:
                continue
            child = running.pop(pid)
            free.append(child.slot)
            value, number = _value(child.pipe), child.number
            name = names[number] if names else f"job {number}"
            tries[number] -= 1
            how = "" if value is not None else _end(status)
            if value is None and tries[number]:
                log.warning("the process of %s %s: it is started again", name, how)
                waiting.append(number)
                continue
            values[number] = float("nan") if value is None else value
            if outputs and value == value and value is not None:  # it did well: nobody will ask what it said
                (outputs / f"{number}.txt").unlink(missing_ok=True)
            if value is None and died is not None:
                died(number, how)
            took, done = time.monotonic() - child.started, len(jobs) - len(waiting) - len(running)
            # no value: it failed, or another process works on it
            said = f"{values[number]:.4g} on validation" if values[number] == values[number] else "no value"
            log.info("[%d/%d] %s: %s (%.0f s%s)", done, len(jobs), name, said, took, how and f", {how}")
    except BaseException:
        _end_all(list(running))
        raise
    return values


def _end_all(pids: Sequence[int]) -> None:
    """Interrupt processes and wait for them; who has not ended after `GRACE_S` is killed, which a run survives."""
    # A shell starts what it puts into the background with SIGINT ignored, and its children inherit that.
    how = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    left, deadline = set(pids), time.monotonic() + GRACE_S
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
    while left:
        for pid in list(left):
            try:
                ended = os.waitpid(pid, os.WNOHANG)[0]
            except ChildProcessError:
                ended = pid
            if ended:
                left.discard(pid)
        if left and time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _start(
    job: Callable[[], float], slot: int, slots: int, gpus: int, output: Path | None
) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 1
    try:  # the child: it must never return into the parent's code
        os.close(read)
        die_with_parent()
        if gpus:
            given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
            os.environ["CUDA_VISIBLE_DEVICES"] = given[slot % len(given)] if given else str(slot % gpus)
        _print_to(output)
        import torch

        torch.set_num_threads(max(1, cores() // slots))
        os.write(write, json.dumps(job()).encode())
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        with contextlib.suppress(BaseException):
            if code == 1:
                traceback.print_exc()
            if (mirrors := sys.modules.get("tutelage.engine.mirrors")) is not None:
                mirrors.drain()
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def _print_to(output: Path | None) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    place = nowhere if output is None else os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream, target in ((0, nowhere), (1, place), (2, place)):
        os.dup2(target, stream)
    faulthandler.enable(2)  # a crash inside a library leaves where it was


def _value(pipe: int) -> float | None:
    with os.fdopen(pipe, "rb") as file:
        text = file.read()
    return float(json.loads(text)) if text else None


def _end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)} ({signal.Signals(os.WTERMSIG(status)).name})"
    return f"ended with exit code {os.WEXITSTATUS(status)} and no result"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> int:
    import torch

    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # counting must not start CUDA: a fork could then not use it
    return torch.cuda.device_count()


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies: what a killed sweep or launcher started must not go on writing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
