"""What the training of every generator shares: the average that is kept, and scores of its samples. No method itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.alignment.gather import world_size
from tutelage.errors import UserError
from tutelage.generators.protocol import Generator, image_seeds
from tutelage.generators.quality import frechet_distance, precision_recall
from tutelage.generators.sample_grid import GRID_IMAGES, write_grid
from tutelage.methods.base import Method
from tutelage.models.frozen import FrozenNetwork, Normalization
from tutelage.models.heads import HeadInput
from tutelage.objectives.base import Objective
from tutelage.objectives.made import Made
from tutelage.tasks import Batch, Classification

QUALITY_SEED = 0x0DD5EED


class Generation(Method):
    """Trains a `Generator` on labelled images in [-1, 1] and judges its samples by a frozen classifier of the same classes.

    source: the classifier.
    example: a few samples, to check shapes and range.
    normalization: (means, deviations) by which the data's images in [0, 1] were scaled; None: they were not.
    quality_samples: images generated per evaluation, one for each of the first images of the split, with their labels; an image's
    noise depends on its position alone. Recorded: the classifier's loss and accuracy on them, and in its features the Frechet
    distance to the real images, precision and recall. The Frechet distance selects the checkpoint: accuracy would reward samples
    that are easy and all alike. A grid of samples is written to `samples/` in the run's folder at each validation.
    """

    network: Generator
    judges_real: ClassVar[bool] = True
    """Whether samples are judged beside the data's images."""
    takes_features: ClassVar[bool] = False
    """Whether objectives between layers of its network and of a frozen one can be added."""
    declares: ClassVar[Mapping[str, str]] = {"_makes_": "generator"}

    def __init__(
        self,
        *,
        source: FrozenNetwork,
        example: Batch,
        normalization: Normalization | None = None,
        quality_samples: int = 256,
        ema_decay: float = 0.999,
        **common: Any,
    ) -> None:
        super().__init__(ema_decay=ema_decay, frozen={"source": source}, **common)
        self._check(source, example, normalization)
        if quality_samples < 8:
            raise UserError(f"method.quality_samples must be at least 8, got {quality_samples}")
        self.quality_samples = quality_samples
        if self.task.asked:
            raise UserError(
                f"fit.metrics={list(self.task.asked)}: {type(self).__name__} trains a generator, which is judged by frechet_distance, "
                "precision and recall of its images: leave fit.metrics and fit.monitor empty"
            )
        self.task.monitor, self.task.mode = "frechet_distance", "min"
        self._features = HeadInput(source.network, source.head(example.inputs))
        self._kept: dict[str, list[Tensor]] = {}

    @classmethod
    def check_objectives(cls, objectives: Mapping[str, Objective]) -> None:
        """See `Method.check_objectives`."""
        for name, objective in objectives.items():
            if isinstance(objective, Made) or (
                cls.takes_features and objective.reads_frozen and not objective.reaches_output
            ):
                continue
            also = ", and those between its layers and a frozen network's" if cls.takes_features else ""
            raise UserError(
                f"{cls.__name__} runs its network on noise and labels, so that it takes no objective but the terms it makes{also}: "
                f"drop '{name}'"
            )

    def _check(self, source: FrozenNetwork, example: Batch, normalization: Normalization | None) -> None:
        if not isinstance(self.network, Generator):
            raise UserError(
                f"{type(self).__name__} trains a generator, got model {type(self.network).__name__}; "
                "choose one of model=generator/..."
            )
        if not isinstance(self.task, Classification):
            raise UserError(
                f"{type(self).__name__} needs images with classes, got a task of {self.task.name}"
            )
        if self.objectives.mixed_targets:
            raise UserError(
                f"{type(self).__name__} conditions its images on one class each, which mixed ones have not: leave mixup and cutmix out of "
                "data.augment"
            )
        self._check_images(example.inputs, normalization)
        known = source(example.inputs).shape[1:]
        if tuple(known) != (self.task.output_size,):
            raise UserError(
                f"the source classifier gives {tuple(known)} per image, the data have {self.task.output_size} classes: "
                "it must be trained on the same classes"
            )

    def _check_images(self, images: Tensor, normalization: Normalization | None) -> None:
        check_range(images, normalization)

    def label_weights(self, batch: Batch) -> Tensor:
        """Return the batch's labels as weights (n, classes)."""
        return F.one_hot(batch.targets, self.network.classes).to(batch.inputs.dtype)

    def _start(self, split: str) -> None:
        super()._start(split)
        self._kept = {"real": [], "generated": [], "images": [], "labels": []}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Generate an image for each label, as far as `quality_samples` reaches."""
        self._judge("validation", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """See `validation_step`."""
        self._judge("test", batch)

    def _judge(self, split: str, batch: Batch) -> None:
        share = -(-self.quality_samples // max(1, self.trainer.world_size))
        count = min(len(batch.targets), share - sum(map(len, self._kept["labels"])))
        if count <= 0:
            return
        part = Batch(batch.inputs[:count], batch.targets[:count], batch.index[:count])
        seeds = image_seeds(QUALITY_SEED, part.index.cpu().numpy().astype(np.int64))
        assert isinstance(self.evaluated, Generator)
        images = self.evaluated.sample(part.targets, torch.from_numpy(seeds))
        real, _ = self._read(part.inputs)
        generated, output = self._read(images * 2 - 1)
        self.metrics_of[split].update(output, part)
        for name, value in (
            ("real", real),
            ("generated", generated),
            ("images", images),
            ("labels", part.targets),
        ):
            self._kept[name].append(value.cpu())

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        output = self.frozen["source"](images)
        features = self._features.take()
        return (output if features is None else features).flatten(1).float(), output

    def measured(self, split: str) -> dict[str, float]:
        """See `Method.measured`: distances to the real images; writes the grid."""
        values = {}
        if self.judges_real:
            real, generated = (
                self._over_ranks(torch.cat(self._kept[name])) for name in ("real", "generated")
            )
            precision, recall = precision_recall(real, generated)
            values = {
                "frechet_distance": frechet_distance(real, generated),
                "precision": precision,
                "recall": recall,
            }
        if split == "validation" and self.global_rank == 0:
            images, labels = (torch.cat(self._kept[name])[:GRID_IMAGES] for name in ("images", "labels"))
            path = Path(self.trainer.default_root_dir) / "samples" / f"step-{self.step:07d}.png"
            write_grid(images, labels, path, classes=self.task.class_names)
        self._kept = {}
        return values

    def _over_ranks(self, rows: Tensor) -> Tensor:
        if world_size() == 1:
            return rows
        parts: list[Any] = [None] * world_size()
        torch.distributed.all_gather_object(parts, rows)
        return torch.cat(parts)


def check_range(images: Tensor, normalization: Normalization | None) -> None:
    """Raise UserError unless images (n, C, H, W) are in [-1, 1], black at -1 and white at 1: samples are read as (x + 1) / 2.

    Images whose values before their normalisation are not in [0, 1] have neither black nor white; their range alone counts.
    """
    channels = images.shape[1]
    mean, deviation = normalization or ((0.0,) * channels, (1.0,) * channels)
    scaled = [torch.tensor(part, dtype=torch.float64).view(1, -1, 1, 1) for part in (mean, deviation)]
    pixels = images.double().cpu() * scaled[1] + scaled[0]
    ends = (float(images.min()), float(images.max()))
    if pixels.min() > -1e-3 and pixels.max() < 1.001:
        ends = (float(((0 - scaled[0]) / scaled[1]).max()), float(((1 - scaled[0]) / scaled[1]).min()))
        right = all(abs(m - 0.5) < 1e-3 and abs(d - 0.5) < 1e-3 for m, d in zip(mean, deviation, strict=True))
    else:
        right = ends[0] > -1.001 and ends[1] < 1.001
    if not right:
        halves = ",".join(["0.5"] * channels)
        raise UserError(
            f"generators are trained on images in [-1, 1], got values from {ends[0]:.3g} to {ends[1]:.3g}: "
            f"set data.normalization=[[{halves}],[{halves}]]"
        )
