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
from tutelage.arguments import positive
from tutelage.errors import UserError, choices
from tutelage.losses.views import barlow_twins, byol, nt_xent, vicreg
from tutelage.models.average import Average
from tutelage.objectives.base import Setup
from tutelage.objectives.pretext import Pretext, features_before, pooled, unlabelled_images
from tutelage.objectives.unlabelled import Augment, UnlabelledStream
from tutelage.tasks import Batch

LOSSES: dict[str, Callable[..., Tensor]] = {
    "simclr": nt_xent,
    "vicreg": vicreg,
    "barlow_twins": barlow_twins,
    "byol": byol,
}


class TwoViews(Pretext):
    """A loss between the projected features of two views; the features are what enters the network's final layer, which rests.

    loss: simclr (arXiv 2002.05709), vicreg (arXiv 2105.04906), barlow_twins (arXiv 2103.03230) or byol (arXiv 2006.07733). options: of
    that loss, such as temperature. projector: widths of the layers through which features pass, with batch norm and ReLU between them;
    trained along, left out of the network that is kept. first, second: augmentations of the two views, drawn apart. Ranks' samples are
    gathered.
    byol: a predictor (one hidden layer, as wide as the projector's first) guesses from one view what an average of network and projector
    makes of the other. options.decay is the average's, 0.99 and constant (the paper's rises to 1), and smaller in the first steps, see
    `Average`; its batch norms use running statistics. As its loss is smallest where all features are the same, what selects is NT-Xent.
    """

    selects = "views_loss"
    fewest = 2

    def __init__(
        self,
        *,
        loss: Literal["simclr", "vicreg", "barlow_twins", "byol"] = "simclr",
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
        options = dict(options or {})
        known = [
            p.name for p in inspect.signature(LOSSES[loss]).parameters.values() if p.kind is p.KEYWORD_ONLY
        ] + (["decay"] if loss == "byol" else [])
        for key, value in options.items():
            if key not in known:
                raise UserError(f"`options`.{key}: {loss} has no such number; {choices(key, known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise UserError(f"`options`.{key} must be a number of at least 0, got {value!r}")
        self.decay: float = options.pop("decay", 0.99)
        if self.decay >= 1:
            raise UserError(f"`options`.decay must be at least 0 and below 1, got {self.decay}")
        self._widths, self._views = tuple(projector), (dict(first or {}), dict(second or {}))
        self._compare = partial(LOSSES[loss], **options)
        self.predicts = loss == "byol"

    def choose(self, setup: Setup) -> str:
        """See `Pretext.choose`."""
        unlabelled_images(setup, "two views are of")
        return features_before(setup)[1]

    def build(self, setup: Setup, features: Tensor) -> None:
        """See `Pretext.build`."""
        unlabelled, count = unlabelled_images(setup, "two views are of")
        self.projector = _layers((pooled(features).shape[1], *self._widths))
        self.stream: UnlabelledStream = UnlabelledStream(
            unlabelled,
            size=setup.example.inputs.shape[2:],
            count=count,
            views=self._views,
            name="unlabelled images",
        )
        if self.predicts:
            self.predictor = _layers((self._widths[-1], self._widths[0], self._widths[-1]))
            self._call = setup.call
            self._online = (
                nn.ModuleList([setup.network, self.projector]),
            )  # in a tuple: no part of this module
            self.average = Average(self._online[0], self.decay)

    def seen(self, draw: int) -> Batch:
        """See `Pretext.seen`: all first views, then all second ones."""
        return _twice(super().seen(draw))

    def fixed(self, index: Tensor, seed: int) -> Batch:
        """See `Pretext.fixed`."""
        return _twice(super().fixed(index, seed))

    def updated(self, count: int) -> None:
        """See `Objective.updated`: the average follows."""
        if self.predicts:
            self.average.update(self._online[0], count)

    def compare(self, features: Tensor, batch: Batch) -> Tensor:
        """See `Pretext.compare`."""
        projected = self.projector(pooled(features))
        if not self.predicts:
            first, second = projected.chunk(2)
            return self._compare(gather(first), gather(second))
        network, projector = self.average.network.children()
        with torch.no_grad():
            wanted = projector(pooled(self.features_of(network, self._call, batch)))
        return self._compare(self.predictor(projected), torch.cat(wanted.chunk(2)[::-1]))

    def judge(self, features: Tensor, batch: Batch) -> Tensor:
        """See `Pretext.judge`: the views found among those of one batch."""
        first, second = self.projector(pooled(features)).chunk(2)
        return nt_xent(first, second) if self.predicts else self._compare(first, second)

    def counted(self, batch: Batch) -> int:
        """See `Pretext.counted`: images; of one alone there is nothing to tell apart."""
        count = len(batch.index) // 2
        return count if count >= self.fewest else 0

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`."""
        return {"unlabelled": dict(self.stream.source.facts), **super().describe()}


def _layers(widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers from width to width, with batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(widths)):
        last = place == len(widths) - 2
        layers.append(nn.Linear(before, after, bias=last))
        layers += [] if last else [nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def _twice(batch: Batch) -> Batch:
    index = torch.cat([batch.index, batch.index])
    return batch._replace(targets=index, index=index)
