"""Networks made smaller: single weights that are 0 and stay so, or whole channels that are gone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tutelage.errors import UserError, choices
from tutelage.models.forward_calls import Call, as_tensor

KINDS = ("weights", "channels", "random")
_WEIGHTED = (nn.Linear, _ConvNd, nn.RNNBase, nn.MultiheadAttention)
_BOUND = (nn.RNNBase, nn.MultiheadAttention)
"""What has channels that belong together in a way that shapes do not tell."""
log = logging.getLogger("tutelage")


def prune(
    network: nn.Module,
    share: float,
    by: str = "weights",
    *,
    inputs: Tensor,
    head: Sequence[str] = (),
    seed: int = 0,
    where: str = "model",
) -> None:
    """Prune a network in place, once; fine-tuning is the training that follows.

    Args:
        network: with the weights by which it is decided.
        share: of the weights, or of each layer's channels, that goes; at least 0 and below 1.
        by: weights: those of the least size in the whole network are 0 and stay so (Han et al. 2015, arXiv 1506.02626; what
            `torch.nn.utils.prune.global_unstructured` with L1 chooses). random: as many drawn by the seed, for comparison. channels: the
            groups of channels with the least norm in each layer are taken out (Torch-Pruning, Fang et al. 2023, arXiv 2301.12900); the
            network is smaller and faster on any machine. Biases, norms and embeddings are not counted.
        inputs: an example, (n, ...).
        head: the layers that give the outputs, which keep theirs.
        seed: of `random`.
        where: the network's place in the configuration, for messages.

    Raises:
        UserError: a share or kind that does not exist, a network whose channels cannot be taken out, or a library that is missing.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise UserError(f"{where}.pruned must be the share that goes, at least 0 and below 1, got {share!r}")
    if by not in KINDS:
        raise UserError(f"{where}.pruned_by={by} is not known; {choices(by, KINDS)}")
    if by == "channels":
        _take_channels(network, share, inputs, head, where)
        return
    named = prunable(network)
    if not named:
        raise UserError(
            f"{where}.pruned: {type(network).__name__} has no linear, convolutional or recurrent weights"
        )
    sizes = torch.cat([p.detach().abs().flatten().float().cpu() for p in named.values()])
    if by == "random":
        sizes = torch.rand(len(sizes), generator=torch.Generator().manual_seed(seed))
    kept = torch.ones(len(sizes), dtype=torch.bool)
    kept[sizes.argsort(stable=True)[: round(share * len(sizes))]] = False
    masks = kept.split([p.numel() for p in named.values()])
    object.__setattr__(
        network,
        "zero_masks",
        {name: mask.view_as(p) for (name, p), mask in zip(named.items(), masks, strict=True)},
    )
    keep_zeros(network)
    for name, parameter in named.items():
        _mask_gradients(parameter, network.zero_masks[name])  # type: ignore[index]
    log.info("%s: %d of %d weights are 0 and stay so", where, int((~kept).sum()), len(kept))


def prunable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of linear, convolutional, recurrent and attention layers by name, shared ones once."""
    found = {
        f"{name}.{key}".removeprefix("."): parameter
        for name, module in network.named_modules()
        if isinstance(module, _WEIGHTED)
        for key, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }
    return {name: p for name, p in network.named_parameters() if name in found}


@torch.no_grad()
def keep_zeros(network: nn.Module) -> None:
    """Set what was pruned to 0 again: an optimiser may have moved it without a gradient."""
    masks: Mapping[str, Tensor] = network.__dict__.get("zero_masks") or {}
    for name, mask in masks.items():
        parameter = network.get_parameter(name)
        parameter.mul_(mask.to(parameter.device))


def _mask_gradients(parameter: nn.Parameter, mask: Tensor) -> None:
    """Have no gradient reach what was pruned: it would count in clipping and in an optimiser's norms."""
    if parameter.requires_grad:
        parameter.register_hook(lambda gradient: gradient * mask.to(gradient.device))


