"""FitNets: hints from a teacher's inner layers first, then the task and the teacher's soft targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.methods.base import Method
from tutelage.methods.features import FeatureMatch, check_outputs
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch


class FitNets(Method):
    """The two stages of FitNets: the feature loss alone for `hint_steps` updates, then the task and the soft targets.

    In the first stage only what lies below the paired layers (and the projector) is updated, in the second the projector rests.
    temperature: of the soft targets. loss, loss_options, pairing, k, layer_type, pairs: see `features.FeatureMatch`.
    Source: Romero et al. 2014, arXiv 1412.6550, Algorithm 1. Deviations: one optimiser and one learning-rate schedule over both
    stages, and a constant weight of the soft targets, which the paper lets fall. The joint schedule is `FeatureDistillation`.
    """

    terms = ("task", "soft", "feature")
    compares_outputs = True

    def __init__(
        self,
        *,
        teacher: FrozenNetwork,
        example: Batch,
        hint_steps: int,
        temperature: float = 3.0,
        loss: str = "hint",
        loss_options: Mapping[str, float] | None = None,
        pairing: str = "last",
        k: int | None = 1,
        layer_type: str | None = None,
        pairs: Sequence[Sequence[str]] | None = None,
        **common: Any,
    ) -> None:
        if hint_steps < 0 or not temperature > 0:
            raise UserError(
                f"FitNets needs hint_steps >= 0 and temperature > 0, got {hint_steps} and {temperature}"
            )
        super().__init__(frozen={"teacher": teacher}, **common)
        self.hint_steps, self.temperature = hint_steps, temperature
        check_outputs(self.network, teacher, example)
        self.match = FeatureMatch(
            network=self.network, teacher=teacher, example=example, loss=loss, loss_options=loss_options,
            pairing=pairing, k=k, layer_type=layer_type, pairs=pairs,
        )  # fmt: skip
        parameters = [p for p in self.parameters() if p.requires_grad]
        reached = torch.autograd.grad(self.match.rehearse(example), parameters, allow_unused=True)
        self._beyond = [p for p, gradient in zip(parameters, reached, strict=True) if gradient is None]

    def on_fit_start(self) -> None:
        """Raise UserError for a second stage that never begins."""
        super().on_fit_start()
        if 0 < self.max_steps <= self.hint_steps:
            raise UserError(
                f"method.hint_steps={self.hint_steps} of hints alone leave none of fit.max_steps={self.max_steps} for the task"
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.losses`: always all three, so that under DDP every parameter has a gradient."""
        with self.match.recording():
            output = self.predict(batch)
        feature, teacher_output = self.match(batch)
        soft = self.task.soft_loss(output, teacher_output, batch, self.temperature)
        return {"task": self.task.loss(output, batch), "soft": soft, "feature": feature}

    def term_weights(self) -> Mapping[str, float | Tensor]:
        """See `Method.term_weights`: those of the present stage."""
        off = ("task", "soft") if self.step < self.hint_steps else ("feature",)
        return self.weights | dict.fromkeys(off, 0.0)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep momentum and weight decay off what the present stage does not train."""
        for parameter in self._beyond if self.step < self.hint_steps else self.match.projectors.parameters():
            parameter.grad = None

    def describe(self) -> dict[str, Any]:
        """See `Method.describe`: the pairs too."""
        return super().describe() | self.match.describe()
