"""Soft targets: a teacher's output at a temperature."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutelage.errors import UserError
from tutelage.losses.distillation import soft_target
from tutelage.objectives.base import Step
from tutelage.objectives.compared_outputs import OutputObjective


class SoftTargets(OutputObjective):
    """The task's loss against the teacher's output at a temperature (Hinton et al. 2015, arXiv 1503.02531).

    Of values, the mean squared distance from the teacher's, which has no temperature. temperature: above 0.
    """

    def __init__(self, *, temperature: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        if not temperature > 0:
            raise UserError(f"`temperature` must be above 0, got {temperature}")
        self.temperature = temperature

    @property
    def fits_any_task(self) -> bool:
        """See `ComparedOutputs.fits_any_task`."""
        return self.label_space == "same" and not self.standardise

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        if self.task is None or self.extra_head is not None:
            return super().loss(step)
        return self.task.soft_loss(*self.seen(step.output, self.taught(step)), step.batch, self.temperature)

    def rows(self, mine: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        """See `OutputObjective.rows`."""
        return soft_target(mine, theirs, temperature=self.temperature)
