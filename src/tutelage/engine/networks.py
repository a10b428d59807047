"""From a network's section of the configuration to the network: built, given its weights, its final layer named; frozen ones too."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import UninitializedParameter
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from tutelage.alignment.guides import FeatureGuide
from tutelage.data.base import DataModule, SplitBatches
from tutelage.data.memory import room_bytes
from tutelage.engine.inherited import (
    FROM_DATA,
    VOCABULARY,
    expected_normalization,
    recorded_data,
    recorded_sizes,
)
from tutelage.engine.instantiate import check_arguments, construct, parameters_of, resolve
from tutelage.errors import UserError
from tutelage.methods.base import step_seed
from tutelage.models import int8
from tutelage.models.forward_calls import Call
from tutelage.models.frozen import FrozenNetwork, image_size
from tutelage.models.heads import Head, declare, head_of, named_head
from tutelage.models.pruning import prune
from tutelage.models.weights_files import WeightsMismatch, load_weights, not_finite
from tutelage.runs.weights import EXPECTED, RESERVED, YIELDING, Weights, node_of
from tutelage.tasks import Batch

log = logging.getLogger("tutelage")
_OF_CLASSES = ("num_classes", "output_size")  # what a constructor may call the number of its outputs
_SAME_CLASSES = (
    "model",
    "guide",
)  # every other network may know other classes than the data: its own run says which


def example_of(data: DataModule, size: int = 4) -> Batch:
    """Return a few validation samples on the CPU, for probing shapes; whatever the batch size of the evaluation."""
    few = SplitBatches(data.store, data.splits["validation"][:size], batch_size=size)
    try:
        return next(iter(few))
    finally:
        few.close()


def sizes_of(data: DataModule) -> dict[str, Any]:
    """Return what a network's constructor may ask of its data, see `FROM_DATA`."""
    return {
        "input_shape": data.input_shape,
        **dict.fromkeys(_OF_CLASSES, data.task.output_size),
        "vocab_size": data.vocab_size,
        "per_position": data.task.per_position,
        "next_token": getattr(data.task, "next_token", False),
        "padding_token": getattr(data, "padding", None),
        "vocabulary_sha256": data.facts.get(VOCABULARY),
        "class_names": data.facts.get("classes"),
        "tables": data.tables,
    }


def check_network(where: str, config: Mapping[str, Any]) -> None:
    """Raise UserError for settings of a network that its constructor does not take, before any data are loaded for it."""
    node = node_of(config, where)
    function = resolve(node.get("_target_", ""), where)
    taken = _taken(where, function)
    own = {key: value for key, value in node.items() if key not in taken}
    for key, value in own.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check_network(f"{where}.{key}", config)
    check_arguments(where, function, own, FROM_DATA)


def _taken(where: str, function: Callable[..., Any]) -> set[str]:
    """Which settings of a network's section are not its constructor's."""
    accepts, _, _ = parameters_of(function)
    taken = {key for key in RESERVED if key not in YIELDING or key not in accepts}
    # only a frozen network sees the data at a size of its own
    return taken - {"input_size"} if where == "model" else taken


