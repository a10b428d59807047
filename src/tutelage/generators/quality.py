"""How good samples are, in the feature space of a classifier: its accuracy on them, Frechet distance, precision and recall.

Distances in another network's features are not comparable with published FIDs: they rank generators of one source.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.errors import UserError


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) between the Gaussians fitted to two sets of features, (n, d) and (m, d).

    Symmetric, zero for equal sets, invariant to rotation and shift. Needs at least 2 rows each; biased upwards where rows are few.
    In float64; cost d^3. Source: Heusel et al. 2017, arXiv 1706.08500, eq. 6 (Dowson and Landau 1982).
    """
    _check(real, generated, at_least=2)
    (m1, s1), (m2, s2) = (_moments(x.double()) for x in (real, generated))
    values, vectors = torch.linalg.eigh(s1)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T  # symmetric, so that the product below is too
    cross = torch.linalg.eigvalsh(root @ s2 @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float((m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * cross))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(dim=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def precision_recall(real: Tensor, generated: Tensor, *, neighbours: int = 3) -> tuple[float, float]:
    """Return the share of generated features inside the real manifold, and of real ones inside the generated manifold.

    The manifold of a set is the union of balls around its points, each reaching to its k-th nearest neighbour. Cost n m d.
    Source: Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1-2, k = 3.
    """
    _check(real, generated, at_least=neighbours + 1)
    real, generated = real.double(), generated.double()
    return _inside(generated, real, neighbours), _inside(real, generated, neighbours)


def _inside(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    # The distance of a point to itself comes first, so the k-th neighbour is the (k + 1)-th smallest.
    mode = "donot_use_mm_for_euclid_dist"
    reach = torch.cdist(manifold, manifold, compute_mode=mode).kthvalue(neighbours + 1, dim=1).values
    inside = torch.cdist(points, manifold, compute_mode=mode) <= reach
    return float(inside.any(dim=1).double().mean())


def _check(real: Tensor, generated: Tensor, *, at_least: int) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise UserError(
            f"features must be (n, d) and (m, d), got {tuple(real.shape)} and {tuple(generated.shape)}"
        )
    if min(len(real), len(generated)) < at_least:
        raise UserError(
            f"at least {at_least} samples of each kind are needed, got {len(real)} real and {len(generated)} generated"
        )
