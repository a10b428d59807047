"""DIST: correlations of predictions in place of their divergence."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.logit_variants import correlation
from tutelage.objectives.compared_outputs import BatchOutputObjective


class DIST(BatchOutputObjective):
    """One minus the correlation with the teacher's softened predictions, among classes and among samples.

    See `losses.logit_variants.correlation`.

    temperature: above 0. between_classes: beta. between_samples: gamma. Source: Huang et al. 2022, arXiv 2205.10536.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        between_classes: float = 1.0,
        between_samples: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not temperature > 0:
            raise UserError(f"`temperature` must be above 0, got {temperature}")
        if not (0 <= between_classes < math.inf and 0 <= between_samples < math.inf):
            raise UserError(
                f"`between_classes` and `between_samples` must not be negative, got {between_classes} and {between_samples}"
            )
        self.options = {
            "temperature": temperature,
            "between_classes": between_classes,
            "between_samples": between_samples,
        }

    def whole(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """See `BatchOutputObjective.whole`."""
        return correlation(mine, theirs, **self.options)
