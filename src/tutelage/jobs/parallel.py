"""Jobs in parallel on one machine: forked from a process that holds the imports, one GPU or a share of the cores each."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.engine import progress
from tutelage.engine.progress import Status
from tutelage.errors import UserError
from tutelage.jobs import gpu_places

log = logging.getLogger("tutelage")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
GRACE_S = 30.0
"""How long interrupted jobs may take to write what they have."""


@dataclass(frozen=True)
class _Child:
    """A job's process. said: what has come through its pipe: lines of how far it is, and last its value."""

    number: int
    slot: int
    pipe: int
    started: float
    said: bytearray = field(default_factory=bytearray)

    def listen(self) -> bool:
        """Take what the pipe has; say whether more may come."""
        while True:
            try:
                part = os.read(self.pipe, 1 << 16)
            except BlockingIOError:
                return True
            self.said.extend(part)
            if not part:
                return False

    def status(self) -> Status | None:
        """Return how far the job said last that it is, and forget what it said before."""
        *lines, rest = bytes(self.said).split(b"\n")
        found = [line for line in lines if line.startswith(b"{")]
        self.said[:] = b"\n".join([*(line for line in lines if line not in found), rest])
        return Status(**json.loads(found[-1])) if found else None

    def value(self) -> float | None:
        """Return the job's value, of a process that has ended."""
        self.listen()
        os.close(self.pipe)
        last = bytes(self.said).strip().rpartition(b"\n")[2]
        return float(json.loads(last)) if last and not last.startswith(b"{") else None


@dataclass(frozen=True)
class _Share:
    """A part of a GPU. need_gb: GiB of its memory."""

    name: str
    need_gb: float

    def limit(self) -> None:
        """Let PyTorch take no more of the GPU in this process: what wants more than its share fails, and its neighbours go on."""
        import torch

        (gpu,) = gpu_places.look()  # CUDA_VISIBLE_DEVICES names this one alone
        torch.cuda.set_per_process_memory_fraction(gpu_places.share(self.need_gb, gpu), 0)


def preload(data_nodes: Sequence[Any], runs_dir: str) -> None:
    """Import what jobs need and load their data once, in the process they are forked from: they share its memory.

    data_nodes: the `data` nodes of the jobs. What is wrong with one is left for its job to say.
    """
    import torch

    from tutelage.engine.data_sets import build_data

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    seen: list[Any] = []
    for node in data_nodes:
        if node not in seen:
            seen.append(node)
            with contextlib.suppress(UserError):
                build_data({"data": node, "runs_dir": runs_dir})


def check_processes(processes: object) -> None:
    """Raise UserError for what is no number of jobs at a time."""
    if processes is not None and (type(processes) is not int or processes < 1):
        raise UserError(f"hydra.launcher.processes must be a whole number of at least 1, got {processes!r}")


