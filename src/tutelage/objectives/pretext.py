"""What a network learns from without labels, before it is trained on some: what it sees, and a loss of features. No objective itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tutelage.alignment.taps import Taps, input_of
from tutelage.errors import UserError
from tutelage.models.heads import Head, head_of
from tutelage.objectives.base import Objective, Setup, Start, Step
from tutelage.objectives.unlabelled import SampleStream, Unlabelled
from tutelage.tasks import Batch

Run = Callable[[nn.Module, Tensor, Tensor | None], Any]


class Pretext(Objective):
    """A loss of one layer's features on samples whose labels nobody reads; parts of the network that the layer does not depend on rest.

    A subclass chooses the layer in `choose`, makes the samples' stream and parts of its own there, and writes `compare`.
    """

    reaches_output = False
    selects: ClassVar[str]
    """What the validation value is called; smaller is better."""
    fewest: ClassVar[int] = 1
    """How many samples a batch needs so that there is anything to tell apart."""

    stream: SampleStream

    @abstractmethod
    def choose(self, setup: Setup) -> str:
        """Return the layer's name as `Taps` know it. Raises UserError for data or networks that do not fit."""

    @abstractmethod
    def build(self, setup: Setup, features: Tensor) -> None:
        """Make the stream and parts of its own, given the layer's features on the example."""

    @abstractmethod
    def compare(self, features: Tensor, batch: Batch) -> Tensor:
        """Return the loss of features (n, ...) on what the network saw, one number."""

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the layer, what leads to it, and the samples."""
        self.layer = self.choose(setup)
        self.network_layers = (self.layer,)
        features, self.resting = self._follow(setup)
        self.build(setup, features)

    def _follow(self, setup: Setup) -> tuple[Tensor, tuple[str, ...]]:
        """Return the layer's features on the example, and the trained parameters that they do not depend on."""
        network, was_training = setup.network, setup.network.training
        names, parameters = zip(
            *((n, p) for n, p in network.named_parameters() if p.requires_grad), strict=True
        )
        with (
            Taps(network.eval(), [self.layer]) as taps,
            torch.enable_grad(),
            torch.random.fork_rng(devices=[]),
        ):
            with taps.recording():
                setup.call(network, setup.example.inputs, setup.example.mask)
            (features,) = taps.collect().values()
        network.train(was_training)
        found = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
        return features.detach(), tuple(
            n for n, gradient in zip(names, found, strict=True) if gradient is None
        )

    def start(self, start: Start) -> None:
        """Bring the samples to the device; every rank takes its share of each step's."""
        self.stream.start(seed=start.seed, rank=start.rank, world_size=start.world_size, device=start.device)

    def seen(self, draw: int) -> Batch:
        """Return what the network sees at a step."""
        return self.stream.batch(draw)

    def fixed(self, index: Tensor, seed: int) -> Batch:
        """Return what the network sees of the samples at index (n,) when it is judged."""
        return self.stream.fixed(index, seed)

    def counted(self, batch: Batch) -> int:
        """Return how many parts `judged` is a mean of."""
        return len(batch.index)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        return self.compare(step.activations[self.layer], step.batch)

    @torch.no_grad()
    def judged(self, network: nn.Module, run: Run, batch: Batch) -> Tensor:
        """Return the value that selects, on a network in its present mode."""
        return self.judge(self.features_of(network, run, batch), batch)

    def judge(self, features: Tensor, batch: Batch) -> Tensor:
        """Return the value that selects; unless a subclass knows better, the loss."""
        return self.compare(features, batch)

    def features_of(self, network: nn.Module, run: Run, batch: Batch) -> Tensor:
        """Return a network's features of a batch."""
        with Taps(network, [self.layer]) as taps:
            with taps.recording():
                run(network, batch.inputs, batch.mask)
            (features,) = taps.collect().values()
        return features

    def describe(self) -> dict[str, Any]:
        """See `Objective.describe`."""
        return {"features": self.layer}


def features_before(setup: Setup) -> tuple[Head, str]:
    """Return the network's final layer, and what it is given. Raises UserError where that is not one tensor."""
    head = head_of(setup.network, setup.example.inputs, setup.example.mask)
    if len(head.reads) != 1:
        raise UserError(
            f"the features before the network's final layer are not one tensor here ('{head}'): name a layer, model.head=<layer>"
        )
    return head, input_of(head.reads[0])


def unlabelled_images(setup: Setup, what: str) -> tuple[Unlabelled, int]:
    """Return the images without labels that an objective sees, and how many a step. Raises UserError where there are none; what: it is."""
    if (
        not isinstance(setup.unlabelled, Unlabelled)
        or setup.batch_size is None
        or setup.example.inputs.ndim != 4
    ):
        raise UserError(f"{what} images: give method.unlabelled=all and data of images")
    return setup.unlabelled, setup.batch_size


def pooled(features: Tensor) -> Tensor:
    """Return features as (n, width): the mean over positions of maps (n, width, H, W) and of tokens (n, length, width)."""
    if features.ndim == 3:
        return features.mean(dim=1)
    return features.flatten(2).mean(dim=2) if features.ndim > 3 else features
