"""Pseudo-Label."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.losses.consistency import pseudo_label
from tutelage.objectives.consistency import Consistency, confidence_from


class PseudoLabel(Consistency):
    """The network's own most probable class, where it is confident (Lee 2013).

    threshold: of the confidence; 0 switches it off.
    """

    views = 1

    def __init__(self, *, threshold: float = 0.95, **common: Any) -> None:
        super().__init__(**common)
        self.threshold = confidence_from(threshold)

    def compare(self, target: Tensor, output: Tensor) -> Tensor:
        """See `Consistency.compare`."""
        return pseudo_label(target, output, threshold=self.threshold)