def run_forked(
    jobs: Sequence[Callable[[], float]],
    *,
    processes: int | None = None,
    names: Sequence[str] | None = None,
    retries: Sequence[int] | None = None,
    died: Callable[[int, str], None] | None = None,
    became: Callable[[int, float], str] | None = None,
    outputs: Path | None = None,
    gpu_memory_gb: float | None = None,
) -> list[float]:
    """Run each job in a process of its own and return their values in order; NaN for one that raised or died.

    processes: jobs at a time; None: the number of GPUs, or of cores where there are none. Each of `processes` slots has its own GPU
    (CUDA_VISIBLE_DEVICES) or share of the cores. retries: how often each job is started again whose process dies (for what it
    raises, the job itself is responsible); died: called with the job's number and how, when no try is left.
    became: says in words what a job's value is; NaN: it has none.
    gpu_memory_gb: what each job may take of a GPU: as many as fit share one; None: one job a GPU.
    outputs: a folder for what jobs print, `<number>.txt`; none: it goes nowhere, since a run has its log.
    An interrupt reaches the jobs too, and is raised here when they have ended; they do not outlive this process.
    Raises UserError on a system that cannot fork, or for another number of processes.
    """
    if not hasattr(os, "fork"):
        raise UserError(
            "hydra/launcher=local forks processes, which this system cannot: use hydra/launcher=basic"
        )
    check_processes(processes)
    gpu_places.check(gpu_memory_gb)
    import tutelage.engine.fit  # noqa: F401 - torch and Lightning are imported once, here; the children share the pages

    gpus = _gpus()
    shared = [] if gpu_memory_gb is None else gpu_places.places(gpu_memory_gb, gpu_places.look())
    most = (
        min(processes, len(shared)) if processes and shared else len(shared) or processes or gpus or cores()
    )
    slots = min(len(jobs), most)
    values = [float("nan")] * len(jobs)
    tries = [1 + (retries[i] if retries else 0) for i in range(len(jobs))]
    waiting, running = list(range(len(jobs))), dict[int, _Child]()
    free = list(range(slots))
    try:
        while waiting or running:
            while waiting and free:
                slot = free[0] if not (shared and running) else _with_room(free, shared, gpu_memory_gb or 0.0)
                if slot is None:
                    break  # somebody else has taken the room: wait until one of ours has ended
                free.remove(slot)
                number = waiting.pop(0)
                gpu = _Share(shared[slot], gpu_memory_gb or 0) if shared else None
                output = outputs / f"{number}.txt" if outputs else None
                pid, pipe = _start(jobs[number], slot, slots, gpu or gpus, output)
                running[pid] = _Child(number, slot, pipe, time.monotonic())
            pid, status = _wait(list(running.values()))
            if pid not in running:
                continue
            child = running.pop(pid)
            free.append(child.slot)
            value, number = child.value(), child.number
            shown = progress.current()
            if isinstance(shown, progress.Board):
                shown.clear(child.slot)
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
            progress.advance()
            said = became(number, values[number]) if became else f"{values[number]:.4g}"
            log.info("[%d/%d] %s: %s (%.0f s%s)", done, len(jobs), name, said, took, how and f", {how}")
    except BaseException:
        _end_all(list(running))
        raise
    return values


def _wait(children: Sequence[_Child]) -> tuple[int, int]:
    """Return a process that has ended and how, showing meanwhile how far the jobs are."""
    open_pipes = {child.pipe: child for child in children}
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return pid, status
        ready = select.select(list(open_pipes), [], [], progress.REFRESH_S)[0] if open_pipes else []
        if not open_pipes:
            time.sleep(0.01)
        shown = progress.current()
        for pipe in ready:
            child = open_pipes[pipe]
            if not child.listen():
                del open_pipes[pipe]
            if (said := child.status()) and isinstance(shown, progress.Board):
                shown.show(said, child.slot)
        if isinstance(shown, progress.Board):
            shown.refresh()


def _with_room(free: Sequence[int], shared: Sequence[str], need_gb: float) -> int | None:
    """Return the first free slot whose GPU has room for a job at the moment."""
    now = gpu_places.look()
    return next((slot for slot in free if gpu_places.has_room(shared[slot], need_gb, now)), None)


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
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _start(
    job: Callable[[], float], slot: int, slots: int, gpus: int | _Share, output: Path | None
) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        os.set_blocking(read, False)
        return pid, read
    code = 1
    try:  # the child: it must never return into the parent's code
        os.close(read)
        die_with_parent()
        if isinstance(gpus, _Share):
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus.name
        elif gpus:
            named = map(str.strip, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
            given = [name for name in named if name]
            os.environ["CUDA_VISIBLE_DEVICES"] = given[slot % len(given)] if given else str(slot % gpus)
        _print_to(output)
        progress.relay(write)
        import torch

        torch.set_num_threads(max(1, cores() // slots))
        if isinstance(gpus, _Share):
            gpus.limit()
        os.set_blocking(write, False)
        value = job()
        os.set_blocking(write, True)
        os.write(write, b"\n" + json.dumps(value).encode())
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
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # no bar of the parent's in front of them
    faulthandler.enable(2)  # a crash inside a library leaves where it was


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
