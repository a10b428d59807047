"""Training of a class-conditional GAN."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.generators.gan_networks import Critic
from tutelage.methods.generation import Generation
from tutelage.methods.optim import OptimizerSpec
from tutelage.objectives.base import Step
from tutelage.tasks import Batch


class Gan(Generation):
    """Hinge losses of generator and critic (Lim and Ye 2017, arXiv 1705.02894), updated in turn: the critic, then the generator.

    Both updates use one batch of fakes; the generator meets the critic that has just moved. A step is one update of each and counts
    once. With fit.accumulate both gather their gradients over the batches of the step, of which the last alone meets the moved critic;
    fit.gradient_clip bounds each network's gradient. (Updating both at once would need no rules of its own, but on digits it covered
    less: recall 0.15 against 0.50 after 800 steps, one seed.)
    critic_lr_factor: the critic's rate over the generator's (two time scales: Heusel et al. 2017, arXiv 1706.08500).
    conditioning, critic_width, critic_depth: of the critic, see `generators.gan.Critic`.
    """

    def __init__(
        self,
        *,
        optimizer: OptimizerSpec,
        conditioning: Literal["projection", "embedding"] = "projection",
        critic_width: int = 64,
        critic_depth: int = 1,
        critic_lr_factor: float = 4.0,
        **common: Any,
    ) -> None:
        super().__init__(optimizer=optimizer, **common)
        if not critic_lr_factor > 0:
            raise UserError(f"method.critic_lr_factor must be above 0, got {critic_lr_factor}")
        self.automatic_optimization = False
        self.all_parameters_get_gradients = False  # critic and generator are updated in turn
        self.critic_lr_factor = critic_lr_factor
        shape, classes = self.network.image_shape, self.network.classes
        self.critic = Critic(shape, classes, critic_width, critic_depth, conditioning)
        self._updates_critic = False

    def take(self, batch: Batch) -> Step:
        """See `Method.take`: makes the terms `generator` and `critic`; within a training step the critic is updated between the two."""
        labels = self.label_weights(batch)
        noise = torch.randn(len(labels), *self.network.noise_shape, device=labels.device, dtype=labels.dtype)
        fake = self.network(noise, labels)
        scores = self.critic(torch.cat([batch.inputs, fake.detach()]), labels.repeat(2, 1))
        real_score, fake_score = scores.chunk(2)
        critic = F.relu(1 - real_score).mean() + F.relu(1 + fake_score).mean()
        if self._updates_critic:
            self._update(1, self.term_weights()["critic"] * critic)
            critic = critic.detach()
        fixed = {name: p.detach() for name, p in self.critic.named_parameters()}
        verdict = torch.func.functional_call(self.critic, fixed, (fake, labels))
        return Step(batch, made={"generator": -verdict.mean(), "critic": critic})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """See `Method.training_step`; both networks are updated here."""
        self._updates_critic = True
        try:
            total = super().training_step(batch, batch_idx)
        finally:
            self._updates_critic = False
        self._update(0, total)
        return total.detach()

    def _update(self, which: int, loss: Tensor) -> None:
        # Only the generator's optimiser goes through Lightning's wrapper, which is what counts steps.
        generator, critic = self.optimizers()[0], self.optimizers(use_pl_optimizer=False)[1]  # type: ignore[index]
        optimizer = (generator, critic)[which]
        if self._place == 0:
            optimizer.zero_grad()
        self.manual_backward(loss / self.accumulate)
        if self._place < self.accumulate - 1:
            return
        if self.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(
                (self.network, self.critic)[which].parameters(), self.gradient_clip
            )
        optimizer.step()
        schedulers = self.lr_schedulers()
        if isinstance(schedulers, list):
            schedulers[which].step()  # type: ignore[call-arg]

    def configure_optimizers(self) -> Any:
        """Return the generator's optimiser and the critic's, each with its schedule."""
        critic_spec = copy.copy(self.optimizer_spec)
        critic_spec.lr *= self.critic_lr_factor
        parts = ((self.network, self.optimizer_spec), (self.critic, critic_spec))
        made = [
            spec.build(
                [(name, p) for name, p in module.named_parameters() if p.requires_grad],
                self.max_steps,
                network=module,
                maximise=self.task.mode == "max",
            )
            for module, spec in parts
        ]
        return [optimizer for optimizer, _ in made], [
            scheduler for _, scheduler in made if scheduler is not None
        ]

    def on_train_start(self) -> None:
        """Refuse what two backward passes in one step cannot be run with."""
        super().on_train_start()
        if self.trainer.precision == "16-mixed":
            raise UserError("a GAN is trained with hardware.precision 32-true or bf16-mixed, not 16-mixed")
