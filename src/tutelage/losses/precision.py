"""Losses are computed in float32 with autocast off: half precision overflows in Gram matrices and rounds small divergences to 0."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def in_single(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Give a loss its floating tensors in float32 (float64 stays) and switch autocast off inside."""

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*map(_single, args), **{name: _single(value) for name, value in kwargs.items()})

    return wrapped


def _single(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value
