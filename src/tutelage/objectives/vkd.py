"""VkD: an orthogonal projector and a normalised teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn.utils.parametrizations import orthogonal

from tutelage.losses.projected import normalised_distance
from tutelage.objectives.paired_features import FeatureObjective
from tutelage.objectives.projector import Projector


class VkD(FeatureObjective):
    """Smooth L1 distance from the teacher's layer-normalised features through an orthogonal map; see `losses.projected`.

    The map keeps orthonormal columns (rows, where the teacher is narrower) while it is trained: the matrix exponential of a skew-symmetric
    one. Maps and sequences are averaged over positions. Source: Miles, Elezi and Deng 2024, arXiv 2403.06213.
    """

    needs = "width"

    def make_projector(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> Projector:
        """See `PairObjective.make_projector`: orthogonal, between equal widths, too."""
        projector = Projector(student, teacher, self.needs)
        projector.map = orthogonal(projector.linear(*projector.widths), orthogonal_map="matrix_exp")
        return projector

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See `FeatureObjective.compare`."""
        return normalised_distance(student, teacher)
