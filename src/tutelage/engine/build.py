"""From a resolved configuration (a plain dictionary) to the objects of a run: networks, frozen networks, objectives, the method."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tutelage.alignment.guides import FeatureGuide
from tutelage.data.base import DataModule
from tutelage.engine.causality import check_causal
from tutelage.engine.conflicts import warn_of_conflicts
from tutelage.engine.data_sets import build_data, build_unlabelled, place
from tutelage.engine.inherited import (
    check_architecture,
    check_code,
    check_teacher,
    check_unseen,
    check_vocabulary,
)
from tutelage.engine.instantiate import BY_NAME, check_arguments, construct, parameters_of, resolve
from tutelage.engine.networks import build_frozen, build_network, check_network, example_of, sizes_of
from tutelage.engine.recompute import recompute
from tutelage.errors import UserError
from tutelage.generators.protocol import Generator
from tutelage.methods.base import Method, own_name, step_seed
from tutelage.methods.optim import OptimizerSpec
from tutelage.methods.parameter_groups import check_patterns, freeze, warn_of_resting
from tutelage.models.forward_calls import Call, UnknownCall, undisturbed
from tutelage.models.frozen import FrozenNetwork, channels_last
from tutelage.models.heads import head_of
from tutelage.objectives.base import NotPrepared, Objective, missing
from tutelage.objectives.total import Objectives
from tutelage.runs.frozen_networks import (
    ROLES,
    frozen_named,
    frozen_read,
    networks_of,
    objectives_of,
    where_of,
)
from tutelage.runs.identity import is_need
from tutelage.tasks import Batch, NoTargets, Tokens
from tutelage.typed import checked, in_keys

log = logging.getLogger("tutelage")
OPTIMIZER = "tutelage.methods.optim.OptimizerSpec"
OF_ALL_OBJECTIVES = {"balance": str, "cache": list[str] | tuple[str, ...]}
"""The settings of a method that are no objective's own, and what each takes."""

OF_METHODS = ("network", "task", "optimizer", "objectives", "seed", "example", "normalization", *ROLES)
"""What a method's constructor may ask of `build`."""


@dataclass(frozen=True)
class Built:
    """The objects of one run. heads: the final layer of each network by its section, for the record; without those that have none."""

    data: DataModule
    method: Method
    heads: dict[str, str] = field(default_factory=dict)


def check_frozen(config: dict[str, Any], own: Collection[str]) -> list[str]:
    """Return the names of the frozen networks that the objectives, or the method itself (own), read.

    Raises UserError for one that the command lacks, or that nothing reads; before anything is loaded.
    """
    method = config["method"]["_target_"].rpartition(".")[2]
    given = frozen_named(config)
    if clash := [name for name in config.get("frozen") or {} if name in ROLES]:
        raise UserError(f"frozen.{clash[0]}: this name is taken by model@{clash[0]}; choose another")
    for name, node in objectives_of(config):
        for network in networks_of(node):
            if network not in given:
                raise UserError(missing(name, network, given))
    for name in own:
        if name not in given:
            raise UserError(
                f"method {method} needs a {name}: add model@{name}=<model>, for instance model@{name}=resnet18 "
                "(`tutelage list models` shows all)"
            )
    read = list(dict.fromkeys([*frozen_read(config), *own]))
    for name in given:
        if name not in read:
            raise UserError(
                f"nothing in method {method} reads the frozen network '{name}' (read: {', '.join(read) or 'none'}): drop "
                f"model@{where_of(name)}, choose a method that does, or add an objective with network={name}"
            )
    return read


def build_objectives(config: dict[str, Any]) -> dict[str, Objective]:
    """Build the objectives of a method, not yet prepared on any network."""
    nodes = dict(objectives_of(config))
    if not nodes:
        raise UserError(
            "method.objectives is empty: a method is a sum of at least one objective; add "
            "+objective@method.objectives.task=task, or choose a method"
        )
    for name, node in nodes.items():
        if is_need(node.get("pseudo")):
            node["pseudo"] = place(f"method.objectives.{name}.pseudo", config)
    return {name: construct(f"method.objectives.{name}", node) for name, node in nodes.items()}


def _prepared(network: nn.Module, objectives: dict[str, Objective], **context: Any) -> Objectives:
    """Prepare objectives on a network; what one says of its arguments is worded as keys of the configuration."""
    try:
        return Objectives(network, objectives, **context)
    except NotPrepared as error:
        arguments, _, _ = parameters_of(type(objectives[error.objective]))  # type: ignore[arg-type]
        said = in_keys(str(error), f"method.objectives.{error.objective}", arguments)
        raise UserError(said) from error


def _on_accelerator(name: str) -> bool:
    return name != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available())


