"""FixMatch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.losses.consistency import fixmatch
from tutelage.objectives.consistency import Consistency, confidence_from


class FixMatch(Consistency):
    """The most probable class of the weak view against the strong view, where it is confident (Sohn et al. 2020, arXiv 2001.07685).

    threshold: of the confidence.
    """

    strong_view = True

    def __init__(self, *, threshold: float = 0.95, **common: Any) -> None:
        super().__init__(**common)
        self.threshold = confidence_from(threshold)

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        return fixmatch(target, output, threshold=self.threshold)
