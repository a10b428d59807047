"""Distillation with soft targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.methods.base import Method
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch


class Distillation(Method):
    """The task's loss and the loss against a frozen teacher's output on the same batch (Hinton et al. 2015, arXiv 1503.02531).

    temperature: of the soft targets, above 0. teacher: a network of the same task; it sees the same augmented tensors.
    """

    terms = ("task", "soft")

    def __init__(self, *, teacher: FrozenNetwork, temperature: float = 2.0, **common: Any) -> None:
        if not temperature > 0:
            raise UserError(f"method.temperature must be above 0, got {temperature}")
        super().__init__(frozen={"teacher": teacher}, **common)
        self.temperature = temperature

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.losses`."""
        output = self.predict(batch)
        with torch.no_grad():
            teacher_output = self.frozen["teacher"](batch.inputs, batch.mask)
        return {
            "task": self.task.loss(output, batch),
            "soft": self.task.soft_loss(output, teacher_output, batch, self.temperature),
        }
