"""OFA-KD: branches from inner layers to the teacher's classes, for networks of unlike kinds."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.losses.logit_variants import adapted
from tutelage.objectives.base import Setup, Step
from tutelage.objectives.branch import Branch, inner_layers
from tutelage.objectives.compared_outputs import OutputObjective
from tutelage.objectives.projector import width_of
from tutelage.tasks import mean_of_counted


class OFA(OutputObjective):
    """Soft targets with an emphasis on the true class, for the output and for a branch from each of some inner layers, summed.

    See `losses.logit_variants.adapted`. temperature: above 0. emphasis: gamma, at least 1.
    branches: how many inner layers have one, spread evenly.
    Source: Hao et al. 2023, arXiv 2310.19444. Deviation: a branch is a linear map, layer norm and GELU at each position, a mean over
    positions and a linear map, for any kind of layer; its own are separable convolutions or attention blocks.
    """

    singles_out_class = True
    spaces = ("same",)

    def __init__(
        self, *, temperature: float = 1.0, emphasis: float = 1.0, branches: int = 4, **common: Any
    ) -> None:
        super().__init__(**common)
        if not temperature > 0:
            raise UserError(f"`temperature` must be above 0, got {temperature}")
        if not 1 <= emphasis < math.inf:
            raise UserError(f"`emphasis` must be at least 1, got {emphasis}")
        if branches < 1:
            raise UserError(f"`branches` must be at least 1, got {branches}")
        self.options, self.wanted = {"temperature": temperature, "emphasis": emphasis}, branches

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: the layers, and a branch for each."""
        super().prepare(setup)
        layers = inner_layers(setup, type(self).__name__, self.wanted)
        self.network_layers = tuple(layer.name for layer in layers)
        classes = setup.output().shape[1]
        width = width_of(layers[-1].shape)
        self.branches = nn.ModuleList(Branch(layer.shape, classes, width) for layer in layers)

    def rows(self, mine: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        """See `OutputObjective.rows`."""
        return adapted(mine, theirs, targets, **self.options)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`: of the output, and of each branch."""
        theirs = self.taught(step)
        total = super().loss(step)
        for name, branch in zip(self.network_layers, self.branches, strict=True):
            mine, targets = branch(step.activations[name]), step.batch.targets
            of_teacher = theirs
            if self.task is not None:
                (mine, targets), (of_teacher, _) = (self.task.select(x, step.batch) for x in (mine, theirs))
            total = total + mean_of_counted(self.rows(*self.seen(mine, of_teacher), targets), step.batch)
        return total

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: the layers that have a branch."""
        return {"layers": list(self.network_layers)}
