"""From a resolved configuration (a plain dictionary) to the objects of a run: data, networks, frozen networks, the method."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from tutelage.data.base import DataModule
from tutelage.engine.instantiate import construct, parameters_of, resolve
from tutelage.errors import UserError
from tutelage.methods.base import Method, step_seed
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.weights import load_weights
from tutelage.runs.run import make_folder
from tutelage.tasks import Batch

OPTIMIZER = "tutelage.methods.optim.OptimizerSpec"
ROLES = ("guide", "teacher", "source")
_RESERVED = {"weights", "init_seed"}  # keys of a model node that the builder consumes itself


@dataclass(frozen=True)
class Built:
    """The objects of one run."""

    data: DataModule
    method: Method


def build_data(config: dict[str, Any]) -> DataModule:
    """Build the data module, fetch or check its files (one process at a time), and make its splits."""
    data: DataModule = construct("data", config["data"])
    if not isinstance(data, DataModule):
        raise UserError(f"data._target_ must be a tutelage DataModule, got {type(data).__name__}")
    locks = Path(config["runs_dir"]).expanduser() / ".locks"
    make_folder(locks)
    with FileLock(
        locks / "data.lock"
    ):  # ranks and parallel jobs would else download or decode the same files at once
        data.prepare()
    data.setup()
    return data


def example_of(data: DataModule, size: int = 4) -> Batch:
    """Return a few validation samples on the CPU, for probing shapes."""
    batch = next(iter(data.batches("validation", device="cpu")))
    parts: Any = (None if part is None else part[:size] for part in batch)
    return Batch(*parts)


def build_network(
    where: str, node: dict[str, Any], data: DataModule, *, seed: int, runs_dir: str, needs: dict[str, Any]
) -> nn.Module:
    """Build one network for the data and give it its weights.

    where: `model` or the role, for messages and so that each role draws its own initialisation from `seed`.
    node: the model's configuration; `weights` is scratch | pretrained | a file | a run's folder | need:<name>, and `init_seed`
    pins the initialisation whatever the run's seed.
    """
    arguments = {key: value for key, value in node.items() if key not in _RESERVED}
    weights = str(node.get("weights") or "scratch")
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
    context = {
        "input_shape": data.input_shape,
        "output_size": data.task.output_size,
        "num_classes": data.task.output_size,
        "vocab_size": data.vocab_size,
        "per_position": data.task.per_position,
    }
    context = {key: value for key, value in context.items() if arguments.get(key) is None}
    network = construct(
        where, {k: v for k, v in arguments.items() if not (k in context and v is None)}, **context
    )
    if not isinstance(network, nn.Module):
        raise UserError(f"{where}._target_ must build a torch.nn.Module, got {type(network).__name__}")
    if weights not in ("scratch", "pretrained"):
        load_weights(network, weights_file(where, weights, runs_dir=runs_dir, needs=needs))
    return network


def weights_file(where: str, source: str, *, runs_dir: str, needs: dict[str, Any]) -> Path:
    """Return the weights file that a source names. Raises UserError saying what is missing."""
    if source.startswith("need:"):
        name = source.removeprefix("need:")
        if name not in needs:
            raise UserError(
                f"{where}.weights={source}: the configuration names no need '{name}'; its needs are {sorted(needs) or 'none'}"
            )
        path = Path(runs_dir) / needs[name]["run"] / "network.safetensors"
        if not path.exists():
            raise UserError(
                f"{where}.weights={source}: the run {needs[name]['run']} has left no {path.name}; run it first"
            )
        return path
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / "network.safetensors"
    if not path.exists():
        raise UserError(
            f"{where}.weights={source}: no such file. Expected scratch, pretrained, a file (.safetensors, .ckpt), "
            "the folder of a complete run, or need:<name>"
        )
    return path


def build_frozen(role: str, config: dict[str, Any], data: DataModule, *, norm_mode: str) -> FrozenNetwork:
    """Build one frozen network (a guide, a teacher, a source), with the input normalisation that its weights expect."""
    node = config.get(role)
    if not node:
        raise UserError(
            f"method {config['method']['_target_'].rpartition('.')[2]} needs a {role}: add model@{role}=<model>, for instance "
            f"model@{role}=resnet18 (`tutelage list models` shows all)"
        )
    network = build_network(
        role, node, data, seed=config["seed"], runs_dir=config["runs_dir"], needs=config.get("needs") or {}
    )
    mean, std = expected_normalization(role, node, network, config)
    return FrozenNetwork(network, norm_mode=norm_mode, expects=mean and (mean, std), given=data.normalization)


def expected_normalization(
    role: str, node: dict[str, Any], network: nn.Module, config: dict[str, Any]
) -> tuple[Any, Any]:
    """Return the (mean, std) per channel that a network's weights were trained with; (None, None) where they take what comes."""
    weights = str(node.get("weights") or "scratch")
    if weights == "scratch":
        return None, None
    if weights == "pretrained":
        return getattr(network, "pretrained_normalization", None) or (None, None)
    path = weights_file(role, weights, runs_dir=config["runs_dir"], needs=config.get("needs") or {})
    if path.suffix != ".safetensors":
        return None, None
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("normalization", "null")
    return tuple(json.loads(text) or (None, None))


def build(config: dict[str, Any], data: DataModule | None = None) -> Built:
    """Build everything that one run needs. data: reuse a data module that is already set up."""
    data = data or build_data(config)
    method_node = dict(config["method"])
    parameters, _, _ = parameters_of(resolve(method_node.get("_target_", ""), "method"))
    network = build_network(
        "model",
        config["model"],
        data,
        seed=config["seed"],
        runs_dir=config["runs_dir"],
        needs=config.get("needs") or {},
    )
    for role in ROLES:
        if config.get(role) and role not in parameters:
            uses = [r for r in ROLES if r in parameters]
            raise UserError(
                f"method {method_node['_target_'].rpartition('.')[2]} uses no {role} (it uses {', '.join(uses) or 'none'}): "
                f"drop model@{role}, or choose a method that does"
            )
    norm_mode = method_node.get("norm_mode", "eval")
    frozen = {r: build_frozen(r, config, data, norm_mode=norm_mode) for r in ROLES if r in parameters}
    if "norm_mode" not in parameters:
        method_node.pop("norm_mode", None)
    torch.manual_seed(step_seed(config["seed"], 0, 1))
    method = construct(
        "method",
        method_node,
        network=network,
        task=data.task,
        optimizer=construct("optimizer", {"_target_": OPTIMIZER, **config["optimizer"]}),
        seed=config["seed"],
        batch_size=data.batch_size,
        **({"example": example_of(data)} if "example" in parameters else {}),
        **frozen,
    )
    if not isinstance(method, Method):
        raise UserError(f"method._target_ must be a tutelage Method, got {type(method).__name__}")
    return Built(data=data, method=method)
