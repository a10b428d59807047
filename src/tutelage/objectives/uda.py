"""UDA."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.losses.consistency import uda
from tutelage.objectives.consistency import Consistency, confidence_from


class UDA(Consistency):
    """The sharpened prediction on the weak view against the strong view, where it is confident (Xie et al. 2019, arXiv 1904.12848).

    temperature: of the sharpening. threshold: of the confidence. Deviation: no training signal annealing, which leaves out labelled images
    that are learnt already.
    """

    strong_view = True

    def __init__(self, *, temperature: float = 0.4, threshold: float = 0.8, **common: Any) -> None:
        super().__init__(**common)
        self.temperature, self.threshold = temperature, confidence_from(threshold)

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        return uda(target, output, temperature=self.temperature, threshold=self.threshold)
