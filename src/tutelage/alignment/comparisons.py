"""Measures that compare two layers over one set of samples, beside CKA: Procrustes, CCA, kernels, neighbours, regression.

All need nothing but each layer's centred Gram matrix over the samples, so layers of any width and any batch split are compared alike.
None is a training loss: they cost an eigendecomposition, n^3. A value says little without the one that unrelated samples give: `chance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tutelage.errors import UserError, choices


@dataclass(frozen=True)
class Centred:
    """A layer's features over n samples, known by their Gram matrix.

    gram: K = X X^T of the features X (n, d) less their mean over samples, (n, n), float64.
    eps: the rounding of the numbers that it was made of; directions below it are none.
    """

    gram: Tensor
    eps: float = torch.finfo(torch.float64).eps

    @classmethod
    def of_features(cls, features: Tensor) -> Centred:
        """From features (n, ...), flattened; at least 3 samples.

        Raises:
            UserError: fewer samples.
        """
        if len(features) < 3:
            raise UserError(f"a comparison of layers needs at least 3 samples, got {len(features)}")
        rows = features.flatten(1).double()
        rows = rows - rows.mean(dim=0)
        return cls(rows @ rows.T)

    @classmethod
    def of_gram(cls, gram: Tensor) -> Centred:
        """From a Gram matrix (n, n) of features that need not be centred."""
        eps, gram = torch.finfo(gram.dtype).eps, gram.double()
        rows = gram.mean(dim=1, keepdim=True)
        return cls(gram - rows - rows.T + rows.mean(), eps)

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Left singular vectors (n, rank) and singular values (rank,) of the centred features, largest first.

        What lies below the rounding of the largest eigenvalue counts as no direction.
        """
        values, vectors = torch.linalg.eigh(self.gram)
        values, vectors = values.flip(0), vectors.flip(1)
        kept = values > values[0].clamp(min=0) * len(values) * self.eps
        return vectors[:, kept], values[kept].sqrt()

    def permuted(self, order: Tensor) -> Centred:
        """Return the layer with its samples in another order."""
        result = Centred(self.gram[order][:, order], self.eps)
        if "factors" in self.__dict__:  # a decomposition is most of what a comparison costs
            vectors, sizes = self.factors
            result.__dict__["factors"] = vectors[order], sizes
        return result


def procrustes(x: Centred, y: Centred) -> float:
    """Cosine of the angular Procrustes distance: the nuclear norm of X^T Y over both Frobenius norms, in [0, 1].

    1 where the layers differ by rotation and scale alone. Its arc cosine is a metric.
    Source: Williams et al. 2021, arXiv 2110.14739 (shape metrics, rotations). The arc cosine was once held against the authors' netrep
    (`LinearMetric(alpha=1.0, score_method="angular")`, commit 0186b8a): of 20 random pairs, wide, narrow and unequal, none differed by
    more than 3e-15.
    """
    (u, s), (v, t) = x.factors, y.factors  # none of a layer that does not vary: 0 / 0
    nuclear = torch.linalg.svdvals(s[:, None] * (u.T @ v) * t).sum()
    return float(nuclear / (s.norm() * t.norm()))


def svcca(x: Centred, y: Centred, *, variance: float = 0.99) -> float:
    """Mean canonical correlation of the directions that carry a share of each layer's variance, in [0, 1].

    variance: the share, by singular directions, largest first; the mean runs over the smaller number of directions.
    Invariant to rotation and scale. Source: Raghu et al. 2017, arXiv 1706.05806.
    """
    u, v = (_leading(layer, variance) for layer in (x, y))
    return float(torch.linalg.svdvals(u.T @ v).clamp(max=1).mean())


def pwcca(x: Centred, y: Centred, *, variance: float = 0.99) -> float:
    """Canonical correlations weighted by how much of the first layer each canonical direction accounts for, in [0, 1].

    Not symmetric. variance: as in `svcca`, without which layers wider than the samples are numerous have all correlations 1.
    Deviation: the published weights sum over the layer's neurons, these over its principal components, which a Gram matrix knows. They
    do not change when a layer is rotated; values come out some hundredths lower.
    Source: Morcos et al. 2018, arXiv 1806.05759, section 2.2.
    """
    u, v = (_leading(layer, variance) for layer in (x, y))
    left, correlations, _ = torch.linalg.svd(u.T @ v, full_matrices=False)
    directions = u @ left  # canonical directions over the samples, (n, k)
    own, sizes = x.factors
    weights = ((directions.T @ own) * sizes).abs().sum(dim=1)
    return float((weights * correlations.clamp(max=1)).sum() / weights.sum())


