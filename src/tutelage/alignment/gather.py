"""The global batch: similarities are functions of all ranks' samples, so features are gathered, differentiably."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of ranks; 1 outside distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's place among the ranks; 0 outside distributed training."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(features: Tensor) -> Tensor:
    """Return the features of all ranks, (world * n, ...) in rank order; the tensor itself on one rank.

    Every rank must bring the same shape, which a global batch that the ranks divide evenly, padded to one length, gives.

    Gradient: every rank computes the same function of the gathered features, and DDP averages the parameters' gradients
    over ranks. The own rows' gradient times the number of ranks then gives exactly the gradient on one rank with the whole
    batch, without communication in the backward pass.
    """
    if world_size() == 1:
        return features
    if features.dtype is torch.bool:
        return _all_gather(features.to(torch.uint8)).bool()
    return _Gather.apply(features)


def _all_gather(features: Tensor) -> Tensor:
    shares = [torch.empty_like(features, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(shares, features.contiguous())
    return torch.cat(shares)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return _all_gather(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        share = len(gradient) // world_size()
        start = dist.get_rank() * share
        return gradient[start : start + share] * world_size()
