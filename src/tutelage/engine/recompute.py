"""Gradient checkpointing: what the blocks of a network computed is not kept for the backward pass, but computed again there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from tutelage.errors import UserError


def recompute(network: nn.Module) -> list[str]:
    """Let each block of a network keep its inputs alone, and return the blocks' names.

    Blocks are the members of its lists (`nn.Sequential`, `nn.ModuleList`) that have parts and parameters; of lists in lists, the innermost
    ones'. Where there are none, they are the network's lists of layers, if it has several, as VGG. The numbers stay the same bit for bit:
    dropout draws the same again, and batch norms move their statistics once.
    Raises UserError where there is no such list.
    """
    names = list(_blocks(network, "")) or _lists(network)
    if not names:
        raise UserError(
            f"hardware.recompute: {type(network).__name__} has no list of blocks (nn.Sequential, nn.ModuleList) to compute again"
        )
    for name in names:
        block = network.get_submodule(name)
        block.forward = partial(_again, block, block.forward)
    return names


def _blocks(module: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        inner = list(_blocks(child, f"{prefix}{name}."))
        is_block = (
            isinstance(module, nn.Sequential | nn.ModuleList) and next(child.children(), None) is not None
        )
        if not inner and is_block and next(child.parameters(), None) is not None:
            inner = [prefix + name]
        yield from inner


def _lists(network: nn.Module) -> list[str]:
    """Names of a network's lists of layers that have parameters; of one alone nothing would be saved."""
    names = [
        name
        for name, child in network.named_children()
        if isinstance(child, nn.Sequential) and next(child.parameters(), None) is not None
    ]
    return names if len(names) > 1 else []


def _again(block: nn.Module, forward: Any, *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block), **named)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    return nullcontext(), _resting(norms, [norm.__dict__.get("forward") for norm in norms])


@contextmanager
def _resting(norms: list[_BatchNorm], forwards: list[Any]) -> Iterator[None]:
    """Within the second computation, let batch norms do what they did in the first (`batch_norm_apart`), their statistics apart."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, forward in zip(norms, forwards, strict=True):
        norm.momentum, norm.num_batches_tracked = 0.0, None
        if forward is not None:
            norm.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm, forward, (momentum, count) in zip(norms, forwards, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
            if forward is not None:
                del norm.forward
