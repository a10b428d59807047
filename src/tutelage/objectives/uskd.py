"""USKD: normalised self-knowledge distillation, without a teacher."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn.functional import softmax

from tutelage.alignment.gather import gather
from tutelage.errors import UserError
from tutelage.losses.logits import self_taught
from tutelage.objectives.base import Objective, Setup, Step
from tutelage.objectives.branch import Branch, inner_layers
from tutelage.tasks import mean_of_counted


class USKD(Objective):
    """Labels that the network makes of its own logits and those of a branch on an inner layer; see `losses.logits.self_taught`.

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
        layer = inner_layers(setup, type(self).__name__, 2)[0]
        self.network_layers = (layer.name,)
        self.branch = Branch(layer.shape, setup.output().shape[1])

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        targets = step.batch.targets
        p = softmax(step.output.detach().float(), dim=-1).gather(1, targets[:, None])
        rows = self_taught(
            step.output,
            self.branch(step.activations[self.network_layers[0]]),
            targets,
            mean_square=gather(p.square()).mean(),
            **self.options,
        )
        return mean_of_counted(rows, step.batch)

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: the layer that the branch is on."""
        return {"layer": self.network_layers[0]}
