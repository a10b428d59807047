"""From a plan to finished runs: needs first, then the run itself, in this process or in ranks of its own.

A run of one rank trains here. A run of several starts its own torch elastic group by command; each rank reads the finished
`config.yaml` of the run's folder, so no rank composes anything and a multirun of such runs just works. Where the ranks exist
already (torchrun, srun) they are used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.runs import needs, provenance
from tutelage.runs.needs import Plan
from tutelage.runs.run import Run
from tutelage.runs.store import Store

log = logging.getLogger("tutelage")


def run_plan(plan: Plan, *, rerun: bool = False, say: Callable[[str], None] = log.info) -> dict[str, Any]:
    """Return the result of a planned run: stored, if it is complete; otherwise after running what is missing of it.

    rerun: archive the earlier attempt first (of this run, not of its needs). say: told in words what is reused or waited for.
    """
    store = Store(plan.config["runs_dir"])
    run = store.run(plan.name, plan.identity)
    if run.is_complete and not rerun:
        say(f"{run.key} is complete: its stored result is used")
        return run.result or {}
    needs.ensure(plan, store, execute, say=say)
    if in_ranks():  # the ranks are one run: its first rank alone takes the lock
        with run.lock(say=say) if _global_rank() == 0 else contextlib.nullcontext():
            execute(plan, run)
        return run.result or {}
    with run.lock(say=say):
        if run.is_complete and not rerun:
            return run.result or {}
        if rerun:
            run.archive()
        execute(plan, run)
    return run.result or {}


def execute(plan: Plan, run: Run) -> None:
    """Do one run under its lock, and record its failure if it fails."""
    if run.is_complete:
        return
    first = not in_ranks() or _global_rank() == 0
    if first:
        run.begin(plan.config, provenance.collect())
    with logging_to(run.log) if first else contextlib.nullcontext():
        if ranks_of(plan.config) > 1 and not in_ranks():
            _start_ranks(plan, run)
        else:
            attempt(plan.config, run)


def attempt(config: dict[str, Any], run: Run) -> None:
    """Fit in this process; whatever it raises is recorded with the run and passed on."""
    from tutelage.engine.fit import fit

    try:
        fit(config, run)
    except (KeyboardInterrupt, SystemExit):
        log.warning("%s was interrupted: the same command resumes it", run.key)
        raise
    except BaseException as error:
        log.debug("%s", traceback.format_exc())
        run.fail(
            type(error).__name__,
            str(error),
            traceback="" if isinstance(error, UserError) else traceback.format_exc(),
        )
        raise


def ranks_of(config: dict[str, Any]) -> int:
    """Return how many ranks a configuration asks for on this machine: `hardware.devices`, or the machine's GPUs for "auto"."""
    hardware = config["hardware"]
    devices, nodes = hardware["devices"], hardware["num_nodes"]
    if isinstance(devices, list):
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
    if nodes > 1 and not in_ranks():
        raise UserError(
            f"hardware.num_nodes={nodes}: start the ranks with srun or torchrun on every node, or use hardware=slurm"
        )
    return devices


def in_ranks() -> bool:
    """Whether torchrun, srun or Tutelage itself has made this process one of several ranks."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    return (
        int(os.environ.get("SLURM_NTASKS", "1")) > 1
        and "SLURM_PROCID" in os.environ
        and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    )


def _global_rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def _start_ranks(plan: Plan, run: Run) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    ranks = ranks_of(plan.config)
    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # the rank's own message is shown instead
    with (
        tempfile.TemporaryDirectory(prefix="ranks-", dir=run.path) as logs,
        _environment(OMP_NUM_THREADS=_threads(plan.config, ranks)),
    ):
        settings = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=ranks, run_id=plan.identity, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            max_restarts=0, logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.NONE),
        )  # fmt: skip
        try:
            # By command, not by function: nothing has to be pickled, and a rank is a process like any other.
            elastic_launch(settings, sys.executable)("-m", "tutelage.engine.rank", str(run.path.resolve()))
        except ChildFailedError as error:  # it cannot itself be pickled for a parallel launcher
            raise RanksFailed(_why(run, error)) from None
    if not run.is_complete:
        raise RanksFailed(_why(run, None))


class RanksFailed(UserError):
    """A rank of the run failed; its message is the first rank's."""


def _why(run: Run, error: Exception | None) -> str:
    failure = run.failure
    if failure:
        return (
            f"{failure['message']}"
            if not failure.get("traceback")
            else f"{failure['error']}: {failure['message']}\n{failure['traceback']}"
        )
    return f"a rank of {run.key} died without a message{f' ({error})' if error else ''}; see {run.log}"


def _threads(config: dict[str, Any], ranks: int) -> str:
    return str(config["hardware"].get("threads") or max(1, (os.cpu_count() or 1) // ranks))


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Copy what is logged (warnings included) into the run's log while it runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [
        logging.getLogger(name)
        for name in ("tutelage", "lightning.pytorch", "pytorch_lightning", "py.warnings")
    ]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.captureWarnings(False)
        log.setLevel(level)
        handler.close()
