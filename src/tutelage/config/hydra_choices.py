"""What Hydra offers beside files: the variants of `conf/variants.yaml`, and `hydra/launcher=local|slurm|ray`, `hydra/sweeper=optuna`.

The latter are settings alone: Tutelage plans and launches the jobs itself.
"""

from __future__ import annotations

import functools
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from tutelage.config.groups import SETS_OTHERS, VARIANTS, user_folder, variant_entries
from tutelage.config.variants import variant

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

_hidden: frozenset[str] = frozenset()
"""The variants that are withdrawn now."""


def register() -> None:
    """Offer them to Hydra, but for variants that the user's own `conf/` has a file of: the file counts, as over a shipped one.

    Harmless when repeated; the working folder may be another one then.
    """
    own = user_folder()
    hidden = frozenset(place for place in variant_entries() if own and (own / f"{place}.yaml").is_file())
    _offer()
    if hidden or _hidden:
        _hide(hidden)


@functools.cache
def _offer() -> None:
    Plugins.instance()  # which reads those of installed packages once: ours come after
    for place, node in CHOICES.items():
        group, _, name = f"hydra/{place}".rpartition("/")
        ConfigStore.instance().store(group=group, name=name, node=node, provider="tutelage")
    for place in variant_entries():
        _offer_variant(place)


def _hide(hidden: frozenset[str]) -> None:
    """Withdraw these variants, which Hydra would take for the schemas of the files; offer again those withdrawn before."""
    global _hidden
    for place in _hidden - hidden:
        _offer_variant(place)
    for place in hidden - _hidden:
        folder, file = _stored(place)
        del folder[file]
    _hidden = hidden


class _Variant(ConfigNode):
    """A variant in Hydra's store. Its node is made when it is chosen: to make all of them takes as long as to compose a command."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.group = place.rpartition("/")[0]
        self.name = f"{place.rpartition('/')[2]}.yaml"
        self.package = "_global_" if self._section in SETS_OTHERS else None
        self.provider = f"conf/{VARIANTS}.yaml"

    @property
    def _section(self) -> str:
        return self.place.partition("/")[0]

    @functools.cached_property
    def node(self) -> DictConfig:  # type: ignore[override]
        varied = variant(self.place)
        return OmegaConf.structured(varied.node(self._section) if varied else {})


def _offer_variant(place: str) -> None:
    folder, file = _stored(place)
    folder[file] = _Variant(place)


def _stored(place: str) -> tuple[dict[str, Any], str]:
    """Return the folder of Hydra's store in which a choice has its place, and the name of its file there."""
    *groups, name = place.split("/")
    folder: dict[str, Any] = ConfigStore.instance().repo
    for group in groups:
        folder = folder.setdefault(group, {})
    return folder, f"{name}.yaml"
