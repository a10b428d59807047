"""The ranks of a run: how many, whether they exist already, and starting them by command, on this machine or on the nodes of a
SLURM allocation. A rank reads the finished `config.yaml` of the run's folder; it composes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.engine.rank_environment import in_ranks, join_environment
from tutelage.errors import RunFailed, StoppedBelow, UserError
from tutelage.jobs import slurm_queue
from tutelage.jobs.watched import ranks_shown
from tutelage.runs.needs import Plan
from tutelage.runs.run import Run

log = logging.getLogger("tutelage")


def ranks_of(config: dict[str, Any]) -> int:
    """Return how many ranks a configuration asks for: `hardware.devices` (this machine's GPUs for "auto") times `num_nodes`."""
    hardware = config["hardware"]
    devices, nodes = hardware["devices"], hardware["num_nodes"]
    if isinstance(devices, list):
        if hardware["accelerator"] == "cpu" or not all(type(d) is int and d >= 0 for d in devices):
            raise UserError(
                f"hardware.devices={devices}: a list names the GPUs to use by their numbers; on a CPU it is a number of processes"
            )
        devices = len(devices)
    if devices in ("auto", -1):
        if hardware["strategy"] in ("auto", "single_device") or hardware["accelerator"] == "cpu":
            devices = 1
        else:
            import torch

            devices = max(1, torch.cuda.device_count())
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise UserError(
            f"hardware.devices must be a whole number of at least 1, a list of devices, or auto; got {devices!r}"
        )
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
        raise UserError(f"hardware.num_nodes must be a whole number of at least 1, got {nodes!r}")
    cores = max(2, os.cpu_count() or 1)  # two always: the path can be tried anywhere
    if hardware["accelerator"] == "cpu" and devices > cores:
        raise UserError(
            f"hardware.devices={devices}: on the CPU each is a process of its own, and this machine has {cores} cores: give 1 to {cores}"
        )
    if nodes > 1 and not in_ranks() and not in_allocation():
        raise UserError(
            f"hardware.num_nodes={nodes}: no SLURM allocation is here to start ranks in. Submit the run with -m hydra/launcher=slurm "
            "(or sbatch), or start the ranks yourself with srun or torchrun on every node"
        )
    if nodes > 1:
        return devices * nodes
    return devices


def check_ranks(config: dict[str, Any]) -> None:
    """Raise UserError where ranks exist already (torchrun, srun) and are not as many as the configuration asks for."""
    if not in_ranks() or config["hardware"]["devices"] in ("auto", -1):
        return
    there, asked = join_environment()[1], ranks_of(config)
    if there != asked:
        raise UserError(
            f"{there} processes were started as the ranks of one run (srun, torchrun), but hardware.devices x num_nodes asks for {asked}: "
            f"give hardware.devices={there} (or hardware=ddp_cpu), or start one process, which starts its ranks itself"
        )


def in_allocation() -> bool:
    """Whether this process may start ranks on the nodes of a SLURM job: it lies in one, and is not itself a rank."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None


def start_ranks(plan: Plan, run: Run) -> None:
    """Start the ranks of a run by command, wait for them, and raise what the first of them failed with."""
    try:
        with ranks_shown(plan):
            (_srun if plan.config["hardware"]["num_nodes"] > 1 else _elastic)(plan, run)
    except _Died as error:
        raise _why(run, error) from None
    if not run.is_complete:
        raise _why(run, None)


class _Died(Exception):
    pass


def _rank_command(run: Run) -> list[str]:
    return ["-m", "tutelage.jobs.rank_main", str(run.path.resolve())]


def _elastic(plan: Plan, run: Run) -> None:
    ranks = ranks_of(plan.config)
    threads = _threads(plan.config, ranks)
    failed, said = launched(_rank_command(run), ranks, threads, plan.identity, run.path)
    if (
        failed and run.is_complete
    ):  # the result is written last, behind a barrier: what dies afterwards dies in its own clearing up
        log.warning("a rank of %s died after the result was written: %s", run.key, said.splitlines()[0])
    elif failed:
        if killed := killed_of(failed):
            raise RanksFailed(f"{killed.format(run.key)}; see {run.log}")
        raise _Died(said)


def launched(
    command: Sequence[str], ranks: int, threads: str, name: str, logs: Path | None = None
) -> tuple[dict[int, int], str]:
    """Start ranks of this Python with a command, and wait; return the exit codes of those that failed, and what torch says of it.

    threads: of each. logs: the folder for what torch elastic keeps while they run.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # the rank's own message is shown instead
    with (
        tempfile.TemporaryDirectory(prefix="ranks-", dir=logs) as folder,
        environment(OMP_NUM_THREADS=threads),
        _signal_handlers_kept(),
    ):
        settings = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=name, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=Std.NONE),
        )  # fmt: skip
        try:
            # By command, not by function: nothing has to be pickled, and a rank is a process like any other.
            elastic_launch(settings, sys.executable)(*command)
        except SignalException as error:  # its agent turns signals into this, having ended the ranks
            raise KeyboardInterrupt(str(error)) from None
        except ChildFailedError as error:  # it cannot itself be pickled for a parallel launcher
            return {rank: failure.exitcode for rank, failure in error.failures.items()}, str(error)
    return {}, ""


