"""Learning-rate schedules: the factor on the base rate at each update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal[
    "constant", "cosine", "short_cosine", "linear", "polynomial", "step", "stable_decay", "plateau"
]
SCHEDULES = ("constant", "cosine", "short_cosine", "linear", "polynomial", "step", "stable_decay", "plateau")


def learning_rate_factor(
    step: int,
    *,
    schedule: Schedule,
    max_steps: int,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    final_factor: float = 0.0,
    power: float = 1.0,
    decay_share: float = 0.2,
) -> float:
    """Return the factor on the base rate for the update numbered `step` (from 0).

    warmup_steps: linear rise from 1/warmup_steps to 1. cosine, linear, polynomial (of `power`): from 1 to `final_factor`, reached at the
    last update exactly. short_cosine: cos(7 pi t / 16) over the whole training, which ends at 0.2 (FixMatch, arXiv 2001.07685). step: times
    `gamma` after each milestone, a fraction of max_steps. stable_decay: 1 until the last `decay_share` of the updates, then linear to
    `final_factor` (WSD, arXiv 2404.06395, whose decay is exponential).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule in ("constant", "plateau"):
        return 1.0
    if schedule == "step":
        return gamma ** sum(step >= milestone * max_steps for milestone in milestones)
    if schedule == "short_cosine":
        return math.cos(7 * math.pi * min(step, max_steps) / (16 * max_steps))
    start = warmup_steps
    if schedule == "stable_decay":
        start = max(start, max_steps - 1 - round(decay_share * max_steps))
        if step < start:
            return 1.0
    progress = min(1.0, (step - start) / max(1, max_steps - 1 - start))
    if schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        shape = (1 - progress) ** power if schedule == "polynomial" else 1 - progress
    return final_factor + (1 - final_factor) * shape


class Plateau:
    """The factor that falls by `gamma` where a validation metric has not improved for `patience` validations; called with a step.

    warmup_steps: as in `learning_rate_factor`. maximise: whether a larger metric is a better one. What it remembers is plain numbers, which
    PyTorch's scheduler keeps in its state, so that a resumed run goes on with them.
    """

    def __init__(self, *, gamma: float, patience: int, warmup_steps: int, maximise: bool) -> None:
        self.gamma, self.patience, self.warmup_steps, self.maximise = gamma, patience, warmup_steps, maximise
        self.best: float | None = None
        self.waited, self.factor = 0, 1.0

    def see(self, value: float) -> None:
        """Take the metric of a validation."""
        better = self.best is None or (value > self.best if self.maximise else value < self.best)
        if better and value == value:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.waited, self.factor = 0, self.factor * self.gamma

    def __call__(self, step: int) -> float:
        """Return the factor at an update, from 0."""
        return (step + 1) / self.warmup_steps if step < self.warmup_steps else self.factor