def _take_channels(network: nn.Module, share: float, inputs: Tensor, head: Sequence[str], where: str) -> None:
    try:
        import torch_pruning
    except ImportError as error:
        raise UserError(
            f"{where}.pruned_by=channels needs the package {error.name or 'torch_pruning'}: pip install 'tutelage[compress]'"
        ) from error
    from tutelage.models.transformer import Attention

    bound = next(
        (m for m in network.modules() if isinstance(m, (*_BOUND, Attention)) or _is_attention(m)), None
    )
    if bound is not None:
        raise UserError(
            f"{where}.pruned_by=channels takes channels out of convolutional and fully connected networks; this one has "
            f"{type(bound).__name__}, whose channels belong together: {where}.pruned_by=weights"
        )
    before = sum(one.numel() for one in network.parameters())
    ignored = [network.get_submodule(name) for name in head]
    training = network.training
    frozen = [p for p in network.parameters() if not p.requires_grad]
    try:
        network.eval().requires_grad_(True)  # its graph is read from gradients
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            pruner = torch_pruning.pruner.BasePruner(
                network,
                inputs,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=share,
                ignored_layers=ignored,
                forward_fn=lambda module, given: as_tensor(Call.of(module).raw(module, given), module),
            )
            pruner.step()
        with torch.no_grad():
            Call.of(network)(network, inputs)
    except Exception as error:  # the library's own, of many kinds
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(
            f"{where}.pruned_by=channels cannot take channels out of {type(network).__name__} ({lines[0]:.200}): {where}.pruned_by=weights"
        ) from error
    finally:
        network.train(training)
        for one in frozen:
            one.requires_grad_(False)
    object.__setattr__(network, "shrunk", True)
    after = sum(one.numel() for one in network.parameters())
    log.info("%s: of %d parameters %d are left, whole channels gone", where, before, after)


def _is_attention(module: nn.Module) -> bool:
    return hasattr(module, "num_heads") or hasattr(module, "num_attention_heads")


def take_shapes(network: nn.Module, shapes: Mapping[str, Sequence[int]], fresh: Sequence[str] = ()) -> None:
    """Give a network the smaller shapes of its stored weights, whose channels were taken out; its own weights are lost there.

    shapes: by the names of `state_dict`. fresh: names that start afresh, whose outputs stay.
    A layer that would grow, or that cannot have such a shape, is left, for the message that loading gives.
    """
    for name, module in network.named_modules():
        weight = shapes.get(f"{name}.weight".removeprefix("."))
        own = getattr(module, "weight", None)
        if weight is None or not isinstance(own, Tensor) or len(weight) != own.ndim:
            continue
        wanted = [own.shape[0], *weight[1:]] if f"{name}.weight" in fresh else list(weight)
        if tuple(wanted) == tuple(own.shape) or any(a > b for a, b in zip(wanted, own.shape, strict=True)):
            continue
        _resize(module, wanted)
    object.__setattr__(network, "shrunk", True)


def _resize(module: Any, wanted: Sequence[int]) -> None:
    first = wanted[0]
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = wanted
    elif isinstance(module, _ConvNd):
        depthwise = module.groups == module.in_channels and module.groups > 1
        outer, inner = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
        if depthwise:
            module.groups = module.in_channels = module.out_channels = first
        else:
            module.out_channels, module.in_channels = wanted[outer], wanted[inner] * module.groups
        first = module.out_channels
    elif isinstance(module, _NormBase):
        module.num_features = first
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (first,)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = first
    elif isinstance(module, nn.PReLU):
        module.num_parameters = first
    else:
        return
    for key, value in [*module._parameters.items(), *module._buffers.items()]:
        if value is None or value.ndim == 0:
            continue
        shape = list(wanted) if key == "weight" else [first]
        made = value.detach().new_zeros(shape)
        if isinstance(value, nn.Parameter):
            module._parameters[key] = nn.Parameter(made, requires_grad=value.requires_grad)
        else:
            module._buffers[key] = made
