"""Distillation of a teacher's outputs: soft targets, logit matching, decoupled; also across label spaces."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tutelage.errors import UserError, choices
from tutelage.losses.distillation import decoupled, logit_matching, soft_target
from tutelage.methods.base import Method
from tutelage.methods.features import HeadInput, check_outputs
from tutelage.methods.memory import TrainingSamples, of_teacher
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import head_of
from tutelage.models.outputs import Call
from tutelage.tasks import Batch, Forecasting, mean_of_counted

Loss = Literal["soft", "logits", "decoupled"]


class Distillation(Method):
    """The task's loss and a loss against a frozen teacher's output on the same batch.

    teacher: sees the same augmented tensors in the same step. example: a few samples, to probe shapes.
    loss: "soft", the task's loss at a temperature (Hinton et al. 2015, arXiv 1503.02531), for a forecast the mean squared distance from the
    teacher's, which has no other; "logits", half the squared distance (Ba and
    Caruana 2014, arXiv 1312.6184); "decoupled" (Zhao et al. 2022, arXiv 2203.08679), with `target_weight` alpha and `other_weight` beta.
    temperature: above 0; not used by "logits".
    label_space: "same": the network's own output meets the teacher's. "other": the teacher knows other classes, so an extra linear head on
    the input of the network's final layer meets it; the head is trained along and left out of the network that is kept.
    cache_teacher: run the teacher once for each training sample and keep its outputs, see `memory.Memory`; `training_samples` are
    what it sees, None where they are augmented.
    """

    terms = ("task", "soft")
    compares_outputs = True

    def __init__(
        self,
        *,
        teacher: FrozenNetwork,
        example: Batch,
        loss: Loss = "soft",
        temperature: float = 2.0,
        target_weight: float = 1.0,
        other_weight: float = 8.0,
        label_space: Literal["same", "other"] = "same",
        cache_teacher: bool = False,
        training_samples: TrainingSamples | None = None,
        **common: Any,
    ) -> None:
        if not temperature > 0:
            raise UserError(f"method.temperature must be above 0, got {temperature}")
        for name, value, known in (
            ("loss", loss, get_args(Loss)),
            ("label_space", label_space, ("same", "other")),
        ):
            if value not in known:
                raise UserError(f"method.{name}={value!r} is not known; {choices(value, known)}")
        super().__init__(frozen={"teacher": teacher}, **common)
        self.loss, self.temperature = loss, temperature
        if not (0 <= target_weight < math.inf and 0 <= other_weight < math.inf):
            raise UserError(
                f"method.target_weight and other_weight must not be negative, got {target_weight} and {other_weight}"
            )
        self.target_weight, self.other_weight = target_weight, other_weight
        if isinstance(self.task, Forecasting) and (loss != "soft" or label_space == "other"):
            raise UserError(
                f"method.loss={loss} with label_space={label_space} compares classes, which a forecast has not: choose loss=soft, the mean "
                "squared distance of the two forecasts, with label_space=same"
            )
        if loss == "decoupled" and label_space == "other":
            raise UserError(
                "method.loss=decoupled singles out the true class among the teacher's, which label_space=other has not: choose "
                "loss=soft or logits"
            )
        if label_space == "same":
            check_outputs(self.network, teacher, example)
        if cache_teacher:
            self.memory = of_teacher(teacher, training_samples)
        self.extra_head = _ExtraHead(self.network, teacher, example) if label_space == "other" else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.losses`."""
        output = self.predict(batch)
        teacher_output = (
            self.frozen["teacher"](batch.inputs, batch.mask)
            if self.memory is None
            else self.memory(batch)["output"]
        )
        return {"task": self.task.loss(output, batch), "soft": self._match(output, teacher_output, batch)}

    def _match(self, output: Tensor, teacher_output: Tensor, batch: Batch) -> Tensor:
        if self.extra_head is None and self.loss == "soft":
            return self.task.soft_loss(output, teacher_output, batch, self.temperature)
        if self.extra_head is None:
            mine, targets = self.task.select(output, batch)
            theirs, _ = self.task.select(teacher_output, batch)
        else:
            mine, theirs, targets = self.extra_head(), teacher_output, batch.targets
        if self.loss == "logits":
            rows = logit_matching(mine, theirs)
        elif self.loss == "soft":
            rows = soft_target(mine, theirs, temperature=self.temperature)
        else:
            weights = {"target_weight": self.target_weight, "other_weight": self.other_weight}
            rows = decoupled(mine, theirs, targets, temperature=self.temperature, **weights)
        return mean_of_counted(rows, batch)


class _ExtraHead(nn.Module):
    """A linear layer of the teacher's classes, on what the network's final layer was given in its latest forward."""

    def __init__(self, network: nn.Module, teacher: FrozenNetwork, example: Batch) -> None:
        super().__init__()
        head = head_of(network, example.inputs, example.mask)
        self.features = HeadInput(network, head)
        was_training = network.training
        with torch.no_grad():
            Call.of(network)(network.eval(), example.inputs, example.mask)
            classes = teacher(example.inputs, example.mask).shape[1:]
        network.train(was_training)
        seen = self.features.take()
        width = () if seen is None else tuple(seen.shape[1:])
        if len(width) != 1 or len(classes) != 1:
            raise UserError(
                "label_space=other needs networks that end in one linear layer and give (n, classes): the final layer "
                f"'{head}' of {type(network).__name__} takes {width} per sample, the teacher gives {tuple(classes)}. Another layer can be "
                "named: model.head=<layer>"
            )
        self.linear = nn.Linear(width[0], classes[0])

    def forward(self) -> Tensor:
        """Return logits (n, teacher's classes) of the network's latest forward."""
        return self.linear(self.features.take())
