"""How the task and the alignment are weighed against each other over training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutelage.alignment.gather import world_size
from tutelage.errors import UserError, choices

SCHEDULES = ("always", "until", "alignment_first", "linear", "cosine", "uncertainty", "gradient_norm")
_NEEDS_STEPS = ("until", "alignment_first")


def check(schedule: str, steps: int | None) -> None:
    """Raise UserError for an unknown schedule, or for steps that are missing or not positive."""
    if schedule not in SCHEDULES:
        raise UserError(f"no alignment schedule is named {schedule!r}; {choices(schedule, SCHEDULES)}")
    if steps is None and schedule in _NEEDS_STEPS:
        raise UserError(f"the schedule '{schedule}' needs schedule_steps, the number of steps it lasts")
    if steps is not None and schedule not in (*_NEEDS_STEPS, "linear", "cosine"):
        raise UserError(
            f"schedule_steps={steps} means nothing to the schedule '{schedule}': drop it, or choose another schedule"
        )
    if steps is not None and steps < 1:
        raise UserError(f"schedule_steps must be at least 1, got {steps}")


def factors(schedule: str, step: int, *, steps: int | None, max_steps: int) -> tuple[float, float]:
    """Return what multiplies the weights of (task, alignment) at the update numbered `step`, from 0.

    always: (1, 1). until: the alignment ends after `steps`, as the released code's early stop. alignment_first: the alignment alone
    for `steps`, then the task alone (guidance as initialisation, arXiv 2410.20035). linear, cosine: the alignment falls from 1 to 0
    over `steps` (None: over the whole run, `max_steps`) and stays there. The adaptive schedules weigh elsewhere: (1, 1).
    """
    if schedule == "until":
        return 1.0, float(step < (steps or 0))
    if schedule == "alignment_first":
        return (0.0, 1.0) if step < (steps or 0) else (1.0, 0.0)
    if schedule in ("linear", "cosine"):
        progress = min(1.0, step / max(1, steps or max_steps))
        return 1.0, 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0, 1.0


class Schedule(nn.Module):
    """The weights of two loss terms, task and alignment, over training: a fixed course, or a learned balance that is part of a checkpoint.

    name, steps: see `factors`. Raises UserError for what is unknown or missing.
    """

    def __init__(self, name: str, steps: int | None = None) -> None:
        super().__init__()
        check(name, steps)
        self.name, self.steps = name, steps
        self.learned: UncertaintyWeights | GradientBalance | None = None
        if name == "uncertainty":
            self.learned = UncertaintyWeights(2)
        elif name == "gradient_norm":
            self.learned = GradientBalance(2)

    def factors(self, step: int, max_steps: int) -> tuple[float, float]:
        """Return `factors` of this schedule."""
        return factors(self.name, step, steps=self.steps, max_steps=max_steps)

    def balance(self, losses: Tensor, shared: nn.Parameter | None) -> Tensor:
        """Let a learned balance see both losses, (2,), and return them, values unchanged.

        shared: a parameter that both depend on, for the balance by gradient norms.
        """
        if isinstance(self.learned, UncertaintyWeights):
            return self.learned.regularised(losses)
        if isinstance(self.learned, GradientBalance) and shared is not None:
            gradients = torch.stack(
                [torch.autograd.grad(loss, shared, retain_graph=True)[0] for loss in losses.unbind()]
            )
            values = losses.detach().clone()
            if world_size() > 1:  # those of the global batch, so that the weights stay the same on every rank
                torch.distributed.all_reduce(gradients)
                torch.distributed.all_reduce(values)
            slopes = (gradients / world_size()).flatten(1).norm(dim=1).to(losses.dtype)
            self.learned.update(values / world_size(), slopes)
        return losses

    def weights(self, step: int, max_steps: int) -> Sequence[float | Tensor]:
        """Return what multiplies the weights of (task, alignment) now."""
        return self.factors(step, max_steps) if self.learned is None else self.learned.weights().unbind()


class UncertaintyWeights(nn.Module):
    """Learned weights exp(-s) of each loss, s = log variance (Kendall, Gal, Cipolla 2018, arXiv 1705.07115, eq. 10).

    The total is the sum over losses of exp(-s) loss + s / 2; s starts at 0, so that every weight starts at 1. Deviation: the paper halves
    the weight of regression losses; here both losses keep the full weight, so that the start is the unlearned sum.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(count))

    def weights(self) -> Tensor:
        """Return the weights, (count,), differentiable."""
        return torch.exp(-self.log_variances)

    def regularised(self, losses: Tensor) -> Tensor:
        """Return the losses (count,) with unchanged values, which once weighted also carry the gradient of s / 2.

        The regulariser moves s alone: its value would blur the record of the losses.
        """
        s = self.log_variances
        return losses + 0.5 * (s - s.detach()) * torch.exp(s.detach())


class GradientBalance(nn.Module):
    """Weights that keep the gradient norms of the losses at a common rate (GradNorm: Chen et al. 2018, arXiv 1711.02257).

    asymmetry: the paper's alpha, how strongly a loss that falls slowly is favoured. lr: of the weights.
    Deviation: plain gradient steps on the weights, as the paper's Algorithm 1 is written, with a floor that keeps them positive.
    """

    weight: Tensor
    first_losses: Tensor

    def __init__(self, count: int, *, asymmetry: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        self.asymmetry, self.lr = asymmetry, lr
        self.register_buffer("weight", torch.ones(count))
        self.register_buffer("first_losses", torch.zeros(count))

    def weights(self) -> Tensor:
        """Return the weights, (count,)."""
        return self.weight

    @torch.no_grad()
    def update(self, losses: Tensor, norms: Tensor) -> None:
        """Move the weights one step; their sum stays `count`.

        losses: (count,) unweighted. norms: (count,) gradient norms of the unweighted losses on shared parameters.
        No host synchronisation.
        """
        losses, norms = losses.detach().float(), norms.float()
        self.first_losses.copy_(torch.where(self.first_losses == 0, losses, self.first_losses))
        rate = losses / self.first_losses.clamp_min(torch.finfo(torch.float32).tiny)
        rate = rate / rate.mean().clamp_min(torch.finfo(torch.float32).tiny)
        weighted = self.weight * norms
        target = weighted.mean() * rate**self.asymmetry
        step = self.lr * torch.sign(weighted - target) * norms
        # The paper's step is in units of the norms; relative to their mean it does not depend on the losses' scale.
        moved = self.weight - step / norms.mean().clamp_min(torch.finfo(torch.float32).tiny)
        moved = moved.clamp_min(1e-3)
        self.weight.copy_(moved * (len(moved) / moved.sum()))
