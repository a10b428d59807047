"""Features of a network, held against those of its teacher or read where a classifier decides. Shared by methods; no method itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.alignment.gather import gather
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.taps import Taps, probe
from tutelage.errors import UserError, choices
from tutelage.losses.feature import FEATURE_LOSSES
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.heads import Head
from tutelage.models.outputs import Call
from tutelage.tasks import Batch, mean_of_counted


class FeatureMatch(nn.Module):
    """A feature loss between paired layers of a network and a frozen teacher, summed over the pairs.

    loss: hint | attention | relational | similarity | pkt | cross_correlation, with `loss_options` as its arguments; see
    `tutelage.losses.feature`. Where it needs equal shapes, a trained `Projector` per pair gives them.
    pairing: which teacher layer meets which network layer, by `alignment.pairing.Pairing` (the teacher in the guide's place), with its
    arguments `k`, `layer_type` and `pairs`; the output layers are left out. Losses over a batch see the global batch of all ranks.
    example: a few samples; what the loss cannot take raises UserError now, not at the first step.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        teacher: FrozenNetwork,
        example: Batch,
        loss: str = "hint",
        loss_options: Mapping[str, float] | None = None,
        pairing: str = "last",
        k: int | None = 1,
        layer_type: str | None = None,
        pairs: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        if loss not in FEATURE_LOSSES:
            raise UserError(f"method.loss={loss!r} is not known; {choices(loss, FEATURE_LOSSES)}")
        self.loss, self.options = FEATURE_LOSSES[loss], dict(loss_options or {})
        layers = [
            probe(teacher.network, example.inputs, run=teacher),
            probe(network, example.inputs, run=partial(Call.of(network), network)),
        ]
        pair = Pairing(
            strategy=pairing, k=k, layer_type=layer_type, pairs=pairs, exclude_output=pairing != "explicit"
        )
        self.pairs = pair(*layers)
        needs = self.loss.needs
        self.projectors = nn.ModuleList(Projector(p.network.shape, p.guide.shape, needs) for p in self.pairs)
        self._network, self._teacher = (
            (network,),
            (teacher,),
        )  # in tuples: they are no children of this module
        self._mine = Taps(network, [p.network.name for p in self.pairs])
        self._theirs = Taps(teacher.network, [p.guide.name for p in self.pairs])
        self.recording = self._mine.recording
        try:
            self.rehearse(example)
        except TypeError as error:
            raise UserError(f"method.loss_options={self.options} do not fit the loss: {error}") from error

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the teacher; return the loss against the features of the network's forward in `recording()`, and the teacher's output."""
        with torch.no_grad(), self._theirs.recording():
            teacher_output = self._teacher[0](batch.inputs, batch.mask)
        mine, theirs = self._mine.collect(), self._theirs.collect()
        parts = []
        for pair, projector in zip(self.pairs, self.projectors, strict=True):
            features = mine[pair.network.name], theirs[pair.guide.name]
            real = _positions(features, batch.mask)
            student, teacher = projector(*features, real)
            if self.loss.over_batch:
                student, teacher = gather(student), gather(teacher)
            by_position = real is not None and self.loss.needs == "shape" and student.ndim == 3
            if by_position:  # padding is nothing to agree on
                student, teacher = student[real], teacher[real]
            part = self.loss.function(student, teacher, **self.options)
            parts.append(mean_of_counted(part.expand(len(student)), batch) if by_position else part)
        return torch.stack(parts).sum(), teacher_output

    def rehearse(self, example: Batch) -> Tensor:
        """Return the loss on a few samples, the network in eval mode."""
        (network,) = self._network
        was_training = network.training
        network.eval()
        try:
            with self.recording():
                Call.of(network)(network, example.inputs)
            return self(example._replace(mask=None))[0]
        finally:
            network.train(was_training)

    def describe(self) -> dict[str, Any]:
        """Return what the record should say: the pairs (teacher layer, network layer)."""
        return {"pairs": [[p.guide.name, p.network.name] for p in self.pairs]}


class HeadInput:
    """What a network's final layer was given in its latest forward: the features a classifier decides on.

    head: that layer, see `models.heads`. name: its path; empty where the network does not end in one layer.
    """

    def __init__(self, network: nn.Module, head: Head) -> None:
        self.name = head.reads[0] if len(head.reads) == 1 else ""
        self._seen: Tensor | None = None
        if self.name:
            network.get_submodule(self.name).register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._seen = next(iter((*inputs, *named.values())))

    def take(self) -> Tensor | None:
        """Return the features once and let go of them; None if no forward has left any."""
        seen, self._seen = self._seen, None
        return seen


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
        needs: Literal["samples", "shape", "width"],
    ) -> None:
        super().__init__()
        self.pools = needs == "width" or (needs == "shape" and len(student) != len(teacher))
        self.resizes = needs == "shape" and not self.pools and len(student) == 3
        mine, theirs = _width(student), _width(teacher)
        self.map: nn.Module = nn.Identity()
        if needs != "samples" and mine != theirs:
            self.map = nn.Conv2d(mine, theirs, 1, bias=False) if self.resizes else nn.Linear(mine, theirs)

    def forward(self, student: Tensor, teacher: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return both features (n, ...) ready for the loss. real: (n, length), the positions of sequences that are no padding."""
        if self.pools:
            student, teacher = _pool(student, real), _pool(teacher, real)
        elif self.resizes:
            size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
            student, teacher = (
                x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)
            )
        return _real(self.map(student), real), _real(teacher, real)


def _width(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else shape[-1]


def _pool(x: Tensor, real: Tensor | None) -> Tensor:
    if x.ndim == 3 and real is not None and x.shape[1] == real.shape[1]:
        return _real(x, real).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1) if x.ndim == 3 else x


def _positions(features: Sequence[Tensor], mask: Tensor | None) -> Tensor | None:
    """Return the mask where it is of these features' positions; None where there is none, or they are no sequences of its length."""
    if mask is not None and any(x.ndim == 3 and x.shape[1] == mask.shape[1] for x in features):
        return mask
    return None


def _real(feature: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the padded positions of a sequence's features (n, length, width)."""
    if mask is None or feature.ndim != 3 or feature.shape[1] != mask.shape[1]:
        return feature
    return feature.masked_fill(~mask[..., None], 0.0)


def check_outputs(network: nn.Module, teacher: FrozenNetwork, example: Batch) -> None:
    """Raise UserError where a network and its teacher give outputs of different shapes: they know different classes."""
    was_training = network.training
    with torch.no_grad():
        network.eval()
        mine = Call.of(network)(network, example.inputs, example.mask)
        theirs = teacher(example.inputs, example.mask)
    network.train(was_training)
    if mine.shape != theirs.shape:
        raise UserError(
            f"the teacher gives {tuple(theirs.shape[1:])} per sample, {type(network).__name__} {tuple(mine.shape[1:])}: "
            "they know different classes. Choose data or a teacher with the same classes, or method=distillation method.label_space=other"
        )
