"""Batch norms at rest folded into the convolutions before them: the same function in fewer passes over the maps, but for rounding."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

Run = Callable[[nn.Module], Tensor]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def folded(network: nn.Module, run: Run) -> tuple[nn.Module, int]:
    """Return a copy of a network in eval mode whose batch norms are folded, and how many were; the network itself, and 0, of one that has
    none to fold.

    run: a network like it on an example. A norm is folded whose input is, in that run, the output of one convolution, each being called
    once. Where the outputs then differ by more than rounding, something else reads what a convolution gives, and nothing is folded.
    """
    pairs = _pairs(network, run)
    if not pairs:
        return network, 0
    made = copy.deepcopy(network)
    for before, after in pairs:
        convolution: Any = made.get_submodule(before)
        norm: Any = made.get_submodule(after)
        fused = fuse_conv_bn_eval(convolution, norm)
        for name, module in ((before, fused), (after, nn.Identity())):
            parent, _, child = name.rpartition(".")
            setattr(made.get_submodule(parent), child, module)
    with torch.no_grad():
        wanted, found = run(network), run(made)
    close = torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    return (made.requires_grad_(False), len(pairs)) if close else (network, 0)


def _pairs(network: nn.Module, run: Run) -> list[tuple[str, str]]:
    """Return the names (convolution, norm) of each pair."""
    gave: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def see(name: str, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        calls[name] += 1
        (gave if isinstance(module, _CONVOLUTIONS) else read)[name] = (
            output if isinstance(module, _CONVOLUTIONS) else given[0]
        )

    layers = {
        name: module
        for name, module in network.named_modules()
        if name and (isinstance(module, _CONVOLUTIONS) or (isinstance(module, _BatchNorm) and _rests(module)))
    }
    with ExitStack() as hooks, torch.no_grad():
        for name, module in layers.items():
            hooks.enter_context(module.register_forward_hook(partial(see, name)))
        run(network)
    return [
        (before, after)
        for after, seen in read.items()
        for before, output in gave.items()
        if output is seen and calls[before] == calls[after] == 1
    ]


def _rests(norm: _BatchNorm) -> bool:
    return not norm.training and norm.running_mean is not None and norm.running_var is not None
