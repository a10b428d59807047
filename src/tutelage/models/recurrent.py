"""Recurrent networks (RNN, LSTM, GRU) as stacks of single layers, so that each layer can be tapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from tutelage.arguments import fraction, one_of, positive
from tutelage.models.sequence import POOLINGS, input_width, pool


class _States:
    """Return the states of every position alone: a tap then sees a tensor, not a pair."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)[0]  # type: ignore[misc]


class RNNLayer(_States, nn.RNN):  # type: ignore[misc]
    """One Elman layer: (n, length, in) to (n, length, width)."""


class LSTMLayer(_States, nn.LSTM):  # type: ignore[misc]
    """One LSTM layer: (n, length, in) to (n, length, width)."""


class GRULayer(_States, nn.GRU):  # type: ignore[misc]
    """One GRU layer: (n, length, in) to (n, length, width)."""


CELLS: dict[str, Callable[..., nn.Module]] = {"rnn": RNNLayer, "lstm": LSTMLayer, "gru": GRULayer}


class Recurrent(nn.Module):
    """`depth` recurrent layers over tokens (through an embedding) or series, and a linear head.

    input_shape: (length,) of tokens or (length, channels) of series; inputs may have any length.
    vocab_size: of tokens, None for series. output_size: width of the output.
    per_position: output (n, length, output_size); otherwise one vector (n, output_size) from the states pooled by
    `pooling` ("last" real position, "mean", "first"). None: per position for tokens, pooled for series.
    cell: "rnn", "lstm" or "gru". activation: "tanh", or "relu" for the cell "rnn". dropout: on states between layers.

    Layers are called `embedding` (tokens), `layers.<i>` and `head`. Initialisation: PyTorch's defaults (recurrent
    weights uniform within 1 / sqrt(width), embedding standard normal). Raises UserError on a wrong value.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        vocab_size: int | None = None,
        cell: str = "rnn",
        depth: int = 4,
        width: int = 512,
        activation: str = "tanh",
        dropout: float = 0.0,
        per_position: bool | None = None,
        pooling: str = "last",
    ) -> None:
        super().__init__()
        positive("Recurrent", depth=depth, width=width, output_size=output_size)
        fraction("Recurrent", dropout=dropout)
        one_of("Recurrent", CELLS, cell=cell)
        one_of("Recurrent", ("tanh", "relu") if cell == "rnn" else ("tanh",), activation=activation)
        one_of("Recurrent", POOLINGS, pooling=pooling)
        channels = input_width("Recurrent", input_shape, vocab_size)
        self.per_position = channels is None if per_position is None else per_position
        self.pooling = pooling
        self.embedding = nn.Identity() if vocab_size is None else nn.Embedding(vocab_size, width)
        options: dict[str, Any] = {"nonlinearity": activation} if cell == "rnn" else {}
        widths = [width if channels is None else channels] + [width] * (depth - 1)
        self.layers = nn.ModuleList(
            CELLS[cell](fan_in, width, batch_first=True, **options) for fan_in in widths
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, output_size)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (n, length) or series (n, length, channels) to outputs.

        mask: (n, length) bool, True where real, for the pooling. Padding must follow the real positions:
        then no real state sees it.
        """
        states = self.embedding(inputs)
        for i, layer in enumerate(self.layers):
            states = layer(self.dropout(states) if i else states)
        return self.head(states if self.per_position else pool(states, mask, self.pooling))
