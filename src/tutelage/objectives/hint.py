"""Mean squared difference of the features."""

from __future__ import annotations

from torch import Tensor

from tutelage.losses.feature import hint
from tutelage.objectives.paired_features import FeatureObjective


class Hint(FeatureObjective):
    """Mean squared difference of the features (FitNets, Romero et al. 2014, arXiv 1412.6550); see `losses.feature.hint`.

    Deviation from the benchmark's code: the regressor is a 1 x 1 convolution alone, and there is none between equal widths; there it has
    batch norm and ReLU, always.
    """

    needs = "shape"

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return hint(student, teacher)
