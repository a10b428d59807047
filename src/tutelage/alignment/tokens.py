"""Linear CKA where samples outnumber features, as tokens do: from d x d products, never an n x n matrix.

With centred X (n, d) and Y (n, e), tr(K L) = |X^T Y|^2, and the sums that the unbiased estimator subtracts need the squared lengths
of the rows alone. Cost n d e and, for each side by itself, n d min(n, d); memory n (d + e).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.alignment.features import bounded, on_cpu, tamed, to_single
from tutelage.alignment.gram import gram


@dataclass
class Rows:
    """Encoded features: rows (n, d) centred, zero where masked, scaled; count: real rows; own: their HSIC with themselves.

    lengths: squared, (n,). scale: what the rows were multiplied by.
    """

    values: Tensor
    count: Tensor | int
    own: Tensor
    lengths: Tensor
    scale: Tensor


def encode(features: Tensor, mask: Tensor | None, *, unbiased: bool) -> tuple[Rows, Tensor]:
    """Encode features (n, d), float32 or float64; mask (n,) bool, True where the row counts. Also return X^T X or X X^T, the smaller.

    On the CPU, where looking at values costs nothing, features of ordinary size and mean are only centred; elsewhere, without waiting
    for the device, they are also scaled.
    """
    count: Tensor | int = len(features) if mask is None else mask.sum()
    if mask is not None:
        features = features.masked_fill(~mask.unsqueeze(1), 0)
    centred, mean = _centre(features, mask, count)
    lengths = torch.linalg.vecdot(centred, centred)
    scale = torch.ones_like(mean[0])
    spread = float(lengths.sum()) / max(1, int(count)) if on_cpu(features) else 0.0
    if not (1e-12 < spread < 1e12 and float(mean @ mean) < 1e4 * spread):
        eps = torch.finfo(features.dtype).eps
        features, unit = tamed(features)
        total = features.square().sum()
        for _ in range(2):  # the second time for what rounding left of a mean far above the spread
            features, _ = _centre(features, mask, count)
        energy = features.square().sum()
        scale = torch.where(energy > (4 * eps) ** 2 * total, (energy / count).rsqrt(), 0)
        centred = features * scale
        lengths = torch.linalg.vecdot(centred, centred)
        scale = bounded(scale * unit)
    square = centred.T @ centred if centred.shape[1] <= len(centred) else gram(centred.unsqueeze(0))[0]
    own = _hsic(square, lengths, lengths, count, unbiased=unbiased)
    return Rows(centred, count, own, lengths, scale), square


def _centre(features: Tensor, mask: Tensor | None, count: Tensor | int) -> tuple[Tensor, Tensor]:
    mean = features.sum(0) / count
    if mask is None:
        return features - mean, mean
    return torch.addcmul(features, mask.unsqueeze(1).to(features.dtype), mean, value=-1), mean


def hsic(
    cross: Tensor, lengths: Tensor, others: Tensor, products: Tensor, count: Tensor | int, *, unbiased: bool
) -> Tensor:
    """Return HSIC up to its prefactor, from X^T Y of centred rows and the sums of their squared lengths k, l and of the products k l.

    unbiased: HSIC_1 of Song et al. 2012 (JMLR 13), whose sums over the kernels without their diagonals are, for centred rows,
    |X^T Y|^2 - n / (n - 2) sum k l + (sum k)(sum l) / ((n - 1)(n - 2)).
    """
    value = torch.linalg.vector_norm(
        torch.linalg.vector_norm(cross, dim=-1)
    ).square()  # one float32 sweep would drift
    if unbiased:
        value = value - count / (count - 2) * products + lengths * others / ((count - 1) * (count - 2))
    return value


def _hsic(cross: Tensor, lengths: Tensor, others: Tensor, count: Tensor | int, *, unbiased: bool) -> Tensor:
    return hsic(cross, lengths.sum(), others.sum(), lengths @ others, count, unbiased=unbiased)


class TokenScores(torch.autograd.Function):
    """Scores of network layers against encoded guide layers, (pairs,); see `GramScores`.

    Arguments: unbiased; mask (n,) or None; references, a list of Rows for each network layer; the features (n, d) of each layer.
    """

    @staticmethod
    def forward(
        ctx: Any, unbiased: bool, mask: Tensor | None, references: Sequence[Sequence[Rows]], *features: Tensor
    ) -> Tensor:
        """See the class."""
        scores: list[Tensor] = []
        saved: list[Tensor] = []
        with torch.autocast(features[0].device.type, enabled=False):
            for layer, guides in zip(features, references, strict=True):
                rows, square = encode(to_single(layer), mask, unbiased=unbiased)
                crosses = [rows.values.T @ guide.values for guide in guides]
                for cross, guide in zip(crosses, guides, strict=True):
                    value = _hsic(cross, rows.lengths, guide.lengths, rows.count, unbiased=unbiased)
                    scores.append(value * _inverse_root(rows.own) * _inverse_root(guide.own))
                saved += [rows.values, square, rows.own, rows.lengths, rows.scale, *crosses]
            stacked = torch.stack(scores)
        ctx.references, ctx.mask, ctx.unbiased = references, mask, unbiased
        ctx.save_for_backward(stacked, *saved)
        return stacked

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Return the features' gradients."""
        scores, *saved = ctx.saved_tensors
        results, done = [], 0
        with torch.autocast(gradient.device.type, enabled=False):
            for guides in ctx.references:
                values, square, own, lengths, scale, *crosses = saved[: 5 + len(guides)]
                del saved[: 5 + len(guides)]
                weights = gradient[done : done + len(guides)].to(scores.dtype)
                own_weight = -(weights @ scores[done : done + len(guides)]) * _inverse_root(own).square()
                done += len(guides)
                square = square * (2 * own_weight)
                result = values @ square if len(square) == values.shape[1] else square @ values
                per_row = torch.zeros_like(lengths)
                n = guides[0].count
                for weight, cross, guide in zip(weights, crosses, guides, strict=True):
                    factor = 2 * weight * _inverse_root(own) * _inverse_root(guide.own)
                    result.addmm_(guide.values, (factor * cross).T)
                    if ctx.unbiased:
                        per_row += factor * _row_weight(guide.lengths, n)
                if ctx.unbiased:
                    per_row += 2 * own_weight * _row_weight(lengths, n)
                    result.addcmul_(per_row.unsqueeze(1), values)
                # The shift that centred the features is a constant of each column: its gradient is their mean.
                results.append(_centre(result, ctx.mask, n)[0] * scale)
        return (None, None, None, *results)


def _row_weight(lengths: Tensor, n: Tensor | int) -> Tensor:
    """The derivative of the unbiased estimator's correction by one row's squared length."""
    return lengths.sum() / ((n - 1) * (n - 2)) - n / (n - 2) * lengths


def _inverse_root(value: Tensor) -> Tensor:
    return torch.where(value > 0, value.rsqrt(), 0)
