"""A regulariser without any guide: the intrinsic dimension of the network's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import per_sample
from tutelage.alignment.gather import gather
from tutelage.alignment.taps import weight_layers
from tutelage.errors import UserError
from tutelage.losses.dimension import intrinsic_dimension
from tutelage.objectives.base import Objective, Setup, Step


class Dimension(Objective):
    """The mean intrinsic dimension of the network's layers; a positive weight lowers it, a negative one raises it.

    arXiv 2410.20035 names such a regulariser and no details: estimator, layers and direction are ours.
    neighbours: of `losses.dimension.intrinsic_dimension`. layers: names; None: all weight layers but the last. Over all ranks' samples.
    Raises UserError for a layer that does not exist.
    """

    signed = True

    reaches_output = False

    def __init__(self, *, neighbours: int = 20, layers: Sequence[str] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.neighbours, self.layers = neighbours, layers

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the layers."""
        size = setup.batch_size
        if self.neighbours < 2 or (size is not None and size <= self.neighbours):
            raise UserError(
                f"`neighbours` must be at least 2 and below the batch size {size}, got {self.neighbours}"
            )
        found = weight_layers(setup.layers())
        names = [layer.name for layer in found[:-1]] if self.layers is None else list(self.layers)
        if not names:
            raise UserError("there are no layers to measure: the network has no inner weight layer")
        self.network_layers = tuple(names)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        rows = [gather(per_sample(step.activations[n], step.batch.mask)) for n in self.network_layers]
        dimensions = torch.stack([intrinsic_dimension(x, neighbours=self.neighbours) for x in rows])
        return dimensions.mean()

    def shared_layer(self) -> str | None:
        """See `Objective.shared_layer`."""
        return self.network_layers[-1]

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: the layers."""
        return {"layers": list(self.network_layers)}
