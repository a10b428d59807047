"""Training of a class-conditional diffusion model."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tutelage.generators.diffusion_unet import TRAIN_STEPS, noise_levels
from tutelage.methods.generation import Generation
from tutelage.objectives.base import Step
from tutelage.tasks import Batch


class Diffusion(Generation):
    """Mean squared error of the predicted noise at uniformly random times (Ho et al. 2020, arXiv 2006.11239, Algorithm 1).

    ema_decay: of the network that samples and is kept.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._levels = noise_levels()

    def take(self, batch: Batch) -> Step:
        """See `Method.take`: the network runs on noised images, and makes the term `denoising`."""
        time = torch.randint(TRAIN_STEPS, (len(batch.inputs),), device=batch.inputs.device)
        noise = torch.randn_like(batch.inputs)
        noisy = self._levels.add_noise(batch.inputs, noise, time)
        denoising = F.mse_loss(self.network(noisy, time, self.label_weights(batch)), noise)
        return Step(batch, made={"denoising": denoising})
