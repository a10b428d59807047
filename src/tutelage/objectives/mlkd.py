"""MLKD: predictions, and their relations among samples and among classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.logit_variants import multi_level
from tutelage.objectives.compared_outputs import BatchOutputObjective


class MLKD(BatchOutputObjective):
    """Soft targets and both Gram matrices of the predictions, summed over temperatures; see `losses.logit_variants.multi_level`.

    temperatures: each above 0. single, samples, classes: weight of each level. With `standardise` the first level alone sees standardised
    logits, as in the code of arXiv 2403.01427.
    Source: Jin, Wang and Lin 2023, Multi-level Logit Distillation, CVPR. Deviations: one view of each image, where the released code adds
    a strongly augmented one, and no masks by confidence.
    """

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        single: float = 1.0,
        samples: float = 1.0,
        classes: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if isinstance(temperatures, str) or not isinstance(temperatures, Sequence) or not temperatures:
            raise UserError(f"`temperatures` must be a list of numbers above 0, got {temperatures!r}")
        if not all(isinstance(t, int | float) and t > 0 for t in temperatures):
            raise UserError(f"`temperatures` must be above 0, got {list(temperatures)}")
        for name, weight in (("single", single), ("samples", samples), ("classes", classes)):
            if not 0 <= weight < math.inf:
                raise UserError(f"`{name}` is a weight and must not be negative, got {weight}")
        self.temperatures, self.level_weights = tuple(temperatures), (single, samples, classes)

    def seen(self, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """See `ComparedOutputs.seen`: as they are, for the relations."""
        return mine, theirs

    def whole(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """See `BatchOutputObjective.whole`."""
        levels = multi_level(mine, theirs, temperatures=self.temperatures)
        if self.standardise:
            first = multi_level(*super().seen(mine, theirs), temperatures=self.temperatures)[:1]
            levels = torch.cat([first, levels[1:]])
        return (levels * levels.new_tensor(self.level_weights)).sum()
