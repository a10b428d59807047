"""FlexMatch: a threshold for each class that follows how well the class is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.alignment.gather import gather
from tutelage.losses.consistency import weighted
from tutelage.losses.thresholds import flexible_thresholds
from tutelage.objectives.base import Setup
from tutelage.objectives.consistency import Consistency, confidence_from


class FlexMatch(Consistency):
    """FixMatch with curriculum pseudo labels (Zhang et al. 2021, arXiv 2110.08263).

    threshold: of a class that is learned as well as any. Each unlabelled image's latest confident class is remembered, in a buffer that a
    checkpoint has; thresholds rise from 0 with the share of images that have one. A batch meets the thresholds that stood before it.
    """

    strong_view = True
    remembers = True
    latest: Tensor

    def __init__(self, *, threshold: float = 0.95, **common: Any) -> None:
        super().__init__(**common)
        self.threshold = confidence_from(threshold)

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`."""
        super().prepare(setup)
        assert setup.task is not None
        self.classes = setup.task.output_size
        self.register_buffer("latest", torch.full((len(self.stream.source.images),), -1))

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        seen = self.latest[self.latest >= 0]
        thresholds = flexible_thresholds(
            torch.bincount(seen, minlength=self.classes),
            len(self.stream.source.index),
            threshold=self.threshold,
        )
        confidence, classes = target.detach().float().softmax(dim=1).max(dim=1)
        loss = weighted(target, output, self.note((confidence >= thresholds[classes]).float()))
        index = gather(self.stream.index)
        self.latest[index] = torch.where(confidence >= self.threshold, classes, self.latest[index])
        return loss
