"""Whether this process is one of several ranks, and which: read from what torchrun, srun or Tutelage itself has set."""

from __future__ import annotations

import os


def in_ranks() -> bool:
    """Whether torchrun, srun or Tutelage itself has made this process one of several ranks."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    return (
        int(os.environ.get("SLURM_NTASKS", "1")) > 1
        and "SLURM_PROCID" in os.environ
        and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    )


def global_rank() -> int:
    """Return this process's number among the ranks, 0 where there is one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def join_environment() -> tuple[int, int]:
    """Return (rank, number of ranks) of this process, and tell torch.distributed what it asks for where SLURM has started the ranks."""
    if in_ranks() and "RANK" not in os.environ:
        from lightning_fabric.plugins.environments import SLURMEnvironment

        cluster = SLURMEnvironment()
        os.environ |= {
            "RANK": str(cluster.global_rank()),
            "LOCAL_RANK": str(cluster.local_rank()),
            "WORLD_SIZE": str(cluster.world_size()),
            "MASTER_ADDR": cluster.main_address,
            "MASTER_PORT": str(cluster.main_port),
        }
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
