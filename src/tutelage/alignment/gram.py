"""Similarities that are a cosine between two symmetric n x n matrices: CKA, biased and unbiased, and RSA.

Each maps the Gram matrix K = X X^T of the features X (n, d) linearly (for RSA, after scaling rows to unit length) onto a subspace:
double centring (biased CKA), U-centring (unbiased CKA), removal of the diagonal and of the mean off it (RSA), or of the mean of all
values (RSA over the whole matrix, as the code released with arXiv 2410.20035 takes it). The similarity is
the inner product of both sides' images, each of unit norm. So a guide's features are encoded once, as one n x n matrix, and the
gradient of the network's features is 2 dK X: one product forward, one backward.

CKA over blocks of samples (minibatch CKA) keeps of K the squares along its diagonal, each centred by itself: (b, m, m) in place of (n, n),
in all else the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import Padding, bounded, emptied, on_cpu, rescaled, to_single, wide
from tutelage.alignment.products import Precision, gram, half_gram, product_of, shifted

Kind = Literal["cka", "unbiased_cka", "rsa", "rsa_whole"]


class Form(NamedTuple):
    """Which of the similarities, the precision of its products, and how many samples at a time are compared (CKA alone; None: all)."""

    kind: Kind
    precision: Precision = "float32"
    block: int | None = None

    def cut(self, features: Tensor) -> Tensor:
        """Return (k, n, d) features as (k, b, m, d), b blocks of at least `block` samples, a view; unchanged where it would be one block.

        The rest of a batch, fewer than b samples, is left out.
        """
        n = features.shape[1]
        blocks = 1 if self.block is None else n // self.block
        return features[:, : n - n % blocks].unflatten(1, (blocks, -1)) if blocks > 1 else features


@dataclass
class Embedding:
    """What a batch of k feature matrices (k, n, d), or (k, b, m, d) in blocks, became.

    unit: images of unit norm, (k, n, n) or (k, b, m, m); zero for features that do not vary. inverse_norm: 1 / norm before, (k, 1, 1) or
    (k, 1, 1, 1), 0 there. features: as they entered the Gram matrix, scale * (original - shift). scale: as inverse_norm, or 1.
    cosines, inverse_lengths: RSA's, (k, n, n) and (k, n, 1).
    """

    unit: Tensor
    inverse_norm: Tensor
    features: Tensor
    scale: Tensor | float
    cosines: Tensor | None = None
    inverse_lengths: Tensor | None = None


def standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return (k, n, d) features centred over samples and scaled to a mean squared length of 1, and the scale, (k, 1, 1).

    Those in blocks (k, b, m, d) are centred over each and scaled over all, (k, 1, 1, 1).
    Finite for any finite features of one sign, and others up to half the largest float. Features whose variation is below the rounding
    of their own values become zero. What rounding leaves of a large mean is for the centring of the Gram matrix.
    """
    eps = torch.finfo(features.dtype).eps
    mean = features.mean(-2, keepdim=True, dtype=wide(features)).to(features.dtype)
    features = features - mean
    spread, level = (
        torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True, dtype=wide(x))
        for x in (features, mean)
    )
    root = features.shape[-2] ** 0.5
    scale = (
        torch.where(spread > 4 * eps * root * level, root / spread, 0.0).clamp(max=1e38).to(features.dtype)
    )
    return features * scale, bounded(scale)


