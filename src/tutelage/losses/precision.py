"""Losses are computed in float32 with autocast off: half precision overflows in Gram matrices and rounds small divergences to 0."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")
_HALF = (torch.float16, torch.bfloat16)


def in_single(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Give a loss its floating tensors in float32 (float64 stays) and switch autocast off inside."""

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        device = tensors[0].device.type
        if not torch.is_autocast_enabled(device) and not any(a.dtype in _HALF for a in tensors):
            return loss(*args, **kwargs)  # a tenth of a small loss is what the rest costs
        with torch.autocast(device, enabled=False):
            return loss(*map(_single, args), **{name: _single(value) for name, value in kwargs.items()})

    return wrapped


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


def on_cpu_and_all(holds: Tensor) -> bool:
    """Return whether something holds everywhere, where asking waits for no device: then the usual words do without exceptions."""
    return holds.device.type == "cpu" and bool(holds.all())
