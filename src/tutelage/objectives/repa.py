"""REPA: a trained projector, and the cosine of each position's features."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from tutelage.arguments import positive
from tutelage.losses.feature import cosine_distance
from tutelage.objectives.paired_features import FeatureObjective
from tutelage.objectives.projector import Projector


class REPA(FeatureObjective):
    """1 - cosine of a frozen encoder's and the network's projected features, a mean over samples and positions (arXiv 2410.06940, eq. 8).

    width: of the projector's two hidden layers, with SiLU, which every position passes alone. Maps of unequal size are averaged down to the
    smaller one. Made for generators in training (method=diffusion): the encoder sees the images, the generator the same ones noised; any
    network can be trained so. The paper's is the negative cosine, which differs by a constant. HASTE (arXiv 2505.16792) ends it once:
    schedule.name=until at a fixed step, until_opposed by a trigger; its alignment of attention maps is `attention_maps`.
    """

    def __init__(self, *, width: int = 256, **common: Any) -> None:
        super().__init__(**common)
        positive("REPA", width=width)
        self.width = width

    def make_projector(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> Projector:
        """See `PairObjective.make_projector`: three layers, between equal widths, too."""
        projector = Projector(student, teacher, self.needs)
        mine, theirs = projector.widths
        sizes = (mine, self.width, self.width, theirs)
        layers = [
            layer for a, b in pairwise(sizes) for layer in (projector.linear(a, b, bias=True), nn.SiLU())
        ]
        projector.map = nn.Sequential(*layers[:-1])
        return projector

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return cosine_distance(student, teacher)
