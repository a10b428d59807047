"""FreeMatch: thresholds that follow the network's own confidence, and fairness between classes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.losses.consistency import weighted
from tutelage.losses.thresholds import fairness, self_adaptive_thresholds
from tutelage.objectives.base import Setup
from tutelage.objectives.consistency import Consistency


class FreeMatch(Consistency):
    """FixMatch with self-adaptive thresholds and fairness (Wang et al. 2022, arXiv 2205.07246).

    fairness: weight of that term, inside this objective's own. Its averages begin at 1 / classes and are buffers, so a checkpoint has them.
    """

    strong_view = True
    remembers = True
    confidence: Tensor
    means: Tensor
    histogram: Tensor

    def __init__(self, *, fairness: float = 0.001, **common: Any) -> None:
        super().__init__(**common)
        self.fairness = fairness

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`."""
        super().prepare(setup)
        assert setup.task is not None
        self.classes = setup.task.output_size
        self.register_buffer("confidence", torch.tensor(1 / self.classes))
        for name in ("means", "histogram"):
            self.register_buffer(name, torch.full((self.classes,), 1 / self.classes))

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        probabilities = target.detach().float().softmax(dim=1)
        confidence, classes = probabilities.max(dim=1)
        self._move(self.confidence, confidence.mean())
        self._move(self.means, probabilities.mean(dim=0))
        self._move(self.histogram, F.one_hot(classes, self.classes).float().mean(dim=0))
        used = confidence >= self_adaptive_thresholds(self.confidence, self.means)[classes]
        loss = weighted(target, output, self.note(used.float()))
        if self.fairness:
            loss = loss + self.fairness * fairness(output, used, self.means, self.histogram)
        return loss
