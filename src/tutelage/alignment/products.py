"""Matrix products of features (k, n, d), each by the road that is shortest on its device: X X^T, and n x n times X.

Features in blocks, (k, b, m, d), are as many small products, one batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import on_cpu

_BANDS = 4  # of rows: a band meets itself and those above, 10 of the 16 blocks
Precision = Literal["float32", "bfloat16"]


def gram(features: Tensor, precision: Precision = "float32") -> Tensor:
    """Return X X^T of (k, n, d) features, (k, n, n). precision: "bfloat16" needs features near their centre, see `CKA`.

    On the CPU the lower triangle is computed in bands and mirrored. A product with a long inner axis and few outputs suits no library's
    own split, so many threads get as many parts of the columns: a batch of products, of which each takes one and waits for none.
    (numpy's `a @ a.T`, a symmetric update at half the cost, loses three times over inside a training step: its threads and torch's wait
    for each other's cores.) On a GPU the parts are a batch that fills the processors.
    """
    if precision == "bfloat16":
        return half_gram(features.to(torch.bfloat16), features.dtype)
    if features.ndim == 4:
        return gram(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    k, n, d = features.shape
    if not on_cpu(features):
        split = _split(features)
        return _summed(split @ split.mT)
    rows, by_onednn = features[0], _by_onednn(features, n)
    if k > 1 or n < (256 if by_onednn else 128) or d < (1024 if by_onednn else 2048):
        return product_of(features, features.mT)
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


def half_gram(low: Tensor, dtype: torch.dtype) -> Tensor:
    """Return X X^T of (k, n, d) bfloat16 features, summed in float32; on the CPU each sum is rounded to bfloat16 in the end."""
    if low.ndim == 4:
        return half_gram(low.flatten(0, 1), dtype).unflatten(0, low.shape[:2])
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


def shifted(features: Tensor) -> tuple[Tensor, float]:
    """Return (1, n, d) features less the mean of every few samples, in bfloat16, and the squared length of that mean.

    The Gram matrix is centred later, so any point near the mean does, and 32 samples are a small part of the time that reading all takes.
    """
    if features.ndim == 4:
        low, level = shifted(features.flatten(1, 2))
        return low.view(features.shape), level
    rows = features[0]
    mean = rows[:: max(1, len(rows) // 32)].mean(0)
    low = torch.empty_like(rows, dtype=torch.bfloat16)
    block = max(1, 2**18 // len(mean))  # what stays in the caches
    for taken, kept in zip(rows.split(block), low.split(block), strict=True):
        kept.copy_(taken - mean)
    return low.unsqueeze(0), float(mean.square().sum())


def product_of(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right of (k, n, m) and (k, m, d), or of blocks, (k, b, m, m) and (k, b, m, d)."""
    if left.ndim == 4:
        return product_of(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])
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
