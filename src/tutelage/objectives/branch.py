"""A branch from an inner layer of the network to logits. No objective itself."""

from __future__ import annotations

from torch import Tensor, nn

from tutelage.alignment.taps import Layer, weight_layers
from tutelage.errors import UserError
from tutelage.objectives.base import Setup
from tutelage.objectives.projector import width_of


class Branch(nn.Module):
    """From features of a layer to logits: channels widened at each position where asked for, their mean over positions, a linear map.

    shape: of the layer without the batch axis. width: of the wider channels; None: straight to the logits.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int | None = None) -> None:
        super().__init__()
        mine = width_of(shape)
        self.positions = (2, 3) if len(shape) == 3 else (1,) if len(shape) == 2 else ()
        self.widen: nn.Module = nn.Identity()
        if width is not None:
            self.widen = nn.Sequential(nn.Linear(mine, width), nn.LayerNorm(width), nn.GELU())
        self.to_logits = nn.Linear(mine if width is None else width, classes)

    def forward(self, feature: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        if isinstance(self.widen, nn.Identity):
            return self.to_logits(feature.mean(dim=self.positions) if self.positions else feature)
        if feature.ndim == 4:
            feature = feature.flatten(2).transpose(1, 2)
        feature = self.widen(feature)
        return self.to_logits(feature.mean(dim=1) if feature.ndim == 3 else feature)


def inner_layers(setup: Setup, name: str, count: int) -> list[Layer]:
    """Return so many weight layers before the output, spread evenly and ending with the last, or all where there are fewer.

    Raises UserError where there is none, or the network does not give one row of logits per sample.
    """
    output = setup.output()
    if output.ndim != 2 or output.shape[1] < 2:
        raise UserError(
            f"{name} needs a network that gives (n, classes), at least 2 classes, got {tuple(output.shape)}"
        )
    layers = weight_layers(setup.layers())[:-1]
    if not layers:
        raise UserError(
            f"{name} needs a layer before the output, which {type(setup.network).__name__} has not"
        )
    count = min(count, len(layers))
    return [layers[(place + 1) * len(layers) // count - 1] for place in range(count)]
