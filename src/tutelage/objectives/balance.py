"""Weights that are learned, so that objectives of different scale share one network; part of a checkpoint."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from tutelage.alignment.gather import world_size
from tutelage.errors import UserError, choices


class Balance(nn.Module):
    """Learned factors on the weights of `count` objectives."""

    needs_shared = False
    """Whether it looks at gradients on a parameter that all objectives reach."""

    @abstractmethod
    def weights(self) -> Tensor:
        """Return the factors, (count,)."""

    @abstractmethod
    def see(self, losses: Tensor, shared: nn.Parameter | None) -> Tensor:
        """Look at the unweighted losses of a step, (count,), and return them, values unchanged."""


def balance_named(name: str, count: int) -> Balance:
    """Return a balance by name: uncertainty or gradient_norm. Raises UserError for another."""
    if name not in BALANCES:
        raise UserError(f"no balance of objectives is named {name!r}; {choices(str(name), BALANCES)}")
    return BALANCES[name](count)


class UncertaintyWeights(Balance):
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

    def see(self, losses: Tensor, shared: nn.Parameter | None) -> Tensor:
        """See `Balance.see`: the losses, once weighted, also carry the gradient of s / 2.

        The regulariser moves s alone: its value would blur the record of the losses.
        """
        s = self.log_variances
        return losses + 0.5 * (s - s.detach()) * torch.exp(s.detach())


class GradientBalance(Balance):
    """Weights that keep the gradient norms of the losses at a common rate (GradNorm: Chen et al. 2018, arXiv 1711.02257).

    asymmetry: the paper's alpha, how strongly a loss that falls slowly is favoured. lr: of the weights.
    Deviation: plain gradient steps on the weights, as the paper's Algorithm 1 is written, with a floor that keeps them positive.
    """

    needs_shared = True
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

    def see(self, losses: Tensor, shared: nn.Parameter | None) -> Tensor:
        """See `Balance.see`: the weights move by the gradients' norms on `shared`."""
        assert shared is not None
        gradients = torch.stack(
            [torch.autograd.grad(loss, shared, retain_graph=True)[0] for loss in losses.unbind()]
        )
        values = losses.detach().clone()
        if world_size() > 1:  # those of the global batch, so that the weights stay the same on every rank
            torch.distributed.all_reduce(gradients)
            torch.distributed.all_reduce(values)
        slopes = gradients.flatten(1).norm(dim=1).to(losses.dtype)  # whose common scale `update` does not see
        self.update(values / world_size(), slopes)
        return losses

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


BALANCES: dict[str, type[UncertaintyWeights] | type[GradientBalance]] = {
    "uncertainty": UncertaintyWeights,
    "gradient_norm": GradientBalance,
}
"""The balances by the names that a configuration uses."""
