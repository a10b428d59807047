"""Attention of a network's layers, and where it leads through all of them (Abnar and Zuidema 2020, arXiv 2005.00928)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tutelage.errors import UserError
from tutelage.models.forward_calls import Call
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import plain_attention


class _Weights(TorchFunctionMode):
    """Reads the weights (n, heads, length, length) of every attention that runs, whoever wrote the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []
        self.causal = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is F.scaled_dot_product_attention:
            self._read(*args, **kwargs)
        if function is F.multi_head_attention_forward:
            made = function(*args, **kwargs | {"need_weights": True, "average_attn_weights": False})
            assert made[1] is not None  # asked for
            self.layers.append(made[1])
            return made if kwargs.get("need_weights", True) else (made[0], None)
        return function(*args, **kwargs)

    def _read(
        self,
        query: Tensor,
        key: Tensor,
        _value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if query.shape[-2] != key.shape[-2]:
            return  # across two sequences: no road from input to output
        if enable_gqa:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            self.causal = True
            scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
        if attn_mask is not None:
            added = attn_mask.dtype != torch.bool
            scores = scores + attn_mask if added else scores.masked_fill(~attn_mask, -math.inf)
        self.layers.append(scores.softmax(dim=-1))


@torch.no_grad()
def attention_of(network: nn.Module, inputs: Tensor, mask: Tensor | None = None) -> tuple[list[Tensor], bool]:
    """Return the attention weights (n, heads, length, length) of each layer in the order in which they ran, and whether it is causal."""
    with plain_attention(), _Weights() as read:
        Call.of(network)(network, inputs, mask)
    return read.layers, read.causal


def roll(layers: Sequence[Tensor]) -> Tensor:
    """Return (n, length, length): how much of each position's output comes from each input, half of every layer being its skip."""
    rolled: Tensor | None = None
    for weights in layers:
        mean = weights.mean(dim=1)
        step = (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
        step = step / step.sum(dim=-1, keepdim=True)
        rolled = step if rolled is None else step @ rolled
    assert rolled is not None
    return rolled


def attention_rollout(network: FrozenNetwork, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return (n, positions): the attention that reaches what the network answers from, tokens for the class left out.

    Raises UserError for a network without attention, or with attention over parts of its positions alone.
    """
    inner = network.network
    layers, causal = attention_of(inner, inputs, mask)
    if not layers:
        raise UserError(f"attention rollout is of Transformers: {type(inner).__name__} has no attention")
    length = layers[0].shape[-1]
    if any(one.shape[0] != len(inputs) or one.shape[-1] != length for one in layers):
        raise UserError(
            f"attention rollout needs layers that attend to all positions: those of {type(inner).__name__} attend within parts"
        )
    rolled = roll(layers)
    of_images = inputs.ndim == 4
    prefix = int(getattr(inner, "num_prefix_tokens", length - math.isqrt(length) ** 2)) if of_images else 0
    read = _read_from(inner, causal, prefix)
    if read == "mean":
        real = torch.ones_like(rolled[..., 0]) if mask is None or of_images else mask.to(rolled.dtype)
        real = real.clone()
        real[:, :prefix] = 0
        found = (rolled * real.unsqueeze(2)).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    elif read == "last" and mask is not None:
        last = mask.long().cumsum(1).argmax(1)
        found = rolled[torch.arange(len(rolled)), last]
    else:
        found = rolled[:, -1 if read == "last" else 0]
    return found[:, prefix:]


def _read_from(network: nn.Module, causal: bool, prefix: int) -> str:
    """Return the positions that the head sees: "mean", "first" or "last"."""
    pooling = getattr(network, "pooling", None)
    if isinstance(pooling, str):
        return pooling
    pool = getattr(network, "global_pool", None)
    if isinstance(pool, str):
        return "first" if pool == "token" else "mean"
    return "last" if causal and not prefix else "first"
