"""Variational information distillation: the teacher's features under a Gaussian that the student's predict."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.precision import in_single


@in_single
def gaussian(predicted: Tensor, teacher: Tensor, raw_variance: Tensor, *, floor: float = 1e-5) -> Tensor:
    """Mean negative log-likelihood of the teacher's features under N(predicted, the channel's variance), but for log(2 pi) / 2.

    predicted, teacher: (n, channels, height, width), (n, length, width) or (n, width). raw_variance: (channels,); the variance is its
    softplus plus `floor`. Source: Ahn et al. 2019, arXiv 1904.05835, eq. 4 and 5. Raises UserError on unequal shapes.
    """
    if predicted.shape != teacher.shape:
        raise UserError(
            f"the teacher's features {tuple(teacher.shape)} and their prediction {tuple(predicted.shape)} must have one shape"
        )
    variance = F.softplus(raw_variance) + floor
    apart = predicted - teacher
    squares = (apart * apart).mean(dim=(0, 2, 3) if predicted.ndim == 4 else tuple(range(predicted.ndim - 1)))
    return 0.5 * (squares / variance + variance.log()).mean()