def embed(features: Tensor, form: Form) -> Embedding:
    """Map (k, n, d) features, float32 or float64, to unit matrices (k, n, n), or (k, b, m, m) of blocks.

    On the CPU the Gram matrix is centred, not the features, unless its values show that this would cost precision: a mean far above
    the spread, or a magnitude near the ends of the floating range. Elsewhere, where looking at values would wait for the device, the
    features are centred first. For bfloat16 the mean of a few samples is taken off, which is near enough.
    """
    if form.kind in ("rsa", "rsa_whole"):
        return _embed_cosines(features, whole=form.kind == "rsa_whole")
    features = form.cut(features)
    n = features.shape[-2]
    product = rows = None
    scale: Tensor | float = 1.0
    if on_cpu(features) and len(features) == 1:
        level = 0.0
        if form.precision == "bfloat16":
            low, level = shifted(features)
            product = half_gram(low, features.dtype)
        else:
            product = gram(features)
        rows = product.mean(-1, keepdim=True)
        length, shared = float(product.diagonal(dim1=-2, dim2=-1).mean()), float(rows.mean())
        if not (1e-12 < length < 1e12 and length + level < 32 * (length - shared)):
            product = None
    if product is None:
        features, scale = standardise(features)
        product = gram(features, form.precision)
        rows = product.mean(-1, keepdim=True)
    assert rows is not None
    if form.kind == "unbiased_cka":
        diagonal = product.diagonal(dim1=-2, dim2=-1)
        rows = (rows * n - diagonal.unsqueeze(-1)) / (n - 2)
        mean = rows.sum(-2, keepdim=True) / (n - 1)
        product -= rows
        product -= rows.mT - mean
        diagonal.zero_()
    else:
        product -= rows
        product -= rows.mT - rows.mean(-2, keepdim=True)
    unit, inverse = _normalise(product, floor=0.0)
    return Embedding(unit, inverse, features, scale)


def _embed_cosines(features: Tensor, *, whole: bool) -> Embedding:
    n, eps = features.shape[-2], torch.finfo(features.dtype).eps
    features, scale = rescaled(features)
    lengths = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    inverse_lengths = torch.where(lengths > eps, 1 / lengths, 0)
    # Cosines near 1 differ by little: that difference is taken between centred unit rows, where it is not rounded away.
    directions = features * inverse_lengths
    mean = directions.mean(-2, keepdim=True)
    centred = directions - mean
    offsets = centred @ mean.mT
    cosines = gram(centred) + (offsets + offsets.mT)
    image = cosines.clone()
    if whole:
        image -= image.sum((-2, -1), keepdim=True) / n**2
    else:
        diagonal = image.diagonal(dim1=-2, dim2=-1)
        diagonal.zero_()
        image -= image.sum((-2, -1), keepdim=True) / (n * (n - 1))
        diagonal.zero_()
    unit, inverse = _normalise(image, floor=eps * n)
    return Embedding(unit, inverse, features, bounded(scale), cosines + mean @ mean.mT, inverse_lengths)


