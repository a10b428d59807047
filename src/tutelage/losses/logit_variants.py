"""Losses between logits beyond soft targets: relations, levels, standardised ones, labels that a network makes itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.losses.distillation import check_classes, soft_target
from tutelage.losses.precision import in_single, on_cpu_and_all


@in_single
def standardised(logits: Tensor) -> Tensor:
    """Logits with each row shifted to mean 0 and scaled to deviation 1, so that a student need not match its teacher's range.

    Apply it to both sides before any loss of logits; a temperature then acts on standardised ones.

    Args:
        logits: (n, classes), at least 2 classes; the deviation is that of a sample (n - 1), as released.

    Returns:
        (n, classes); zeros where a row is constant. Invariant to a shift and a positive scale of each row.

    Source: Sun et al. 2024, arXiv 2403.01427 with its code's 1e-7 beside the deviation.
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    squares = (centred * centred).sum(dim=-1, keepdim=True) / (logits.shape[-1] - 1)
    # A constant row has no direction: zero, and without the gradient of a root at 0.
    varies = squares != 0
    if on_cpu_and_all(varies):
        return centred / (squares.sqrt() + 1e-7)
    deviation = squares.where(varies, 1.0).sqrt()
    return torch.where(varies, centred / (deviation + 1e-7), 0.0)


@in_single
def correlation(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    between_classes: float,
    between_samples: float,
) -> Tensor:
    """DIST: one minus Pearson's correlation of softened predictions, along classes and along samples, times T^2.

    Args:
        student: logits (n, classes); along samples the whole batch counts, so bring that of all ranks together.
        teacher: logits (n, classes).
        temperature: T, of both.
        between_classes: weight (beta) of 1 - correlation of a sample's class probabilities, mean over samples.
        between_samples: weight (gamma) of 1 - correlation of a class's probabilities over the batch, mean over classes.

    Returns:
        One number; 0 where each row, and each column, of the student is a positive multiple of the teacher's plus a constant.

    Raises:
        UserError: the shapes differ.

    Source: Huang et al. 2022, arXiv 2205.10536.
    """
    check_classes(student, teacher)
    mine, theirs = (F.softmax(x / temperature, dim=1) for x in (student, teacher))
    rows, columns = (1 - _pearson(mine, theirs, axis).mean() for axis in (1, 0))
    return (between_classes * rows + between_samples * columns) * temperature**2


