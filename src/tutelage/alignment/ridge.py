"""How well a ridge regression from the network's features predicts the guide's: fitted on half of the batch, scored on the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import rescaled, to_single

_PROJECTIONS: dict[tuple[int, int, int, torch.device], tuple[Tensor, Tensor]] = {}


def projection(width: int, size: int, *, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a very sparse random projection (size, width) and its transpose, as sparse matrices.

    Entries are +-sqrt(s / size) with probability 1 / (2 s) each and else 0, s = sqrt(width) (Li, Hastie, Church 2006, after
    Achlioptas 2003): squared lengths are kept in expectation. The same for the same width, size and seed on every device.
    """
    key = (width, size, seed, device)
    if key not in _PROJECTIONS:
        sparsity = math.sqrt(width)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + width)
        expected = size * width / sparsity
        # Gaps between successes of independent trials are geometric: drawing them skips the zeros.
        gaps = torch.empty(int(expected + 8 * math.sqrt(expected) + 8), dtype=torch.int64)
        places = gaps.geometric_(1 / sparsity, generator=generator).cumsum(0) - 1
        places = places[places < size * width]
        signs = torch.randint(2, (len(places),), generator=generator) * 2.0 - 1.0
        indices = torch.stack([places // width, places % width])
        matrix = torch.sparse_coo_tensor(
            indices,
            signs * math.sqrt(sparsity / size),
            (size, width),
            is_coalesced=True,
            check_invariants=False,
        )
        _PROJECTIONS[key] = (matrix.to(device), matrix.t().coalesce().to(device))
    return _PROJECTIONS[key]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, features: Tensor, matrix: Tensor, back: Tensor
    ) -> Tensor:
        ctx.back = back  # type: ignore[attr-defined]
        return torch.sparse.mm(matrix, features.T.contiguous()).T

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.sparse.mm(ctx.back, gradient.T.contiguous()).T, None, None  # type: ignore[attr-defined]


def prepare(features: Tensor, *, size: int, seed: int) -> Tensor:
    """Return features (n, d) in float32, projected to `size` columns where wider, centred and scaled to unit mean square.

    Centre and scale are those of the rows that the regression is fitted on, the first half. Differentiable; finite throughout.
    """
    features = rescaled(to_single(features))[0]
    if features.shape[1] > size:
        matrix, back = projection(features.shape[1], size, seed=seed, device=features.device)
        features = _Project.apply(features, matrix.to(features.dtype), back.to(features.dtype))
    fit = features[: len(features) // 2]
    features = features - fit.mean(0)
    square = (fit - fit.mean(0)).square().mean()
    floor = (4 * torch.finfo(features.dtype).eps) ** 2
    varied = square > floor
    return features * torch.where(varied, torch.where(varied, square, 1).rsqrt(), 0)


def score(predictors: Tensor, outcomes: Tensor, *, penalty: float) -> Tensor:
    """Return the mean cosine, over the second half's rows, between predicted and actual outcomes.

    predictors (n, d), outcomes (n, e): as `prepare` gives them. penalty: lambda of |Y - X W|^2 + lambda |W|^2, on features of unit
    mean square. Solved in the smaller of d and n / 2 unknowns, in double precision where the penalty is below 1 and would drown in the
    rounding of single products (features of low rank, dead units).
    """
    half = len(predictors) // 2
    single = predictors.dtype
    if penalty < 1 and predictors.device.type != "mps":  # which has no double precision
        predictors, outcomes = predictors.double(), outcomes.double()
    x, y = predictors[:half], outcomes[:half]
    if predictors.shape[1] <= half:
        weights = _solve(x.T @ x, x.T @ y, penalty)
        predicted = predictors[half:] @ weights
    else:
        predicted = (predictors[half:] @ x.T) @ _solve(x @ x.T, y, penalty)
    # An all-zero prediction has no direction: cosine 0, gradient 0.
    return (
        torch.nn.functional.cosine_similarity(predicted, outcomes[half:], dim=1, eps=1e-6).mean().to(single)
    )


def _solve(matrix: Tensor, right: Tensor, penalty: float) -> Tensor:
    regular = matrix + penalty * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    # A factorisation that fails gives a loss that is not finite, which training names, and no device waits.
    factor, info = torch.linalg.cholesky_ex(regular)
    return torch.cholesky_solve(right, torch.where(info > 0, torch.nan, factor))
