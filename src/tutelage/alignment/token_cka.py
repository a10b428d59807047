"""Linear CKA where samples outnumber features, as tokens do: from d x d products, and n x n matrices only of layers wider than that.

With centred X (n, d) and Y (n, e), tr(K L) = |X^T Y|^2, and the sums that the unbiased estimator subtracts need the squared lengths
of the rows alone. Cost, for each side by itself, n d min(n, d), and for a pair n d e; for two layers wider than n, such as the heads
of language models, n^2, since both Gram matrices are there. Memory n (d + e).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import bounded, on_cpu, rescaled, to_single
from tutelage.alignment.products import gram


@dataclass
class Rows:
    """Encoded features: rows (n, d) centred, zero where masked, scaled; count: real rows; own: their HSIC with themselves.

    lengths: squared, (n,). scale: what the rows were multiplied by. gram: X X^T of features wider than n, (n, n); else None.
    """

    values: Tensor
    count: Tensor | int
    own: Tensor
    lengths: Tensor
    scale: Tensor
    gram: Tensor | None


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
        features, unit = rescaled(features)
        total = features.square().sum()
        for _ in range(2):  # the second time for what rounding left of a mean far above the spread
            features, _ = _centre(features, mask, count)
        energy = features.square().sum()
        scale = torch.where(energy > (4 * eps) ** 2 * total, (energy / count).rsqrt(), 0)
        centred = features * scale
        lengths = torch.linalg.vecdot(centred, centred)
        scale = bounded(scale * unit)
    square = centred.T @ centred if centred.shape[1] <= len(centred) else gram(centred.unsqueeze(0))[0]
    own = _hsic(_squared(square), lengths, lengths, count, unbiased=unbiased)
    return Rows(
        centred, count, own, lengths, scale, square if centred.shape[1] > len(centred) else None
    ), square


def _centre(features: Tensor, mask: Tensor | None, count: Tensor | int) -> tuple[Tensor, Tensor]:
    mean = features.sum(0) / count
    if mask is None:
        return features - mean, mean
    return torch.addcmul(features, mask.unsqueeze(1).to(features.dtype), mean, value=-1), mean


def _hsic(trace: Tensor, lengths: Tensor, others: Tensor, count: Tensor | int, *, unbiased: bool) -> Tensor:
    """Return HSIC up to its prefactor, from tr(K L) of centred rows and their squared lengths k and l.

    unbiased: HSIC_1 of Song et al. 2012 (JMLR 13), whose sums over the kernels without their diagonals are, for centred rows,
    |X^T Y|^2 - n / (n - 2) sum k l + (sum k)(sum l) / ((n - 1)(n - 2)).
    """
    if unbiased:
        shared = lengths.sum() * others.sum() / ((count - 1) * (count - 2))
        trace = trace - count / (count - 2) * (lengths @ others) + shared
    return trace


def _squared(matrix: Tensor) -> Tensor:
    """The sum of the squares, row by row first: one float32 sweep would drift."""
    return torch.linalg.vector_norm(torch.linalg.vector_norm(matrix, dim=-1)).square()


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
                crosses = [
                    rows.values.T @ guide.values if rows.gram is None or guide.gram is None else guide.gram
                    for guide in guides
                ]
                for cross, guide in zip(crosses, guides, strict=True):
                    whole = cross is guide.gram
                    trace = torch.linalg.vecdot(square, cross).sum() if whole else _squared(cross)
                    value = _hsic(trace, rows.lengths, guide.lengths, rows.count, unbiased=unbiased)
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
                wide = values.shape[1] > len(values)
                factors = [
                    2 * w * _inverse_root(own) * _inverse_root(g.own)
                    for w, g in zip(weights, guides, strict=True)
                ]
                square = square * (2 * own_weight)
                for factor, cross, guide in zip(factors, crosses, guides, strict=True):
                    if wide and guide.gram is not None:
                        square.addcmul_(factor, cross)
                result = square @ values if wide else values @ square
                per_row = torch.zeros_like(lengths)
                n = guides[0].count
                for factor, cross, guide in zip(factors, crosses, guides, strict=True):
                    if not wide or guide.gram is None:
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
