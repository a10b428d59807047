"""Losses between a student's projected features and its teacher's normalised ones, (n, width) both."""

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
    return total.clamp(min=torch.finfo(total.dtype).tiny).log()


@in_single
def normalised_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 distance (Huber's, with its bend at 1) of the student's from the teacher's row at mean 0 and variance 1, a mean.

    Source: Miles, Elezi and Deng 2024, arXiv 2403.06213, and its code. Raises UserError on unequal shapes.
    """
    _equal(student, teacher)
    return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[1:]))


def _equal(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.ndim != 2:
        raise UserError(
            f"projected features must be (n, width) alike, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
