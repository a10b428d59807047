"""From a resolved configuration (a plain dictionary) to the objects of a run: data, networks, frozen networks, the method."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tutelage.alignment.guides import FeatureGuide
from tutelage.data.base import DataModule
from tutelage.data.cache import cache_folder
from tutelage.engine.causality import check_causal
from tutelage.engine.inherited import check_code, check_teacher, check_unseen, check_vocabulary
from tutelage.engine.instantiate import construct, parameters_of, resolve, worded
from tutelage.engine.networks import build_frozen, build_network, example_of, sizes_of
from tutelage.errors import UserError
from tutelage.generators.protocol import Generator
from tutelage.methods.base import Method, step_seed
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import head_of
from tutelage.models.outputs import UnknownCall
from tutelage.runs.folders import lock_at, make_folder
from tutelage.runs.identity import is_need
from tutelage.runs.weights import needed_folder
from tutelage.tasks import Batch, Tokens

log = logging.getLogger("tutelage")
OPTIMIZER = "tutelage.methods.optim.OptimizerSpec"
ROLES = ("guide", "teacher", "source")


@dataclass(frozen=True)
class Built:
    """The objects of one run. heads: the final layer of each network by its section, for the record; without those that have none."""

    data: DataModule
    method: Method
    heads: dict[str, str] = field(default_factory=dict)


def build_data(config: dict[str, Any]) -> DataModule:
    """Build the data module, fetch or check its files (one process at a time), and make its splits."""
    node = (
        config["data"] | {"root": place("data.root", config)}
        if is_need(config["data"].get("root"))
        else config["data"]
    )
    data: DataModule = construct("data", node)
    if not isinstance(data, DataModule):
        raise UserError(
            f"data._target_ must be a tutelage.data.base.DataModule, with splits and a task, got {type(data).__name__}: derive it from "
            "that class, or from tutelage.data.image_set.ImageData where all of it fits into memory"
        )
    runs_dir = Path(config["runs_dir"]).expanduser()
    # What is only looked at makes no runs folder.
    locks = (runs_dir if runs_dir.is_dir() else cache_folder()) / ".locks"
    make_folder(locks)
    with worded("data", parameters_of(type(data))[0]):
        # Ranks and parallel jobs would else download or decode the same files at once.
        with lock_at(locks / "data.lock"):
            data.prepare()
        data.setup()
    return data


def place(where: str, config: dict[str, Any]) -> str:
    """Return the folder that a setting such as `data.root` or `method.pseudo` names: as given, or of the run behind `need:<name>`."""
    section, _, key = where.partition(".")
    value = str(config[section][key])
    return str(needed_folder(config, where, value)) if is_need(value) else value


def check_roles(config: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raise UserError for a frozen network that the method needs and the command lacks, or the reverse; before anything is loaded."""
    name = config["method"]["_target_"].rpartition(".")[2]
    for role in ROLES:
        if config.get(role) and role not in parameters:
            uses = [r for r in ROLES if r in parameters]
            raise UserError(
                f"method {name} uses no {role} (it uses {', '.join(uses) or 'none'}): "
                f"drop model@{role}, or choose a method that does"
            )
        if role in parameters and not config.get(role):
            raise UserError(
                f"method {name} needs a {role}: add model@{role}=<model>, for instance model@{role}=resnet18 "
                "(`tutelage list models` shows all)"
            )


def _on_accelerator(name: str) -> bool:
    return name != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available())


def build(config: dict[str, Any], data: DataModule | None = None) -> Built:
    """Build everything that one run needs. data: reuse a data module that is already set up."""
    method_node = dict(config["method"])
    if is_need(method_node.get("pseudo")):
        method_node["pseudo"] = place("method.pseudo", config)
    parameters, _, _ = parameters_of(resolve(method_node.get("_target_", ""), "method"))
    check_roles(config, parameters)
    data = data or build_data(config)
    network = build_network("model", config, sizes_of(data))
    norm_mode = method_node.get("norm_mode", "eval")
    frozen = {r: build_frozen(r, config, data, norm_mode=norm_mode) for r in ROLES if r in parameters}
    for where in ("model", *frozen):
        check_code(where, config)
        check_vocabulary(where, config, data)
        check_unseen(where, config, data)
    if "teacher" in frozen:
        compares = getattr(resolve(method_node["_target_"], "method"), "compares_outputs", False)
        same = compares and method_node.get("label_space", "same") == "same"
        check_teacher(config, data, same_classes=same)
    if isinstance(data.task, Tokens) and data.task.next_token:
        check_causal(network, example_of(data), vocabulary=data.task.output_size)
    example = example_of(data) if frozen or "example" in parameters else None
    if example is not None and not _on_accelerator(config["hardware"]["accelerator"]):
        for network_at_rest in frozen.values():
            network_at_rest.prefer_channels_last(example.inputs)
    if "norm_mode" not in parameters:
        method_node.pop("norm_mode", None)
    optimizer = {"_target_": OPTIMIZER, **config["optimizer"]}
    if (
        optimizer.get("fused")
        and config["fit"]["gradient_clip"] is not None
        and "mixed" in config["hardware"]["precision"]
    ):
        optimizer["fused"] = (
            False  # the same update in more kernels: Lightning refuses to clip for a fused one in mixed precision
        )
    torch.manual_seed(step_seed(config["seed"], 0, 1))
    method = construct(
        "method",
        method_node,
        network=network,
        task=data.task,
        optimizer=construct("optimizer", optimizer),
        seed=config["seed"],
        batch_size=data.batch_size,
        **({"example": example} if "example" in parameters else {}),
        **({"normalization": data.normalization} if "normalization" not in method_node else {}),
        **({"training_samples": data.fixed_samples} if "training_samples" in parameters else {}),
        **frozen,
    )
    if not isinstance(method, Method):
        raise UserError(f"method._target_ must be a tutelage Method, got {type(method).__name__}")
    return Built(data=data, method=method, heads=_heads(method, example_of(data)))


def _heads(method: Method, example: Batch) -> dict[str, str]:
    """Return the final layer of the trained network and of each frozen one; rules and generators have none."""
    runs: dict[str, Any] = {"model": method.network, **method.frozen}
    found = {}
    for where, network in runs.items():
        inner = network.network if isinstance(network, FrozenNetwork) else network
        if isinstance(inner, FeatureGuide | Generator):
            continue
        try:
            run = network if inner is not network else None
            found[where] = str(head_of(inner, example.inputs, example.mask, run=run))
        except UnknownCall:
            raise
        except UserError:
            continue  # data that are not for it: its method says so
    return found
