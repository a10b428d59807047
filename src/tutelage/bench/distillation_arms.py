"""What a step of each arm of `distillation/cifar10_small` costs beside the student's alone, and how many numbers its objective trains.

`python -m tutelage.bench distillation_arms`, in a checkout. Steps are taken in turn and timed by the processor's time, so that
other work on the machine moves them little. Images are random, which no step notices.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.bench.timing import Row, processor_s, row
from tutelage.bench.transfer_step import stepping

TABLE = Path("experiments/distillation/cifar10_small.yaml")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def rows(rounds: int = 30) -> list[Row]:
    """Measure every arm of the table."""
    with tempfile.TemporaryDirectory() as folder:
        root = images(Path(folder) / "images")
        built = {label: method_of(words, root, folder) for label, words in arms().items()}
        steps = {label: stepping(method, batch) for label, (method, batch) in built.items()}
        for step in [*steps.values()] * 2:
            step()
        times = [{label: _taken(step) for label, step in steps.items()} for _ in range(rounds)]
    alone, *others = steps
    first = f"{alone}: {1000 * statistics.median(one[alone] for one in times):.1f} ms; {networks(*built[others[-1]])}"
    return [
        row(
            f"step of {label} over {alone}",
            [one[label] / one[alone] for one in times],
            note="; ".join(filter(None, [trained(built[label][0]), first if label == others[0] else ""])),
        )
        for label in others
    ]


def arms() -> dict[str, tuple[str, ...]]:
    """Return the words of each arm, the student alone first."""
    from tutelage.reporting.table_file import load

    return {arm.label: tuple(arm.command) for arm in load(TABLE).arms}


def images(root: Path, each: int = 20) -> Path:
    """Write random images of CIFAR-10's classes, and return their folder."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, count in (("train", each), ("test", 4)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def method_of(words: tuple[str, ...], root: Path, folder: str) -> tuple[Any, Any]:
    """Return an arm's method, with an untrained teacher, and a batch of 64 images at 16 px."""
    from tutelage.config.compose import compose
    from tutelage.engine.build import build

    fresh = ["teacher.weights=scratch"] if any(word.startswith("teacher.") for word in words) else []
    small = [
        "data.validation=20",
        "data.train_size=null",
        "logger=none",
        f"data.root={root}",
        f"runs_dir={folder}",
    ]
    built = build(compose([*words, *fresh, *small]))
    built.method.max_steps = 400
    built.method.on_fit_start()
    return built.method.train(), next(iter(built.data.train_stream(seed=0, device="cpu")))


def networks(method: Any, batch: Any) -> str:
    """Return what the student and the frozen networks hold and compute."""
    from tutelage.models.counts import operations, parameters

    found = {"student": method.network} | {n: frozen.network for n, frozen in method.frozen.items()}
    return "; ".join(
        f"{name} {sum(p.numel() for p in parameters(one)):,} parameters, {operations(one, batch.inputs[:1]):,} operations an image"
        for name, one in found.items()
    )


def trained(method: Any) -> str:
    """Return how many numbers the objectives train beside the student's."""
    own = sum(p.numel() for p in method.objectives.parameters() if p.requires_grad)
    return f"trains {own:,} parameters of its own" if own else ""


def _taken(action: Callable[[], object]) -> float:
    began = processor_s()
    action()
    return processor_s() - began
