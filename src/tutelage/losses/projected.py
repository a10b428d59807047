"""Losses between a student's projected features and its teacher's: normalised rows (n, width), or maps at several sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.precision import in_single


@in_single
def log_distance(student: Tensor, teacher: Tensor, *, power: float = 4.0) -> Tensor:
    """Logarithm of the summed |difference|^power, each dimension of both at mean 0 and variance 1 over the batch.

    student, teacher: (n, width) of the whole batch. The variance is the biased one, with 1e-4 added, as a batch norm's.
    Source: Miles and Mikolajczyk 2024, arXiv 2303.11098, section 3.2 and 3.3. Raises UserError on unequal shapes.
    """
    _equal(student, teacher)
    mine, theirs = (F.batch_norm(x, None, None, training=True, eps=1e-4) for x in (student, teacher))
    total = (mine - theirs).abs().pow(power).sum()
    return (
        total + torch.finfo(total.dtype).tiny
    ).log()  # finite, with a gradient of 0, where nothing differs


@in_single
def normalised_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 distance (Huber's, with its bend at 1) of the student's from the teacher's row at mean 0 and variance 1, a mean.

    Source: Miles, Elezi and Deng 2024, arXiv 2403.06213, and its code. Raises UserError on unequal shapes.
    """
    _equal(student, teacher)
    return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[1:]))


@in_single
def hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of maps, and of both averaged down to 4, 2 and 1 positions a side, where that is smaller.

    student, teacher: (n, channels, height, width). Weights 1, 1/2, 1/4, 1/8 of the sizes that there are, in this order, to a sum of 1.
    Source: Chen et al. 2021 (ReviewKD, its hierarchical context loss), arXiv 2104.09044. Raises UserError on unequal shapes.
    """
    if student.shape != teacher.shape or student.ndim != 4:
        raise UserError(
            f"the hierarchical loss needs maps (n, channels, height, width) alike, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    apart = finest = student - teacher
    for side in (4, 2, 1):
        if side < min(student.shape[2:]):
            weight /= 2
            if all(size % side == 0 for size in student.shape[2:]):  # then the next is an average of these
                cells = finest.shape[2] // side, finest.shape[3] // side
                averages = finest = F.avg_pool2d(finest, cells)
            else:
                averages = F.adaptive_avg_pool2d(apart, side)
            total, weights = total + weight * (averages * averages).mean(), weights + weight
    return total / weights


def _equal(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.ndim != 2:
        raise UserError(
            f"projected features must be (n, width) alike, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
