"""What a job asks of a Ray cluster: CPUs, GPUs or a part of one, and room in memory, for the ranks of its configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from tutelage.errors import UserError, counted
from tutelage.jobs import cluster_request
from tutelage.runs.needs import Plan
from tutelage.typed import Range, checked

_AMOUNT: Any = Annotated[float, Range(0, math.inf, below=True), "a number of at least 0"] | None


@dataclass(frozen=True)
class Request:
    """The place that a job needs. None: it is not counted."""

    cpus: float
    gpus: float | None
    memory_bytes: int | None

    def fits(self, node: Mapping[str, float]) -> bool:
        """Whether a node of these resources could ever give it."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        return all(node.get(kind, 0) >= amount for kind, amount in asked.items() if amount)

    def __str__(self) -> str:
        memory = None if self.memory_bytes is None else f"{self.memory_bytes / 2**30:g} GiB of memory"
        parts = [counted(self.cpus, "CPU"), self.gpus and counted(self.gpus, "GPU"), memory]
        return ", ".join(part for part in parts if part)


def check(options: Mapping[str, Any]) -> None:
    """Raise UserError for settings of the launcher that no job could be given with."""
    for key in ("cpus", "gpus", "memory_gb"):
        checked(f"hydra.launcher.{key}", options[key], _AMOUNT)
    gpus = options["gpus"]
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise UserError(
            f"hydra.launcher.gpus must be a whole number, or a part of one GPU such as 0.25, got {gpus!r}"
        )
    checked("hydra.launcher.shared", options["shared"], bool)
    checked("hydra.launcher.address", options["address"], Annotated[str, "text such as 10.0.0.1:6379"] | None)


def request_of(plan: Plan, options: Mapping[str, Any]) -> Request:
    """Return what a job needs. Raises UserError where it could not run within one task."""
    config = plan.config
    if (nodes := config["hardware"]["num_nodes"]) != 1:
        raise UserError(
            f"hardware.num_nodes={nodes}: a task of Ray's lies on one node; use hydra/launcher=slurm, or one node of several devices"
        )
    own = cluster_request.request_of(
        Plan(config, plan.name, plan.identity),
        {"nodes": None, "cpus_per_task": None, "gpus_per_node": None, "more": None},
    )
    gpus, ranks = options["gpus"], own.gpus
    if gpus is not None and ranks and ranks > 1 and gpus < ranks:
        raise UserError(
            f"hydra.launcher.gpus={gpus}, but hardware.devices asks for {ranks} of them: give {ranks}, or leave it out"
        )
    memory = options["memory_gb"]
    return Request(
        cpus=own.cpus if options["cpus"] is None else options["cpus"],
        gpus=own.gpus if gpus is None else gpus,
        memory_bytes=None if memory is None else int(memory * 2**30),
    )
