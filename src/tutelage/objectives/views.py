"""Self-supervised learning from two views of each image: what the features before the final layer say of one must hold of the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.alignment.gather import gather
from tutelage.alignment.taps import Taps, input_of
from tutelage.errors import UserError, choices
from tutelage.losses.views import barlow_twins, nt_xent, vicreg
from tutelage.models.arguments import positive
from tutelage.models.heads import Head, head_of
from tutelage.objectives.base import Objective, Setup, Start, Step
from tutelage.objectives.unlabelled import Augment, UnlabelledStream

LOSSES: dict[str, Callable[..., Tensor]] = {
    "simclr": nt_xent,
    "vicreg": vicreg,
    "barlow_twins": barlow_twins,
}


class TwoViews(Objective):
    """A loss between the projected features of two views; the features are what enters the network's final layer, which rests.

    loss: simclr (arXiv 2002.05709), vicreg (arXiv 2105.04906) or barlow_twins (arXiv 2103.03230). options: of that loss, such as
    temperature. projector: widths of the layers through which features pass, with batch norm and ReLU between them; trained along, left
    out of the network that is kept. first, second: augmentations of the two views, drawn apart. Ranks' samples are gathered.
    """

    reaches_output = False

    def __init__(
        self,
        *,
        loss: Literal["simclr", "vicreg", "barlow_twins"] = "simclr",
        options: Mapping[str, Any] | None = None,
        projector: Sequence[int] = (512, 128),
        first: Augment | None = None,
        second: Augment | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if loss not in LOSSES:
            raise UserError(f"`loss`={loss!r} is not known; {choices(loss, LOSSES)}")
        if not projector:
            raise UserError("`projector` must name at least one width, such as [512, 128]")
        positive("projector", **{f"width {place + 1}": width for place, width in enumerate(projector)})
        known = [
            p.name for p in inspect.signature(LOSSES[loss]).parameters.values() if p.kind is p.KEYWORD_ONLY
        ]
        for key, value in (options or {}).items():
            if key not in known:
                raise UserError(f"`options`.{key}: {loss} has no such number; {choices(key, known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise UserError(f"`options`.{key} must be a number of at least 0, got {value!r}")
        self._widths, self._views = tuple(projector), (dict(first or {}), dict(second or {}))
        self._compare = partial(LOSSES[loss], **dict(options or {}))

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the features, and the images."""
        inputs = setup.example.inputs
        if setup.unlabelled is None or setup.batch_size is None or inputs.ndim != 4:
            raise UserError("two views are of images: give method.unlabelled=all and data of images")
        self.head: Head = head_of(setup.network, inputs, setup.example.mask)
        if len(self.head.reads) != 1:
            raise UserError(
                f"two views compare the features before the network's final layer, which are not one tensor here ('{self.head}'): name a "
                "layer, model.head=<layer>"
            )
        self.network_layers = (input_of(self.head.reads[0]),)
        was_training = setup.network.training
        with Taps(setup.network.eval(), self.network_layers) as taps, torch.no_grad():
            with taps.recording():
                setup.call(setup.network, inputs)
            width = pooled(next(iter(taps.collect().values()))).shape[1]
        setup.network.train(was_training)
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise((width, *self._widths))):
            last = place == len(self._widths) - 1
            layers.append(nn.Linear(before, after, bias=last))
            layers += [] if last else [nn.BatchNorm1d(after), nn.ReLU()]
        self.projector = nn.Sequential(*layers)
        self.stream = UnlabelledStream(
            setup.unlabelled,
            size=inputs.shape[2:],
            count=setup.batch_size,
            views=self._views,
            name="unlabelled images",
        )

    def start(self, start: Start) -> None:
        """Bring the images to the device; every rank takes its share of each step's."""
        self.stream.start(seed=start.seed, rank=start.rank, world_size=start.world_size, device=start.device)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`; the step's inputs are all first views, then all second ones."""
        (name,) = self.network_layers
        first, second = self.projector(pooled(step.activations[name])).chunk(2)
        return self._compare(gather(first), gather(second))

    @torch.no_grad()
    def judged(self, network: nn.Module, run: Callable[[nn.Module, Tensor], Any], views: Tensor) -> Tensor:
        """Return the loss of views (2 n, ...), first ones before second ones, on a network in its present mode."""
        with Taps(network, self.network_layers) as taps:
            with taps.recording():
                run(network, views)
            (features,) = taps.collect().values()
        first, second = self.projector(pooled(features)).chunk(2)
        return self._compare(first, second)

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`."""
        return {"unlabelled": dict(self.stream.source.facts), "features": self.network_layers[0]}


def pooled(features: Tensor) -> Tensor:
    """Return features as (n, width): the mean over positions of maps (n, width, H, W) and of tokens (n, length, width)."""
    if features.ndim == 3:
        return features.mean(dim=1)
    return features.flatten(2).mean(dim=2) if features.ndim > 3 else features
