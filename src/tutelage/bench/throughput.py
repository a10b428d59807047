"""Training throughput of the whole framework (logging, validation, checkpoint included) over a bare PyTorch loop on the same tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tutelage.bench import timing
from tutelage.bench.timing import Row, row, seconds

COMMON = ["logger=none", "fit.max_steps=null", "fit.validate_every_steps=null"]
CASES = {
    "MLP 784-64-128-64, batch 128, 28 px": (
        ["data=synthetic", "data.shape=[1,28,28]", "data.samples=16000", "data.batch_size=128", "model=fcn",
         "model.widths=[64,128,64]", "model.batch_norm=false"],
        20, 0.625,
    ),
    "ResNet-20, batch 128, 32 px": (
        ["data=synthetic", "data.shape=[3,32,32]", "data.samples=1600", "data.batch_size=128", "model=residual_convnet"], 3, 0.95,
    ),
}  # fmt: skip


def rows(pairs: int = 7) -> list[Row]:
    """Measure every case."""
    return [row for name, case in CASES.items() for row in measure(name, *case, pairs=pairs)]


def measure(name: str, words: list[str], epochs: int, target: float, *, pairs: int) -> list[Row]:
    """Time `epochs` epochs inside one run, from the end of its first to the end of its last, against as many of the bare loop.

    The floor of an epoch is its forward and backward passes over the training data and its forward passes over the validation data: the
    loop by hand does both. How the run compares with the training steps alone stands beside it, without a target.
    """
    from tutelage.config.planner import plan_of
    from tutelage.engine.build import build
    from tutelage.jobs.launch import run_plan

    with tempfile.TemporaryDirectory() as folder:
        own = [*words, *COMMON, f"runs_dir={folder}"]
        built = build(plan_of([*own, "fit.epochs=1"]).config)
        bare = BareLoop(built)
        bare.run(1)
        steps_alone: list[float] = []

        def ratio() -> float:
            training, validation = bare.run(epochs)
            plan = plan_of([*own, f"fit.epochs={1 + epochs}", f"seed={len(steps_alone)}"])
            with validations() as ends:
                run_plan(plan, say=lambda _: None)
            taken = ends[-1] - ends[0]
            assert len(ends) == 1 + epochs, ends
            steps_alone.append(training / taken)
            return (training + validation) / taken

        whole = timing.until_decided(lambda pairs: [ratio() for _ in range(pairs)], target, pairs=pairs)
    title = f"throughput, framework over bare loop: {name}"
    return [
        row(
            title,
            whole,
            at_least=target,
            note="both validate each epoch; ours logs and keeps checkpoints as well",
        ),
        row(f"{title}, the loop not validating", steps_alone),
    ]


@contextmanager
def validations() -> Iterator[list[float]]:
    """Yield a list that gets the time at which each validation ends."""
    from tutelage.methods.base import Method

    ends: list[float] = []
    finish = Method.on_validation_epoch_end

    def finish_and_note(self: Method) -> None:
        finish(self)
        ends.append(timing.now())

    Method.on_validation_epoch_end = finish_and_note  # type: ignore[method-assign]
    try:
        yield ends
    finally:
        Method.on_validation_epoch_end = finish  # type: ignore[method-assign]


class BareLoop:
    """What one would write by hand: resident tensors, a permutation per epoch, the same network and optimiser, a validation, no more."""

    def __init__(self, built: Any) -> None:
        import torch

        def whole(stage: str) -> tuple[torch.Tensor, torch.Tensor]:
            batches = list(built.data.batches(stage, device="cpu"))
            return torch.cat([batch.inputs for batch in batches]), torch.cat(
                [batch.targets for batch in batches]
            )

        self.inputs, self.targets = whole("train")
        self.unseen, self.unseen_targets = whole("validation")
        self.network = built.method.network.train()
        self.optimizer, _ = built.method.optimizer_spec.build(self.network.parameters(), 1)
        self.batch_size = built.data.batch_size

    def run(self, epochs: int) -> tuple[float, float]:
        """Train and validate for some epochs; return the seconds of each."""
        training = validation = 0.0
        for _ in range(epochs):
            training += seconds(self._train)
            validation += seconds(self._validate)
        return training, validation

    def _train(self) -> None:
        import torch
        import torch.nn.functional as F

        self.network.train()
        order = torch.randperm(len(self.inputs))
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
            chosen = order[start : start + self.batch_size]
            loss = F.cross_entropy(self.network(self.inputs[chosen]), self.targets[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def _validate(self) -> None:
        import torch
        import torch.nn.functional as F

        self.network.eval()
        loss, right = torch.zeros(()), torch.zeros((), dtype=torch.long)
        with torch.no_grad():
            for start in range(0, len(self.unseen), self.batch_size):
                logits = self.network(self.unseen[start : start + self.batch_size])
                targets = self.unseen_targets[start : start + self.batch_size]
                loss += F.cross_entropy(logits, targets, reduction="sum")
                right += (logits.argmax(1) == targets).sum()
        _ = float(loss) / len(self.unseen), int(right) / len(self.unseen)
