"""NKD: normalised knowledge distillation."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.logit_variants import normalised
from tutelage.objectives.compared_outputs import OutputObjective


class NKD(OutputObjective):
    """The target's soft label, and the other classes' distribution normalised without it; see `losses.logit_variants.normalised`.

    temperature: of the others, above 0. other_weight: gamma. Source: Yang et al. 2023, arXiv 2303.13005.
    """

    singles_out_class = True

    spaces = ("same",)

    def __init__(self, *, temperature: float = 1.0, other_weight: float = 1.5, **common: Any) -> None:
        super().__init__(**common)
        if not temperature > 0:
            raise UserError(f"`temperature` must be above 0, got {temperature}")
        if not 0 <= other_weight < math.inf:
            raise UserError(f"`other_weight` must not be negative, got {other_weight}")
        self.options = {"temperature": temperature, "other_weight": other_weight}

    def rows(self, mine: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        """See `OutputObjective.rows`."""
        return normalised(mine, theirs, targets, **self.options)
