"""Variational information distillation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.losses.variational import gaussian
from tutelage.objectives.paired_features import PairObjective
from tutelage.objectives.projector import Projector


class VID(PairObjective):
    """The teacher's features are likely under a Gaussian that a trained regressor predicts from the student's; see `losses.variational`.

    variance: where the trained variance of each channel starts, above `floor`, its lower bound.
    Source: Ahn et al. 2019, arXiv 1904.05835; the regressor is that of its benchmark, three linear maps (of maps, 1 x 1 convolutions)
    with ReLU between them, as wide as the teacher's feature.
    """

    needs = "shape"

    def __init__(self, *, variance: float = 5.0, floor: float = 1e-5, **common: Any) -> None:
        super().__init__(**common)
        if not 0 < floor < variance < math.inf:
            raise UserError(f"`variance` must be above `floor`, and that above 0, got {variance} and {floor}")
        self.floor = floor
        self._start = (
            variance - floor + math.log(-math.expm1(floor - variance))
        )  # softplus of it is variance - floor

    def make_projector(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> Projector:
        """See `PairObjective.make_projector`: its map is the regressor."""
        return Regressor(student, teacher, self._start)

    def compare_pair(self, projector: Projector, student: Tensor, teacher: Tensor) -> Tensor:
        """See `PairObjective.compare_pair`: with the pair's variances."""
        assert isinstance(projector, Regressor)
        return gaussian(student, teacher, projector.raw_variance, floor=self.floor)


class Regressor(Projector):
    """Three linear maps with ReLU between them, and a variance for each of the teacher's channels, whose softplus counts."""

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...], start: float) -> None:
        super().__init__(student, teacher, "shape")
        mine, theirs = self.widths
        self.map = nn.Sequential(
            self.linear(mine, theirs),
            nn.ReLU(),
            self.linear(theirs, theirs),
            nn.ReLU(),
            self.linear(theirs, theirs),
        )
        self.raw_variance = nn.Parameter(torch.full((theirs,), start))
