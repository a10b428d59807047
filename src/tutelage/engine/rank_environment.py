"""Whether this process is one of several ranks, and which: read from what torchrun, srun or Tutelage itself has set."""

from __future__ import annotations

import os
import re
from typing import Any


def in_ranks() -> bool:
    """Whether torchrun, srun or Tutelage itself has made this process one of several ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ or _tasks_of_step() > 1


def _tasks_of_step() -> int:
    """Return how many processes the srun has started that this one is of; 1 elsewhere.

    SLURM_NTASKS says how many there may be: it is set in a batch script too, which is one process. In an interactive step one of them
    holds the terminal.
    """
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive") or "SLURM_PROCID" not in os.environ:
        return 1
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def global_rank() -> int:
    """Return this process's number among the ranks, 0 where there is one."""
    return join_environment()[0]


def join_environment() -> tuple[int, int]:
    """Return (rank, number of ranks) of this process, and tell torch.distributed what it asks for where SLURM has started the ranks."""
    if "RANK" not in os.environ and (tasks := _tasks_of_step()) > 1:
        job, step = (int(os.environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        os.environ |= {
            "RANK": os.environ["SLURM_PROCID"],
            "LOCAL_RANK": os.environ["SLURM_LOCALID"],
            "GROUP_RANK": os.environ["SLURM_NODEID"],
            "WORLD_SIZE": str(tasks),
            "LOCAL_WORLD_SIZE": str(tasks // int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))),
        }
        # Every rank knows them without asking, and two steps on one node have different ports, below those that systems lend.
        os.environ.setdefault("MASTER_ADDR", first_node(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")))
        os.environ.setdefault("MASTER_PORT", str(12000 + (37 * job + step) % 20000))
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def ranks_and_nodes() -> tuple[int, int]:
    """Return (ranks on each node, nodes) of the ranks that exist."""
    ranks = join_environment()[1]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))
    return local, max(1, ranks // local)


def first_node(nodes: str) -> str:
    """Return the first name of SLURM's list of nodes, such as `gpu[03-05,9],login1`."""
    found = re.match(r"([^\[,]*)(?:\[([^\]]*)\])?([^,]*)", nodes.strip())
    before, numbers, after = found.groups("") if found else (nodes, "", "")
    return before + re.split("[,-]", numbers)[0] + after


def lightning_environment() -> Any:
    """Return what tells Lightning of the ranks. Left to itself it looks for SLURM, and takes what a job may start for what was started."""
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    if not in_ranks():
        return LightningEnvironment()
    join_environment()
    return (
        TorchElasticEnvironment()
    )  # it reads the variables that `join_environment` sets, whoever started the ranks
