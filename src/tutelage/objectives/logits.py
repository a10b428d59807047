"""Logit matching."""

from __future__ import annotations

from torch import Tensor

from tutelage.losses.distillation import logit_matching
from tutelage.objectives.compared_outputs import OutputObjective


class Logits(OutputObjective):
    """Half the squared distance of the logits (Ba and Caruana 2014, arXiv 1312.6184)."""

    def rows(self, mine: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        """See `OutputObjective.rows`."""
        return logit_matching(mine, theirs)
