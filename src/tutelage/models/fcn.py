"""Fully connected networks: the Deep and the Wide FCN of guided learning, and any other depth and widths."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from tutelage.arguments import fraction, positive
from tutelage.errors import UserError
from tutelage.models.activations import activation as activation_named


class FCN(nn.Sequential):
    """Flatten, then `depth` x (Linear, batch norm, activation, dropout), then a linear head.

    input_shape: shape of one input, flattened whatever it is.
    output_size: width of the output (n, output_size); a forecast is horizon * channels values, as its task reads them.
    depth, width: number of hidden layers, and neurons in each; depth 0 is a linear model, a perceptron.
    widths: neurons layer by layer, in place of depth and width.
    activation: a name of `activations`. batch_norm: after each hidden linear layer. dropout: after each activation.

    Layers are called `layers.<i>.linear`, `.norm`, `.activation`, `.dropout` and `head`.
    Initialisation: PyTorch's defaults (uniform within 1 / sqrt(fan in), weights and biases alike).
    Source: arXiv 2410.20035 (Deep FCN 50 x 2048, Wide FCN 3 x 8192). Raises UserError on a wrong value.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        depth: int = 3,
        width: int = 512,
        widths: Sequence[int] | None = None,
        activation: str = "relu",
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        positive("FCN", width=width, output_size=output_size)
        if not isinstance(depth, int) or depth < 0:
            raise UserError(f"FCN: depth must be a whole number, 0 for a linear model, got {depth!r}")
        fraction("FCN", dropout=dropout)
        if widths is not None and not list(widths):
            raise UserError("FCN: widths must name at least one layer, got an empty list")
        widths = [width] * depth if widths is None else list(widths)
        positive("FCN", **{f"widths[{i}]": value for i, value in enumerate(widths)})
        layers = []
        fan_in = math.prod(input_shape)
        for fan_out in widths:
            parts: list[tuple[str, nn.Module]] = [("linear", nn.Linear(fan_in, fan_out))]
            if batch_norm:
                parts.append(("norm", nn.BatchNorm1d(fan_out)))
            parts.append(("activation", activation_named(activation)))
            if dropout:
                parts.append(("dropout", nn.Dropout(dropout)))
            layers.append(nn.Sequential(OrderedDict(parts)))
            fan_in = fan_out
        named = {
            "flatten": nn.Flatten(),
            "layers": nn.Sequential(*layers),
            "head": nn.Linear(fan_in, output_size),
        }
        super().__init__(OrderedDict(named))
