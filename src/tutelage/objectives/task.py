"""The task's own loss."""

from __future__ import annotations

import copy

from torch import Tensor

from tutelage.errors import UserError
from tutelage.objectives.base import Objective, Setup, Step
from tutelage.tasks import Classification


class Task(Objective):
    """The loss of the network's output against the targets: cross-entropy, perplexity's, squared error, as the task says.

    label_smoothing: 0 to below 1, of classes (Szegedy et al. 2015, arXiv 1512.00567, section 7): of this loss alone, no metric has it.
    None: as the task has it. Raises UserError for smoothing where there are no classes.
    """

    def __init__(self, *, label_smoothing: float | None = None, **common: object) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        if label_smoothing is not None and not 0 <= label_smoothing < 1:
            raise UserError(f"`label_smoothing` must be at least 0 and below 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`."""
        if setup.task is None:
            raise UserError(
                f"the objective '{self.name}' needs to know the task: a tutelage.tasks.Task, or a function of (outputs, targets)"
            )
        self.task = setup.task
        if self.label_smoothing:
            if not isinstance(setup.task, Classification):
                raise UserError(f"`label_smoothing` is of classes, which a task of {setup.task.name} has not")
            self.task = copy.copy(setup.task)
            self.task.label_smoothing = self.label_smoothing

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        return self.task.loss(step.output, step.batch)
