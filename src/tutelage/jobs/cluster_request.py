"""What a job asks of the cluster: nodes, CPUs and GPUs for the ranks of its configuration, unless the command says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tutelage.errors import UserError, choices, extra
from tutelage.runs.needs import Plan
from tutelage.typed import Count, Range, checked

CLUSTERS = ("slurm", "local", "debug")
NUMBERS: dict[str, Any] = {
    **dict.fromkeys(("timeout_min", "nodes", "cpus_per_task", "array_parallelism"), Count),
    "gpus_per_node": Annotated[int, Range(0)],
    "mem_gb": Annotated[float, Range(0), "a number of at least 0 (all of a node)"],
}
"""What the launcher's numbers must be; all but the first may be left to the cluster."""
TIMEOUTS = 1000
"""How often a job whose time is over is queued again. One that saves nothing in it is not: see `cluster_task.Task`."""


@dataclass(frozen=True)
class Request:
    """The place that a job needs. cpus: on each node. gpus: on each node; None leaves it to the cluster."""

    nodes: int = 1
    cpus: int = 1
    gpus: int | None = None


def check(options: Mapping[str, Any]) -> None:
    """Raise UserError for settings of the launcher that no job could be submitted with."""
    cluster = options["cluster"]
    if cluster not in CLUSTERS:
        raise UserError(
            f"hydra.launcher.cluster must be one of {', '.join(CLUSTERS)}, got {cluster!r}; {choices(str(cluster), CLUSTERS)}"
        )
    for key, hint in NUMBERS.items():
        if options[key] is not None or key == "timeout_min":
            checked(f"hydra.launcher.{key}", options[key], hint)
    if not isinstance(options["more"] or {}, Mapping):
        raise UserError(
            f"hydra.launcher.more must be a mapping such as {{account: x, constraint: a100}}, got {options['more']!r}"
        )


def request_of(plan: Plan, options: Mapping[str, Any]) -> Request:
    """Return what a job and the runs that it may have to make first need.

    Raises UserError where the launcher's settings give fewer nodes or CPUs than `hardware` has ranks for.
    """
    layouts = [_layout(one.config, options) for one in (plan, *plan.prerequisites())]
    nodes, ranks = max(n for n, _, _ in layouts), max(r for _, r, _ in layouts)
    asked_nodes, asked_cpus = options["nodes"], options["cpus_per_task"]
    if asked_nodes is not None and asked_nodes < nodes:
        raise UserError(
            f"hydra.launcher.nodes={asked_nodes}, but hardware.num_nodes={nodes}: give hydra.launcher.nodes={nodes}, or leave it out"
        )
    if asked_cpus is not None and asked_cpus < ranks:
        raise UserError(
            f"hydra.launcher.cpus_per_task={asked_cpus}, but {ranks} ranks start on each node: give "
            f"hydra.launcher.cpus_per_task={ranks} or more, or leave it out"
        )
    gpus = options["gpus_per_node"]
    if gpus is None and not any("gpu" in key or "gres" in key for key in options["more"] or {}):
        gpus = max((r for _, r, on_gpu in layouts if on_gpu), default=None)
    cpus = max(r * (1 + _workers(one.config)) for one, (_, r, _) in zip((plan, *plan.prerequisites()), layouts, strict=True))  # fmt: skip
    return Request(asked_nodes or nodes, asked_cpus or cpus, gpus)


def _layout(config: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Return (nodes, ranks on each, whether on GPUs). "auto" are the GPUs of a node, which this machine cannot count."""
    hardware = config["hardware"]
    devices, on_gpu = hardware["devices"], hardware["accelerator"] == "gpu"
    if devices in ("auto", -1):
        devices = (options["gpus_per_node"] or 1) if on_gpu and "single" not in hardware["strategy"] else 1
    ranks = len(devices) if isinstance(devices, list) else devices
    nodes = hardware["num_nodes"]
    whole = [value if type(value) is int and value > 0 else 1 for value in (nodes, ranks)]
    return whole[0], whole[1], on_gpu  # what is no number is refused by the job, in its words


def _workers(config: Mapping[str, Any]) -> int:
    workers = config["data"].get("num_workers") if isinstance(config["data"], Mapping) else None
    return workers if type(workers) is int and workers > 0 else 0


def executor(folder: Path, options: Mapping[str, Any], request: Request) -> Any:
    """Return submitit's executor for jobs of one request; their files are in `folder`.

    Raises UserError where submitit is missing or refuses the settings.
    """
    with extra("slurm", "hydra/launcher=slurm needs submitit"):
        import submitit
    cluster = options["cluster"]
    general: dict[str, Any] = {"timeout_min": options["timeout_min"], "name": "tutelage", "tasks_per_node": 1}
    if cluster == "slurm":
        general |= _for_slurm(options, request)
    else:
        general |= {"cpus_per_task": request.cpus, "gpus_per_node": options["gpus_per_node"]}
    general = {key: value for key, value in general.items() if value is not None}
    more = {"slurm_max_num_timeout": TIMEOUTS} if cluster == "slurm" else {}
    try:
        made = submitit.AutoExecutor(folder=str(folder), cluster=cluster, **more)
        made.update_parameters(**general)
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"submitit cannot use cluster={cluster} with {general}: {error}") from error
    return made


def _for_slurm(options: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Return submitit's parameters of a job, which is one task on its first node: it starts the ranks on all."""
    more = _prefixed(options["more"] or {})
    # SLURM takes the number of nodes from here: submitit would start a task on each, and wait for the results of all. A step of
    # its own has, since 22.05, one CPU unless it asks for more.
    sbatch = {"nodes": request.nodes} | dict(more.pop("slurm_additional_parameters", None) or {})
    step = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={request.cpus}", "--mpi=none"]
    limit_s = options["timeout_min"] * 60
    return {
        "cpus_per_task": request.cpus,
        "gpus_per_node": request.gpus,
        "mem_gb": options["mem_gb"],
        "slurm_partition": options["partition"],
        "slurm_array_parallelism": options["array_parallelism"],
        "slurm_signal_delay_s": min(90, limit_s // 4),  # the time to be queued again before the limit
        "slurm_additional_parameters": sbatch,
        "slurm_srun_args": [*step, *(more.pop("slurm_srun_args", None) or [])],
    } | more


def _prefixed(more: Mapping[str, Any]) -> dict[str, Any]:
    """Return submitit's own parameters under its names for them: `account` is `slurm_account`."""
    from submitit.slurm.slurm import SlurmExecutor

    known = ({f"slurm_{name}" for name in SlurmExecutor._valid_parameters()} | _GENERAL) - _OURS
    found = {}
    for key, value in more.items():
        name = key if key in known else f"slurm_{key}"
        if name not in known:
            raise UserError(f"hydra.launcher.more has no '{key}'; {choices(key, _plain(known), limit=60)}")
        found[name] = value
    return found


_GENERAL = {"name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout"}

_OURS = {"slurm_nodes", "slurm_ntasks_per_node", "slurm_use_srun", "slurm_num_gpus"}
"""What a job's layout says: one task, which starts the ranks."""


def _plain(names: Iterable[str]) -> list[str]:
    return sorted({name.removeprefix("slurm_") for name in names})
