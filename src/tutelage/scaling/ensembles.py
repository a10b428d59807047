"""Ensembles of small networks as batched tensors: one forward and one backward for all members, written by hand.

Parameters live in one tensor (members, size), so that noise, prior and update are single operations;
`unpack` gives views. Inputs are (members, points, ...): every member may have its own data. Priors are
Gaussian, of variance `weight_variance` / fan-in for hidden weights and `readout_variance` / units for the
readout. Backward passes scale the (small) inputs by the residual and the (small) gradients by the readout,
never the (large) activations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tutelage.errors import UserError

_ERF_SLOPE = 2 / math.sqrt(math.pi)
_ROOT_TWO = math.sqrt(2)
Cache = tuple[Any, ...]


def _before_erf(inputs: Tensor, weight: Tensor) -> Tensor:
    # sqrt(2) times the pre-activations, as `_erf` and `_bell` read them: the factor is free within the product. `_erf` divides by
    # them, and sums do cancel to exactly 0; beside any other number the offset vanishes.
    return torch.baddbmm(inputs.new_empty((1, 1, 1)), inputs, weight, beta=0, alpha=_ROOT_TWO).add_(1e-30)


def _erf(x: Tensor) -> Tensor:
    # erf(x / sqrt 2) = 2 gelu(x) / x - 1, within 8e-7 in single precision: on CPU gelu is a vectorised kernel, three times as fast
    # as erf, where a step spends most of its time.
    found = functional.gelu(x)
    return torch.addcdiv(x.new_full((), -1.0), found, x, value=2, out=None if found.requires_grad else found)


def _bell(x: Tensor) -> Tensor:
    # exp(-x^2 / 2), the slope of erf over _ERF_SLOPE, in place: pre-activations are not needed again, and the fewer large
    # tensors a step touches, the more of them stay in the cache. exp2 is the faster exponential on CPU.
    return torch.addcmul(x.new_zeros(()), x, x, value=-math.log2(math.e) / 2, out=x).exp2_()


def _read(hidden: Tensor, readout: Tensor) -> Tensor:
    # As a row times a matrix: on CPU more than twice as fast as a matrix times a column.
    return torch.bmm(readout.unsqueeze(1), hidden.transpose(1, 2)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Ensemble(ABC):
    """Base: shapes and priors of one member's parameters, batched forward and backward.

    Subclasses give `shapes` and `variances` (in one order) and the two passes.
    """

    weight_variance: float = 0.5
    readout_variance: float = 32.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise UserError(f"{type(self).__name__}: {name} must be positive, got {getattr(self, name)}")

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter shapes of one member."""

    @property
    @abstractmethod
    def variances(self) -> dict[str, float]:
        """Prior variance of each parameter's entries."""

    @property
    def size(self) -> int:
        """Parameters of one member."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Views (members, *shape) of the flat parameters (members, size)."""
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()], dim=1)
        return {
            name: part.unflatten(1, shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def prior_deviation(self, device: torch.device | str | None = None) -> Tensor:
        """Prior standard deviation of each flat parameter (size,)."""
        parts = [
            torch.full((math.prod(shape),), math.sqrt(self.variances[name]), device=device)
            for name, shape in self.shapes.items()
        ]
        return torch.cat(parts)

    def draw(self, members: int, generator: torch.Generator) -> Tensor:
        """Members of the prior, flat (members, size), on the generator's device."""
        noise = torch.randn(members, self.size, generator=generator, device=generator.device)
        return noise * self.prior_deviation(generator.device)

    @abstractmethod
    def forward(self, flat: Tensor, inputs: Tensor) -> tuple[Tensor, Cache]:
        """Outputs (members, points) and what `backward` needs; the cache's first entry is `hidden`."""

    @abstractmethod
    def backward(self, flat: Tensor, inputs: Tensor, cache: Cache, residual: Tensor) -> Tensor:
        """Gradient, flat like the parameters, of any scalar whose gradient in the outputs is `residual`.

        The cache is used up: its tensors may be overwritten.
        """

    def outputs(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Outputs (members, points) only."""
        return self.forward(flat, inputs)[0]

    def hidden(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Features (members, points, units) that the readout reads, over sqrt(units): their Gram is the last kernel."""
        features = self.forward(flat, inputs)[1][0]
        return features / math.sqrt(features.shape[-1])

    def loss_gradient(
        self, flat: Tensor, inputs: Tensor, targets: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Gradient of sum over points of (f - y)^2 / 2; `present` (members, points) masks padded points."""
        outputs, cache = self.forward(flat, inputs)
        residual = outputs - targets if present is None else (outputs - targets) * present
        return self.backward(flat, inputs, cache, residual)


@dataclass(frozen=True, kw_only=True)
class Linear(Ensemble):
    """f = w.x: the closed-form case against which the sampler's discretisation is checked."""

    inputs: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """One weight vector."""
        return {"weight": (self.inputs,)}

    @property
    def variances(self) -> dict[str, float]:
        """weight_variance / inputs."""
        return {"weight": self.weight_variance / self.inputs}

    def forward(self, flat: Tensor, inputs: Tensor) -> tuple[Tensor, Cache]:
        """The product; the inputs are the features."""
        return torch.bmm(inputs, flat.unsqueeze(2)).squeeze(2), (inputs,)

    def backward(self, flat: Tensor, inputs: Tensor, cache: Cache, residual: Tensor) -> Tensor:
        """X'r."""
        return torch.bmm(residual.unsqueeze(1), inputs).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class TwoLayer(Ensemble):
    """f = sum_i a_i erf(w_i.x), `width` neurons."""

    inputs: int
    width: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weights (inputs, width), one column a neuron, and readout (width,)."""
        return {"weight": (self.inputs, self.width), "readout": (self.width,)}

    @property
    def variances(self) -> dict[str, float]:
        """weight_variance / inputs and readout_variance / width."""
        return {"weight": self.weight_variance / self.inputs, "readout": self.readout_variance / self.width}

    def forward(self, flat: Tensor, inputs: Tensor) -> tuple[Tensor, Cache]:
        """Cache: hidden features, sqrt(2) times the pre-activations."""
        own = self.unpack(flat)
        pre = _before_erf(inputs, own["weight"])
        hidden = _erf(pre)
        return _read(hidden, own["readout"]), (hidden, pre)

    def backward(self, flat: Tensor, inputs: Tensor, cache: Cache, residual: Tensor) -> Tensor:
        """Through the readout, the slope of erf and the weights."""
        hidden, pre = cache
        readout = self.unpack(flat)["readout"] * _ERF_SLOPE
        weight = torch.bmm((inputs * residual.unsqueeze(2)).transpose(1, 2), _bell(pre)) * readout.unsqueeze(
            1
        )
        read = torch.bmm(residual.unsqueeze(1), hidden).squeeze(1)
        return torch.cat([weight.flatten(1), read], dim=1)

    def backward_hidden(self, flat: Tensor, inputs: Tensor, cache: Cache, toward: Tensor) -> Tensor:
        """As `backward`, for a scalar whose gradient in the hidden features is `toward` (members, points, width)."""
        weight = torch.bmm(inputs.transpose(1, 2), toward * _bell(cache[1])) * _ERF_SLOPE
        return torch.cat([weight.flatten(1), torch.zeros_like(flat[:, -self.width :])], dim=1)


@dataclass(frozen=True, kw_only=True)
class ThreeLayer(Ensemble):
    """f = sum_j a_j erf(sum_i v_ij erf(w_i.x)), widths `width1` and `width2`."""

    inputs: int
    width1: int
    width2: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Weights (inputs, width1), (width1, width2) and readout (width2,)."""
        return {
            "weight": (self.inputs, self.width1),
            "middle": (self.width1, self.width2),
            "readout": (self.width2,),
        }

    @property
    def variances(self) -> dict[str, float]:
        """Hidden weights weight_variance / fan-in and readout_variance / width2."""
        return {
            "weight": self.weight_variance / self.inputs,
            "middle": self.weight_variance / self.width1,
            "readout": self.readout_variance / self.width2,
        }

    def forward(self, flat: Tensor, inputs: Tensor) -> tuple[Tensor, Cache]:
        """Cache: second hidden features, first ones, sqrt(2) times both pre-activations."""
        own = self.unpack(flat)
        pre1 = _before_erf(inputs, own["weight"])
        hidden1 = _erf(pre1)
        pre2 = _before_erf(hidden1, own["middle"])
        hidden2 = _erf(pre2)
        outputs = _read(hidden2, own["readout"])
        return outputs, (hidden2, hidden1, pre2, pre1)

    def backward(self, flat: Tensor, inputs: Tensor, cache: Cache, residual: Tensor) -> Tensor:
        """Through both layers."""
        hidden2, hidden1, pre2, pre1 = cache
        own = self.unpack(flat)
        readout = (own["readout"] * _ERF_SLOPE).unsqueeze(1)
        bell2 = _bell(pre2)
        toward1 = torch.bmm(bell2, (own["middle"] * readout * _ERF_SLOPE).transpose(1, 2)) * _bell(pre1)
        scale = residual.unsqueeze(2)
        weight = torch.bmm((inputs * scale).transpose(1, 2), toward1)
        middle = torch.bmm((hidden1 * scale).transpose(1, 2), bell2) * readout
        read = torch.bmm(residual.unsqueeze(1), hidden2).squeeze(1)
        return torch.cat([weight.flatten(1), middle.flatten(1), read], dim=1)


@dataclass(frozen=True, kw_only=True)
class PatchConvolution(Ensemble):
    """f = sum over patches i and channels c of a_ic erf(w_c.x_i): shared filters, each patch with its own readout.

    Inputs are (members, points, patches, patch_dim).
    """

    patch_dim: int
    patches: int
    channels: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Filters (patch_dim, channels) and readout (patches * channels,)."""
        return {"weight": (self.patch_dim, self.channels), "readout": (self.patches * self.channels,)}

    @property
    def variances(self) -> dict[str, float]:
        """weight_variance / patch_dim and readout_variance / (patches channels)."""
        return {
            "weight": self.weight_variance / self.patch_dim,
            "readout": self.readout_variance / (self.patches * self.channels),
        }

    def forward(self, flat: Tensor, inputs: Tensor) -> tuple[Tensor, Cache]:
        """Cache: features of all patches side by side, sqrt(2) pre-activations (members, points * patches, channels)."""
        own = self.unpack(flat)
        pre = _before_erf(inputs.flatten(1, 2), own["weight"])
        hidden = _erf(pre).view(*inputs.shape[:2], -1)
        return _read(hidden, own["readout"]), (hidden, pre)

    def backward(self, flat: Tensor, inputs: Tensor, cache: Cache, residual: Tensor) -> Tensor:
        """As `TwoLayer`, with the filters' gradient summed over patches."""
        hidden, pre = cache
        readout = (self.unpack(flat)["readout"] * _ERF_SLOPE).view(len(flat), 1, self.patches, self.channels)
        toward = (_bell(pre).view(*inputs.shape[:3], self.channels) * readout).flatten(1, 2)
        weight = torch.bmm((inputs * residual[:, :, None, None]).flatten(1, 2).transpose(1, 2), toward)
        read = torch.bmm(residual.unsqueeze(1), hidden).squeeze(1)
        return torch.cat([weight.flatten(1), read], dim=1)


@dataclass(frozen=True, kw_only=True)
class AttentionHead(Ensemble):
    """f = sum_b (softmax_b(x_0' A x_b) - 1/L) v.x_b over L tokens; A (inputs, inputs) and v (inputs,) are learned.

    Uniform attention is subtracted: a single head cannot cancel its own mean token, which would otherwise
    dominate wherever logits are small, and bar it from every target that has no such term. Inputs are
    (members, points, 1 + context, inputs), the query first. A has variance weight_variance / inputs^2, so
    that logits are of order one; v has readout_variance / inputs.
    """

    inputs: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Attention matrix and value vector."""
        return {"attention": (self.inputs, self.inputs), "value": (self.inputs,)}

    @property
    def variances(self) -> dict[str, float]:
        """weight_variance / inputs^2 and readout_variance / inputs."""
        return {
            "attention": self.weight_variance / self.inputs**2,
            "value": self.readout_variance / self.inputs,
        }

    def forward(self, flat: Tensor, inputs: Tensor) -> tuple[Tensor, Cache]:
        """Cache: attended token less the mean one (members, points, inputs), attention weights, values, their mean."""
        own = self.unpack(flat)
        tokens = inputs[:, :, 1:]
        keys = torch.bmm(inputs[:, :, 0], own["attention"])
        weights = torch.softmax(torch.matmul(tokens, keys.unsqueeze(3)).squeeze(3), dim=2)
        values = torch.matmul(tokens, own["value"][:, None, :, None]).squeeze(3)
        attended = torch.matmul((weights - 1 / tokens.shape[2]).unsqueeze(2), tokens).squeeze(2)
        mean = (weights * values).sum(2)
        return mean - values.mean(2), (attended, weights, values, mean)

    def backward(self, flat: Tensor, inputs: Tensor, cache: Cache, residual: Tensor) -> Tensor:
        """Through the softmax."""
        attended, weights, values, mean = cache
        logits = residual.unsqueeze(2) * weights * (values - mean.unsqueeze(2))
        keys = torch.matmul(logits.unsqueeze(2), inputs[:, :, 1:]).squeeze(2)
        attention = torch.bmm(inputs[:, :, 0].transpose(1, 2), keys)
        value = torch.bmm(residual.unsqueeze(1), attended).squeeze(1)
        return torch.cat([attention.flatten(1), value], dim=1)
