"""What Hydra offers beside files: the variants of `conf/variants.yaml`, and `hydra/launcher=local|slurm|ray`, `hydra/sweeper=optuna`.

The latter are settings alone: Tutelage plans and launches the jobs itself.
"""

from __future__ import annotations

import functools
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from tutelage.config.groups import SETS_OTHERS, VARIANTS, variants

CHOICES: dict[str, dict[str, Any]] = {
    # The jobs of a sweep in parallel on this machine, each in a process of its own. processes: at a time; null: one per GPU where there
    # are GPUs, else one per core. gpu_memory_gb: GiB that a job may take of a GPU, which as many share as have room; null: one each.
    "launcher/local": {
        "_target_": "tutelage.jobs.parallel",
        "processes": None,
        "gpu_memory_gb": None,
    },
    # Each a job of the cluster's, through submitit. cluster: slurm | local (jobs are processes on this machine; a rehearsal) | debug (in
    # this process). A job has one task, which starts the ranks. nodes, cpus_per_task (of each node) and gpus_per_node: null asks for what
    # the job's `hardware` has ranks for. timeout_min: after it, a job is queued again and its run resumes. more: any other of submitit's
    # parameters, such as {account: x, constraint: a100}.
    "launcher/slurm": {
        "_target_": "tutelage.jobs.cluster",
        "cluster": "slurm",
        "timeout_min": 240,
        "partition": None,
        "nodes": None,
        "gpus_per_node": None,
        "cpus_per_task": None,
        "mem_gb": None,
        "array_parallelism": None,
        "more": None,
    },
    # Each a task on a Ray cluster, or on one of this machine that is made on the spot. address: of a running cluster (host:port,
    # ray://...); null: the one that runs here or that RAY_ADDRESS names, else one made here. cpus: of each job; null: what its `hardware`
    # has ranks and loader workers for. gpus: of each job, also a part of one (0.25 lets four share it); null: one for each rank on a GPU.
    # memory_gb: what each job is given room for; null: not counted. shared: whether all nodes see the runs folder; false: runs travel
    # through Ray's object store.
    "launcher/ray": {
        "_target_": "tutelage.jobs.ray_cluster",
        "address": None,
        "cpus": None,
        "gpus": None,
        "memory_gb": None,
        "shared": True,
    },
    # Proposed by Optuna, judged on validation by the task's own metric. trials: how many in all. at_a_time: proposed together, for a
    # launcher that runs them beside each other. seed: of the proposals. random_trials: before the sampler learns from results. stop:
    # "median" stops a trial that is below the median of the complete ones at the same step (above, where less is better), once there are
    # `random_trials` of them; "halving" all but the best in `reduction` at each rung (ASHA); "never"; null: the median, or never where
    # there are costs. cost: what is to be low beside the metric that is to be good: parameters, flops, latency; then there is a Pareto
    # front in place of a best trial. params: as in a sweep, the space.
    "sweeper/optuna": {
        "_target_": "tutelage.jobs.search.Search",
        "trials": 20,
        "at_a_time": 1,
        "seed": 0,
        "random_trials": 5,
        "stop": None,
        "reduction": 3,
        "cost": [],
        "params": {},
    },
}


@functools.cache
def register() -> None:
    """Offer them to Hydra, once in a process."""
    Plugins.instance()  # which reads those of installed packages once: ours come after
    offered = {f"hydra/{place}": ("tutelage", node) for place, node in CHOICES.items()}
    offered |= {
        place: (f"conf/{VARIANTS}.yaml", one.node(place.partition("/")[0]))
        for place, one in variants().items()
    }
    for place, (provider, node) in offered.items():
        group, _, name = place.rpartition("/")
        package = "_global_" if place.partition("/")[0] in SETS_OTHERS else None
        ConfigStore.instance().store(group=group, name=name, node=node, package=package, provider=provider)
