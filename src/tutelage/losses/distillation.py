"""Losses between the outputs of a student and of its teacher. Gradients flow to the student alone if the teacher's are detached."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.precision import in_single
from tutelage.tasks.base import softened_divergence


@in_single
def soft_target(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of the outputs softened by T, times T^2, (n,), one for each row.

    student, teacher: logits (n, classes), or more axes before the last. The factor keeps the gradient's scale about constant in T. Zero
    where the logits differ by a constant per row. Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531. Raises UserError on unequal shapes.
    """
    check_classes(student, teacher)
    return softened_divergence(student, teacher, temperature) * temperature**2


@in_single
def logit_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared distance of the logits, (n,), one for each row.

    student, teacher: logits (n, classes), or more axes before the last. Source: Ba and Caruana 2014, arXiv 1312.6184, eq. 1; it is the
    limit of `soft_target` times the number of classes for high T and logits of mean 0 (arXiv 1503.02531, section 2.1). Raises UserError
    on unequal shapes.
    """
    check_classes(student, teacher)
    return 0.5 * F.mse_loss(student, teacher, reduction="none").sum(dim=-1)


@in_single
def jensen_shannon(student: Tensor, teacher: Tensor, *, beta: float) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, of the teacher's p and the student's q, (n,), one a row.

    student, teacher: logits (n, classes). beta: from 0 to 1; at 0 it is KL(p || q) and at 1 KL(q || p), which the gradient divided by
    beta, and by 1 - beta, tends to there. At most ln 2 between. Source: Agarwal et al. 2023, arXiv 2306.13649, section 2 (the
    generalised Jensen-Shannon divergence). Raises UserError on unequal shapes.
    """
    check_classes(student, teacher)
    log_q, log_p = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)

    def divergence(of: Tensor, seen_from: Tensor) -> Tensor:
        return F.kl_div(seen_from, of, reduction="none", log_target=True).sum(dim=1)

    if beta in (0, 1):
        return divergence(log_q, log_p) if beta else divergence(log_p, log_q)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * divergence(log_p, log_m) + (1 - beta) * divergence(log_q, log_m)


@in_single
def decoupled(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    target_weight: float,
    other_weight: float,
) -> Tensor:
    """Decoupled knowledge distillation: alpha TCKD + beta NCKD, times T^2, (n,), one for each row.

    student, teacher: logits (n, classes), at least 2. targets: (n,) the true classes.
    target_weight (alpha): of the binary divergence of target against all others. other_weight (beta): of the divergence among the
    others, each renormalised without the target. With alpha = 1 and beta = the teacher's probability of "not the target" of each
    row this is `soft_target`. Source: Zhao et al. 2022, arXiv 2203.08679, eq. 7. Raises UserError on unequal shapes.
    """
    check_classes(student, teacher)
    classes = student.shape[1]
    place = torch.arange(classes - 1, device=targets.device)
    others = place + (place >= targets[:, None])  # the classes of each row without its target

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits / temperature, dim=1)
        rest = log_p.gather(1, others)
        log_binary = torch.stack([log_p.gather(1, targets[:, None])[:, 0], rest.logsumexp(dim=1)], dim=1)
        return log_binary, F.log_softmax(rest, dim=1)

    (binary, rest), (teacher_binary, teacher_rest) = parts(student), parts(teacher)
    target_part = F.kl_div(binary, teacher_binary, reduction="none", log_target=True).sum(dim=1)
    other_part = F.kl_div(rest, teacher_rest, reduction="none", log_target=True).sum(dim=1)
    return (target_weight * target_part + other_weight * other_part) * temperature**2


def check_classes(student: Tensor, teacher: Tensor) -> None:
    """Raise UserError where the outputs of student and teacher differ in shape."""
    if student.shape != teacher.shape:
        raise UserError(
            f"student and teacher must give outputs of one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "across label spaces the student needs an extra head of the teacher's classes"
        )
