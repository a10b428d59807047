"""Contrast of a sample's pair with pairs of other samples."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from tutelage.losses.precision import in_single


@in_single
def noise_contrast(positive: Tensor, negative: Tensor, log_normaliser: Tensor, *, samples: int) -> Tensor:
    """Negative log-likelihood of telling a true pair from pairs with noise, summed over a sample's pairs, (n,).

    positive: (n,) scores of the true pairs. negative: (n, k) scores of pairs with samples drawn evenly from `samples`.
    log_normaliser: log Z, one number: exp(score) / Z is taken for a density over the samples. With p = exp(score) / Z and noise of density
    1 / samples, a pair is true with probability p / (p + k / samples).
    Source: Tian et al. 2020, arXiv 1910.10699, eq. 18 and 19, as in its code, whose 1e-7 beside p is left out.
    """
    shift = log_normaliser + math.log(negative.shape[1] / samples)
    return -F.logsigmoid(positive - shift) - F.logsigmoid(shift - negative).sum(dim=1)
