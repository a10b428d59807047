"""Mean squared difference of the features."""

from __future__ import annotations

from torch import Tensor

from tutelage.losses.feature import hint
from tutelage.objectives.paired_features import FeatureObjective


class Hint(FeatureObjective):
    """Mean squared difference of the features (FitNets, Romero et al. 2014, arXiv 1412.6550); see `losses.feature.hint`."""

    needs = "shape"

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return hint(student, teacher)
