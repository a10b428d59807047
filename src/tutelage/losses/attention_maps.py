"""Where the positions of a network look, held against where those of its teacher look."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.precision import in_single


@in_single
def attention_weights(made: Tensor, *, heads: int, prefix: int = 0) -> Tensor:
    """Return the attention (n, heads, positions, positions), each row to a sum of 1, of queries, keys and values made side by side.

    made: (n, length, 3 width) or of maps (n, 3 width, height, width), of which each position is a token. heads: that each of the three is
    cut into, one after another; scores are divided by the root of a head's width (Vaswani et al. 2017, arXiv 1706.03762, eq. 1). prefix:
    how many tokens come before the positions; they neither look nor are looked at.
    """
    tokens = made.flatten(2).transpose(1, 2) if made.ndim == 4 else made
    if tokens.ndim != 3 or tokens.shape[2] % (3 * heads):
        raise UserError(
            f"queries, keys and values of {heads} heads are (n, length, 3 width) or (n, 3 width, height, width), the width a multiple of "
            f"the heads, got {tuple(made.shape)}"
        )
    query, key, _ = tokens[:, prefix:].unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)


@in_single
def attention_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over samples, heads and positions of KL(teacher || student) of the rows of attention.

    student, teacher: (n, heads, positions, positions). Of unlike numbers of heads the means over heads are compared. Where one grid of
    positions is finer by a whole number, it is brought to the coarser one: what is looked at is added up, who looks is averaged.
    Source: HASTE (Wang et al. 2025, arXiv 2505.16792), which minimises the cross-entropy: the divergence and a constant.
    Raises UserError for grids that do not divide each other.
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (x.mean(dim=1, keepdim=True) for x in (student, teacher))
    side = min(math.isqrt(x.shape[-1]) for x in (student, teacher))
    if student.shape[-1] != teacher.shape[-1]:
        student, teacher = (_coarser(x, side) for x in (student, teacher))
    tiny = 1e-12  # a weight that single precision lets vanish
    rows = F.kl_div((student + tiny).log(), (teacher + tiny).log(), reduction="none", log_target=True)
    return rows.sum(dim=-1).mean()


def _coarser(weights: Tensor, side: int) -> Tensor:
    own = math.isqrt(weights.shape[-1])
    if own**2 != weights.shape[-1] or own % side:
        raise UserError(
            f"attention over {weights.shape[-1]} positions cannot be brought to a grid of {side} x {side}: choose layers whose square "
            "grids divide each other"
        )
    cut = own // side
    grid = weights.unflatten(-1, (side, cut, side, cut)).sum(dim=(-3, -1)).flatten(-2)
    return grid.unflatten(-2, (side, cut, side, cut)).mean(dim=(-4, -2)).flatten(-3, -2)
