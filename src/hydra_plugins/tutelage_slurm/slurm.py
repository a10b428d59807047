"""`hydra/launcher=slurm`: each job of a sweep a job of the cluster's, through submitit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

# cluster: slurm | local (jobs are processes on this machine; a rehearsal) | debug (in this process). A job has one task, which
# starts the ranks. nodes, cpus_per_task (of each node) and gpus_per_node: null asks for what the job's `hardware` has ranks for.
# timeout_min: after it, a job is queued again and its run resumes. more: any other of submitit's parameters, such as
# {account: x, constraint: a100}.
NODE: dict[str, Any] = {
    "_target_": "hydra_plugins.tutelage_slurm.slurm.SlurmLauncher",
    "cluster": "slurm",
    "timeout_min": 240,
    "partition": None,
    "nodes": None,
    "gpus_per_node": None,
    "cpus_per_task": None,
    "mem_gb": None,
    "array_parallelism": None,
    "more": None,
}
ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=NODE, provider="tutelage")


class SlurmLauncher(Launcher):
    """Submit each job by its words; a job that the cluster interrupts is queued again and resumes from its checkpoint."""

    def __init__(self, **options: Any) -> None:
        self.options = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's Launcher."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit every job whose result is not stored, wait for all, and return their values in order; NaN where there is none."""
        from tutelage.config.compose import as_given
        from tutelage.jobs.outcomes import Jobs, stored_plan

        setup_globals()
        jobs = Jobs(Path(self.config.hydra.sweep.dir))
        wanted = []
        for number, words in enumerate(job_overrides, initial_job_idx):
            config = self.context.config_loader.load_sweep_config(self.config, list(words))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            wanted.append((as_given(config.hydra.overrides.task), *stored_plan(config)))
        values = self.submit(jobs, wanted)
        returned = []
        for words, value in zip(job_overrides, values, strict=True):
            done = JobReturn(overrides=list(words), status=JobStatus.COMPLETED)
            done.return_value = value
            returned.append(done)
        return returned

    def submit(self, jobs: Any, wanted: Sequence[Any]) -> list[float]:
        """See `tutelage.jobs.cluster.submit`."""
        from tutelage.jobs.cluster import submit

        return submit(jobs, wanted, self.options)
