"""Training throughput of the whole framework (logging, validation, checkpoint included) over a bare PyTorch loop on the same tensors."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

from tutelage.bench.measure import Row, row, seconds

COMMON = ["logger=none", "fit.max_steps=null", "fit.validate_every_steps=null"]
CASES = {
    "MLP 784-64-128-64, batch 128, 28 px": (
        ["data=synthetic", "data.shape=[1,28,28]", "data.samples=16000", "data.batch_size=128", "model=fcn",
         "model.widths=[64,128,64]", "model.batch_norm=false"],
        20, 0.5,
    ),
    "ResNet-20, batch 128, 32 px": (
        ["data=synthetic", "data.shape=[3,32,32]", "data.samples=1600", "data.batch_size=128", "model=residual_convnet"], 2, 0.95,
    ),
}  # fmt: skip


def rows(pairs: int = 5) -> list[Row]:
    """Measure every case."""
    return [measure(name, words, epochs, target, pairs) for name, (words, epochs, target) in CASES.items()]


def measure(name: str, words: list[str], epochs: int, target: float, pairs: int) -> Row:
    """Time `epochs` more epochs of a run (a longer run less a shorter one, so that its start and end cancel) against the bare loop."""
    from tutelage.cli.compose import plan_of
    from tutelage.engine.build import build
    from tutelage.engine.launch import run_plan

    with tempfile.TemporaryDirectory() as folder:
        seeds = itertools.count()

        def ours(length: int) -> float:
            plan = plan_of(
                [
                    *words,
                    *COMMON,
                    f"fit.epochs={length}",
                    "fit.validate_every_steps=null",
                    f"seed={next(seeds)}",
                    f"runs_dir={folder}",
                ]
            )
            return seconds(lambda: run_plan(plan, say=lambda _: None))

        config = plan_of([*words, *COMMON, "fit.epochs=1", f"runs_dir={folder}"]).config
        built = build(config)
        bare = BareLoop(built)
        ours(1)
        bare.run(1)
        ratios = []
        for _ in range(pairs):
            reference = seconds(lambda: bare.run(epochs))
            ratios.append(reference / max(ours(1 + epochs) - ours(1), 1e-9))
    return row(
        f"throughput, framework over bare loop: {name}",
        ratios,
        at_least=target,
        note="validation each epoch included",
    )


class BareLoop:
    """What one would write by hand: resident tensors, a permutation per epoch, the same network and optimiser, nothing else."""

    def __init__(self, built: Any) -> None:
        import torch

        batches = list(built.data.batches("train", device="cpu"))
        self.inputs = torch.cat([batch.inputs for batch in batches])
        self.targets = torch.cat([batch.targets for batch in batches])
        self.network = built.method.network.train()
        self.optimizer, _ = built.method.optimizer_spec.build(self.network.parameters(), 1)
        self.batch_size = built.data.batch_size

    def run(self, epochs: int) -> None:
        """Train for some epochs."""
        import torch
        import torch.nn.functional as F

        for _ in range(epochs):
            order = torch.randperm(len(self.inputs))
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                chosen = order[start : start + self.batch_size]
                loss = F.cross_entropy(self.network(self.inputs[chosen]), self.targets[chosen])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
