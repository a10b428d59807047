"""Similarities of two representations of the same samples, each differentiable in the network's features.

All are invariant to rotation and isotropic scale of either side (ridge, through its penalty and projection, to scale alone), lie in
[-1, 1], are 1 for equal features (ridge, which predicts half of the samples from the other half, only where that half says enough),
computed in float32 inside autocast, and finite in value and gradient on constant, tiny and huge features. The guide's side is a
constant.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tutelage.alignment import procrustes, token_cka
from tutelage.alignment import ridge as ridge_regression
from tutelage.alignment.feature_rows import Padding, to_single
from tutelage.alignment.gram import Form, GramScores, Kind, embed
from tutelage.alignment.products import Precision
from tutelage.errors import UserError, choices


class Similarity(nn.Module, ABC):
    """Encodes each guide layer once, then scores network layers against it. A module, so that one may have parameters, trained along."""

    name: str
    minimum_rows: int

    @abstractmethod
    def encode(self, features: Tensor, mask: Tensor | None = None) -> Any:
        """Return what a guide's features (n, d) are compared through. mask: (n,) bool, rows that count; None: all."""

    @abstractmethod
    def scores(
        self, features: Sequence[Tensor], references: Sequence[Sequence[Any]], mask: Tensor | None = None
    ) -> Tensor:
        """Return one score per pair, (pairs,), differentiable: features of each network layer against each of its references."""

    def encode_padded(self, features: Tensor, padding: Padding) -> Any:
        """Return `encode` of features whose padding counts as zero."""
        return self.encode(padding.zeroed(features))

    def scores_padded(
        self,
        features: Sequence[Tensor],
        references: Sequence[Sequence[Any]],
        paddings: Sequence[Padding | None],
    ) -> Tensor:
        """Return `scores` of features of which each layer's padding counts as zero (None: it has none)."""
        cleared = [x if p is None else p.zeroed(x) for x, p in zip(features, paddings, strict=True)]
        return self.scores(cleared, references)

    def for_tokens(self) -> Similarity:
        """Return the same measure in the form that suits rows which outnumber features, as tokens do."""
        return self

    def check_rows(self, rows: int) -> None:
        """Raise UserError when the similarity is not defined for so few rows."""
        if rows < self.minimum_rows:
            raise UserError(
                f"the similarity '{self.name}' needs a batch of at least {self.minimum_rows} "
                f"samples (rows that are not padding), got {rows}"
            )

    def forward(self, network: Tensor, guide: Tensor) -> Tensor:
        """Return the similarity of features (n, d) and (n, e), a scalar, differentiable in the first."""
        if network.ndim != 2 or guide.ndim != 2 or len(network) != len(guide):
            raise UserError(
                f"a similarity compares features (n, d) and (n, e), got {tuple(network.shape)} and {tuple(guide.shape)}"
            )
        self.check_rows(len(network))
        return self.scores([network], [[self.encode(guide)]])[0]


