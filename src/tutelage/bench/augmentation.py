"""Weak and strong views of a batch, each image changed by its own draws, over the usual pipeline that takes images one by one."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from tutelage.bench.timing import Row, in_turn, row

IMAGES = {32: 256, 96: 64, 224: 16}
"""By pixels a side, how many images a batch has."""
VIEWS: dict[str, dict[str, dict[str, Any]]] = {
    "weak": {"random_crop": {"padding": 4}, "horizontal_flip": {}},
    "strong": {"random_crop": {"padding": 4}, "horizontal_flip": {}, "rand_augment": {"count": 2}, "cutout": {"size": 0.5}},
}  # fmt: skip


def rows(pairs: int = 7) -> list[Row]:
    """Measure both views at each size, on one thread: the usual pipeline has a process for each core."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_measured(view, pixels, pairs) for view in VIEWS for pixels in IMAGES]
    finally:
        torch.set_num_threads(threads)


def _measured(view: str, pixels: int, pairs: int) -> Row:
    import torch
    from torchvision.transforms import v2

    from tutelage.data.augment import build

    count = IMAGES[pixels]
    images = torch.randint(256, (count, 3, pixels, pixels), dtype=torch.uint8)
    chain = build(VIEWS[view])
    assert chain is not None
    draws = chain.draws
    steps: list[Callable[..., Any]] = [v2.RandomCrop(pixels, padding=4), v2.RandomHorizontalFlip()]
    steps += [v2.RandAugment(2)] if view == "strong" else []
    steps += [v2.PILToTensor()]
    if view == "strong":  # in cutout's place: a square of half the height
        steps += [v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0), value=127)]
    one, before = v2.Compose(steps), [v2.ToPILImage()(image) for image in images]

    def ours() -> None:
        chain(images, torch.rand(count, draws))

    def theirs() -> None:
        torch.stack([one(image) for image in before])

    times = in_turn(ours, theirs, pairs=pairs, warmup=2)
    each = statistics.median(mine for mine, _ in times) / count
    note = (
        f"{count} images a batch, {1000 * each:.2f} ms an image; torchvision's v2 on PIL images, one thread"
    )
    name = f"{view} view over the pipeline of single images: {pixels} px"
    return row(name, [mine / its for mine, its in times], at_most=1.0, note=note)
