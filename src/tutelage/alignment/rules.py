"""Guides that are no networks, shipped: image features made by hand, a hierarchy of classes, the calendar of a time series, nothing."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.alignment.gather import rank, world_size
from tutelage.alignment.guides import FeatureGuide, Sample
from tutelage.arguments import positive
from tutelage.errors import UserError, choices


class OrientedGradients(FeatureGuide):
    """Histograms of oriented gradients (Dalal and Triggs 2005) of images (n, C, H, W), from edges to blocks.

    Features: "edges" (n, bins, H, W), gradient magnitudes by orientation; "cells" (n, bins, H / cell, W / cell), their means over cells;
    "blocks" (n, 4 * bins, H / cell - 1, W / cell - 1), two by two cells normalised together (L2-hys), which removes contrast.

    cell: side of a cell in pixels. bins: orientations over 180 degrees, to which a gradient adds linearly in its two nearest (section
    6.4); magnitudes are the largest over channels (section 6.2). clip: of L2-hys (section 6.4). Border gradients repeat the edge pixel.
    The images' normalisation changes "blocks" only where it scales channels apart. Pixels beyond the last whole cell are left out.
    Raises UserError for inputs that are no images, or below two cells a side.
    """

    def __init__(self, *, cell: int = 8, bins: int = 9, clip: float = 0.2) -> None:
        super().__init__()
        if cell < 1 or bins < 2 or clip <= 0:
            raise UserError(
                f"guide.cell must be at least 1, bins at least 2 and clip above 0, got {cell}, {bins} and {clip}"
            )
        self.cell, self.bins, self.clip = cell, bins, clip

    def features(self, batch: Sample) -> dict[str, Tensor]:
        """See `FeatureGuide`."""
        images = batch.inputs
        if images.ndim != 4 or min(images.shape[2:]) < 2 * self.cell:
            raise UserError(
                f"oriented gradients need images (n, channels, height, width) of at least {2 * self.cell} pixels a side, two cells "
                f"(guide.cell={self.cell}); got inputs of shape {tuple(images.shape[1:])}"
            )
        edges = self._edges(images.float())
        cells = F.avg_pool2d(edges, self.cell)
        blocks = torch.cat(
            [cells[..., :-1, :-1], cells[..., :-1, 1:], cells[..., 1:, :-1], cells[..., 1:, 1:]], dim=1
        )
        blocks = F.normalize(blocks, dim=1, eps=1e-6).clamp(max=self.clip)
        return {"edges": edges, "cells": cells, "blocks": F.normalize(blocks, dim=1, eps=1e-6)}

    def _edges(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        right = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
        down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        magnitude, channel = (right.square() + down.square()).sqrt().max(dim=1, keepdim=True)
        angle = torch.atan2(down.gather(1, channel), right.gather(1, channel)) % math.pi
        # Bin k is centred on (k + 1/2) * 180 / bins degrees; its weight falls to 0 at its neighbours' centres, around the circle.
        place = angle * (self.bins / math.pi) - 0.5
        centres = torch.arange(self.bins, device=images.device).view(1, -1, 1, 1)
        apart = (place - centres).abs()
        return magnitude * (1 - torch.minimum(apart, self.bins - apart)).clamp(min=0)


class ClassHierarchy(FeatureGuide):
    """A tree over the classes, coarse levels for early layers and the classes themselves for late ones. Uses the targets (n,).

    Features: "level 1", "level 2", ...: (n, nodes down to that level), 1 for every ancestor of the sample's class down to that level. Two
    samples' inner product is the number of ancestors they share: the depth at which their classes part.

    tree: nested names, classes as leaves in lists, such as {animal: {pet: [cat, dog], other: [deer]}, vehicle: [ship]}; a
    class above the deepest level stands for itself below. class_names: of the data. Raises UserError unless the tree's leaves are
    the classes, each once.
    """

    sees_inputs = False
    nodes: Tensor

    def __init__(self, *, tree: Mapping[str, Any], class_names: Sequence[str] | None) -> None:
        super().__init__()
        if class_names is None:
            raise UserError("a class hierarchy guides data with named classes; these data have none")
        names = [str(name) for name in class_names]
        leaves = list(_leaves(tree, ()))
        for path in leaves:
            if path[-1] not in names:
                raise UserError(
                    f"guide.tree: the data have no class '{path[-1]}'; {choices(path[-1], names)}"
                )
        paths = {path[-1]: path for path in leaves}
        if len(paths) < len(leaves):
            twice = sorted({path[-1] for path in leaves if paths[path[-1]] is not path})
            raise UserError(f"guide.tree holds {', '.join(twice)} more than once")
        if missing := [name for name in names if name not in paths]:
            raise UserError(f"guide.tree leaves out the data's classes {', '.join(missing)}")
        columns: list[Tensor] = []
        self.widths: list[int] = []
        for level in range(1, max(map(len, leaves)) + 1):
            ancestors = [paths[name][:level] for name in names]
            known = sorted(set(ancestors))
            member = torch.tensor([known.index(ancestor) for ancestor in ancestors])
            columns.append(F.one_hot(member, len(known)).float())
            self.widths.append(sum(column.shape[1] for column in columns))
        self.register_buffer("nodes", torch.cat(columns, dim=1))

    def features(self, batch: Sample) -> dict[str, Tensor]:
        """See `FeatureGuide`."""
        if batch.targets.ndim != 1:
            raise UserError(
                f"a class hierarchy needs one class a sample, got targets of shape {tuple(batch.targets.shape)}"
                + (
                    ", as mixed images have: leave mixup and cutmix out"
                    if batch.targets.is_floating_point()
                    else ""
                )
            )
        rows = self.nodes[batch.targets]
        return {f"level {number}": rows[:, :width] for number, width in enumerate(self.widths, start=1)}


def _leaves(tree: Any, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(tree, Mapping):
        for name, below in tree.items():
            yield from _leaves(below, (*above, str(name)))
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for item in tree:
            yield from _leaves(item, above)
    else:
        yield (*above, str(tree))


class Calendar(FeatureGuide):
    """The place of a window in the day and in the week, for series with a daily and weekly rhythm.

    Features: "day" and "week", (n, 2 * harmonics) each: sines and cosines of 1, 2, ... times the angle of the first row that is to be
    forecast, so that windows are alike where their clocks are, the more sharply the more harmonics.

    tables: of the data; "calendar" holds the sines and cosines of the hour and the weekday by row. input_shape: (length, channels).
    Raises UserError for data without a calendar.
    """

    sees_inputs = False
    calendar: Tensor

    def __init__(
        self, *, tables: Mapping[str, Tensor], input_shape: Sequence[int], harmonics: int = 4
    ) -> None:
        super().__init__()
        if "calendar" not in tables:
            raise UserError(
                "a calendar guides time series with dates; these data have none (data=etth1 and data=series do)"
            )
        if harmonics < 1:
            raise UserError(f"guide.harmonics must be at least 1, got {harmonics}")
        self.length = input_shape[0]
        hour_sine, hour_cosine, week_sine, week_cosine = tables["calendar"].double().unbind(1)
        angles = torch.stack(
            [torch.atan2(hour_sine, hour_cosine), torch.atan2(week_sine, week_cosine)], dim=1
        )
        turns = angles.unsqueeze(2) * torch.arange(1, harmonics + 1)
        self.register_buffer("calendar", torch.cat([turns.sin(), turns.cos()], dim=2).float())

    def features(self, batch: Sample) -> dict[str, Tensor]:
        """See `FeatureGuide`."""
        day, week = self.calendar[batch.index + self.length].unbind(1)
        return {"day": day, "week": week}


class _Repeated(FeatureGuide):
    """A guide with one feature, which as many layers of the network mirror, spread evenly over it."""

    def __init__(self, *, layers: int = 14) -> None:
        super().__init__()
        positive("guide", layers=layers)
        self.layers = layers

    @abstractmethod
    def feature(self, batch: Sample) -> Tensor:
        """Return it, (n, ...)."""

    def features(self, batch: Sample) -> dict[str, Tensor]:
        """See `FeatureGuide`."""
        feature = self.feature(batch)
        return {f"place {number}": feature for number in range(1, self.layers + 1)}


class Distinct(_Repeated):
    """Every sample is unlike every other, equally: no knowledge of the data at all. A control for guides, and an intervention on rank.

    CKA with it is the square root of (participation ratio of the layer's covariance) / (n - 1): a network that mirrors it spreads its
    samples over as many directions as it has. layers: how many of the network's mirror it.
    """

    sees_inputs = False
    unseen_by = (
        "unbiased_cka",
        "rsa",
        "ridge",
    )  # which leave the diagonal out, or predict samples from others

    def feature(self, batch: Sample) -> Tensor:
        """One direction for each sample of the global batch."""
        n = len(batch.inputs)
        return torch.eye(n * world_size(), device=batch.inputs.device)[rank() * n : (rank() + 1) * n]


class Inputs(_Repeated):
    """The inputs themselves, (n, ...) of floating point: a network that mirrors them passes on what it is given. A control for guides.

    layers: how many of the network's mirror them. Raises UserError for tokens.
    """

    def feature(self, batch: Sample) -> Tensor:
        """See the class."""
        if not batch.inputs.is_floating_point():
            raise UserError(
                f"rule/inputs needs inputs that are measured, as images and series are; got tokens of shape {tuple(batch.inputs.shape[1:])}"
            )
        return batch.inputs
