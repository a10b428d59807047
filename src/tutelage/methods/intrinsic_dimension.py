"""A regulariser without any guide: the intrinsic dimension of the network's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.alignment.features import per_sample
from tutelage.alignment.gather import gather
from tutelage.alignment.taps import Taps, probe, weight_layers
from tutelage.errors import UserError
from tutelage.losses.dimension import intrinsic_dimension
from tutelage.methods.base import Method
from tutelage.tasks import Batch


class IntrinsicDimension(Method):
    """The task's loss, and the mean intrinsic dimension of the network's layers; a positive weight lowers it, a negative one raises it.

    arXiv 2410.20035 names such a regulariser and no details: estimator, layers and direction are ours.
    example: a few samples, to find the layers. batch_size: global, if known. neighbours: of `losses.dimension.intrinsic_dimension`.
    layers: names; None: all weight layers but the last. Over all ranks' samples. Raises UserError for a layer that does not exist.
    """

    terms = ("task", "dimension")

    def __init__(
        self,
        *,
        example: Batch,
        batch_size: int | None = None,
        neighbours: int = 20,
        layers: Sequence[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if neighbours < 2 or (batch_size is not None and batch_size <= neighbours):
            raise UserError(
                f"method.neighbours must be at least 2 and below the batch size {batch_size}, got {neighbours}"
            )
        found = weight_layers(probe(self.network, example.inputs, example.mask, run=self))
        self.layers = list(layers) if layers is not None else [layer.name for layer in found[:-1]]
        if not self.layers:
            raise UserError("method.layers is empty: the network has no inner weight layer")
        self.neighbours = neighbours
        self._taps = Taps(self.network, self.layers)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See `Method.losses`."""
        with self._taps.recording():
            output = self.predict(batch)
        rows = [gather(per_sample(x, batch.mask)) for x in self._taps.collect().values()]
        dimensions = torch.stack([intrinsic_dimension(x, neighbours=self.neighbours) for x in rows])
        return {"task": self.task.loss(output, batch), "dimension": dimensions.mean()}

    def describe(self) -> dict[str, Any]:
        """See `Method.describe`: the layers too."""
        return super().describe() | {"layers": self.layers}
