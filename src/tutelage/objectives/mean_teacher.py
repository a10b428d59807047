"""Mean Teacher."""

from __future__ import annotations

from torch import Tensor

from tutelage.losses.consistency import mean_teacher
from tutelage.objectives.consistency import Consistency


class MeanTeacher(Consistency):
    """Squared difference from the averaged network's probabilities, each on a weak view (Tarvainen and Valpola 2017, arXiv 1703.01780).

    Deviation: the averaged network is in eval mode; the released code runs it in train mode, with dropout and the batch's statistics.
    """

    needs_average = True

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        return mean_teacher(target, output)
