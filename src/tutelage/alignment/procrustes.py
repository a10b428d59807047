"""How well a rotation and a scale bring a network's features onto the guide's, from the cross product or both sides' Gram matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import rescaled, to_single, wide


def centred(features: Tensor) -> Tensor:
    """Return features (n, d) less their mean over rows and scaled to Frobenius norm 1, in double precision; 0 where they do not vary.

    Differentiable; finite throughout.
    """
    single = to_single(features)
    features = rescaled(single)[0].to(wide(single))
    features = features - features.mean(0)
    square = features.square().sum()
    floor = features.numel() * (4 * torch.finfo(single.dtype).eps) ** 2
    varied = square > floor
    return features * torch.where(varied, torch.where(varied, square, 1).rsqrt(), 0)


def reduced(features: Tensor) -> Tensor:
    """Return a matrix with the same product F F^T as features (n, d), in no more than n columns."""
    n, d = features.shape
    if d <= n:
        return features
    values, vectors = torch.linalg.eigh(features @ features.T)
    return vectors * values.clamp(min=0).sqrt()


def gram_of(centred_features: Tensor) -> Tensor:
    """Return the scalar products of rows (n, d) as a matrix (n, n) of Frobenius norm 1; 0 for features that are all 0. Differentiable."""
    products = centred_features @ centred_features.T
    square = products.square().sum()
    varied = square > 0
    return products * torch.where(varied, torch.where(varied, square, 1).rsqrt(), 0)


def gram_score(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return 1 - |K - L| / sqrt(2) of matrices (n, n) of norm 1, from 0 to 1; 0 where either is 0. Where they are equal the slope is 0."""
    found = 1 - torch.linalg.vector_norm(mine - theirs) / math.sqrt(2)
    return torch.where(mine.any() & theirs.any(), found, 0.0)


def nuclear(product: Tensor) -> Tensor:
    """Return the sum of the singular values of a matrix (d, e), with the gradient U V^T of those above rounding.

    From the eigenvalues of the smaller of its two squares, whose vectors are taken as constants: no difference of eigenvalues is
    divided by, so that equal ones do no harm.
    """
    square = product.T @ product if product.shape[0] >= product.shape[1] else product @ product.T
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(square)
        kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
        roots = torch.where(kept, values, 1).sqrt()
        inverse = (vectors * torch.where(kept, 1 / roots, 0)) @ vectors.T
        value = torch.where(kept, roots, 0).sum()
    half = (inverse * square).sum() / 2  # half of the value, and all of its gradient
    return half + (value - half.detach())
