"""Activation functions by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutelage.arguments import one_of


class Erf(nn.Module):
    """The error function: the sigmoidal activation whose Gaussian averages have a closed form."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return erf(inputs)."""
        return torch.erf(inputs)


# None of these works in place: a tapped layer before it must keep its values.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "erf": Erf,
    "identity": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """Return a fresh activation module, with PyTorch's default parameters; UserError on an unknown name."""
    one_of("activation", ACTIVATIONS, name=name)
    return ACTIVATIONS[name]()
