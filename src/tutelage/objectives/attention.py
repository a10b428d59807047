"""Squared distance of the normalised attention maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.losses.feature import attention_transfer
from tutelage.objectives.paired_features import FeatureObjective


class Attention(FeatureObjective):
    """Squared distance of the normalised attention maps (Zagoruyko and Komodakis 2016, arXiv 1612.03928).

    See `losses.feature.attention_transfer`. power: of the features' absolute values, before their mean over channels. Deviation: of unequal
    sizes the maps are averaged down; the usual code does so with the features, before the power.
    """

    needs = "samples"

    def __init__(self, *, power: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        self.power = power

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return attention_transfer(student, teacher, power=self.power)
