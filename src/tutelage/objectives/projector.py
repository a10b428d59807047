"""From a network's feature to its teacher's shape: a trained linear map, one grid of positions, padding left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Needs = Literal["samples", "shape", "width"]


class Projector(nn.Module):
    """A learned linear map from the student's to the teacher's width, where they differ, and one grid of positions for both.

    student, teacher: shapes without the batch axis: (channels, height, width), (length, width) or (width,).
    needs: "samples": nothing is changed. "shape": maps of unequal size are averaged down to the smaller one, channels go through a 1 x 1
    convolution (FitNets' regressor, arXiv 1412.6550); features of unequal kinds (a map and a vector) are averaged over positions.
    "width": all are averaged over positions.
    """

    def __init__(
        self,
        student: tuple[int, ...],
        teacher: tuple[int, ...],
        needs: Needs,
    ) -> None:
        super().__init__()
        self.pools = needs == "width" or (needs == "shape" and len(student) != len(teacher))
        self.resizes = needs == "shape" and not self.pools and len(student) == 3
        self.widths = mine, theirs = width_of(student), width_of(teacher)
        self.map: nn.Module = nn.Identity()
        if needs != "samples" and mine != theirs:
            self.map = self.linear(mine, theirs, bias=not self.resizes)

    def linear(self, mine: int, theirs: int, *, bias: bool = False) -> nn.Module:
        """Return a new linear map of each position's channels."""
        return nn.Conv2d(mine, theirs, 1, bias=bias) if self.resizes else nn.Linear(mine, theirs, bias=bias)

    def forward(self, student: Tensor, teacher: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return both features (n, ...) ready for the loss. real: (n, length), the positions of sequences that are no padding."""
        if self.pools:
            student, teacher = _pool(student, real), _pool(teacher, real)
        elif self.resizes:
            size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
            student, teacher = (
                x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)
            )
        return real_positions(self.map(student), real), real_positions(teacher, real)


def width_of(shape: tuple[int, ...]) -> int:
    """Return the channels of a feature of this shape without the batch axis: of maps the first, of sequences and rows the last."""
    return shape[0] if len(shape) == 3 else shape[-1]


def _pool(x: Tensor, real: Tensor | None) -> Tensor:
    if x.ndim == 3 and real is not None and x.shape[1] == real.shape[1]:
        return real_positions(x, real).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1) if x.ndim == 3 else x


def positions(features: Sequence[Tensor], mask: Tensor | None) -> Tensor | None:
    """Return the mask where it is of these features' positions; None where there is none, or they are no sequences of its length."""
    if mask is not None and any(x.ndim == 3 and x.shape[1] == mask.shape[1] for x in features):
        return mask
    return None


def real_positions(feature: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded positions of a sequence's features (n, length, width)."""
    if mask is None or feature.ndim != 3 or feature.shape[1] != mask.shape[1]:
        return feature
    return feature.masked_fill(~mask[..., None], 0.0)