def rbf_cka(x: Centred, y: Centred, *, width: float = 1.0) -> float:
    """Unbiased CKA of Gaussian kernels, at most 1, about 0 for unrelated layers.

    width: of the kernel, in units of the median distance between samples. At least 4 samples.
    Source: Kornblith et al. 2019, arXiv 1905.00414, section 3; the estimator is HSIC_1 of Song et al. 2012.
    """
    a, b = (_u_centred(_kernel(layer, width)) for layer in (x, y))
    sizes = [torch.linalg.matrix_norm(m) for m in (a, b)]
    if (
        min(sizes) <= len(a) * torch.finfo(a.dtype).eps
    ):  # a kernel that is one value everywhere, but for rounding
        return float("nan")
    return float((a * b).sum() / (sizes[0] * sizes[1]))


def mutual_neighbours(x: Centred, y: Centred, *, k: int = 10) -> float:
    """Mean share of a sample's k nearest neighbours that both layers agree on, in [0, 1]; k / (n - 1) is chance.

    Euclidean distance. Source: Huh et al. 2024, arXiv 2405.07987 (mutual k-nearest-neighbour metric).
    Raises UserError where there are not more than k samples.
    """
    if len(x.gram) <= k:
        raise UserError(f"{k} nearest neighbours need more than {k} samples, got {len(x.gram)}")
    sets = []
    for layer in (x, y):
        distances = _squared_distances(layer).fill_diagonal_(float("inf"))
        nearest = distances.topk(k, largest=False).indices
        sets.append(torch.zeros_like(distances, dtype=torch.bool).scatter_(1, nearest, True))
    return float((sets[0] & sets[1]).sum() / (k * len(x.gram)))


def regression(x: Centred, y: Centred) -> float:
    """Share of the second layer's variance that a linear map of the first explains, R^2 in [0, 1]; not symmetric.

    On the samples that it is fitted to: 1 for any layer wider than they are numerous, so read it beside `chance`.
    Source: Kornblith et al. 2019, arXiv 1905.00414, table 1.
    """
    total = y.gram.diagonal().sum()
    u = x.factors[0]
    return float((u * (y.gram @ u)).sum() / total)  # 0 / 0 of a layer that does not vary


MEASURES: dict[str, Callable[[Centred, Centred], float]] = {
    "procrustes": procrustes,
    "svcca": svcca,
    "pwcca": pwcca,
    "rbf_cka": rbf_cka,
    "mutual_neighbours": mutual_neighbours,
    "regression": regression,
}
"""The comparisons by the names that commands use."""


def measure(name: str) -> Callable[[Centred, Centred], float]:
    """Return a comparison by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in MEASURES:
        raise UserError(f"there is no comparison '{name}'; {choices(name, MEASURES)}")
    return MEASURES[name]


def chance(
    compare: Callable[[Centred, Centred], float],
    x: Centred,
    y: Centred,
    *,
    permutations: int = 20,
    seed: int = 0,
) -> tuple[float, float]:
    """Return mean and largest value of a comparison over random orders of the second layer's samples: what unrelated samples give."""
    generator = torch.Generator().manual_seed(seed)
    values = [
        compare(x, y.permuted(torch.randperm(len(y.gram), generator=generator).to(y.gram.device)))
        for _ in range(permutations)
    ]
    return sum(values) / len(values), max(values)


def _leading(layer: Centred, variance: float) -> Tensor:
    """The first left singular vectors that carry the share of variance, (n, k)."""
    vectors, sizes = layer.factors
    share = sizes.square().cumsum(0) / sizes.square().sum()
    return vectors[:, : int(torch.searchsorted(share, variance - 1e-12)) + 1]


def _squared_distances(layer: Centred) -> Tensor:
    lengths = layer.gram.diagonal()
    return (lengths[:, None] + lengths - 2 * layer.gram).clamp(min=0)


def _kernel(layer: Centred, width: float) -> Tensor:
    squares = _squared_distances(layer)
    n = len(squares)
    apart = squares[~torch.eye(n, dtype=torch.bool, device=squares.device)]
    # of samples most of which coincide this is 0 / 0
    return torch.exp(-squares / (2 * width**2 * apart.median()))


def _u_centred(gram: Tensor) -> Tensor:
    """Szekely and Rizzo 2014, definition 2: rows and columns of the off-diagonal part sum to 0."""
    n = len(gram)
    if n < 4:
        raise UserError(f"unbiased CKA needs at least 4 samples, got {n}")
    gram = gram.clone().fill_diagonal_(0)
    rows = gram.sum(dim=1, keepdim=True) / (n - 2)
    return (gram - rows - (rows.T - rows.sum() / (n - 1))).fill_diagonal_(0)
