"""Similarities that are a cosine between two symmetric n x n matrices: CKA, biased and unbiased, and RSA.

Each maps the Gram matrix K = X X^T of the features X (n, d) linearly (for RSA, after scaling rows to unit length) onto a subspace:
double centring (biased CKA), U-centring (unbiased CKA), removal of the diagonal and of the mean off it (RSA), or of the mean of all
values (RSA over the whole matrix, as the code released with arXiv 2410.20035 takes it). The similarity is
the inner product of both sides' images, each of unit norm. So a guide's features are encoded once, as one n x n matrix, and the
gradient of the network's features is 2 dK X: one product forward, one backward.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import Padding, bounded, emptied, on_cpu, rescaled, to_single, wide

_BANDS = 4  # of rows: a band meets itself and those above, 10 of the 16 blocks
Kind = Literal["cka", "unbiased_cka", "rsa", "rsa_whole"]
Precision = Literal["float32", "bfloat16"]


@dataclass
class Embedding:
    """What a batch of k feature matrices (k, n, d) became.

    unit: images of unit norm, (k, n, n); zero for features that do not vary. inverse_norm: 1 / norm before, (k, 1, 1), 0 there.
    features: as they entered the Gram matrix, scale * (original - shift), (k, n, d). scale: (k, 1, 1), or 1.
    cosines, inverse_lengths: RSA's, (k, n, n) and (k, n, 1).
    """

    unit: Tensor
    inverse_norm: Tensor
    features: Tensor
    scale: Tensor | float
    cosines: Tensor | None = None
    inverse_lengths: Tensor | None = None


def gram(features: Tensor, precision: Precision = "float32") -> Tensor:
    """Return X X^T of (k, n, d) features, (k, n, n). precision: "bfloat16" needs features near their centre, see `CKA`.

    On the CPU the lower triangle is computed in bands and mirrored. A product with a long inner axis and few outputs suits no library's
    own split, so many threads get as many parts of the columns: a batch of products, of which each takes one and waits for none.
    (numpy's `a @ a.T`, a symmetric update at half the cost, loses three times over inside a training step: its threads and torch's wait
    for each other's cores.) On a GPU the parts are a batch that fills the processors.
    """
    k, n, d = features.shape
    if precision == "bfloat16":
        return _half_gram(features.to(torch.bfloat16), features.dtype)
    if not on_cpu(features):
        split = _split(features)
        return _summed(split @ split.mT)
    rows, by_onednn = features[0], _by_onednn(features, n)
    if k > 1 or n < (256 if by_onednn else 128) or d < (1024 if by_onednn else 2048):
        return _product(features, features.mT)
    parts = rows.unflatten(1, (math.gcd(d, torch.get_num_threads()), -1)).transpose(0, 1)

    def product(start: int, end: int) -> Tensor:
        if by_onednn:
            return _onednn(rows[start:end], rows[:end])
        return torch.bmm(parts[:, start:end], parts[:, :end].mT).sum(0)

    return _in_bands(product, features, n)


def _in_bands(product: Callable[[int, int], Tensor], like: Tensor, n: int) -> Tensor:
    """Return the symmetric matrix (1, n, n) of which `product(start, end)` gives rows start to end, as far as column end."""
    result = like.new_empty(1, n, n)
    for start, end in pairwise(n * i // _BANDS for i in range(_BANDS + 1)):
        band = product(start, end)
        result[0, start:end, :end] = band
        result[0, :start, start:end] = band[:, :start].T
    return result


def _split(features: Tensor) -> Tensor:
    """Return (k, n, d) features as (k, parts, n, d / parts), of a thousand columns or more each."""
    d = features.shape[-1]
    parts = next((c for c in (64, 32, 16, 8, 4, 2) if d % c == 0 and d // c >= 1024), 1)
    return features.unflatten(-1, (parts, d // parts)).transpose(1, 2)


def _summed(products: Tensor) -> Tensor:
    """Return the sum over the parts of (k, parts, n, n), without a copy where there is one."""
    return products.sum(1) if products.shape[1] > 1 else products.squeeze(1)


def _half_gram(low: Tensor, dtype: torch.dtype) -> Tensor:
    """Return X X^T of (k, n, d) bfloat16 features, summed in float32; on the CPU each sum is rounded to bfloat16 in the end."""
    if low.device.type == "cuda":
        split = _split(low)
        flat = split.flatten(0, 1)
        product = torch.bmm(flat, flat.mT, out_dtype=torch.float32).to(dtype)
        return _summed(product.unflatten(0, split.shape[:2]))
    if on_cpu(low) and len(low) == 1 and low.shape[-2] >= 128 and low.shape[-1] >= 1024:
        rows = low[0]
        return _in_bands(
            lambda start, end: rows[start:end] @ rows[:end].T, rows.new_empty(0, dtype=dtype), len(rows)
        )
    return (low @ low.mT).to(dtype)


def _shifted(features: Tensor) -> tuple[Tensor, float]:
    """Return (1, n, d) features less the mean of every few samples, in bfloat16, and the squared length of that mean.

    The Gram matrix is centred later, so any point near the mean does, and 32 samples are a small part of the time that reading all takes.
    """
    rows = features[0]
    mean = rows[:: max(1, len(rows) // 32)].mean(0)
    low = torch.empty_like(rows, dtype=torch.bfloat16)
    block = max(1, 2**18 // len(mean))  # what stays in the caches
    for taken, kept in zip(rows.split(block), low.split(block), strict=True):
        kept.copy_(taken - mean)
    return low.unsqueeze(0), float(mean.square().sum())


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right of (k, n, m) and (k, m, d)."""
    by_onednn = _by_onednn(left, right.shape[-1])
    return _onednn(left[0], right[0].T).unsqueeze(0) if by_onednn else left @ right


def _by_onednn(rows: Tensor, columns: int) -> bool:
    """Whether (k, n, d) rows are multiplied by oneDNN, with AVX-512 wherever a processor has it; MKL uses it on Intel's alone.

    Small products are not, whose call costs more, nor those of many threads, which were not measured, nor any where
    `torch.backends.mkldnn.enabled` is off.
    """
    large = len(rows) == 1 and rows[0].numel() * columns >= 1 << 21 and rows.dtype == torch.float32
    few = large and on_cpu(rows) and torch.get_num_threads() <= 4
    return few and bool(torch.backends.mkldnn.enabled) and _has_onednn()


def _onednn(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right^T of (n, d) and (m, d) by oneDNN: PyTorch's own linear layer of compiled networks, without a gradient."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return result


@functools.cache
def _has_onednn() -> bool:
    try:
        return bool((_onednn(torch.ones(2, 3), torch.ones(4, 3)) == 3).all())
    except (AttributeError, RuntimeError):  # PyTorch without it, or with another form of it
        return False


def standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return (k, n, d) features centred over samples and scaled to a mean squared length of 1, and the scale, (k, 1, 1).

    Finite for any finite features of one sign, and others up to half the largest float. Features whose variation is below the rounding
    of their own values become zero. What rounding leaves of a large mean is for the centring of the Gram matrix.
    """
    eps = torch.finfo(features.dtype).eps
    mean = features.mean(-2, keepdim=True, dtype=wide(features)).to(features.dtype)
    features = features - mean
    spread, level = (
        torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide(x)) for x in (features, mean)
    )
    root = features.shape[-2] ** 0.5
    scale = (
        torch.where(spread > 4 * eps * root * level, root / spread, 0.0).clamp(max=1e38).to(features.dtype)
    )
    return features * scale, bounded(scale)


def embed(features: Tensor, kind: Kind, precision: Precision = "float32") -> Embedding:
    """Map (k, n, d) features, float32 or float64, to unit matrices (k, n, n).

    On the CPU the Gram matrix is centred, not the features, unless its values show that this would cost precision: a mean far above
    the spread, or a magnitude near the ends of the floating range. Elsewhere, where looking at values would wait for the device, the
    features are centred first. precision: of CKA's products; for bfloat16 the mean of a few samples is taken off, which is near enough.
    """
    if kind in ("rsa", "rsa_whole"):
        return _embed_cosines(features, whole=kind == "rsa_whole")
    n = features.shape[-2]
    product = rows = None
    scale: Tensor | float = 1.0
    if on_cpu(features) and len(features) == 1:
        level = 0.0
        if precision == "bfloat16":
            low, level = _shifted(features)
            product = _half_gram(low, features.dtype)
        else:
            product = gram(features)
        rows = product.mean(-1, keepdim=True)
        length, shared = float(product.diagonal(dim1=-2, dim2=-1).mean()), float(rows.mean())
        if not (1e-12 < length < 1e12 and length + level < 32 * (length - shared)):
            product = None
    if product is None:
        features, scale = standardise(features)
        product = gram(features, precision)
        rows = product.mean(-1, keepdim=True)
    assert rows is not None
    if kind == "unbiased_cka":
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
    norm = torch.linalg.vector_norm(rows, dim=-2, keepdim=True)
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

    Arguments: the kind; the precision of its products; references, one list of unit matrices (n, n) per network layer; where each layer
    has padding, which counts as zero (None: nowhere); then the features (n, d) of each layer.
    Layers of equal width share one batched product where that saves kernel launches (not on the CPU, where it would cost a copy).
    """

    @staticmethod
    def forward(
        ctx: Any,
        kind: Kind,
        precision: Precision,
        references: Sequence[Sequence[Tensor]],
        paddings: Sequence[Padding | None],
        *features: Tensor,
    ) -> Tensor:
        """See the class."""
        with torch.autocast(features[0].device.type, enabled=False):
            starts = _starts(references)
            scores = to_single(features[0]).new_empty(starts[-1])
            ctx.groups, saved = [], []
            for layers in _groups(features):
                stacked = (
                    torch.stack([to_single(features[i]) for i in layers])
                    if len(layers) > 1
                    else to_single(features[layers[0]]).unsqueeze(0)
                )
                with emptied(paddings[layers[0]], stacked) as seen:
                    embedding = embed(seen, kind, precision)
                for j, i in enumerate(layers):
                    scores[starts[i] : starts[i + 1]] = (
                        _stack(references[i]).flatten(1) @ embedding.unit[j].flatten()
                    )
                entered = embedding.features if isinstance(embedding.scale, Tensor) else stacked
                parts = (embedding.unit, embedding.inverse_norm, entered)
                extra = [x for x in (embedding.cosines, embedding.inverse_lengths) if x is not None]
                ctx.groups.append((layers, embedding.scale, len(extra)))
                saved += [*parts, *extra]
            ctx.references, ctx.paddings, ctx.starts = references, paddings, starts
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
                    product = _product(pull, seen)
                if isinstance(scale, Tensor):
                    product *= scale
                if padding is not None:
                    padding.zero_(product)
                for j, i in enumerate(layers):
                    result[i] = product[j]
        return (None, None, None, None, *result)


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