class GramSimilarity(Similarity):
    """A cosine between two n x n matrices: right where features outnumber samples. See `gram`."""

    def __init__(self, kind: Kind, precision: Precision = "float32", block: int | None = None) -> None:
        super().__init__()
        self.name, self.form = kind, Form(kind, precision, block)
        self.minimum_rows = {"unbiased_cka": 4}.get(kind, 3)

    def encode(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Similarity.encode`: a unit matrix (n, n)."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return embed(_kept(to_single(features), mask).unsqueeze(0), self.form).unit[0]

    def encode_padded(self, features: Tensor, padding: Padding) -> Tensor:
        """See `Similarity.encode_padded`."""
        with padding.emptied(features) as seen:
            return self.encode(seen)

    def scores(
        self, features: Sequence[Tensor], references: Sequence[Sequence[Any]], mask: Tensor | None = None
    ) -> Tensor:
        """See `Similarity.scores`."""
        kept = [_kept(x, mask) for x in features]
        return GramScores.apply(self.form, references, [None] * len(kept), *kept)

    def scores_padded(
        self,
        features: Sequence[Tensor],
        references: Sequence[Sequence[Any]],
        paddings: Sequence[Padding | None],
    ) -> Tensor:
        """See `Similarity.scores_padded`."""
        return GramScores.apply(self.form, references, paddings, *features)


class CKA(GramSimilarity):
    """Linear CKA (Kornblith et al. 2019, arXiv 1905.00414), see `cka`.

    unbiased: with the estimator HSIC_1 of Song et al. 2012. precision: "float32", or "bfloat16": Gram matrices of values rounded to 8 bits,
    summed in float32, half of the time where a processor multiplies bfloat16; scores move by some 1e-4, gradients by 0.2 %.
    block: compare so many samples at a time: a batch is cut into equal blocks of at least as many, and HSIC is summed over blocks before
    the ratio (minibatch CKA, arXiv 2010.15327, there with the unbiased estimator). Costs n * block (d + e) for n samples, not
    n^2 (d + e). None: all at a time. Biased CKA of fewer samples is nearer 1, whatever is compared.
    """

    def __init__(
        self, *, unbiased: bool = False, precision: Precision = "float32", block: int | None = None
    ) -> None:
        if precision not in get_args(Precision):
            raise UserError(
                f"`precision`={precision!r} is not known; {choices(precision, get_args(Precision))}"
            )
        super().__init__("unbiased_cka" if unbiased else "cka", precision, block)
        self.unbiased = unbiased
        if block is not None and (not isinstance(block, int) or block < self.minimum_rows):
            raise UserError(
                f"`block`={block!r} must be a whole number of at least {self.minimum_rows}, the fewest samples that {self.name} compares; "
                "null: all of a batch"
            )

    def for_tokens(self) -> Similarity:
        """See `Similarity.for_tokens`: from d x d products, which have one precision."""
        if self.form.block is not None:
            raise UserError(
                f"`block`={self.form.block} is for samples: tokens are compared in products whose cost grows with "
                "their number, not with its square; leave it at null, and draw fewer with `tokens_per_step`"
            )
        if self.form.precision != "float32":
            raise UserError(
                "CKA from bfloat16 (cka_bfloat16) is for samples: tokens are compared in float32; choose the similarity cka"
            )
        return TokenCKA(unbiased=self.unbiased)


class RSA(GramSimilarity):
    """Pearson correlation of both sides' cosine dissimilarities between samples, see `rsa`.

    whole: over the whole n x n matrix, its diagonal of ones included, as the code released with arXiv 2410.20035 takes it: near 0.9 for
    independent features. Without, over the n (n - 1) / 2 pairs of distinct samples.
    """

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__("rsa_whole" if whole else "rsa")


class TokenCKA(Similarity):
    """CKA (biased or unbiased) from d x d products: the same values, right where rows outnumber features. See `tokens`."""

    def __init__(self, *, unbiased: bool = False) -> None:
        super().__init__()
        self.name, self.unbiased = "unbiased_cka" if unbiased else "cka", unbiased
        self.minimum_rows = 4 if unbiased else 2

    def encode(self, features: Tensor, mask: Tensor | None = None) -> token_cka.Rows:
        """See `Similarity.encode`: centred rows (n, d), which are held until the backward pass."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return token_cka.encode(to_single(features), mask, unbiased=self.unbiased)[0]

    def scores(
        self, features: Sequence[Tensor], references: Sequence[Sequence[Any]], mask: Tensor | None = None
    ) -> Tensor:
        """See `Similarity.scores`."""
        return token_cka.TokenScores.apply(self.unbiased, mask, references, *features)


class Ridge(Similarity):
    """Cosine of a ridge prediction of the guide's features, fitted on half of the batch, scored on the other. See `ridge`.

    penalty: lambda, above 0 (the paper's 10 or 100). projection_size: columns after the sparse random projection of wider features.
    seed: of the projection.
    """

    def __init__(self, *, penalty: float = 10.0, projection_size: int = 1024, seed: int = 0) -> None:
        super().__init__()
        if not penalty > 0:
            raise UserError(f"the ridge penalty must be above 0, got {penalty}")
        if projection_size < 1:
            raise UserError(f"the projection must have at least 1 column, got {projection_size}")
        self.name, self.minimum_rows = "ridge", 4
        self.penalty, self.size, self.seed = penalty, projection_size, seed

    def _prepare(self, features: Tensor, mask: Tensor | None) -> Tensor:
        return ridge_regression.prepare(_kept(features, mask), size=self.size, seed=self.seed)

    def encode(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Similarity.encode`: projected, centred, scaled features."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return self._prepare(features, mask)

    def scores(
        self, features: Sequence[Tensor], references: Sequence[Sequence[Any]], mask: Tensor | None = None
    ) -> Tensor:
        """See `Similarity.scores`."""
        score = functools.partial(ridge_regression.score, penalty=self.penalty)
        return _one_by_one(features, references, lambda layer: self._prepare(layer, mask), score)


class Procrustes(Similarity):
    """Cosine of the angular Procrustes distance (Williams et al. 2021, arXiv 2110.14739), as in `analyse similarity`.

    The nuclear norm of X^T Y over both Frobenius norms, of centred features: 1 only where they differ by rotation and scale alone. It
    weighs directions by their deviations, CKA by their variances, so that CKA says less of all but the largest (as losses: arXiv
    2509.25253). The squared distance of the centred Gram matrices (n, n), each of norm 1, is 2 - 2 CKA: see `Gram`.
    Costs an eigendecomposition for each pair, of the smallest of n and both widths, in double precision.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name, self.minimum_rows = "procrustes", 3

    def encode(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Similarity.encode`: centred, scaled, of no more columns than rows."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return procrustes.reduced(procrustes.centred(_kept(features, mask)))

    def scores(
        self, features: Sequence[Tensor], references: Sequence[Sequence[Any]], mask: Tensor | None = None
    ) -> Tensor:
        """See `Similarity.scores`."""
        return _one_by_one(
            features,
            references,
            lambda layer: procrustes.centred(_kept(layer, mask)),
            lambda rows, guide: procrustes.nuclear(rows.T @ guide),
        )


class Gram(Similarity):
    """1 - |K - L| / sqrt(2) of the centred Gram matrices K and L (n, n), each of norm 1, which is 1 - sqrt(1 - CKA), from 0 to 1.

    The distance, not its square, as a loss (arXiv 2509.25253, which does not scale them): it ranks as CKA does, but its slope does not fade
    as the two become alike. Costs a product n x n in double precision for each layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name, self.minimum_rows = "gram", 3

    def encode(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Similarity.encode`: a unit matrix (n, n)."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return procrustes.gram_of(procrustes.centred(_kept(features, mask)))

    def scores(
        self, features: Sequence[Tensor], references: Sequence[Sequence[Any]], mask: Tensor | None = None
    ) -> Tensor:
        """See `Similarity.scores`."""
        return _one_by_one(
            features,
            references,
            lambda layer: procrustes.gram_of(procrustes.centred(_kept(layer, mask))),
            procrustes.gram_score,
        )


def _one_by_one(
    features: Sequence[Tensor],
    references: Sequence[Sequence[Any]],
    prepare: Callable[[Tensor], Tensor],
    score: Callable[[Tensor, Any], Tensor],
) -> Tensor:
    """Return a score for each pair, (pairs,); each of the network's layers is prepared once."""
    with torch.autocast(features[0].device.type, enabled=False):
        found = [
            score(mine, guide)
            for layer, guides in zip(features, references, strict=True)
            for mine in [prepare(layer)]
            for guide in guides
        ]
        return torch.stack(found).to(to_single(features[0]).dtype)


def _kept(features: Tensor, mask: Tensor | None) -> Tensor:
    return features if mask is None else features[mask]


def cka(network: Tensor, guide: Tensor, *, unbiased: bool = False) -> Tensor:
    """Return linear CKA of features (n, d) and (n, e) (Kornblith et al. 2019, arXiv 1905.00414), a scalar.

    Biased: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with HSIC = tr(HKH HLH), as in arXiv 2410.20035; it is near 1 for any features that
    outnumber the samples. unbiased: with the estimator HSIC_1 of Song et al. 2012 (JMLR 13), n >= 4; then near 0 for independent ones.
    Costs n^2 (d + e), or n d e where samples outnumber both widths.
    """
    wide = max(network.shape[1], guide.shape[1]) >= len(network)
    measure = CKA(unbiased=unbiased)
    return (measure if wide else measure.for_tokens())(network, guide)


def rsa(network: Tensor, guide: Tensor, *, whole: bool = False) -> Tensor:
    """Return the Pearson correlation of both sides' cosine dissimilarities between samples, a scalar; whole: see `RSA`."""
    return RSA(whole=whole)(network, guide)


def ridge(
    network: Tensor, guide: Tensor, *, penalty: float = 10.0, projection_size: int = 1024, seed: int = 0
) -> Tensor:
    """Return the ridge score of features (n, d) and (n, e), a scalar; see `Ridge`."""
    return Ridge(penalty=penalty, projection_size=projection_size, seed=seed)(network, guide)
