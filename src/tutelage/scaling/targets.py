"""Targets with a hidden direction, drawn for many data sets at once: inputs (draws, points, ...) and values (draws, points).

Inputs are standard Gaussian. The hidden directions are coordinate axes: the input distribution and the
networks' priors are isotropic, so every rotation of a target is the same problem, and measured overlaps are
simply weights' entries.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.errors import UserError


def hermite(degree: int, z: Tensor) -> Tensor:
    """Probabilists' Hermite polynomial He_degree(z) divided by sqrt(degree!): unit variance for Gaussian z.

    Raises:
        UserError: for a negative degree.
    """
    if degree < 0:
        raise UserError(f"a Hermite polynomial's degree is at least 0, got {degree}")
    below, current = torch.zeros_like(z), torch.ones_like(z)
    for order in range(degree):
        below, current = current, z * current - order * below
    return current / math.sqrt(math.factorial(degree))


@dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """Base: draws inputs and gives the target's values on them.

    `classify` replaces the values by their sign (a two-class variant with labels -1 and 1).
    """

    classify: bool = False

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @abstractmethod
    def values(self, inputs: Tensor) -> Tensor:
        """The target on inputs (..., *input_shape), unit variance before `classify`; shape (...)."""

    def draw(self, draws: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fresh inputs (draws, points, *input_shape) and values (draws, points), on the generator's device."""
        inputs = torch.randn(draws, points, *self.input_shape, generator=generator, device=generator.device)
        return inputs, self.labels(inputs)

    def labels(self, inputs: Tensor) -> Tensor:
        """The values, or their signs where `classify`."""
        values = self.values(inputs)
        return torch.sign(values) if self.classify else values


@dataclass(frozen=True, kw_only=True)
class HermiteTarget(Target):
    """y = sum_m coefficient_m He_m(x_1)/sqrt(m!), normalised to unit variance; inputs of `inputs` dimensions.

    `mixture` maps degree to coefficient, e.g. {3: 1.0}, or {1: 1.0, 3: -0.3} (the earlier protocol, arXiv
    2310.03789).
    """

    inputs: int
    mixture: Mapping[int, float]

    def __post_init__(self) -> None:
        if self.inputs < 1 or not self.mixture or not any(self.mixture.values()) or min(self.mixture) < 0:
            raise UserError(
                "a Hermite target needs inputs >= 1 and a mixture of degrees with a nonzero coefficient, e.g. "
                f"inputs=20, mixture={{3: 1.0}}; got inputs={self.inputs}, mixture={dict(self.mixture)}"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(inputs,)."""
        return (self.inputs,)

    def polynomial(self, z: Tensor) -> Tensor:
        """The normalised mixture of one scalar."""
        norm = math.sqrt(sum(weight**2 for weight in self.mixture.values()))
        return sum((w / norm) * hermite(m, z) for m, w in self.mixture.items())  # type: ignore[return-value]

    def values(self, inputs: Tensor) -> Tensor:
        """Of the first coordinate."""
        return self.polynomial(inputs[..., 0])


@dataclass(frozen=True, kw_only=True)
class PatchTarget(HermiteTarget):
    """y = sum over patches i of the mixture of (x_i)_1, over sqrt(patches): one hidden filter shared by all patches.

    `inputs` is the patch dimension; inputs have shape (patches, patch dimension), or their product where
    `flat` (what a fully connected network reads).
    """

    patches: int
    flat: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(patches, patch dimension), or one axis where `flat`."""
        return (self.patches * self.inputs,) if self.flat else (self.patches, self.inputs)

    def values(self, inputs: Tensor) -> Tensor:
        """Sum over patches over sqrt(patches)."""
        first = inputs[..., :: self.inputs] if self.flat else inputs[..., 0]
        return self.polynomial(first).sum(-1) / math.sqrt(self.patches)


@dataclass(frozen=True, kw_only=True)
class AttentionTarget(Target):
    """Cubic target of a query token and `context` tokens: (q.x_0) sum_b (k.x_b)(v.x_b - mean v.x) / sqrt(context - 1).

    The mean is subtracted because attention weights sum to one: without it no head could learn the target
    fully. q, k and v are the first coordinate of the query and the first and second of the tokens; inputs
    have shape (1 + context, inputs), the query first.
    """

    inputs: int
    context: int

    def __post_init__(self) -> None:
        if self.inputs < 2 or self.context < 2:
            raise UserError(
                f"an attention target needs inputs >= 2 and context >= 2, got {self.inputs} and {self.context}"
            )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1 + context, inputs)."""
        return (1 + self.context, self.inputs)

    def values(self, inputs: Tensor) -> Tensor:
        """Query's coordinate times the tokens' sum of products."""
        keys, values = inputs[..., 1:, 0], inputs[..., 1:, 1]
        products = (keys * (values - values.mean(-1, keepdim=True))).sum(-1)
        return inputs[..., 0, 0] * products / math.sqrt(self.context - 1)
