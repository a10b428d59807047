"""`hydra/launcher=ray`: each job of a sweep a task on a Ray cluster, or on one of this machine that is made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.tutelage_slurm.slurm import SlurmLauncher

# address: of a running cluster (host:port, ray://...); null: the one that runs here or that RAY_ADDRESS names, else one made here. cpus:
# of each job; null: what its `hardware` has ranks and loader workers for. gpus: of each job, also a part of one (0.25 lets four share it);
# null: one for each rank on a GPU. memory_gb: what each job is given room for; null: not counted. shared: whether all nodes see the runs
# folder; false: runs travel through Ray's object store.
NODE: dict[str, Any] = {
    "_target_": "hydra_plugins.tutelage_ray.launcher.RayLauncher",
    "address": None,
    "cpus": None,
    "gpus": None,
    "memory_gb": None,
    "shared": True,
}
ConfigStore.instance().store(group="hydra/launcher", name="ray", node=NODE, provider="tutelage")


class RayLauncher(SlurmLauncher):
    """Give each job to Ray with its plan; one whose node dies is given again and resumes from its checkpoint."""

    def submit(self, jobs: Any, wanted: Sequence[Any]) -> list[float]:
        """See `tutelage.jobs.ray_cluster.submit`."""
        from tutelage.jobs.ray_cluster import submit

        return submit(jobs, wanted, self.options)
