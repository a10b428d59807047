"""The cross-correlation of both features, driven to the identity."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.losses.feature import cross_correlation
from tutelage.objectives.paired_features import FeatureObjective


class CrossCorrelation(FeatureObjective):
    """The cross-correlation of both features, driven to the identity (Zhang et al. 2025 (RSD), arXiv 2507.21844).

    See `losses.feature.cross_correlation`.

    redundancy: weight of the correlations between different dimensions.
    """

    needs = "width"
    over_batch = True

    def __init__(self, *, redundancy: float = 0.01, **common: Any) -> None:
        super().__init__(**common)
        self.redundancy = redundancy

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return cross_correlation(student, teacher, redundancy=self.redundancy)
