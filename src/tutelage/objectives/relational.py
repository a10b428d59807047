"""Distances of pairs and angles of triplets of samples."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.losses.feature import relational
from tutelage.objectives.paired_features import FeatureObjective


class Relational(FeatureObjective):
    """Distances of pairs and angles of triplets of samples (Park et al. 2019, arXiv 1904.05068); see `losses.feature.relational`.

    distance: weight of the distances. angle: weight of the angles.
    """

    needs = "samples"
    over_batch = True

    def __init__(self, *, distance: float = 1.0, angle: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        self.distance, self.angle = distance, angle

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return relational(student, teacher, distance=self.distance, angle=self.angle)
