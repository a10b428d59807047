"""Decoupled knowledge distillation."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.distillation import decoupled
from tutelage.objectives.compared_outputs import OutputObjective


class Decoupled(OutputObjective):
    """Target and other classes apart (Zhao et al. 2022, arXiv 2203.08679): alpha TCKD + beta NCKD at a temperature.

    target_weight: alpha. other_weight: beta. temperature: above 0.
    """

    singles_out_class = True

    spaces = ("same",)

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        other_weight: float = 8.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not temperature > 0:
            raise UserError(f"`temperature` must be above 0, got {temperature}")
        if not (0 <= target_weight < math.inf and 0 <= other_weight < math.inf):
            raise UserError(
                f"`target_weight` and `other_weight` must not be negative, got {target_weight} and {other_weight}"
            )
        self.options = {
            "temperature": temperature,
            "target_weight": target_weight,
            "other_weight": other_weight,
        }

    def rows(self, mine: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        """See `OutputObjective.rows`."""
        return decoupled(mine, theirs, targets, **self.options)
