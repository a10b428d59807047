"""From a resolved configuration (a plain dictionary) to the objects of a run: data, networks, frozen networks, the method."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.alignment.guides import FeatureGuide
from tutelage.data.base import DataModule, SplitBatches
from tutelage.data.cache import cache_folder
from tutelage.engine.causality import check_causal
from tutelage.engine.inherited import (
    check_code,
    check_teacher,
    check_unseen,
    check_vocabulary,
    expected_normalization,
    needed_run,
    recorded_sizes,
    weights_file,
)
from tutelage.engine.instantiate import construct, parameters_of, resolve, worded
from tutelage.errors import UserError
from tutelage.methods.base import Method, step_seed
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.weights import load_weights
from tutelage.runs.folders import lock_at, make_folder
from tutelage.runs.identity import WEIGHTS_DIGEST, is_need
from tutelage.tasks import Batch, Tokens

log = logging.getLogger("tutelage")
OPTIMIZER = "tutelage.methods.optim.OptimizerSpec"
ROLES = ("guide", "teacher", "source")
_OTHER_CLASSES = ("teacher", "source")  # may know other classes than the data: their own run says which
_RESERVED = {
    "weights",
    WEIGHTS_DIGEST,
    "init_seed",
    "new_head",
}  # keys of a model node that the builder consumes itself


@dataclass(frozen=True)
class Built:
    """The objects of one run."""

    data: DataModule
    method: Method


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


def example_of(data: DataModule, size: int = 4) -> Batch:
    """Return a few validation samples on the CPU, for probing shapes; whatever the batch size of the evaluation."""
    few = SplitBatches(data.store, data.splits["validation"][:size], batch_size=size)
    try:
        return next(iter(few))
    finally:
        few.close()


def place(where: str, config: dict[str, Any]) -> str:
    """Return the folder that a setting such as `data.root` or `method.pseudo` names: as given, or of the run behind `need:<name>`."""
    section, _, key = where.partition(".")
    value = str(config[section][key])
    if not is_need(value):
        return value
    return str(needed_run(f"{where}={value}", value, config["runs_dir"], config.get("needs") or {}))


def build_network(
    where: str,
    node: dict[str, Any],
    sizes: Mapping[str, Any],
    *,
    seed: int,
    runs_dir: str,
    needs: dict[str, Any],
) -> nn.Module:
    """Build one network and give it its weights.

    where: `model` or the role, for messages and so that each role draws its own initialisation from `seed`. sizes: what the builder
    fills in where the constructor names it, see `sizes_of`.
    node: the model's configuration; `weights` is scratch | pretrained | a file | a run's folder | need:<name>, `init_seed` pins the
    initialisation whatever the run's seed, and `new_head` leaves the final layer fresh, for other classes.
    """
    arguments = {key: value for key, value in node.items() if key not in _RESERVED}
    weights = node.get("weights")
    weights = "scratch" if weights is None else weights
    if not isinstance(weights, str) or not weights:
        raise UserError(
            f"{where}.weights must be scratch, pretrained, a file (.safetensors, .ckpt), a run's folder, or need:<name>, got {weights!r}"
        )
    pinned = node.get("init_seed")
    torch.manual_seed(step_seed(seed if pinned is None else pinned, 0, sum(map(ord, where))))
    accepts, _, _ = parameters_of(resolve(arguments.get("_target_", ""), where))
    if weights == "pretrained":
        if "pretrained" not in accepts:
            raise UserError(
                f"{where}.weights=pretrained: {arguments['_target_']} has no published weights. "
                "Expected scratch, a file (.safetensors, .ckpt), a run's folder, or need:<name>"
            )
        arguments["pretrained"] = True
    context = {key: value for key, value in sizes.items() if arguments.get(key) is None}
    network = construct(
        where, {k: v for k, v in arguments.items() if not (k in context and v is None)}, **context
    )
    if not isinstance(network, nn.Module):
        raise UserError(f"{where}._target_ must build a torch.nn.Module, got {type(network).__name__}")
    if isinstance(network, FeatureGuide) and where != "guide":
        raise UserError(
            f"{where}: {type(network).__name__} is a rule, no network: it can only guide (model@guide=...)"
        )
    if weights not in ("scratch", "pretrained"):
        path = weights_file(where, weights, runs_dir=runs_dir, needs=needs)
        load_weights(network, path, new_head=bool(node.get("new_head")))
    return network


def sizes_of(data: DataModule) -> dict[str, Any]:
    """Return what a network is told of its data."""
    return {
        "input_shape": data.input_shape,
        "output_size": data.task.output_size,
        "num_classes": data.task.output_size,
        "vocab_size": data.vocab_size,
        "per_position": data.task.per_position,
        "class_names": data.facts.get("classes"),
        "tables": data.tables,
    }


def build_frozen(role: str, config: dict[str, Any], data: DataModule, *, norm_mode: str) -> FrozenNetwork:
    """Build one frozen network (a guide, a teacher, a source), with the input normalisation that its weights expect."""
    node = config[role]
    sizes = sizes_of(data)
    if role in _OTHER_CLASSES:
        stored = recorded_sizes(role, config)
        sizes |= {key: value for key, value in stored.items() if key != "input_shape"}
    network = build_network(
        role, node, sizes, seed=config["seed"], runs_dir=config["runs_dir"], needs=config.get("needs") or {}
    )
    expects = expected_normalization(role, node, network, config, given=data.normalization)
    return FrozenNetwork(network, norm_mode=norm_mode, expects=expects, given=data.normalization)


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
    network = build_network(
        "model",
        config["model"],
        sizes_of(data),
        seed=config["seed"],
        runs_dir=config["runs_dir"],
        needs=config.get("needs") or {},
    )
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
        **({"training_samples": data.fixed_samples} if "training_samples" in parameters else {}),
        **frozen,
    )
    if not isinstance(method, Method):
        raise UserError(f"method._target_ must be a tutelage Method, got {type(method).__name__}")
    return Built(data=data, method=method)