def _pearson(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Correlation along an axis of equal matrices; 0 where one does not vary."""
    x, y = (v - v.mean(dim=axis, keepdim=True) for v in (x, y))
    norms = (x * x).sum(dim=axis) * (y * y).sum(dim=axis)
    if on_cpu_and_all(norms > 1e-36):
        return (x * y).sum(dim=axis) / norms.sqrt()
    # Of confident predictions whole columns are tiny: squares of them vanish, and the slope of the root of what is left overflows.
    x, y = (v / v.detach().abs().amax(dim=axis, keepdim=True).clamp(min=1e-36) for v in (x, y))
    norms = (x * x).sum(dim=axis) * (y * y).sum(dim=axis)
    varies = ~(norms < 1)  # what is below 1e-36 counts as constant; what is NaN stays it
    return torch.where(varies, (x * y).sum(dim=axis) / norms.where(varies, 1.0).sqrt(), 0.0)


@in_single
def normalised(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    other_weight: float,
) -> Tensor:
    """NKD: the target's soft label, and the others' distribution renormalised without the target.

    Args:
        student: logits (n, classes), at least 2 classes.
        teacher: logits (n, classes).
        targets: (n,) true classes.
        temperature: T of the others' part; the target's has none.
        other_weight: gamma, times T^2.

    Returns:
        (n,), one for each row: -p_teacher(target) log p_student(target), plus other_weight T^2 times the cross-entropy among the others.

    Raises:
        UserError: the shapes differ.

    Source: Yang et al. 2023, arXiv 2303.13005.
    """
    check_classes(student, teacher)
    label = targets[:, None]
    log_p = F.log_softmax(student, dim=1).gather(1, label)[:, 0]
    weight = F.softmax(teacher, dim=1).gather(1, label)[:, 0]
    place = torch.arange(student.shape[1] - 1, device=targets.device)
    others = place + (place >= label)
    mine, theirs = (x.gather(1, others) / temperature for x in (student, teacher))
    rest = -(F.softmax(theirs, dim=1) * F.log_softmax(mine, dim=1)).sum(dim=1)
    return -weight * log_p + other_weight * temperature**2 * rest


@in_single
def multi_level(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float]) -> Tensor:
    """MLKD's three levels, summed over temperatures: each sample's prediction, relations among samples, relations among classes.

    Args:
        student: logits (n, classes) of the whole batch.
        teacher: logits (n, classes).
        temperatures: each softens all three levels; the paper has 2, 3, 4, 5 and 6.

    Returns:
        (3,): the mean of `soft_target` over samples; ||P P^T - Q Q^T||^2 / n of the predictions P and Q (n, classes);
        ||P^T P - Q^T Q||^2 / classes. Zero where the predictions agree.

    Raises:
        UserError: the shapes differ.

    Source: Jin, Wang, Lin 2023 (Multi-level Logit Distillation, CVPR). Deviation: none of its masks by confidence, whose
    released form multiplies each level by the share of samples (or classes) that pass, about one half.
    """
    check_classes(student, teacher)
    levels = student.new_zeros(3)
    for temperature in temperatures:
        mine, theirs = (F.softmax(x / temperature, dim=1) for x in (student, teacher))
        samples = F.mse_loss(mine @ mine.T, theirs @ theirs.T, reduction="sum") / len(mine)
        classes = F.mse_loss(mine.T @ mine, theirs.T @ theirs, reduction="sum") / mine.shape[1]
        single = soft_target(student, teacher, temperature=temperature).mean()
        levels = levels + torch.stack([single, samples, classes])
    return levels


@in_single
def adapted(
    student: Tensor, teacher: Tensor, targets: Tensor, *, temperature: float, emphasis: float
) -> Tensor:
    """OFA's loss: soft targets in which the true class's part grows with the teacher's confidence in it.

    Args:
        student: logits (n, classes), of the network or of a branch.
        teacher: logits (n, classes).
        targets: (n,) true classes.
        temperature: T, of both.
        emphasis: the exponent gamma of 1 + p_teacher(target) and of the others' probabilities; 1: plain soft targets.

    Returns:
        (n,), one for each row: -sum_c ((p_teacher(c) + [c is the target])^gamma - [c is the target]) log p_student(c). No T^2.

    Raises:
        UserError: the shapes differ.

    Source: Hao et al. 2023, arXiv 2310.19444, eq. 5 and its code.
    """
    check_classes(student, teacher)
    true = F.one_hot(targets, student.shape[1]).to(student.dtype)
    wanted = (F.softmax(teacher / temperature, dim=1) + true).pow(emphasis) - true
    return -(wanted * F.log_softmax(student / temperature, dim=1)).sum(dim=1)


@in_single
def self_taught(
    student: Tensor,
    weak: Tensor,
    targets: Tensor,
    *,
    mean_square: Tensor,
    other_weight: float,
    weak_weight: float,
    smoothing: float = 0.1,
) -> Tensor:
    """USKD: labels that a network without a teacher makes of its own logits and of those of a weak branch.

    Args:
        student: logits (n, classes), at least 2 classes.
        weak: logits (n, classes) of a branch on an inner layer.
        targets: (n,) true classes.
        mean_square: mean of p_student(target)^2 over the whole batch, one number.
        other_weight: beta, of the other classes' part.
        weak_weight: mu, of the weak branch's cross-entropy with smoothed labels.
        smoothing: of those labels.

    Returns:
        (n,), one for each row: -V log p_student(target) with V = p^2 + 1 - mean_square, a constant; beta times the cross-entropy among the
        other classes from Zipf's law, 1 / rank to a sum of 1, ranks by both branches' probabilities among the others, added;
        mu times the weak branch's cross-entropy.

    Raises:
        UserError: the shapes differ.

    Source: Yang et al. 2023, arXiv 2303.13005. Deviations from its code, which adds a probability to a log-probability to rank, and lets
    the true class take a rank: here probabilities are added, and ranks are those among the others.
    """
    check_classes(student, weak)
    label = targets[:, None]
    log_p = F.log_softmax(student, dim=1)
    true = log_p.gather(1, label)[:, 0]
    value = (true.exp().square() + 1 - mean_square).detach()
    place = torch.arange(student.shape[1] - 1, device=targets.device)
    others = place + (place >= label)
    mine, theirs = (x.gather(1, others) for x in (student, weak))
    both = (F.softmax(mine, dim=1) + F.softmax(theirs, dim=1)).detach()
    ranks = both.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    zipf = 1 / ranks.to(student.dtype)
    rest = -(zipf / zipf.sum(dim=1, keepdim=True) * F.log_softmax(mine, dim=1)).sum(dim=1)
    weakly = F.cross_entropy(weak, targets, reduction="none", label_smoothing=smoothing)
    return -value * true + other_weight * rest + weak_weight * weakly
