"""Transformers over tokens or series: encoder, and decoder-only with causal attention."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.arguments import fraction, one_of, positive
from tutelage.errors import UserError
from tutelage.models.activations import activation as activation_named
from tutelage.models.sequence import POOLINGS, input_width, pool


def sinusoidal(length: int, width: int) -> Tensor:
    """Return positions (length, width): sines in even columns, cosines in odd (arXiv 1706.03762, 3.5)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(length).unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


class Attention(nn.Module):
    """Multi-head self-attention. Its output is that of `projection`."""

    def __init__(self, width: int, heads: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, states: Tensor, visible: Tensor | None = None) -> Tensor:
        """(n, length, width) to the same.

        visible: bool, broadcast to (n, heads, length, length), causal already if need be.
        """
        n, length, width = states.shape
        query, key, value = self.qkv(states).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and visible is None,
        )
        return self.projection(mixed.transpose(1, 2).reshape(n, length, width))


class TransformerBlock(nn.Module):
    """Attention and an MLP, each with a skip and a layer norm: before it (`pre_norm`) or after the sum."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        causal: bool,
        pre_norm: bool,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal, dropout)
        self.norm2 = nn.LayerNorm(width)
        parts = {
            "hidden": nn.Linear(width, mlp_width),
            "activation": activation_named(activation),
            "output": nn.Linear(mlp_width, width),
        }
        self.mlp = nn.Sequential(OrderedDict(parts))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, visible: Tensor | None = None) -> Tensor:
        """(n, length, width) to the same; see `Attention.forward`."""
        if self.pre_norm:
            states = states + self.dropout(self.attention(self.norm1(states), visible))
            return states + self.dropout(self.mlp(self.norm2(states)))
        states = self.norm1(states + self.dropout(self.attention(states, visible)))
        return self.norm2(states + self.dropout(self.mlp(states)))


class Transformer(nn.Module):
    """Embedding and positions, `depth` blocks, a linear head.

    input_shape: (length,) of tokens or (length, channels) of series; no input may be longer.
    vocab_size: of tokens, None for series. output_size: width of the output.
    per_position: output (n, length, output_size); otherwise one vector (n, output_size) from the states pooled by
    `pooling` ("mean" of the real positions, "first", "last"). None: per position for tokens, pooled for series.
    causal: each position sees itself and those before it (decoder-only).
    heads: must divide width. mlp_width: hidden neurons, None for 4 * width. dropout: in attention and on each branch.
    positions: "learned" or "sinusoidal".
    pre_norm: layer norms inside the branches and a last one before the head; otherwise they follow the sums.

    Layers are called `embedding`, `blocks.<i>.norm1`, `.attention.qkv`, `.attention.projection`, `.norm2`,
    `.mlp.hidden`, `.mlp.output`, `norm` (pre-norm) and `head`. Initialisation: PyTorch's defaults (linear layers
    uniform within 1 / sqrt(fan in), embeddings and learned positions standard normal).
    Source: Vaswani et al. 2017, arXiv 1706.03762; pre-norm: Xiong et al. 2020, arXiv 2002.04745.
    Raises UserError on a wrong value.
    """

    position_values: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        output_size: int,
        vocab_size: int | None = None,
        depth: int = 4,
        width: int = 256,
        heads: int = 4,
        mlp_width: int | None = None,
        causal: bool = False,
        positions: str = "learned",
        pre_norm: bool = True,
        activation: str = "gelu",
        dropout: float = 0.0,
        per_position: bool | None = None,
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        mlp_width = 4 * width if mlp_width is None else mlp_width
        positive(
            "Transformer", depth=depth, width=width, heads=heads, mlp_width=mlp_width, output_size=output_size
        )
        if width % heads:
            raise UserError(f"Transformer: heads must divide width, got {heads} heads for width {width}")
        fraction("Transformer", dropout=dropout)
        one_of("Transformer", ("learned", "sinusoidal"), positions=positions)
        one_of("Transformer", POOLINGS, pooling=pooling)
        channels = input_width("Transformer", input_shape, vocab_size)
        self.causal, self.pooling, self.max_length = causal, pooling, input_shape[0]
        self.per_position = channels is None if per_position is None else per_position
        self.embedding: nn.Module
        if vocab_size is not None:
            self.embedding = nn.Embedding(vocab_size, width)
        else:
            assert channels is not None
            self.embedding = nn.Linear(channels, width)
        if positions == "learned":
            self.position_values = nn.Parameter(torch.randn(self.max_length, width))
        else:
            self.register_buffer("position_values", sinusoidal(self.max_length, width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, mlp_width, causal, pre_norm, activation, dropout)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.head = nn.Linear(width, output_size)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (n, length) or series (n, length, channels) to outputs.

        mask: (n, length) bool, True where real; no position sees padding, and outputs there mean nothing.
        """
        length = inputs.shape[1]
        if length > self.max_length:
            raise UserError(
                f"this Transformer was built for {self.max_length} positions, got inputs of {length}"
            )
        states = self.dropout(self.embedding(inputs) + self.position_values[:length])
        visible = self._visible(mask)
        for block in self.blocks:
            states = block(states, visible)
        states = self.norm(states)
        return self.head(states if self.per_position else pool(states, mask, self.pooling))

    def _visible(self, mask: Tensor | None) -> Tensor | None:
        # Every position must see something: a softmax over nothing is NaN in some attention kernels.
        if mask is None:
            return None
        if not self.causal:
            return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        square = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device)
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        return (mask[:, None, None, :] & square.tril()) | itself
