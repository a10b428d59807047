"""Training of a class-conditional diffusion model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.generators.diffusion_unet import TRAIN_STEPS, noise_levels
from tutelage.methods.generation import Generation
from tutelage.objectives.base import Step
from tutelage.tasks import Batch


class Diffusion(Generation):
    """Mean squared error of the predicted noise at uniformly random times (Ho et al. 2020, arXiv 2006.11239, Algorithm 1).

    ema_decay: of the network that samples and is kept. Objectives between its layers and a frozen network's, which sees the images as they
    are, can be added: REPA, alignment with a guide.
    """

    takes_features = True

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._levels = noise_levels()

    def take(self, batch: Batch) -> Step:
        """See `Method.take`: frozen networks see the images, the network the noised ones; makes the term `denoising`."""
        noise = batch.inputs

        def denoise(images: Tensor, mask: Tensor | None) -> Tensor:
            nonlocal noise
            time = torch.randint(TRAIN_STEPS, (len(images),), device=images.device)
            noise = torch.randn_like(images)
            noisy = self._levels.add_noise(images, noise, time)
            return self.network(noisy, time, self.label_weights(batch))

        taken = self.objectives.take(batch, denoise, step=self.step, max_steps=self.max_steps)
        # what it says of noise is no answer to the batch's targets
        return replace(taken, output=None, made={"denoising": F.mse_loss(taken.output, noise)})  # type: ignore[arg-type]