def killed_of(failed: Mapping[int, int]) -> str:
    """Return in words which rank of "{}" was killed; empty where none was.

    The others fail because one was killed, and say that: the cause is who was killed. SIGTERM is the agent's own.
    """
    for rank, code in failed.items():
        if code < 0 and code != -signal.SIGTERM:
            return f"rank {rank} of {{}} was killed by signal {-code} (9 is also what a machine short of memory sends)"
    return ""


def _srun(plan: Plan, run: Run) -> None:
    """Start a job step on all nodes of the allocation; each task of it is a rank."""
    nodes, ranks = plan.config["hardware"]["num_nodes"], ranks_of(plan.config)
    per_node = ranks // nodes
    cpus = _room_for(nodes, per_node)
    # --overlap: the process that starts the step holds a task of the allocation itself. Its own SLURM_ variables describe that task.
    # --mpi=none: the ranks find each other through torch, and a cluster's choice of MPI need not be installed.
    command = [
        "srun",
        "--overlap",
        f"--nodes={nodes}",
        f"--ntasks={ranks}",
        f"--ntasks-per-node={per_node}",
        f"--cpus-per-task={cpus // per_node}",
        "--kill-on-bad-exit=1",
        "--mpi=none",
    ]
    inherited = ("SLURM_JOB_", "SLURM_CLUSTER", "SLURM_CONF")
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k.startswith(inherited)
    }
    environment["OMP_NUM_THREADS"] = _threads(plan.config, per_node)
    said, code = _shown([*command, sys.executable, *_rank_command(run)], environment)
    if code:
        raise _Died(f"srun: {said[0]}" if said and not run.failure else f"srun ended with exit code {code}")


def _room_for(nodes: int, per_node: int) -> int:
    """Return how many CPUs each node of the allocation has at least. Raises UserError where srun would refuse the step."""
    there = int(os.environ.get("SLURM_JOB_NUM_NODES", nodes))
    if there < nodes:
        raise UserError(
            f"hardware.num_nodes={nodes}, but the allocation has {there}: ask for them (hydra.launcher.nodes={nodes}, or sbatch "
            f"--nodes={nodes})"
        )
    cpus = slurm_queue.cpus_per_node(os.environ.get("SLURM_JOB_CPUS_PER_NODE", str(per_node)))
    if cpus < per_node:
        raise UserError(
            f"hardware.devices={per_node} starts {per_node} ranks on each node, but the allocation has only {cpus} of a node's CPUs: "
            f"ask for more (hydra.launcher.cpus_per_task={per_node}, or sbatch --ntasks-per-node={per_node})"
        )
    return cpus


def _shown(command: list[str], environment: dict[str, str]) -> tuple[list[str], int]:
    """Run a command, passing on what it says; return what srun itself said was wrong, and the exit code."""
    errors = []
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stderr or ():
                sys.stderr.write(line)
                if line.startswith("srun: error: "):
                    errors.append(line.removeprefix("srun: error: ").strip())
        except BaseException:
            process.terminate()  # it ends the step
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
            raise
    return errors, process.returncode


class RanksFailed(UserError):
    """A rank of the run failed; its message is the first rank's. mistake: whether that was one of the user."""

    def __init__(self, message: str, mistake: bool = False) -> None:
        super().__init__(message)
        self.mistake = mistake


def _why(run: Run, error: Exception | None) -> UserError:
    failure = run.failure
    if not failure:
        said = f" ({str(error).strip().splitlines()[0]})" if error else ""
        return RanksFailed(f"a rank of {run.key} died without a message{said}; see {run.log}")
    if failure["error"] == "StoppedBelow":
        return StoppedBelow(failure["message"], **{key: failure[key] for key in ("step", "value", "asked")})
    if failure.get("traceback"):
        return RanksFailed(
            f"{failure['error']}: {failure['message']}; its traceback is in {run.path / 'failed.json'}"
        )
    if failure.get("exit_code") == 1:
        return RunFailed(str(failure["message"]))
    return RanksFailed(str(failure["message"]), mistake=True)


def _threads(config: dict[str, Any], ranks: int) -> str:
    import torch  # a forked job has been given its share of the cores: the ranks divide that

    return str(config["hardware"].get("threads") or max(1, torch.get_num_threads() // ranks))


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put the handlers back that torch elastic replaces and leaves replaced."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {name: signal.getsignal(name) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for as long as the block takes, then put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
