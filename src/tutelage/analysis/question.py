"""What explainers ask: a network for one class of each sample, with any of its places hidden."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.alignment.guides import FeatureGuide
from tutelage.errors import UserError
from tutelage.models.forward_calls import Call
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch, Binary, Classification

CELLS = 8
"""Images and series are hidden in cells, at most so many along a side; tokens and columns one by one."""
BLOCK = 64
"""Samples at once."""


@dataclass(frozen=True)
class Question:
    """One network, asked for one class of each of n samples.

    network: at rest, on the batch's device. batch: inputs (n, ...) as the data module gives them. classes: (n,) those asked for.
    hidden: the token that stands for none, where inputs are tokens.
    """

    network: FrozenNetwork
    task: Any
    batch: Batch
    classes: Tensor
    hidden: int = 0

    @classmethod
    def of(cls, network: FrozenNetwork, data: Any, batch: Batch) -> Question:
        """Ask for the true classes. Raises UserError for a task without classes, and for a network that does not answer it."""
        task = data.task
        if not isinstance(task, Classification | Binary):
            raise UserError(
                f"explain is of networks that choose one class for each sample, got a task of {task.name}"
            )
        if isinstance(network.network, FeatureGuide):
            raise UserError(f"{type(network.network).__name__} is a rule: it has features and no answers")
        entries = getattr(data, "entries", None) or []
        hidden = entries.index("<unk>") if "<unk>" in entries else getattr(data, "padding", 0)
        found = cls(network, task, batch, batch.targets.long(), int(hidden or 0))
        found.probability(batch.inputs)
        return found

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images."""
        return self.batch.inputs.ndim == 4

    @property
    def tokens(self) -> bool:
        """Whether the inputs are tokens."""
        return not self.batch.inputs.is_floating_point()

    @property
    def places(self) -> tuple[int, ...]:
        """The shape of one map."""
        shape = tuple(self.batch.inputs.shape)
        return shape[2:] if self.is_image else shape[1:2]

    @cached_property
    def real(self) -> Tensor:
        """Which places are there, (n, *places) bool: not the padding of a text."""
        mask = self.batch.mask
        if mask is None or self.is_image:
            return torch.ones(
                len(self.classes), *self.places, dtype=torch.bool, device=self.batch.inputs.device
            )
        return mask

    @cached_property
    def cells(self) -> Tensor:
        """The cell (*places) of each place, numbered from 0."""
        device = self.batch.inputs.device
        if self.batch.inputs.ndim < 3:
            return torch.arange(self.places[0], device=device)
        cells = torch.zeros(self.places, dtype=torch.long, device=device)
        for axis, size in enumerate(self.places):
            side = -(-size // (CELLS if self.is_image else CELLS**2))
            along = torch.arange(size, device=device) // side
            shape = [-1 if axis == one else 1 for one in range(len(self.places))]
            cells = cells * (int(along.max()) + 1) + along.view(shape)
        return cells

    def kept(self, keep: Tensor, inputs: Tensor | None = None) -> Tensor:
        """Return the inputs with all but some places hidden. keep: (n, *places) bool."""
        inputs = self.batch.inputs if inputs is None else inputs
        if self.is_image:
            keep = keep.unsqueeze(1)
        elif inputs.ndim == 3:
            keep = keep.unsqueeze(2)
        return torch.where(keep, inputs, torch.full_like(inputs, self.hidden if self.tokens else 0))

    def logits(self, seen: Tensor, mask: Tensor | None) -> Tensor:
        """Return a logit for each class (n, classes), with gradients, of inputs as the network itself takes them (`converted`)."""
        output = Call.of(self.network.network)(self.network.network, seen, mask)
        if isinstance(self.task, Binary):
            output = torch.cat([-output, output], dim=1) / 2
        classes = 2 if isinstance(self.task, Binary) else self.task.output_size
        if output.ndim != 2 or output.shape[1] != classes:
            raise UserError(
                f"a network that answers {tuple(output.shape[1:])} has no logit for each of {classes} classes"
            )
        return output

    def score(self, seen: Tensor) -> Tensor:
        """Return the logit (n,) of the class asked for."""
        return chosen(self.logits(seen, self._mask(len(seen))), self.classes)

    def _mask(self, count: int) -> Tensor | None:
        mask = self.batch.mask
        # integrated gradients see every sample at several points at once, in the order of the points
        return None if mask is None or count == len(mask) else mask.repeat(count // len(mask), 1)

    @torch.no_grad()
    def probability(self, inputs: Tensor) -> Tensor:
        """Return the probability (n,) of the class asked for, of inputs as the data module gives them."""
        found = []
        for rows in self.blocks():
            part = self.part(rows)
            logits = self.logits(self.network.converted(inputs[rows]), part.batch.mask)
            found.append(chosen(logits.softmax(dim=1), part.classes))
        return torch.cat(found)

    def blocks(self) -> Iterator[slice]:
        """Yield the samples that are asked about at once."""
        for first in range(0, len(self.classes), BLOCK):
            yield slice(first, first + BLOCK)

    def part(self, rows: slice) -> Question:
        """Return the same question of some samples."""
        batch = Batch(*(None if one is None else one[rows] for one in self.batch))  # type: ignore[arg-type]
        return replace(self, batch=batch, classes=self.classes[rows])

    def fitted(self, found: Tensor) -> Tensor:
        """Return maps at the size of the data, where the network saw images at another."""
        if not self.is_image or found.shape[1:] == self.places:
            return found
        shown = F.interpolate(found.unsqueeze(1), size=self.places, mode="bilinear", antialias=True)
        return shown.squeeze(1)


def chosen(values: Tensor, classes: Tensor) -> Tensor:
    """Return of values (k * n, classes) those of each sample's class (n,), over and over."""
    return values.gather(1, classes.repeat(len(values) // len(classes)).unsqueeze(1)).squeeze(1)


def joined(batches: Iterable[Batch]) -> Batch:
    """Return all batches as one, without the samples whose targets do not count."""
    parts = list(batches)
    together = (None if one[0] is None else torch.cat(one) for one in zip(*parts, strict=True))
    whole = Batch(*together)  # type: ignore[arg-type]
    if whole.target_mask is None or whole.target_mask.ndim != 1:
        return whole
    keep = whole.target_mask
    return Batch(*(None if one is None else one[keep] for one in whole))  # type: ignore[arg-type]
