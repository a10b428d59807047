"""`hydra/launcher=local`: the jobs of a sweep in parallel on this machine, each in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

# processes: jobs at a time; null: one per GPU where there are GPUs, else one per core. gpu_memory_gb: GiB that a job may take of a GPU,
# which as many share as have room; null: one each. A plain node: Hydra scans this file before Python knows it as a module, which a
# dataclass with postponed annotations does not survive.
NODE = {
    "_target_": "hydra_plugins.tutelage_local.local.LocalLauncher",
    "processes": None,
    "gpu_memory_gb": None,
}
ConfigStore.instance().store(group="hydra/launcher", name="local", node=NODE, provider="tutelage")


class LocalLauncher(Launcher):
    """Fork each job from this process, which holds the imports: isolation costs milliseconds, not an import of torch."""

    def __init__(self, processes: int | None = None, gpu_memory_gb: float | None = None) -> None:
        self.processes, self.gpu_memory_gb = processes, gpu_memory_gb

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's Launcher."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run every job, at most `processes` at a time, and return their values in order; a job that died has NaN."""
        from tutelage.config.compose import as_given
        from tutelage.jobs.outcomes import Jobs, stored_plan

        setup_globals()
        configs = [self._config(list(words), initial_job_idx + i) for i, words in enumerate(job_overrides)]
        plans = [stored_plan(config) for config in configs]
        # A stored result costs no process and no import of torch.
        values = [
            self._job(config) if is_stored else None
            for config, (_, is_stored) in zip(configs, plans, strict=True)
        ]
        missing = [i for i, value in enumerate(values) if value is None]
        if missing:
            jobs = [
                (as_given(job_overrides[i]), plans[i][0], functools.partial(self._job, configs[i]))
                for i in missing
            ]
            launched = Jobs(Path(self.config.hydra.sweep.dir))
            launched.gpu_memory_gb = self.gpu_memory_gb
            made = launched.fork(jobs, self.processes)
            for i, value in zip(missing, made, strict=True):
                values[i] = value
        returned = []
        for words, value in zip(job_overrides, values, strict=True):
            done = JobReturn(overrides=list(words), status=JobStatus.COMPLETED)
            done.return_value = value
            returned.append(done)
        return returned

    def _config(self, overrides: list[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _job(self, config: DictConfig) -> float:
        done: Any = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        return float(done.return_value)
