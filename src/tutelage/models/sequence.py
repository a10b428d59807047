"""What recurrent networks and Transformers share: kinds of inputs, and one vector from a whole sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.arguments import positive
from tutelage.errors import UserError

POOLINGS = ("last", "mean", "first")


def input_width(owner: str, input_shape: Sequence[int], vocab_size: int | None) -> int | None:
    """Return the channels of series inputs, None for tokens.

    input_shape: (length,) of tokens, where vocab_size is given, or (length, channels) of series. UserError
    for anything else.
    """
    if vocab_size is not None:
        positive(owner, vocab_size=vocab_size)
    if len(input_shape) != (2 if vocab_size is None else 1):
        raise UserError(
            f"{owner} takes tokens (length,) with a vocab_size, or series (length, channels) without one; "
            f"got inputs of shape {tuple(input_shape)} and vocab_size {vocab_size}"
        )
    positive(owner, length=input_shape[0])
    if vocab_size is not None:
        return None
    positive(owner, channels=input_shape[1])
    return input_shape[1]


def pool(states: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """Reduce states (n, length, width) to (n, width) over the real positions.

    mask: (n, length) bool, True where real; None means all. how: the "last" real position, the "first", or
    their "mean". A sequence without a real position gives its position 0 ("last", "first") or zeros ("mean").
    """
    if how == "mean":
        if mask is None:
            return states.mean(dim=1)
        weight = mask.to(states.dtype).unsqueeze(-1)
        return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    if mask is None:
        return states[:, -1 if how == "last" else 0]
    # argmax gives the first of equal maxima, so the position itself is weighed in to find the last.
    position = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    index = (mask * position).argmax(dim=1) if how == "last" else mask.int().argmax(dim=1)
    # len() would fix the batch in an exported network
    return states[torch.arange(states.shape[0], device=states.device), index]
