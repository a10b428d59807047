"""The protocol of every generator: `sample(labels, seeds) -> images`, one seed per image, whatever the batch around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.errors import UserError


class Generator(nn.Module, ABC):
    """A class-conditional generator.

    A subclass sets `classes`, `image_shape` (channels, height, width) and `noise_shape`, and renders.

    An image is a function of its label, its seed and the weights alone, bit by bit on one machine: its noise comes from a generator
    of its own on the CPU, and networks always run on exactly `micro_batch` images (the last ones repeated where fewer are asked for),
    because matrix products of another size may round differently. Another kind of device may round differently, too.
    """

    classes: int
    image_shape: tuple[int, int, int]
    noise_shape: tuple[int, ...]
    micro_batch: int = 16

    @abstractmethod
    def render(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Turn noise (m, *noise_shape) and label weights (m, classes), rows summing to 1, into images (m, C, H, W) in [-1, 1]."""

    def sample(self, labels: Tensor, seeds: Tensor | Sequence[int]) -> Tensor:
        """Return images (n, C, H, W), float32 in [0, 1], on the generator's device. Runs in eval mode without gradients.

        labels: hard, (n,) whole numbers, or soft, (n, classes) with rows that sum to 1. seeds: (n,) whole numbers.
        Raises UserError for labels that do not fit.
        """
        weights = label_weights(labels, self.classes)
        numbers = [int(seed) for seed in seeds]
        if len(numbers) != len(weights):
            raise UserError(
                f"every image has one label and one seed, got {len(weights)} labels and {len(numbers)} seeds"
            )
        device = next(chain(self.parameters(), self.buffers()), torch.empty(0)).device
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                parts = [
                    self._chunk(weights[i : i + self.micro_batch], numbers[i : i + self.micro_batch], device)
                    for i in range(0, len(numbers), self.micro_batch)
                ]
                images = torch.cat(parts) if parts else torch.empty(0, *self.image_shape, device=device)
        finally:
            self.train(was_training)
        return images.clone()  # no inference tensor leaves: those cannot take part in training

    def _chunk(self, weights: Tensor, seeds: list[int], device: torch.device) -> Tensor:
        missing = self.micro_batch - len(seeds)
        rows = torch.cat([weights, weights[-1:].expand(missing, -1)]) if missing else weights
        noise = torch.stack([noise_of(seed, self.noise_shape) for seed in [*seeds, *[seeds[-1]] * missing]])
        images = self.render(noise.to(device), rows.to(device))[: len(seeds)]
        return images.float().add(1).mul(0.5).clamp(0, 1)

    def describe(self) -> dict[str, Any]:
        """Return what, beside the weights, determines the images."""
        return {"class": type(self).__name__, "micro_batch": self.micro_batch}


def label_weights(labels: Tensor, classes: int) -> Tensor:
    """Return label weights (n, classes) in float32 on the CPU, from hard (n,) or soft (n, classes) labels; UserError if they do not fit."""
    labels = labels.detach().cpu()
    if labels.ndim == 1 and not labels.is_floating_point():
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            raise UserError(
                f"the generator knows the classes 0 to {classes - 1}, got labels from {int(labels.min())} to {int(labels.max())}: "
                "generator and classifier must have the same classes"
            )
        return F.one_hot(labels.long(), classes).float()
    if labels.ndim != 2 or labels.shape[1] != classes or not labels.is_floating_point():
        raise UserError(
            f"labels must be whole numbers (n,) or weights (n, {classes}), got {labels.dtype} {tuple(labels.shape)}: "
            "generator and classifier must have the same classes"
        )
    if not bool((labels >= 0).all()) or not torch.allclose(
        labels.double().sum(dim=1), torch.ones(len(labels)).double(), atol=1e-3
    ):
        raise UserError("soft labels must be probabilities: not negative, each row summing to 1")
    return labels.float()


def noise_of(seed: int, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise of one image, from a generator of its own on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def image_seeds(set_seed: int, indices: np.ndarray) -> np.ndarray:
    """Return one 63-bit seed per image of a pseudo data set, int64 (n,), by splitmix64's finaliser (Steele et al. 2014).

    indices: (n,) positions in the whole set, so that image k is the same however the set is cut.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        first = np.uint64(set_seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
        state: np.ndarray = first + indices.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((state ^ (state >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def to_bytes(images: Tensor) -> Tensor:
    """Return images in [0, 1] as uint8, rounded to nearest."""
    return images.mul(255).round().clamp(0, 255).to(torch.uint8)
