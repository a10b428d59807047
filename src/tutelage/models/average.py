"""The exponential moving average of a trained network, which a method may keep and evaluate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Average(nn.Module):
    """The moving average of a network's parameters; its buffers (batch norm's) are copies of the network's latest.

    decay: per update, in [0, 1). The update numbered n, from 1, uses min(decay, (1 + n) / (10 + n)), so that a short run does not
    evaluate its own beginning. Always in eval mode, without gradients.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module, count: int) -> None:
        """Move towards the network; `count` is the number of this update, from 1."""
        share = 1 - min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(
            list(self.network.parameters()), [p.detach() for p in network.parameters()], share
        )
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)

    def train(self, mode: bool = True) -> Average:
        """Stay in eval mode."""
        return super().train(False)


# In every state and file `network.` names the network that is evaluated (the average), and `trained.` the raw weights beside it.
_STORED = {"average.network.": "network.", "network.": "trained."}
_LOADED = {"network.": "average.network.", "trained.": "network."}


def stored(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's state with the names under which it is stored."""
    return _renamed(state, _STORED)


def loaded(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored state with the names of the method's modules."""
    return _renamed(state, _LOADED)


def _renamed(state: Mapping[str, Any], prefixes: Mapping[str, str]) -> dict[str, Any]:
    def new(name: str) -> str:
        old = next((old for old in prefixes if name.startswith(old)), "")
        return prefixes[old] + name.removeprefix(old) if old else name

    return {new(name): value for name, value in state.items()}
