"""The task's own loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.errors import UserError, choices
from tutelage.objectives.base import Objective, Setup, Step
from tutelage.tasks import Binary, Classification, mean_of_counted


class Task(Objective):
    """The loss of the network's output against the targets: cross-entropy, perplexity's, squared error, as the task says.

    label_smoothing: 0 to below 1, of classes (Szegedy et al. 2015, arXiv 1512.00567, section 7): of this loss alone, no metric has it.
    None: as the task has it.
    class_weight: what each class's samples count, of this loss alone: "balanced" (training samples / (classes x samples of the class),
    King and Zeng 2001, whose mean over the training samples is 1), or a number for each class. The loss stays a mean over samples.
    Raises UserError for either where there are no classes.
    """

    def __init__(
        self,
        *,
        label_smoothing: float | None = None,
        class_weight: str | Sequence[float] | None = None,
        **common: object,
    ) -> None:
        super().__init__(**common)  # type: ignore[arg-type]
        if isinstance(class_weight, str) and class_weight != "balanced":
            raise UserError(
                f"`class_weight`={class_weight!r} is not known; {choices(class_weight, ['balanced'])}, or a number for each class"
            )
        self.class_weight = class_weight
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
            if not isinstance(setup.task, Classification | Binary):
                raise UserError(f"`label_smoothing` is of classes, which a task of {setup.task.name} has not")
            self.task = copy.copy(setup.task)
            self.task.label_smoothing = self.label_smoothing
        self.weights: Tensor | None = None
        if self.class_weight is not None:
            # a plain attribute: it is data, no part of what is trained or stored
            self.weights = torch.tensor(self._weights(setup), dtype=torch.float32)

    def _weights(self, setup: Setup) -> list[float]:
        task = setup.task
        if not isinstance(task, Classification | Binary):
            raise UserError(
                f"`class_weight` is of classes, which a task of {task.name if task else 'no kind'} has not"
            )
        classes = 2 if isinstance(task, Binary) else task.output_size
        if not isinstance(self.class_weight, str):
            weights = [float(weight) for weight in self.class_weight or ()]
            if len(weights) != classes or min(weights) < 0 or sum(weights) == 0:
                raise UserError(
                    f"`class_weight` needs {classes} numbers, one for each class and none negative, got {weights}"
                )
            return weights
        counts = task.class_counts
        if counts is None:
            raise UserError(
                "`class_weight`=balanced: these data do not say how many training samples a class has; give numbers"
            )
        return [sum(counts) / (len(counts) * count) if count else 0.0 for count in counts]

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        if self.weights is None:
            return self.task.loss(step.output, step.batch)
        predictions, targets = self.task.select(step.output, step.batch)
        self.weights = self.weights.to(targets.device)
        weights = (
            self.weights[targets] if targets.ndim == 1 else targets.float() @ self.weights
        )  # of mixed classes
        return mean_of_counted(self.task.pointwise(predictions, targets) * weights, step.batch)
