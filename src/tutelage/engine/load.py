"""Finished runs from Python: the trained network, its configuration and its result; and its evaluation on any data."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.data.base import DataModule
from tutelage.engine.build import build_data, build_network, sizes_of
from tutelage.errors import UserError
from tutelage.models.weights import load_weights
from tutelage.runs.provenance import changed_files
from tutelage.runs.store import Store
from tutelage.tasks import Task

log = logging.getLogger("tutelage")


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    network: the trained network with the weights selected on validation, in eval mode, on the CPU. config: the resolved
    configuration. result: what the run recorded. data: its data module, set up; the test split is closed until `data.open_test()`.
    """

    network: nn.Module
    config: dict[str, Any]
    result: dict[str, Any]
    data: DataModule


def load_run(path: str | Path, runs_dir: str | Path = "runs", **data_overrides: Any) -> LoadedRun:
    """Load a complete run by its folder, or by its name and the first digits of its identity, as `tutelage list runs` shows it.

    data_overrides: arguments of the data module that differ here, such as `root` where the data lie elsewhere.
    No code from the run's folder is executed: weights are safetensors, and the configuration may only name what
    `tutelage.engine.instantiate` allows. Raises UserError when the run is not complete.
    """
    run = Store(runs_dir).find(str(path))
    if not run.is_complete:
        raise UserError(
            f"{run.key} is {run.state}: only a complete run can be loaded; give its train command again to finish it"
        )
    if "pseudo" in (run.result or {}):
        raise UserError(f"{run.key} is a pseudo data set: it has no network")
    config = run.config
    if changed := changed_files(run.attempts, config):
        log.warning(
            "%s was trained with another %s: its weights now run through other code",
            run.key,
            " and ".join(changed),
        )
    config["data"] = config["data"] | data_overrides
    data = build_data(config)
    node = config["model"] | {
        "weights": "scratch"
    }  # all weights come from the run: what it started from need not exist any more
    network = build_network(
        "model", node, sizes_of(data), seed=config["seed"], runs_dir=config["runs_dir"], needs={}
    )
    try:
        load_weights(network, run.path / "network.safetensors")
    except UserError as error:
        raise UserError(f"{error}\nThe run's command with rerun=true makes it anew") from error
    return LoadedRun(network=network.eval(), config=config, result=run.result or {}, data=data)


@torch.inference_mode()
def evaluate_network(
    network: nn.Module, task: Task, batches: Any, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return the task's metrics of a network over batches; each sample counts once."""
    import inspect

    network = network.to(device).eval()
    takes_mask = "mask" in inspect.signature(network.forward).parameters
    metrics = task.metrics().to(device)
    for batch in batches:
        metrics.update(network(batch.inputs, batch.mask) if takes_mask else network(batch.inputs), batch)
    return metrics.compute()
