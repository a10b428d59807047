"""Training under the rounding of int8, so that a network keeps its accuracy when it is quantised (Jacob et al. 2018, arXiv 1712.05877).

Weights are rounded as `tutelage export quantise=static` rounds them: symmetric, a scale for each output. Inputs of a layer are rounded
to 256 steps over each sample's own range, so that no answer depends on its batch; the export has one range for all, from training
samples. Gradients pass as if nothing had been rounded. What is stored are the weights before rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UserError


def rounded_weight(weight: Tensor) -> Tensor:
    """Return a weight (outputs, ...) rounded to -127 ... 127 steps of its output's scale."""
    scale = weight.detach().flatten(1).abs().amax(dim=1).float().clamp_min(1e-12) / 127
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -127, 127).to(weight.dtype)


def rounded_input(inputs: Tensor) -> Tensor:
    """Return inputs (n, ...) rounded to 256 steps from the least to the largest number of each sample, 0 among them."""
    flat = inputs.detach().flatten(1).float()
    low, high = flat.amin(dim=1).clamp_max(0), flat.amax(dim=1).clamp_min(0)
    scale = (high - low).clamp_min(1e-12) / 255
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_channel_affine(inputs.float(), scale, zero, 0, 0, 255).to(inputs.dtype)


class Int8Linear(nn.Linear):
    """A linear layer on rounded numbers."""

    def forward(self, inputs: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return F.linear(rounded_input(inputs), rounded_weight(self.weight), self.bias)


class _Int8Conv:
    def forward(self, inputs: Tensor) -> Tensor:
        """See the layer."""
        made: Tensor = self._conv_forward(rounded_input(inputs), rounded_weight(self.weight), self.bias)  # type: ignore[attr-defined]
        return made


class Int8Conv1d(_Int8Conv, nn.Conv1d):
    """A convolution on rounded numbers."""


class Int8Conv2d(_Int8Conv, nn.Conv2d):
    """A convolution on rounded numbers."""


_ROUNDED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Int8Linear,
    nn.Conv1d: Int8Conv1d,
    nn.Conv2d: Int8Conv2d,
}


def quantise(network: nn.Module, kind: str, *, where: str = "model") -> None:
    """Have the linear layers and convolutions of a network compute with rounded numbers, in place; its state keeps its names.

    Raises:
        UserError: another kind than int8, or no such layer.
    """
    if kind != "int8":
        raise UserError(f"{where}.quantised must be int8, got {kind!r}")
    layers = [module for module in network.modules() if type(module) in _ROUNDED]
    if not layers:
        raise UserError(
            f"{where}.quantised=int8: {type(network).__name__} has no linear layer or convolution"
        )
    for module in layers:
        module.__class__ = _ROUNDED[type(module)]


def in_floats(network: nn.Module) -> nn.Module:
    """Have a network compute without rounding again, in place, and return it; one that never rounded is as before."""
    plain = {rounded: layer for layer, rounded in _ROUNDED.items()}
    for module in network.modules():
        if type(module) in plain:
            module.__class__ = plain[type(module)]
    return network