def build_network(where: str, config: Mapping[str, Any], sizes: Mapping[str, Any]) -> nn.Module:
    """Build one network and give it its weights.

    where: its section in the configuration, `model` or a frozen network's; each draws its own initialisation from `seed`.
    sizes: what is filled in where the constructor names it, see `sizes_of`.
    Of its settings, those in `runs.weights.RESERVED` say where its weights come from; all others are its constructor's.
    Raises UserError.
    """
    node, weights = node_of(config, where), Weights.of(config, where)
    function = resolve(node.get("_target_", ""), where)
    accepts, taken = parameters_of(function)[0], _taken(where, function)
    arguments = {
        key: build_network(f"{where}.{key}", config, sizes)
        if isinstance(value, Mapping) and "_target_" in value
        else value
        for key, value in node.items()
        if key not in taken
    }
    pinned = node.get("init_seed")
    torch.manual_seed(step_seed(config["seed"] if pinned is None else pinned, 0, sum(map(ord, where))))
    if weights.kind == "pretrained":
        if "pretrained" not in accepts:
            raise UserError(
                f"{where}.weights=pretrained: {arguments['_target_']} has no published weights. "
                f"Expected {EXPECTED.replace('pretrained, ', '')}"
            )
        arguments["pretrained"] = True
    context = {key: value for key, value in sizes.items() if arguments.get(key) is None}
    trains_here = where == "model" and config["hardware"]["accelerator"] == "cpu"
    with _in_room(where, copies=2 if trains_here else 1):
        network = construct(
            where, {key: value for key, value in arguments.items() if key not in context}, **context
        )
    if not isinstance(network, nn.Module):
        raise UserError(f"{where}._target_ must build a torch.nn.Module, got {type(network).__name__}")
    if isinstance(network, FeatureGuide) and where in ("model", "teacher", "source"):
        raise UserError(
            f"{where}: {type(network).__name__} is a rule, no network: it can only guide (model@guide=...)"
        )
    _fill_in(where, network, sizes)
    if weights.head is not None and "head" in taken:
        try:
            declare(network, named_head(network, weights.head))
        except UserError as error:
            raise UserError(f"{where}.{error}") from error
    try:
        if weights.are_given:
            entry = weights.entry if "entry" in taken else None
            _load(network, weights, sizes, config, entry, [name for name in _OF_CLASSES if name in accepts])
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error
    if "pruned" in taken and node.get("pruned") is not None:
        prune(
            network,
            node["pruned"],
            node.get("pruned_by") or "weights",
            inputs=_blank(sizes),
            head=_final_layer(network, sizes).layers,
            seed=config["seed"],
            where=where,
        )
    elif "pruned_by" in taken and node.get("pruned_by") is not None:
        raise UserError(f"{where}.pruned_by={node['pruned_by']} needs {where}.pruned, the share that goes")
    if "quantised" in taken and node.get("quantised") is not None:
        int8.quantise(network, node["quantised"], where=where)
    return network


def _load(
    network: nn.Module,
    weights: Weights,
    sizes: Mapping[str, Any],
    config: Mapping[str, Any],
    entry: str | None,
    of_classes: list[str],
) -> None:
    where = weights.where
    head = _final_layer(network, sizes) if weights.new_head else None
    if head:
        log.info("%s.new_head=true: the layer '%s' starts afresh", where, head)
    try:
        load_weights(network, weights.path(), head=head, entry=entry, where=where)
    except WeightsMismatch as error:
        advice = _advice(network, where, sizes, of_classes, error) or _resolution(where, config, sizes)
        raise UserError(f"{error} {advice}".rstrip()) from error
    if broken := not_finite(network.state_dict()):
        raise UserError(
            f"{where}.weights={weights.said}: {len(broken)} of {len(network.state_dict())} tensors hold values that are no finite numbers "
            f"(NaN or infinite), such as {broken[0]}. What wrote them had diverged: choose other weights"
        )


def _advice(
    network: nn.Module, where: str, sizes: Mapping[str, Any], of_classes: list[str], error: WeightsMismatch
) -> str:
    """Return what to write where weights fit a network but for one layer; empty where that is not so."""
    if not error.layer:
        return ""
    try:
        final = _final_layer(network, sizes)
    except UserError:  # it does not run on these data, which its method says
        final = None
    is_final = final is not None and error.layer in (*final.layers, *final.names)
    if not is_final and where != "model":
        return ""
    if not is_final:
        last = f"the final layer is '{final}'" if final else "which layer is the final one was not found"
        return (
            f"Only the layer '{error.layer}' differs; {last}. If '{error.layer}' is what decides on the classes, "
            f"{where}.head={error.layer} {where}.new_head=true starts it afresh"
        )
    if where == "model":
        return f"Only the final layer '{error.layer}' differs: {where}.new_head=true starts it afresh"
    sized = (
        f"{where}.{of_classes[0]}={error.classes}"
        if of_classes
        else f"its class takes neither {' nor '.join(_OF_CLASSES)}, so build it with {error.classes}"
    )
    return f"Only the final layer '{error.layer}' differs: a frozen network keeps the classes that it knows: {sized}"


