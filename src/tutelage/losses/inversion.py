"""What images must look like to a frozen classifier to pass for those it was trained on: terms of inversion, pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def one_hot(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of logits (n, classes) with labels (n,).

    labels: those that images were made for (DeepInversion, arXiv 1912.08795); None: the classifier's own answers (DAFL, arXiv 1904.01186,
    equation 3), which it is pushed to be sure of.
    """
    return F.cross_entropy(logits, logits.detach().argmax(dim=1) if labels is None else labels)


def information_entropy(logits: Tensor) -> Tensor:
    """Return minus the entropy, in nats, of the mean answer to a batch of logits (n, classes): least where all classes are as frequent.

    DAFL's equation 5 divides it by the number of classes; its released code does not, and some of it takes logarithms of base 10.
    """
    mean = logits.softmax(dim=1).mean(dim=0)
    return torch.xlogy(mean, mean).sum()


def activation(features: Tensor) -> Tensor:
    """Return minus the mean absolute value of the features (n, ...) that a classifier decides on (DAFL, equation 4, per feature)."""
    return -features.abs().mean()


def statistics(inputs: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return how far a batch is from what a batch norm remembers: the lengths of the differences of means and of biased variances.

    inputs: (n, channels, ...), of the norm. mean, variance: (channels,), its running ones. DeepInversion's equation 4, of one layer.
    """
    others = [axis for axis in range(inputs.ndim) if axis != 1]
    spread, middle = torch.var_mean(inputs.float(), dim=others, correction=0)
    return torch.linalg.vector_norm(middle - mean) + torch.linalg.vector_norm(spread - variance)


def norms_with_memory(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of a network that have running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def recorded_statistics(norms: Sequence[_BatchNorm]) -> Iterator[list[Tensor]]:
    """Yield a list that gets the `statistics` of each norm as its network runs within the context."""
    found: list[Tensor] = []

    def see(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(statistics(inputs[0], norm.running_mean, norm.running_var))  # type: ignore[arg-type]

    handles = [norm.register_forward_pre_hook(see) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
