"""Ordinary training of the same ensembles (SGD, Adam), to set beside the Langevin posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tutelage.errors import UserError, choices
from tutelage.scaling.ensembles import Ensemble

OPTIMIZERS = ("sgd", "adam")


class Training:
    """Mini-batch training of all members at once on the mean squared error, without noise or weight decay.

    The learning rate is in units of the prior deviations like the Langevin step size, so that one value
    serves all layers: SGD moves by lr sigma^2 times the gradient of the mean loss, Adam by lr sigma.
    Batches are drawn with replacement, per member.

    Args:
        network, inputs, targets, seed, start: see `langevin.Langevin`.
        optimizer: "sgd" or "adam" (betas 0.9, 0.999).
        learning_rate: at the start; it falls to zero as a cosine over `steps`.
        points: (members,) how many points each member has, where inputs are padded; present: the same as a mask
        (members, points) of 0 and 1.

    Raises:
        UserError: for an unknown optimizer.
    """

    def __init__(
        self,
        network: Ensemble,
        inputs: Tensor,
        targets: Tensor,
        *,
        optimizer: str,
        learning_rate: float,
        steps: int,
        seed: int,
        batch_size: int = 32,
        points: Tensor | None = None,
        present: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        if optimizer not in OPTIMIZERS:
            raise UserError(f"unknown optimizer '{optimizer}'; {choices(optimizer, OPTIMIZERS)}")
        self.network, self.inputs, self.targets, self.present = network, inputs, targets, present
        self.device = inputs.device
        self.optimizer, self.learning_rate, self.steps, self.batch_size = (
            optimizer,
            learning_rate,
            steps,
            batch_size,
        )
        self.generator = torch.Generator(inputs.device).manual_seed(seed)
        self.flat = network.draw(len(inputs), self.generator) if start is None else start.clone()
        self.step = 0
        self._points = (
            torch.full((len(inputs),), inputs.shape[1], device=inputs.device) if points is None else points
        )
        self._deviation = network.prior_deviation(inputs.device)
        self._first = torch.zeros_like(self.flat)
        self._second = torch.zeros_like(self.flat)

    def state(self) -> dict[str, Tensor]:
        """Everything the next steps depend on beside the arguments; see `langevin.Langevin.state`."""
        return {
            "flat": self.flat,
            "first": self._first,
            "second": self._second,
            "generator": self.generator.get_state(),
            "step": torch.tensor(self.step, dtype=torch.int64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state`."""
        self.flat.copy_(state["flat"])
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])

    def _batch_gradient(self) -> Tensor:
        members = len(self.flat)
        uniform = torch.rand(members, self.batch_size, generator=self.generator, device=self.flat.device)
        chosen = (uniform * self._points.unsqueeze(1)).long().clamp_max(self.inputs.shape[1] - 1)
        rows = torch.arange(members, device=self.flat.device).unsqueeze(1)
        gradient = self.network.loss_gradient(
            self.flat, self.inputs[rows, chosen], self.targets[rows, chosen]
        )
        return gradient / self.batch_size

    @torch.no_grad()
    def run(self, steps: int) -> None:
        """Take `steps` optimizer steps.

        Raises:
            UserError: when a member diverged.
        """
        for _ in range(steps):
            rate = self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.steps)))
            gradient = self._batch_gradient() * self._deviation
            self.step += 1
            if self.optimizer == "adam":
                self._first.lerp_(gradient, 0.1)
                self._second.lerp_(gradient.square(), 0.001)
                mean = self._first / (1 - 0.9**self.step)
                spread = (self._second / (1 - 0.999**self.step)).sqrt_().add_(1e-8)
                gradient = mean / spread
            self.flat.sub_(gradient * self._deviation, alpha=rate)
        if not torch.isfinite(self.flat).all():
            raise UserError(
                f"{self.optimizer} diverged by step {self.step}: learning_rate {self.learning_rate:g} is too large, "
                f"try {self.learning_rate / 4:.2g}"
            )
