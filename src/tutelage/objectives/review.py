"""ReviewKD: each of the teacher's stages reviewed by the network's same and deeper ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.alignment.pairing import Pairing
from tutelage.errors import UserError
from tutelage.losses.projected import hierarchical
from tutelage.objectives.base import Step
from tutelage.objectives.paired_features import PairObjective
from tutelage.objectives.projector import Projector


class ReviewKD(PairObjective):
    """The network's features, fused from the deepest pair to the first, meet the teacher's; see `losses.projected.hierarchical`.

    pairing: from shallow to deep; by default three pairs from the last layers. The published form has the output of each stage and the
    pooled feature, as one can name them by `strategy`=explicit. A feature without positions is a map of 1 x 1.
    width: of the fused features at most; the deepest feature's where that is narrower.
    Norms see a rank's own samples, as published.
    Source: Chen, Liu, Zhao and Jia 2021, arXiv 2104.09044. Deviation: features are taken where they are tapped, behind the activation of a
    block, too; the code takes those before it. Raises UserError for sequences.
    """

    needs = "samples"

    def __init__(self, *, width: int = 512, pairing: Pairing | None = None, **common: Any) -> None:
        super().__init__(pairing=pairing or Pairing(strategy="last", k=3), **common)
        if width < 1:
            raise UserError(f"`width` must be at least 1, got {width}")
        self.width = width

    def make_projectors(self) -> nn.ModuleList:
        """See `PairObjective.make_projectors`: fusions, all but the deepest with what comes from below."""
        for pair in self.pairs:
            if len(pair.network.shape) == 2 or len(pair.guide.shape) == 2:
                raise UserError(
                    "ReviewKD fuses maps (channels, height, width) or vectors (width,), got "
                    f"{pair.network.shape} of '{pair.network.name}' and {pair.guide.shape} of '{pair.guide.name}': choose hint or srd"
                )
        middle = min(self.width, self.pairs[-1].network.shape[0])
        return nn.ModuleList(
            Fusion(pair.network.shape, pair.guide.shape, middle, fuses=place < len(self.pairs) - 1)
            for place, pair in enumerate(self.pairs)
        )

    def compare_pair(self, projector: Projector, student: Tensor, teacher: Tensor) -> Tensor:
        """See `PairObjective.compare_pair`."""
        return hierarchical(student, teacher)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`: the sum over the pairs, from the deepest."""
        mine, theirs = step.activations, step.frozen[str(self.network)].activations
        parts, below = [], None
        for pair, fusion in zip(reversed(self.pairs), reversed(self.projectors), strict=True):
            assert isinstance(fusion, Fusion)
            teacher = as_map(theirs[pair.guide.name])
            student, below = fusion.review(as_map(mine[pair.network.name]), below, teacher.shape[2:])
            parts.append(self.compare_pair(fusion, student, teacher))
        return torch.stack(parts).sum()


class Fusion(Projector):
    """A feature of the network and what the deeper ones gave, weighted at each position, and brought to the teacher's channels.

    student, teacher: shapes without the batch axis. middle: channels of what is fused. fuses: whether anything comes from below.
    """

    def __init__(
        self, student: tuple[int, ...], teacher: tuple[int, ...], middle: int, *, fuses: bool
    ) -> None:
        super().__init__(student, teacher, "samples")
        mine, theirs = self.widths
        self.enter = self._normed(nn.Conv2d(mine, middle, 1, bias=False))
        self.leave = self._normed(nn.Conv2d(middle, theirs, 3, padding=1, bias=False))
        self.attention = nn.Conv2d(2 * middle, 2, 1) if fuses else None

    def _normed(self, convolution: nn.Conv2d) -> nn.Sequential:
        nn.init.kaiming_uniform_(convolution.weight, a=1)
        # It is used in training alone, so there is nothing to track.
        return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, track_running_stats=False))

    def review(
        self, student: Tensor, below: Tensor | None, size: tuple[int, int] | torch.Size
    ) -> tuple[Tensor, Tensor]:
        """Return the map that meets the teacher's of that size, and what goes on to the next shallower pair."""
        fused = self.enter(student)
        if self.attention is not None:
            assert below is not None
            below = resized(below, fused.shape[2:])
            weights = self.attention(torch.cat([fused, below], dim=1)).sigmoid()
            fused = fused * weights[:, :1] + below * weights[:, 1:]
        fused = resized(fused, size)
        return self.leave(fused), fused


def as_map(feature: Tensor) -> Tensor:
    """Return a feature as a map (n, channels, height, width)."""
    return feature if feature.ndim == 4 else feature[..., None, None]


def resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return maps at another size, by the nearest position."""
    return x if x.shape[2:] == tuple(size) else F.interpolate(x, tuple(size), mode="nearest")
