"""CRD: contrastive representation distillation with a memory of every training sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.alignment.gather import gather, world_size
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.taps import Taps, input_of, weight_layers
from tutelage.errors import UserError
from tutelage.losses.contrast import noise_contrast
from tutelage.models.heads import Head, head_of
from tutelage.objectives.base import Objective, Setup, Step
from tutelage.tasks import Batch


class CRD(Objective):
    """Features of one sample in both networks belong together, among those of other samples (Tian et al. 2020, arXiv 1910.10699).

    What the final layer of each network is given goes through a trained linear map to unit length. Two banks remember the latest
    embeddings of every training sample: the student's is compared with the teacher's bank, the teacher's with the student's.
    dimensions: of the embeddings. negatives: per sample and step, drawn with replacement from the samples of other classes (of tasks
    without classes, from all others), at most one less than there are training samples. temperature: scores are divided by it.
    momentum: what a bank keeps of its former value. The normalising constants are those of the first batch and stay.
    Banks and constants are buffers, so a checkpoint has them. On several ranks each rank contrasts its own samples with draws of its own,
    and all banks take the global batch: the mean of the ranks' losses is one of the global batch with other draws.
    Deviation: the released code draws without replacement where it can.
    """

    singles_out_class = True

    reads_frozen = True
    expects_trained = True
    reaches_output = False

    bank_mine: Tensor
    bank_theirs: Tensor
    log_normalisers: Tensor
    labels: Tensor
    row_of: Tensor

    def __init__(
        self,
        *,
        dimensions: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for name, value in (("dimensions", dimensions), ("negatives", negatives)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"`{name}` must be a whole number, at least 1, got {value!r}")
        if not 0 < temperature < math.inf:
            raise UserError(f"`temperature` must be above 0, got {temperature}")
        if not 0 <= momentum < 1:
            raise UserError(f"`momentum` must be at least 0 and below 1, got {momentum}")
        self.dimensions, self.negatives = dimensions, negatives
        self.temperature, self.momentum = temperature, momentum

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find what the final layers are given, make embeddings and banks."""
        frozen = self.frozen_in(setup)
        if setup.index is None or len(setup.index) < 2:
            raise UserError(
                "CRD remembers every training sample by its index: give Objectives `index`, those of all (at least 2) training samples, "
                "and batches (tutelage.tasks.Batch) with theirs"
            )
        if isinstance(frozen.network, FeatureGuide):
            raise UserError(
                f"CRD needs a teacher that is a network, got the rule {type(frozen.network).__name__}"
            )
        example = setup.example
        mine = head_of(setup.network, example.inputs, example.mask)
        self.network_layers = (input_of(_one(mine, setup.network)),)
        self.frozen_layers = (input_of(_one(frozen.head(example.inputs, example.mask), frozen.network)),)
        shapes = {layer.name: layer.shape for layer in weight_layers(setup.layers())}
        self._last_shared = next((name for name in reversed(shapes) if name not in mine.layers), None)
        widths = (
            _width(setup.network, self.network_layers[0], setup.output, example),
            _width(
                frozen.network, self.frozen_layers[0], partial(frozen, example.inputs, example.mask), example
            ),
        )
        self.map_mine, self.map_theirs = (nn.Linear(width, self.dimensions) for width in widths)
        samples = len(setup.index)
        self.k = min(self.negatives, samples - 1)
        bound = math.sqrt(3 / self.dimensions)  # rows of length about 1
        for name in ("bank_mine", "bank_theirs"):
            self.register_buffer(name, torch.empty(samples, self.dimensions).uniform_(-bound, bound))
        self.register_buffer("log_normalisers", torch.full((2,), math.nan))  # until the first batch
        self.register_buffer("labels", torch.full((samples,), -1))
        row_of = torch.full((int(setup.index.max()) + 1,), -1)
        row_of[setup.index] = torch.arange(samples)
        self.register_buffer("row_of", row_of, persistent=False)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`; remembers the batch."""
        features = (
            step.activations[self.network_layers[0]],
            step.frozen[str(self.network)].activations[self.frozen_layers[0]],
        )
        with torch.autocast(features[0].device.type, enabled=False):
            mine, theirs = (
                F.normalize(embed(pooled(x, step.batch.mask).to(embed.weight.dtype)), dim=1)
                for embed, x in zip((self.map_mine, self.map_theirs), features, strict=True)
            )
            rows = self.row_of[step.batch.index]
            targets = classes(step.batch, rows)
            draws = self._draw(rows, targets)
            pairs = ((mine, self.bank_theirs), (theirs, self.bank_mine))
            scores = [
                self._scores(embedded, bank, torch.cat([rows[:, None], draws], dim=1))
                for embedded, bank in pairs
            ]
            self._settle(scores)
            samples = len(self.labels)
            loss = sum(
                noise_contrast(found[:, 0], found[:, 1:], log_z, samples=samples).mean()
                for found, log_z in zip(scores, self.log_normalisers.clone(), strict=True)
            )
            self._remember(rows, targets, mine.detach(), theirs.detach())
        assert isinstance(loss, Tensor)
        return loss

    def _scores(self, embedded: Tensor, bank: Tensor, places: Tensor) -> Tensor:
        # One product with the whole bank, then the drawn ones: gathering the rows first reads k times as much. The copy is for the
        # backward pass, before which the bank is written to.
        return (embedded @ bank.clone().T).gather(1, places) / self.temperature

    def _draw(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Rows (n, k) of other classes, evenly; a sample that was not seen yet counts as of another class, and its row is noise."""
        count = len(self.labels)
        order = self.labels.argsort(stable=True)
        labels = self.labels[order]
        first = torch.searchsorted(labels, targets)
        size = torch.searchsorted(labels, targets, right=True) - first
        seen = self.labels[rows] == targets
        others = (count - size).clamp(min=1)
        drawn = torch.randint(2**62, (len(rows), self.k), device=rows.device) % others[:, None]
        found = order[(drawn + size[:, None] * (drawn >= first[:, None])).clamp(max=count - 1)]
        # a sample that is new itself is no negative of its own
        return torch.where((found == rows[:, None]) & ~seen[:, None], (found + 1) % count, found)

    @torch.no_grad()
    def _settle(self, scores: list[Tensor]) -> None:
        """Set the normalising constants from the first batch: the mean of exp(score), times the number of samples."""
        means = torch.stack([found.double().exp().mean() for found in scores])
        if world_size() > 1:
            dist.all_reduce(means)
            means /= world_size()
        fresh = (means * len(self.labels)).log().to(self.log_normalisers.dtype)
        self.log_normalisers.copy_(torch.where(self.log_normalisers.isnan(), fresh, self.log_normalisers))

    @torch.no_grad()
    def _remember(self, rows: Tensor, targets: Tensor, mine: Tensor, theirs: Tensor) -> None:
        rows = gather(rows)
        for bank, embedded in ((self.bank_mine, mine), (self.bank_theirs, theirs)):
            moved = self.momentum * bank[rows] + (1 - self.momentum) * gather(embedded)
            bank[rows] = F.normalize(moved, dim=1).to(bank.dtype)
        self.labels[rows] = gather(targets)

    def shared_layer(self) -> str | None:
        """See `Objective.shared_layer`: the last weight layer before the final one."""
        return self._last_shared

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: what is compared, and with how many."""
        return {"pairs": [[self.frozen_layers[0], self.network_layers[0]]], "negatives": self.k}


def classes(batch: Batch, rows: Tensor) -> Tensor:
    """Return each sample's class, (n,); below -1 a class of its own where the target is none, or does not count."""
    own = -2 - rows
    if batch.targets.ndim != 1 or batch.targets.is_floating_point():
        return own
    return batch.targets if batch.target_mask is None else torch.where(batch.target_mask, batch.targets, own)


def pooled(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return features (n, width): of maps and sequences the mean over positions that are real."""
    if x.ndim == 3 and mask is not None and x.shape[1] == mask.shape[1]:
        return (x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1) if x.ndim == 3 else x


def _one(head: Head, network: nn.Module) -> str:
    if len(head.reads) != 1:
        raise UserError(
            f"CRD needs networks that end in one layer: {type(network).__name__} ends in {head}. A layer can be named: model.head=<layer>"
        )
    return head.reads[0]


def _width(network: nn.Module, layer: str, run: Callable[[], object], example: Batch) -> int:
    with Taps(network, [layer]) as taps, torch.no_grad():
        with taps.recording():
            run()
        features = pooled(taps.collect()[layer], example.mask)
    if features.ndim != 2:
        raise UserError(
            f"CRD needs features (n, width), or maps and sequences of them: {layer} is {tuple(features.shape)}"
        )
    return features.shape[1]
