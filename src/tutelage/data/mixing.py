"""Mixup and CutMix: pairs of a batch become one another's neighbours, and their targets probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.data.augment_colour import inside
from tutelage.errors import UserError
from tutelage.tasks import Batch

_QUANTILES = 4096


class Mixing:
    """One way to mix an image with its partner. alpha: both parameters of the Beta distribution of an image's share.
    probability: of this way, for each image.
    """

    def __init__(self, alpha: float = 1.0, probability: float = 1.0) -> None:
        name = type(self).__name__
        if not 0 < alpha < float("inf"):
            raise UserError(f"{name} needs an alpha above 0, got {alpha}")
        if not 0 <= probability <= 1:
            raise UserError(f"{name} needs a probability from 0 to 1, got {probability}")
        self.alpha, self.probability = alpha, probability
        self._table: Tensor | None = None

    def share(self, noise: Tensor) -> Tensor:
        """Return the quantiles of Beta(alpha, alpha) at uniform numbers (n,), float32: of a table, linear between its 4,097 entries."""
        if self.alpha == 1:
            return noise
        if self._table is None:
            from scipy.special import betaincinv

            at = np.linspace(0, 1, _QUANTILES + 1)
            self._table = torch.from_numpy(betaincinv(self.alpha, self.alpha, at)).float()
        table = self._table.to(noise.device)
        place = noise * _QUANTILES
        low = place.long().clamp(max=_QUANTILES - 1)
        return torch.lerp(table[low], table[low + 1], place - low)


class Mixup(Mixing):
    """The weighted mean of both images (Zhang et al. 2017, arXiv 1710.09412)."""


class CutMix(Mixing):
    """A rectangle of the partner's, its centre anywhere and cut off at the borders; the share is that of the pixels (Yun et al. 2019,
    arXiv 1905.04899).
    """


class Mixer:
    """Mixes each image of a batch with the one beside it, in one of the ways, each with a share and a rectangle of its own.

    Samples 2k and 2k + 1 are partners: an epoch's order is random, so that any two may meet, and several ranks, whose shares are stretches
    of the batch, find the partners that one process does. Targets become probabilities (n, classes), float32.
    """

    draws = 4

    def __init__(self, ways: Sequence[Mixing]) -> None:
        self.ways = tuple(ways)
        if (total := sum(way.probability for way in self.ways)) > 1 + 1e-9:
            named = " and ".join(type(way).__name__ for way in self.ways)
            raise UserError(
                f"an image is mixed in one way at most: the probabilities of {named} come to {total:g}; give each its share, such as "
                "data.augment.mixup.probability=0.5 data.augment.cutmix.probability=0.5"
            )

    def __call__(self, batch: Batch, noise: Tensor, classes: int) -> Batch:
        """Return the batch mixed; noise (n, 4): which way, share, vertical and horizontal place. Raises UserError for an odd batch."""
        n, _, height, width = batch.inputs.shape
        if n % 2:
            raise UserError(
                f"mixup and cutmix mix pairs of a batch: data.batch_size must be even (on each rank), got {n} samples"
            )
        partner = torch.arange(n, device=noise.device) ^ 1
        share = torch.ones(n, device=noise.device)
        theirs = batch.inputs[partner]
        inputs, first = batch.inputs, 0.0
        for way in self.ways:
            chosen = (noise[:, 0] >= first) & (noise[:, 0] < first + way.probability)
            first += way.probability
            own = way.share(noise[:, 1])
            if isinstance(way, CutMix):
                taken = inside(_rectangles(1 - own, noise[:, 2:], height, width), height, width)
                own = 1 - taken.float().mean(dim=(1, 2, 3))
                mixed = torch.where(taken, theirs, batch.inputs)
            else:
                mixed = torch.lerp(theirs, batch.inputs, own[:, None, None, None])
            inputs = torch.where(chosen[:, None, None, None], mixed, inputs)
            share = torch.where(chosen, own, share)
        targets = F.one_hot(batch.targets, classes).float()
        return batch._replace(inputs=inputs, targets=torch.lerp(targets[partner], targets, share[:, None]))


def _rectangles(area: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """Return (n, 4) of top, left, height and width: of the share `area` (n,) of the image, what lies inside of it."""
    half = area.clamp(min=0).sqrt() / 2
    sides = []
    for place, side in ((centre[:, 0], height), (centre[:, 1], width)):
        middle = (place * side).long().clamp(max=side - 1)
        reach = (half * side).long()
        low, high = (middle - reach).clamp(min=0), (middle + reach).clamp(max=side)
        sides.append((low, high - low))
    (top, tall), (left, wide) = sides
    return torch.stack([top, left, tall, wide], dim=1)
