"""Training of a generator from a frozen classifier alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.arguments import one_of
from tutelage.errors import UserError
from tutelage.generators.protocol import image_seeds
from tutelage.losses import inversion
from tutelage.methods.generation import QUALITY_SEED, Generation, check_range
from tutelage.models.frozen import Normalization
from tutelage.objectives.base import Step
from tutelage.tasks import Batch

STATISTICS = "statistics"


class Inversion(Generation):
    """Images that a classifier takes for its own, without any of those that it was trained on.

    The terms `one_hot`, `information_entropy` and `activation` are DAFL's (Chen et al. 2019, arXiv 1904.01186), `statistics` that of
    DeepInversion (Yin et al. 2020, arXiv 1912.08795, a sum over the classifier's batch norms), for which CMI (Fang et al. 2021, arXiv
    2105.08584) trains a generator, too. Of the data, shape and number of classes count, and how many images a step makes: no image or
    label is looked at. The labels that condition the generator are drawn; a mean over a batch is over that of one process.
    labels: given: an image shall be of the label it was made for; predicted: of any one class, DAFL's, whose generator knows no labels, so
    that those of its images mean nothing. Ours in any case: the generator is class-conditional, and trained before the student, not along
    with it, so that it serves whatever reads pseudo images; CMI's contrast with earlier images, and terms that ask for images which the
    student gets wrong, are not here.
    Judged by `objective`, the weighted sum of the terms on `quality_samples` images that are the same at each validation, and by loss and
    accuracy of the classifier on these.
    """

    judges_real = False

    def __init__(self, *, labels: str = "given", **common: Any) -> None:
        super().__init__(**common)
        one_of("Inversion", ("given", "predicted"), labels=labels)
        self.labels = labels
        network = self.frozen["source"].network
        self.norms = inversion.norms_with_memory(network)
        if not self.norms and any(o.name == STATISTICS and o.weight for o in self.objectives):
            raise UserError(
                f"the source classifier, {type(network).__name__}, has no batch norms with running statistics, which the term "
                f"'{STATISTICS}' compares with: set method.objectives.{STATISTICS}.weight=0, or choose a classifier that has some"
            )
        if not self._features.name:
            raise UserError(
                f"the source classifier, {type(network).__name__}, does not end in one layer, whose inputs the term 'activation' reads"
            )
        self.task.monitor = "objective"

    def _check_images(self, images: Tensor, normalization: Normalization | None) -> None:
        channels = (1, images.shape[1], 1, 1)
        mean, deviation = (torch.tensor(part).view(channels) for part in normalization or ((0.0,), (1.0,)))
        check_range(torch.cat([-mean / deviation, (1 - mean) / deviation]), normalization)

    def take(self, batch: Batch) -> Step:
        """See `Method.take`: makes the four terms."""
        count, device = len(batch.inputs), batch.inputs.device
        labels = torch.randint(self.network.classes, (count,), device=device)
        noise = torch.randn(count, *self.network.noise_shape, device=device)
        images = self.network(noise, F.one_hot(labels, self.network.classes).to(noise.dtype))
        terms, _ = self.terms(images, labels)
        return Step(batch, made=terms)

    def terms(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms by name, and the classifier's logits, of images in [-1, 1] made for labels (n,); gradients reach the images."""
        with inversion.recorded_statistics(self.norms) as distances:
            logits = self.frozen["source"].differentiable(images)
        features = self._features.take()
        assert features is not None
        return {
            "one_hot": inversion.one_hot(logits, labels if self.labels == "given" else None),
            "information_entropy": inversion.information_entropy(logits),
            "activation": inversion.activation(features),
            STATISTICS: torch.stack(distances).sum() if distances else logits.new_zeros(()),
        }, logits

    def _judge(self, split: str, batch: Batch) -> None:
        """Look at no batch: `_finish` makes what is judged."""

    def measured(self, split: str) -> dict[str, float]:
        """See `Method.measured`: the weighted sum of the terms."""
        return super().measured(split) | {"objective": self._objective}

    def _finish(self, split: str) -> None:
        index = np.arange(self.quality_samples)
        labels = torch.from_numpy(index % self.network.classes)
        images = self.evaluated.sample(labels, torch.from_numpy(image_seeds(QUALITY_SEED, index)))  # type: ignore[operator]
        with torch.no_grad():
            terms, logits = self.terms(images * 2 - 1, labels.to(images.device))
        self.metrics_of[split].update(
            logits, Batch(images, labels.to(images.device), torch.from_numpy(index).to(images.device))
        )
        self._kept = {"images": [images.cpu()], "labels": [labels]}
        weights = {objective.name: objective.weight for objective in self.objectives}
        self._objective = sum(weights.get(n, 0.0) * float(v) for n, v in terms.items())
        super()._finish(split)