def build(config: dict[str, Any], data: DataModule | None = None) -> Built:
    """Build everything that one run needs. data: reuse a data module that is already set up."""
    own, _, _ = parameters_of(resolve(config["method"].get("_target_", ""), "method"))
    read = check_frozen(config, [role for role in ROLES if role in own])
    objectives = build_objectives(config)
    kind = resolve(config["method"]["_target_"], "method")
    if isinstance(kind, type) and issubclass(kind, Method):
        kind.check_objectives(objectives)
    for where in ("model", *map(where_of, read)):
        check_network(where, config)
    spec, own_settings = _optimizer(config), _own_settings(config["method"])
    check_arguments("method", kind, own_settings, OF_METHODS)
    data = data or build_data(config)
    foretells = getattr(kind, "reads_targets", True)
    if foretells and isinstance(data.task, NoTargets):
        raise UserError(
            f"these data have no classes, and method {config['method']['_target_'].rpartition('.')[2]} learns from classes: a folder of "
            "each in data.root gives them; method=self_supervised and method=masked_images learn without, and "
            "+data@method.unlabelled=image_folder method.unlabelled.root=<folder> adds such images to method=semi_supervised"
        )
    network = build_network("model", config, sizes_of(data))
    frozen = {name: build_frozen(where_of(name), config, data) for name in read}
    for where in ("model", *map(where_of, frozen)):
        check_code(where, config)
        check_architecture(where, config)
        check_vocabulary(where, config, data)
        check_unseen(where, config, data)
    for name in frozen:
        readers = [o for o in objectives.values() if name in o.networks]
        if any(o.expects_trained for o in readers):
            same = any(o.compares_classes for o in readers)
            check_teacher(where_of(name), config, data, same_classes=same)
            if same and (fresh := getattr(frozen[name].network, "drawn_afresh", ())):
                raise UserError(
                    f"the {where_of(name)} has no weights of its own for these classes ({', '.join(fresh)} would be drawn afresh), so its "
                    "answers would be noise: train it on them first, and give that run as its weights"
                )
    if foretells and isinstance(data.task, Tokens) and data.task.next_token:
        check_causal(network, example_of(data), vocabulary=data.task.output_size)
    example = example_of(data)
    if not _on_accelerator(config["hardware"]["accelerator"]):
        for network_at_rest in frozen.values():
            network_at_rest.prefer_channels_last(example.inputs)
    if config["hardware"].get("channels_last"):
        _channels_last(network, example)
    resting = freeze(network, spec.frozen)
    torch.manual_seed(step_seed(config["seed"], 0, 1))
    total = _prepared(
        network,
        objectives,
        frozen=frozen,
        task=data.task,
        example=example,
        batch_size=data.batch_size,
        index=torch.as_tensor(data.splits["train"], dtype=torch.int64),
        class_counts=data.facts.get("train_class_counts"),
        unlabelled=build_unlabelled(config, data),
        mixed_targets=data.mixes_targets,
        normalization=data.normalization,
        samples=data.fixed_samples if config["method"].get("cache") else None,
        **{
            key: checked(f"method.{key}", config["method"][key], hint)
            for key, hint in OF_ALL_OBJECTIVES.items()
            if config["method"].get(key)
        },
    )
    if config["hardware"].get("fold_norms"):
        tapped = {name for o in objectives.values() if o.frozen_layers for name in o.networks}
        _fold_norms({name: one for name, one in frozen.items() if name not in {*tapped, *own}}, example)
    method = construct(
        "method",
        own_settings,
        network=network,
        task=data.task,
        optimizer=spec,
        objectives=total,
        seed=config["seed"],
        **({"example": example} if "example" in own else {}),
        **({"normalization": data.normalization} if "normalization" in own else {}),
        **{role: frozen[role] for role in ROLES if role in own},
    )
    if not isinstance(method, Method):
        raise UserError(f"method._target_ must be a tutelage Method, got {type(method).__name__}")
    method.resting = resting
    if config["hardware"].get("recompute"):
        recompute(method.network)
    warn_of_conflicts(data, objectives)
    named = [(own_name(name), parameter) for name, parameter in method.named_parameters()]
    check_patterns(spec.lr_factors, [name for name, _ in named], "optimizer.lr_factors")
    warn_of_resting(spec.lr_factors, named)
    return Built(data=data, method=method, heads=_heads(method, example_of(data)))


def _own_settings(method: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a method's section that are its constructor's."""
    return {k: x for k, x in method.items() if k not in ("objectives", "unlabelled", *OF_ALL_OBJECTIVES)}


def _optimizer(config: dict[str, Any]) -> OptimizerSpec:
    optimizer = {"_target_": OPTIMIZER, **config["optimizer"]}
    if (
        optimizer.get("fused")
        and config["fit"]["gradient_clip"] is not None
        and "mixed" in config["hardware"]["precision"]
    ):
        optimizer["fused"] = (
            False  # the same update in more kernels: Lightning refuses to clip for a fused one in mixed precision
        )
    spec = construct("optimizer", optimizer)
    if not isinstance(spec, OptimizerSpec):
        raise UserError(f"optimizer._target_={optimizer['_target_']} {BY_NAME}")
    return spec


def _fold_norms(read_by_output: dict[str, FrozenNetwork], example: Batch) -> None:
    """Fold the norms of frozen networks whose layers nobody taps; UserError where there is nothing to fold."""
    counts = {name: one.fold_norms(example.inputs, example.mask) for name, one in read_by_output.items()}
    if not any(counts.values()):
        raise UserError(
            "hardware.fold_norms folds batch norms into the convolutions before them, of frozen networks that are read by their outputs "
            f"alone: {'of these, ' + ', '.join(counts) + ', none has some' if counts else 'there is none'}; say hardware.fold_norms=false"
        )
    for name, count in counts.items():
        log.info("%s: %d batch norms are folded into convolutions", where_of(name), count)


def _channels_last(network: nn.Module, example: Batch) -> None:
    """Train a network of 2-d convolutions with channels last; UserError where it has none, or does not run so."""

    def run() -> None:
        call = Call.of(network)
        with undisturbed(network):
            call(network, example.inputs, example.mask)

    if not channels_last(network, run):
        raise UserError(
            f"hardware.channels_last: {type(network).__name__} has no 2-d convolutions, or flattens their maps by `view`, which needs them "
            "in the usual order (`flatten` or `reshape` do not): say hardware.channels_last=false"
        )


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
