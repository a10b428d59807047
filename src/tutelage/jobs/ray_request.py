"""What a job asks of a Ray cluster: CPUs, GPUs or a part of one, and room in memory, for the ranks of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.errors import UserError
from tutelage.jobs import cluster_request
from tutelage.runs.needs import Plan


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
        parts = [f"{self.cpus:g} CPUs", self.gpus and f"{self.gpus:g} GPUs", memory]
        return ", ".join(part for part in parts if part)


def check(options: Mapping[str, Any]) -> None:
    """Raise UserError for settings of the launcher that no job could be given with."""
    for key, least in (("cpus", 0), ("gpus", 0), ("memory_gb", 0)):
        value = options[key]
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value < float("inf"):
            raise UserError(
                f"hydra.launcher.{key} must be a number of at least {least}, or nothing (null), got {value!r}"
            )
    gpus = options["gpus"]
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise UserError(
            f"hydra.launcher.gpus must be a whole number, or a part of one GPU such as 0.25, got {gpus!r}"
        )
    if not isinstance(options["shared"], bool):
        raise UserError(f"hydra.launcher.shared must be true or false, got {options['shared']!r}")
    if options["address"] is not None and not isinstance(options["address"], str):
        raise UserError(
            f"hydra.launcher.address must be text such as 10.0.0.1:6379, got {options['address']!r}"
        )


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
