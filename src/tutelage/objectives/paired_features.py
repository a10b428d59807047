"""What objectives between inner features share: pairs of layers, projectors, padding, the global batch. No objective itself."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tutelage.alignment.gather import gather
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.taps import Taps
from tutelage.objectives.base import Objective, Reading, Setup, Step
from tutelage.objectives.projector import Needs, Projector, positions
from tutelage.tasks import mean_of_counted


class PairObjective(Objective):
    """A loss between paired layers of the network and a frozen network, summed over the pairs; a subclass writes `compare_pair`.

    pairing: which layer meets which, by `alignment.pairing.Pairing` with the frozen network in the guide's place; by default the last
    layers, and without the outputs. Where the loss needs equal shapes, a trained `Projector` for each pair gives them.
    What the loss cannot take raises UserError when it is prepared, not at the first step.
    """

    reads_frozen = True
    expects_trained = True
    reaches_output = False
    needs: ClassVar[Needs] = "shape"
    """Of two features: equal "shape", equal "width", or nothing but the same "samples"."""
    over_batch: ClassVar[bool] = False
    """Whether it relates the samples of a batch to each other, so that ranks must bring theirs together."""

    def __init__(self, *, pairing: Pairing | None = None, **common: Any) -> None:
        super().__init__(**common)
        pairing = pairing or Pairing(strategy="last", k=1)
        if pairing.exclude_output is None:
            pairing = dataclasses.replace(pairing, exclude_output=pairing.strategy != "explicit")
        self.pairing = pairing

    def make_projector(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> Projector:
        """Return what brings a pair of features, of these shapes without the batch axis, together; its parameters are trained."""
        return Projector(student, teacher, self.needs)

    def make_projectors(self) -> nn.ModuleList:
        """Return a projector for each pair of `pairs`, by `make_projector`."""
        return nn.ModuleList(self.make_projector(pair.network.shape, pair.guide.shape) for pair in self.pairs)

    @abstractmethod
    def compare_pair(self, projector: Projector, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of what a pair's projector gave, one number."""

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the pairs, make the projectors, and rehearse."""
        frozen = self.frozen_in(setup)
        self.pairs = self.pairing(setup.frozen_layers(str(self.network)), setup.layers())
        self.network_layers = tuple(dict.fromkeys(pair.network.name for pair in self.pairs))
        self.frozen_layers = tuple(dict.fromkeys(pair.guide.name for pair in self.pairs))
        self.projectors = self.make_projectors()
        example = setup.example._replace(mask=None)
        was_training = setup.network.training
        try:
            with Taps(setup.network.eval(), self.network_layers) as taps, torch.no_grad():
                with taps.recording():
                    setup.call(setup.network, example.inputs)
                mine = taps.collect()
        finally:
            setup.network.train(was_training)
        with Taps(frozen.network, self.frozen_layers) as taps:
            with taps.recording():
                output = frozen(example.inputs)
            theirs = Reading(None, taps.collect())
        with torch.no_grad():
            self.loss(Step(example, output, mine, {str(self.network): theirs}))

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`: the sum over the pairs."""
        mine, theirs = step.activations, step.frozen[str(self.network)].activations
        parts = []
        for pair, projector in zip(self.pairs, self.projectors, strict=True):
            assert isinstance(projector, Projector)
            features = mine[pair.network.name], theirs[pair.guide.name]
            real = positions(features, step.batch.mask)
            student, teacher = projector(*features, real)
            if self.over_batch:
                student, teacher = gather(student), gather(teacher)
            by_position = real is not None and self.needs == "shape" and student.ndim == 3
            if by_position:  # padding is nothing to agree on
                student, teacher = student[real], teacher[real]
            part = self.compare_pair(projector, student, teacher)
            parts.append(mean_of_counted(part.expand(len(student)), step.batch) if by_position else part)
        return torch.stack(parts).sum()

    def shared_layer(self) -> str | None:
        """See `Objective.shared_layer`."""
        return self.pairs[-1].network.name

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`: the pairs (teacher layer, network layer)."""
        return {"pairs": [[pair.guide.name, pair.network.name] for pair in self.pairs]}


class FeatureObjective(PairObjective):
    """A pair's loss that needs nothing of its projector; a subclass writes `compare`."""

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of two features of the same samples, one number."""

    def compare_pair(self, projector: Projector, student: Tensor, teacher: Tensor) -> Tensor:
        """See `PairObjective.compare_pair`: `compare` alone."""
        return self.compare(student, teacher)
