"""Distillation of a teacher's inner features, jointly with the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tutelage.methods.base import Method
from tutelage.methods.features import FeatureMatch
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch


class FeatureDistillation(Method):
    """The task's loss and, all along, a loss between paired layers of the network and a frozen teacher.

    teacher: its features come from its one forward on the same augmented batch. example: a few samples, to probe shapes.
    loss, loss_options, pairing, k, layer_type, pairs: see `features.FeatureMatch`. Its projectors are trained along and left out of
    the network that is kept.
    """

    terms = ("task", "feature")

    def __init__(
        self,
        *,
        teacher: FrozenNetwork,
        example: Batch,
        loss: str = "hint",
        loss_options: Mapping[str, float] | None = None,
        pairing: str = "last",
        k: int | None = 1,
        layer_type: str | None = None,
        pairs: Sequence[Sequence[str]] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(frozen={"teacher": teacher}, **common)
        self.match = FeatureMatch(
            network=self.network, teacher=teacher, example=example, loss=loss, loss_options=loss_options,
            pairing=pairing, k=k, layer_type=layer_type, pairs=pairs,
        )  # fmt: skip

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.losses`."""
        with self.match.recording():
            output = self.predict(batch)
        return {"task": self.task.loss(output, batch), "feature": self.match(batch)[0]}

    def describe(self) -> dict[str, Any]:
        """See `Method.describe`: the pairs too."""
        return super().describe() | self.match.describe()
