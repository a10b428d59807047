"""Squared distance of the normalised Gram matrices."""

from __future__ import annotations

from torch import Tensor

from tutelage.losses.feature import similarity_preserving
from tutelage.objectives.paired_features import FeatureObjective


class SimilarityPreserving(FeatureObjective):
    """Squared distance of the normalised Gram matrices (Tung and Mori 2019, arXiv 1907.09682).

    See `losses.feature.similarity_preserving`.
    """

    needs = "samples"
    over_batch = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return similarity_preserving(student, teacher)
