"""Adversarial examples made in training: adversarial training, TRADES, and distillation of a teacher's robustness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage.errors import UserError, choices
from tutelage.losses.distillation import soft_target
from tutelage.objectives.base import Objective, Setup, Start, Step
from tutelage.objectives.compared_outputs import check_outputs
from tutelage.robustness import attacks
from tutelage.robustness.draws import Draws
from tutelage.robustness.pixels import Pixels
from tutelage.tasks import Batch, Binary, Classification, mean_of_counted

TARGETS = ("labels", "outputs")


class Adversarial(Objective):
    """The loss on images that PGD has changed so that it is high; the images as they are stay the business of the other objectives.

    target: "labels": the task's loss (adversarial training, Madry et al. 2018, arXiv 1706.06083; alone with the task's weight at 0).
    "outputs": the divergence from the network's own answers on the images as they are, to which a gradient flows too (TRADES: Zhang et al.
    2019, arXiv 1901.08573; beta is the weight). With a `network`, "outputs" are that frozen network's on the images as they are, at
    `temperature` (ARD: Goldblum et al. 2020, arXiv 1905.09747; the changed images are then the worst for the labels).
    epsilon: the largest change, in pixels from 0 to 1, see `robustness.attacks`. norm: "linf" or "l2". steps: of PGD, at least 1, each a
    forward and a backward pass. step: length of one; None: 2.5 epsilon / steps. random_start: whether it begins anywhere within epsilon;
    the place is a function of sample, step and seed, so a resumed run, and any number of ranks, see the same images.
    While images are changed the network is in evaluation, and no statistic moves; changed images and others are then seen in one forward.
    """

    compares_classes = True

    def __init__(
        self,
        *,
        target: Literal["labels", "outputs"] = "labels",
        epsilon: float = 8 / 255,
        norm: Literal["linf", "l2"] = "linf",
        steps: int = 10,
        step: float | None = None,
        random_start: bool = True,
        temperature: float = 1.0,
        **common: Any,
    ) -> None:
        self.reads_frozen = bool(common.get("network"))  # type: ignore[misc]
        super().__init__(**common)
        attacks.check(norm, epsilon)
        if target not in TARGETS:
            raise UserError(f"`target`={target!r} is not known; {choices(target, TARGETS)}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"`steps` must be a whole number of at least 1, got {steps!r}")
        for name, value in (("step", step), ("temperature", temperature)):
            if value is not None and not value > 0:
                raise UserError(f"`{name}` must be above 0, got {value}")
        if self.reads_frozen and target == "labels":
            raise UserError(
                f"`network`={self.network} is read for its outputs, and `target`=labels does not: say target=outputs"
            )
        if target == "outputs" and not self.reads_frozen and not random_start:
            raise UserError(
                "`random_start`=false leaves the network's own answers where they are: their divergence has no slope there"
            )
        self.target, self.epsilon, self.norm, self.steps, self.length = (
            target,
            float(epsilon),
            norm,
            steps,
            step,
        )
        self.random_start, self.temperature = random_start, temperature
        self.wants_output = self.expects_trained = self.reads_frozen  # type: ignore[misc]
        self.own_passes = steps + (target == "outputs" and not self.reads_frozen)
        self._seed = 0

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`."""
        if not isinstance(setup.task, Classification | Binary):
            it = "a forecast" if setup.task and setup.task.name == "forecasting" else "a task of another kind"
            raise UserError(
                f"an attack looks for a wrong class, which {it if setup.task else 'no known task'} has not"
            )
        self.task = setup.task
        self.pixels = Pixels(setup.normalization, setup.example.inputs)
        for frozen in self.all_frozen_in(setup):
            check_outputs(setup, frozen)
        # in a plain container: the network is no child of this module
        self._network, self._call = (setup.network,), setup.call

    def start(self, start: Start) -> None:
        """See `Objective.start`."""
        self._seed = start.seed

    def extra_inputs(self, batch: Batch, draw: int, average: nn.Module | None) -> list[Tensor]:
        """See `Objective.extra_inputs`: the changed images."""
        (network,) = self._network
        pixels = self.pixels.of(batch.inputs).clamp(0, 1)
        start = None
        if self.random_start:
            draws = Draws(batch.index, "adversarial", self._seed, draw)
            start = attacks.random_start(pixels, self.epsilon, self.norm, draws)
        with at_rest(network):
            loss = self._raised(batch)
            images = attacks.pgd(
                lambda images: self._call(network, self.pixels.normalised(images), batch.mask),
                pixels,
                batch.targets,
                epsilon=self.epsilon,
                norm=self.norm,
                steps=self.steps,
                step=self.length,
                start=start,
                loss=loss,
            )
        return [self.pixels.normalised(images)]

    def _raised(self, batch: Batch) -> attacks.Loss:
        """Return what the attack raises."""
        if self.target == "labels" or self.reads_frozen:
            return lambda output, targets: self.task.pointwise(*self.task.select(output, batch))
        (network,) = self._network
        with torch.no_grad():
            clean = self.task.select(self._call(network, batch.inputs, batch.mask), batch)[0]
        return lambda output, targets: soft_target(self.task.select(output, batch)[0], clean, temperature=1.0)

    def loss(self, step: Step) -> Tensor:
        """See `Objective.loss`."""
        (changed,) = step.extra[self.name]
        if self.target == "labels":
            return self.task.loss(changed, step.batch)
        mine, _ = self.task.select(changed, step.batch)
        clean = step.frozen[self.network].output if self.network is not None else step.output
        assert clean is not None
        theirs, _ = self.task.select(clean, step.batch)
        return mean_of_counted(soft_target(mine, theirs, temperature=self.temperature), step.batch)


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation, each part in its own mode again afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
