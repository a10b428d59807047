"""SRD: a linear projector, batch norm and a logarithm."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.projected import log_distance
from tutelage.objectives.paired_features import FeatureObjective
from tutelage.objectives.projector import Projector


class SRD(FeatureObjective):
    """Logarithm of the distance of batch-normalised features through a trained linear map; see `losses.projected.log_distance`.

    power: of the differences. Maps and sequences are averaged over positions. Source: Miles and Mikolajczyk 2024, arXiv 2303.11098.
    """

    needs = "width"
    over_batch = True

    def __init__(self, *, power: float = 4.0, **common: Any) -> None:
        super().__init__(**common)
        if not power >= 1:
            raise UserError(f"`power` must be at least 1, got {power}")
        self.power = power

    def make_projector(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> Projector:
        """See `PairObjective.make_projector`: a linear map between equal widths, too."""
        projector = Projector(student, teacher, self.needs)
        projector.map = projector.linear(*projector.widths, bias=True)
        return projector

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return log_distance(student, teacher, power=self.power)
