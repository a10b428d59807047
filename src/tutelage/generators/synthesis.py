"""From a generator, and for pseudo conditional sampling a classifier and target images, to a pseudo data set on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.generators import shards
from tutelage.generators.conditioning import Conditioning, predict
from tutelage.generators.protocol import Generator


def synthesize(
    folder: str | Path,
    generator: Generator,
    *,
    labelling: str,
    count: int,
    seed: int = 0,
    shard_size: int = 4096,
    micro_batch: int | None = None,
    classifier: nn.Module | None = None,
    targets: Iterable[Tensor] | None = None,
    origin: Mapping[str, Any] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> dict[str, Any] | None:
    """Write the pseudo data set, or what is missing of it, and return its manifest (None: other ranks still work).

    labelling, count, seed, shard_size: see `Conditioning` and `shards`. micro_batch: images that the generator makes at once (None: its
    own choice). classifier, targets: of pseudo conditional sampling: the frozen
    source classifier, and batches (b, C, H, W) of the target's *training* images in their order, without augmentation.
    origin: what to record of generator and classifier, such as their runs.
    Raises UserError where labelling and what was given do not fit, or the folder holds another set.
    """
    if labelling == "uniform" and (classifier is not None or targets is not None):
        raise UserError(
            "labelling=uniform reads neither a source classifier nor target data: give none, or choose soft, sampled or argmax"
        )
    if shard_size < 1:
        raise UserError(f"`shard_size` must be at least 1 image, got {shard_size}")
    if micro_batch is not None:
        if micro_batch < 1:
            raise UserError(f"`micro_batch` must be at least 1 image, got {micro_batch}")
        generator.micro_batch = micro_batch
    predictions = None if classifier is None or targets is None else predict(classifier, targets)
    conditioning = Conditioning(labelling, classes=generator.classes, seed=seed, predictions=predictions)
    wanted = shards.recipe(generator, conditioning, count=count, seed=seed, origin=origin)
    return shards.write(
        folder, generator, conditioning, wanted, shard_size=shard_size, rank=rank, world_size=world_size
    )