def _normalise(image: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    # Row by row: in one sweep, float32 drifts where n is in the thousands.
    rows = torch.linalg.vector_norm(image, dim=-1, keepdim=True)
    norm = torch.linalg.vector_norm(rows, dim=tuple(range(1, rows.ndim - 1)), keepdim=True)
    if on_cpu(norm) and len(norm) == 1:
        inverse = 1 / norm if norm > floor else torch.zeros_like(norm)
    else:
        inverse = torch.where(norm > floor, 1 / norm, 0)
    return image.mul_(inverse), inverse


def _to_gram(direction: Tensor, embedding: Embedding) -> Tensor:
    """From a gradient of the image before normalisation, in its subspace, to the gradient of the Gram matrix."""
    if embedding.cosines is None:  # the maps of CKA are orthogonal projections
        # Its rows sum to 0 but for rounding, which a mean far above the spread would blow up in the product with the features.
        direction -= direction.mean(-1, keepdim=True)
        return direction
    lengths = embedding.inverse_lengths
    assert lengths is not None
    direction.diagonal(dim1=-2, dim2=-1).zero_()  # the cosine of a sample with itself is 1, whatever it is
    back = -(direction * embedding.cosines).sum(-1, keepdim=True) * lengths.square()
    direction = direction * lengths * lengths.mT
    direction.diagonal(dim1=-2, dim2=-1).copy_(back.squeeze(-1))
    return direction


class GramScores(torch.autograd.Function):
    """Scores of network layers against encoded guide layers, (pairs,), differentiable in the network's features.

    Arguments: the form; references, one list of unit matrices (n, n), or (b, m, m) of blocks, per network layer; where each layer has
    padding, which counts as zero (None: nowhere); then the features (n, d) of each layer.
    Layers of equal width share one batched product where that saves kernel launches (not on the CPU, where it would cost a copy).
    """

    @staticmethod
    def forward(
        ctx: Any,
        form: Form,
        references: Sequence[Sequence[Tensor]],
        paddings: Sequence[Padding | None],
        *features: Tensor,
    ) -> Tensor:
        """See the class."""
        with torch.autocast(features[0].device.type, enabled=False):
            starts = _starts(references)
            scores = to_single(features[0]).new_empty(starts[-1])
            ctx.groups, ctx.samples, saved = [], len(features[0]), []
            for layers in _groups(features):
                stacked = (
                    torch.stack([to_single(features[i]) for i in layers])
                    if len(layers) > 1
                    else to_single(features[layers[0]]).unsqueeze(0)
                )
                with emptied(paddings[layers[0]], stacked) as seen:
                    embedding = embed(seen, form)
                for j, i in enumerate(layers):
                    scores[starts[i] : starts[i + 1]] = (
                        _stack(references[i]).flatten(1) @ embedding.unit[j].flatten()
                    )
                entered = embedding.features if isinstance(embedding.scale, Tensor) else stacked
                parts = (embedding.unit, embedding.inverse_norm, entered)
                extra = [x for x in (embedding.cosines, embedding.inverse_lengths) if x is not None]
                ctx.groups.append((layers, embedding.scale, len(extra)))
                saved += [*parts, *extra]
            ctx.form, ctx.references, ctx.paddings, ctx.starts = form, references, paddings, starts
            ctx.save_for_backward(scores, *saved)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Return the features' gradients, 2 dK X."""
        scores, *saved = ctx.saved_tensors
        result: list[Tensor | None] = [None] * len(ctx.references)
        with torch.autocast(gradient.device.type, enabled=False):
            gradient = gradient.to(scores.dtype)
            for layers, scale, extras in ctx.groups:
                unit, inverse, stacked, *extra = saved[: 3 + extras]
                del saved[: 3 + extras]
                pull = torch.empty_like(unit)
                for j, i in enumerate(layers):
                    part = slice(ctx.starts[i], ctx.starts[i + 1])
                    weighted = (gradient[part] @ _stack(ctx.references[i]).flatten(1)).view_as(pull[j])
                    torch.addcmul(weighted, unit[j], (gradient[part] @ scores[part]), value=-1, out=pull[j])
                embedding = Embedding(unit, inverse, stacked, scale, *extra)
                pull = _to_gram(pull.mul_(2 * inverse), embedding)
                padding = ctx.paddings[layers[0]]
                with emptied(None if isinstance(scale, Tensor) else padding, stacked) as seen:
                    product = product_of(pull, seen if isinstance(scale, Tensor) else ctx.form.cut(seen))
                if isinstance(scale, Tensor):
                    product *= scale
                if product.ndim == 4:
                    left_out = ctx.samples - product.shape[1] * product.shape[2]
                    product = torch.nn.functional.pad(product.flatten(1, 2), (0, 0, 0, left_out))
                if padding is not None:
                    padding.zero_(product)
                for j, i in enumerate(layers):
                    result[i] = product[j]
        return (None, None, None, *result)


def _starts(references: Sequence[Sequence[Tensor]]) -> list[int]:
    starts = [0]
    for layer in references:
        starts.append(starts[-1] + len(layer))
    return starts


def _stack(references: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(references)) if len(references) > 1 else references[0].unsqueeze(0)


def _groups(features: Sequence[Tensor]) -> list[list[int]]:
    if on_cpu(features[0]):
        return [[i] for i in range(len(features))]
    widths: dict[tuple[int, torch.dtype], list[int]] = {}
    for i, x in enumerate(features):
        widths.setdefault((x.shape[1], x.dtype), []).append(i)
    return list(widths.values())