def _resolution(where: str, config: Mapping[str, Any], sizes: Mapping[str, Any]) -> str:
    """Return what to write where a frozen network's run saw images of another size; empty where it did not."""
    theirs = tuple(recorded_data(where, config).get("input_shape") or ()) if where != "model" else ()
    ours = tuple(sizes.get("input_shape") or ())
    if len(theirs) != 3 or len(ours) != 3 or theirs[1:] == ours[1:]:
        return ""
    size = theirs[1] if theirs[1] == theirs[2] else f"[{theirs[1]},{theirs[2]}]"
    return (
        f"It was trained on images of {theirs[1]} x {theirs[2]}, these are {ours[1]} x {ours[2]}: {where}.input_size={size} has it see "
        "them at its own size"
    )


def _final_layer(network: nn.Module, sizes: Mapping[str, Any]) -> Head:
    """Return the final layer that the configuration names, else the one that is found on inputs of the data's shape."""
    return head_of(network, _blank(sizes))


def _blank(sizes: Mapping[str, Any]) -> Tensor:
    """Two samples of the data's shape, all zeros."""
    if "input_shape" not in sizes:  # a generator that brings its own
        raise UserError("no data tell the shape of the inputs")
    kind = torch.float32 if sizes.get("vocab_size") is None else torch.long
    return torch.zeros(2, *sizes["input_shape"], dtype=kind)


@torch.no_grad()
def _fill_in(where: str, network: nn.Module, sizes: Mapping[str, Any]) -> None:
    """Have lazy layers take their widths and draw their weights, from one forward."""
    if not any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters()):
        return
    try:
        Call.of(network).raw(network.eval(), _blank(sizes))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{where}: the lazy layers of {type(network).__name__} take their widths from inputs of shape "
            f"{tuple(sizes['input_shape'])}, on which it cannot run: {error}"
        ) from error
    network.train()


def build_frozen(where: str, config: Mapping[str, Any], data: DataModule) -> FrozenNetwork:
    """Build one frozen network (a guide, a teacher, a source, `frozen.<name>`), with the input normalisation that its weights expect, and
    at the resolution that its `input_size` names.
    """
    size = image_size(where, node_of(config, where).get("input_size"))
    sizes = sizes_of(data)
    if where not in _SAME_CLASSES:
        sizes |= {k: v for k, v in recorded_sizes(where, config).items() if k != "input_shape"}
    if size is not None:
        if len(data.input_shape) != 3:
            raise UserError(
                f"{where}.input_size is of images (channels, height, width), these data are of shape {tuple(data.input_shape)}"
            )
        sizes["input_shape"] = (data.input_shape[0], *size)
    network = build_network(where, config, sizes)
    if size is not None and isinstance(network, FeatureGuide):
        raise UserError(
            f"{where}.input_size: {type(network).__name__} is a rule, which looks at the data as they are"
        )
    expects = expected_normalization(Weights.of(config, where), network, given=data.normalization)
    norm_mode = node_of(config, where).get("norm_mode") or "eval"
    return FrozenNetwork(
        network, norm_mode=norm_mode, expects=expects, given=data.normalization, input_size=size
    )


@contextlib.contextmanager
def _in_room(where: str, copies: int) -> Iterator[None]:
    """Raise UserError for a network that this machine has no room for, as it grows: a process that goes on would be killed.

    copies: of each weight that there must be, its gradient one of them. What an optimiser and the activations take is not known here.
    """
    room, held = room_bytes(), dict[tuple[int, str], int]()

    def count(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        if weight is None or weight.is_meta or is_lazy(weight):
            return
        held[id(module), name] = weight.numel() * weight.element_size()
        need = copies * sum(held.values())
        if room is not None and need > room:
            raise UserError(
                f"{where}: its weights{' and their gradients' if copies > 1 else ''} need more than {need / 2**30:.1f} GB of memory, where "
                f"{room / 2**30:.1f} GB are all there is: make it smaller, or train on a larger machine"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
