"""The intrinsic dimension of a batch of features, as a differentiable function."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.precision import in_single

FLOOR = 1e-12  # of squared distances, in units of the batch's mean square


@in_single
def intrinsic_dimension(features: Tensor, *, neighbours: int = 20) -> Tensor:
    """Maximum-likelihood estimate of the dimension of the set that the samples lie on; features (n, ...), all but the first axis flattened.

    With T_j the distance to the j-th nearest other sample and k neighbours, 1 / dimension is the mean of log(T_k / T_j) over samples and
    j < k. Invariant to rotation, shift and scale. Samples that coincide are taken 1e-6 of the batch's spread apart; one that coincides
    with all its neighbours says nothing and is left out, and where every one does (a collapsed layer) the dimension is 0.
    Source: Levina and Bickel 2004, eq. 8, with the inverses averaged over samples, not the estimates (MacKay and Ghahramani 2005).
    Cost: one product of n^2 d and a sort of n^2. Raises UserError for fewer than 2 neighbours or n <= neighbours.
    """
    n = len(features)
    if neighbours < 2 or n <= neighbours:
        raise UserError(
            f"the intrinsic dimension of {n} samples cannot be told from {neighbours} neighbours: 2 to {n - 1} are possible"
        )
    rows = features.flatten(1)
    rows = rows - rows.mean(0)
    spread = rows.detach().square().sum(1).mean().sqrt()
    rows = rows / torch.where(spread > 0, spread, 1.0)
    # Differences of products are to be taken: in double precision where there is any.
    rows = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)
    lengths = rows.square().sum(1)
    squared = lengths.unsqueeze(1) + lengths - 2 * rows @ rows.T
    squared = squared.masked_fill(torch.eye(n, dtype=torch.bool, device=rows.device), torch.inf)
    nearest = squared.topk(neighbours, dim=1, largest=False).values.clamp(min=FLOOR)
    logs = nearest.log() / 2
    apart = nearest[:, -1] > FLOOR
    ratios = (logs[:, -1:] - logs[:, :-1]).mean(dim=1).where(apart, 0)
    inverse = ratios.sum() / apart.sum().clamp(min=1)
    return torch.where(apart.any(), 1 / inverse.clamp(min=1e-6), 0).to(features.dtype)
