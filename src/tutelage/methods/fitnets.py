"""FitNets: hints from a teacher's inner layers first, then the task and the teacher's soft targets."""

from __future__ import annotations

from typing import Any

from tutelage.errors import UserError, choices
from tutelage.methods.base import Method
from tutelage.objectives.schedule import Schedule


class FitNets(Method):
    """Two stages: one objective alone for `hint_steps` updates, then all others without it.

    In the first stage only what lies below the paired layers (and the projector) gets a gradient, in the second the projector rests.
    hints: the name of the first stage's objective. What a stage switches off is recorded all the same; the objectives' own schedules are
    replaced.
    Source: Romero et al. 2014, arXiv 1412.6550, Algorithm 1. Deviations: one optimiser and one learning-rate schedule over both
    stages, and a constant weight of the soft targets, which the paper lets fall. The joint schedule is `FeatureDistillation`.
    """

    def __init__(self, *, hint_steps: int, hints: str = "feature", **common: Any) -> None:
        super().__init__(**common)
        if hint_steps < 0:
            raise UserError(f"method.hint_steps must not be negative, got {hint_steps}")
        if hints not in self.objectives.names:
            raise UserError(
                f"method.hints: there is no objective '{hints}'; {choices(hints, self.objectives.names)}"
            )
        for objective in self.objectives:
            first = objective.name == hints
            if hint_steps:
                name = "until" if first else "from"
                objective.schedule = Schedule(name=name, steps=hint_steps, watched=True)
            elif first:
                objective.weight = 0.0
        self.all_parameters_get_gradients = self.objectives.reaches_all
