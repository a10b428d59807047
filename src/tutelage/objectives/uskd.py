"""USKD: normalised self-knowledge distillation, without a teacher."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softmax

from tutelage.alignment.gather import gather
from tutelage.errors import UserError
from tutelage.losses.logit_variants import self_taught
from tutelage.objectives.base import Objective, Setup, Step
from tutelage.objectives.branch import Branch, inner_layers
from tutelage.tasks import mean_of_counted


class USKD(Objective):
    """Labels that the network makes of its own logits and those of a branch on an inner layer; see `losses.logit_variants.self_taught`.

    other_weight: beta. weak_weight: mu, of the branch's own loss. The branch is a linear map of the mean over positions of the weight
    layer at half of the depth (published: of the third of four stages). Beside the task. Source: Yang et al. 2023, arXiv 2303.13005.
    """

    singles_out_class = True

    def __init__(self, *, other_weight: float = 0.1, weak_weight: float = 0.005, **common: Any) -> None:
        super().__init__(**common)
        for name, weight in (("other_weight", other_weight), ("weak_weight", weak_weight)):
            if not 0 <= weight < math.inf:
                raise UserError(f"`{name}` must not be negative, got {weight}")
        self.options = {"other_weight": other_weight, "weak_weight": weak_weight}

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: the layer and its branch."""
        if setup.task is not None and setup.task.kind != "classes":
            raise UserError(f"USKD makes labels of classes, which a task of {setup.task.name} has not")
        self.task = setup.task
        layer = inner_layers(setup, type(self).__name__, 2)[0]
        self.network_layers = (layer.name,)
        self.branch = Branch(layer.shape, setup.output().shape[1])

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        batch, output = step.batch, step.output
        weak = self.branch(step.activations[self.network_layers[0]])
        square = softmax(output.detach().float(), dim=1).gather(1, batch.targets[:, None]).square()
        counted = torch.ones_like(square) if batch.target_mask is None else batch.target_mask[:, None].float()
        square, counted = gather(square * counted).sum(), gather(counted).sum()  # over the global batch
        targets = batch.targets
        if self.task is not None:
            (output, targets), (weak, _) = (self.task.select(x, batch) for x in (output, weak))
        mean_square = square / counted.clamp(min=1)
        return mean_of_counted(
            self_taught(output, weak, targets, mean_square=mean_square, **self.options), batch
        )

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: the layer that the branch is on."""
        return {"layer": self.network_layers[0]}
