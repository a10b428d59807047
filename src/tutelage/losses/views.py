"""Losses between two views of the same samples, without labels: NT-Xent (SimCLR), VICReg, Barlow Twins, BYOL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.losses.precision import in_single


@in_single
def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Cross-entropy of finding each embedding's other view among all others (Chen et al. 2020, arXiv 2002.05709, equation 1).

    first, second: (n, d), row i of both of one sample; compared by cosine. Invariant to their lengths and to swapping them. Memory: 4 n^2.
    """
    both = F.normalize(torch.cat([first, second]), dim=1)
    logits = both @ both.T / temperature
    own = torch.eye(len(both), dtype=torch.bool, device=both.device)
    other = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(logits.masked_fill(own, -torch.inf), other)


@in_single
def vicreg(
    first: Tensor,
    second: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """Squared distance of the views, a hinge on each feature's deviation below 1, and squared covariances of features.

    first, second: (n, d), n at least 2. Bardes et al. 2022, arXiv 2105.04906, equations 1 to 6, with the means over n d and the half
    that the authors' code has; eps is inside the root.
    """
    loss = invariance * F.mse_loss(first, second)
    for one in (first, second):
        centred = one - one.mean(dim=0)
        deviation = (one.var(dim=0) + eps).sqrt()
        loss = loss + variance * F.relu(1 - deviation).mean() / 2
        products = centred.T @ centred / (len(one) - 1)
        off = products.square().sum() - products.diagonal().square().sum()
        loss = loss + covariance * off / one.shape[1]
    return loss


@in_single
def barlow_twins(first: Tensor, second: Tensor, *, redundancy: float = 0.005, eps: float = 1e-5) -> Tensor:
    """Distance of the views' cross-correlation from the identity (Zbontar et al. 2021, arXiv 2103.03230, equation 1).

    first, second: (n, d), n at least 2, standardised over the batch. Invariant to scale and shift of each feature, up to eps.
    """
    first, second = (F.batch_norm(one, None, None, training=True, eps=eps) for one in (first, second))
    products = first.T @ second / len(first)
    on = products.diagonal()
    return (on - 1).square().sum() + redundancy * (products.square().sum() - on.square().sum())


@in_single
def byol(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared distance of predictions from targets, both of length 1 (Grill et al. 2020, arXiv 2006.07733, equation 2).

    predicted, target: (n, d). Mean over rows, 0 to 4. Invariant to the lengths of both; no gradient flows into the target.
    """
    return (2 - 2 * F.cosine_similarity(predicted, target.detach(), dim=1)).mean()
