"""SoftMatch: every unlabelled image counts, by how confident the prediction is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.consistency import weighted
from tutelage.losses.thresholds import gaussian_weights
from tutelage.objectives.base import Setup
from tutelage.objectives.consistency import Consistency


class SoftMatch(Consistency):
    """FixMatch with a truncated Gaussian of the confidence as weight (Chen et al. 2023, arXiv 2301.10921).

    sigmas: see `thresholds.gaussian_weights`. Distribution alignment changes the weights alone, not the classes, as published. Mean and
    variance of the confidence begin at 1 / classes and 1 and are buffers, so a checkpoint has them.
    """

    strong_view = True
    remembers = True
    mean: Tensor
    variance: Tensor

    def __init__(self, *, sigmas: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        if not sigmas > 0:
            raise UserError(f"`sigmas` must be above 0, got {sigmas}")
        self.sigmas = sigmas

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`."""
        super().prepare(setup)
        assert setup.task is not None
        self.register_buffer("mean", torch.tensor(1 / setup.task.output_size))
        self.register_buffer("variance", torch.tensor(1.0))
        self._plain: Tensor | None = None

    def align(self, target: Tensor) -> Tensor:
        """See `Consistency.align`: what it was stays the target."""
        self._plain = target.detach()
        return super().align(target)

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        confidence = target.detach().float().softmax(dim=1).amax(dim=1)
        self._move(self.mean, confidence.mean())
        if len(confidence) > 1:
            self._move(self.variance, confidence.var())
        weights = gaussian_weights(confidence, self.mean, self.variance, sigmas=self.sigmas)
        plain, self._plain = self._plain, None
        return weighted(target if plain is None else plain, output, self.note(weights))
