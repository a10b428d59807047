"""Synthetic classification: random inputs labelled by a random linear teacher, of any shape, made in
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tutelage.data import cache
from tutelage.data.image_set import ImageData
from tutelage.data.image_store import ImageSource
from tutelage.data.splits import derive_seed
from tutelage.errors import UserError


class Synthetic(ImageData):
    """Normal inputs of any shape (C, H, W), each of the class whose random direction it points to most:
    linearly separable.

    samples: in all, before splitting.
    shape: channels, height, width.
    num_classes: at least 2.
    Other arguments: see `ImageData`.
    """

    def __init__(
        self, *, samples: int = 512, shape: Sequence[int] = (1, 8, 8), num_classes: int = 4, **options: Any
    ) -> None:
        super().__init__(**options)
        if len(shape) != 3 or min(*shape, samples) < 1:
            raise UserError(
                f"synthetic data need samples >= 1 and a shape [C, H, W], got {samples} and {list(shape)}"
            )
        self.samples, self.shape, self.num_classes = samples, tuple(shape), num_classes

    def source(self) -> ImageSource:
        """See `ImageData`."""
        key = ("synthetic", self.samples, self.shape, self.num_classes)

        def make() -> ImageSource:
            generator = torch.Generator().manual_seed(derive_seed(*key))
            inputs = torch.randn(self.samples, *self.shape, generator=generator)
            teacher = torch.randn(inputs[0].numel(), self.num_classes, generator=generator)
            labels = (inputs.flatten(1) @ teacher).argmax(1).numpy().astype(np.int64)
            return ImageSource(inputs, labels, [str(i) for i in range(self.num_classes)], {}, 1.0, key)

        return cache.remember(key, make)
