"""PKT: KL of the distributions over each sample's neighbours."""

from __future__ import annotations

from torch import Tensor

from tutelage.losses.feature import probabilistic_transfer
from tutelage.objectives.paired_features import FeatureObjective


class ProbabilisticTransfer(FeatureObjective):
    """PKT: KL of the distributions over each sample's neighbours (Passalis and Tefas 2018, arXiv 1803.10837).

    See `losses.feature.probabilistic_transfer`.
    """

    needs = "samples"
    over_batch = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return probabilistic_transfer(student, teacher)
