"""Random numbers that belong to a sample: a function of its index and of their purpose, whatever batch and device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.data.splits import derive_seed

_STEP, _FIRST, _SECOND = (
    -0x61C8864680B583EB,
    -0x40A7B892E31B1A47,
    -0x6B2FB644ECCEEE15,
)  # of splitmix64, as int64


class Draws:
    """Numbers for samples of index (n,) int64. purpose: what tells these draws from all others."""

    def __init__(self, index: Tensor, *purpose: object) -> None:
        self.index, self.purpose = index, purpose

    def rows(self, chosen: Tensor) -> Draws:
        """Return the draws of some of the samples, which are the same numbers."""
        return Draws(self.index[chosen], *self.purpose)

    def uniform(self, *shape: int, name: object = "") -> Tensor:
        """Return float32 numbers (n, *shape) in (0, 1): 2^23 of them, in equal steps."""
        seed = derive_seed(*self.purpose, name)
        of_sample = _mixed(self.index * _STEP + seed)
        place = torch.arange(max(1, math.prod(shape)), device=self.index.device)
        bits = _logical_shift(_mixed(of_sample[:, None] + (place + 1) * _STEP), 41)
        return ((bits.float() + 0.5) / 2**23).reshape(len(self.index), *shape)

    def normal(self, *shape: int, name: object = "") -> Tensor:
        """Return float32 numbers (n, *shape) of mean 0 and deviation 1, none beyond 5.3."""
        return torch.erfinv(2 * self.uniform(*shape, name=name) - 1) * math.sqrt(2)


def _mixed(x: Tensor) -> Tensor:
    """Return splitmix64's finaliser (Steele et al. 2014) of int64 numbers, which wrap around."""
    x = (x ^ _logical_shift(x, 30)) * _FIRST
    x = (x ^ _logical_shift(x, 27)) * _SECOND
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)
