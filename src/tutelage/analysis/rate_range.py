"""A learning-rate range test: how the training loss answers a rate that rises from step to step (Smith 2015, arXiv 1506.01186).

Of training batches alone; nothing is selected, kept or evaluated. Beside other objectives it is the task's own loss that is read: layers
align at rates at which nothing is learned.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
from numpy.lib.stride_tricks import sliding_window_view

from tutelage.config.settings import Fit
from tutelage.engine.build import build
from tutelage.engine.fit import plan_steps
from tutelage.engine.trainer import make_trainer, quiet_lightning
from tutelage.methods.base import Method
from tutelage.objectives.task import Task
from tutelage.typed import read as settings_of

if TYPE_CHECKING:
    from tutelage.analysis.diagnosis import Subject

LOW, HIGH = 1e-6, 1.0
SMOOTHING = 0.9
"""Share of the running mean that a step keeps."""
CERTAIN = 4.0
"""Standard errors by which a loss has to fall over a window of rates, or it is scatter."""
DIVERGED = 2.0
"""A smoothed loss of so many times the lowest ends the test; from the third part on, which the first steps' scatter does not reach."""


@dataclass(frozen=True)
class RateRange:
    """What came of it.

    rates, losses: by step; losses are running means, corrected for their beginning.
    steepest: the middle of the window of rates, up to `lowest`, in which the loss falls most per factor of the rate (what falls after it
    came down from where a too high rate had thrown it); None where it falls in none by more than its scatter from batch to batch.
    lowest: where the running mean is lowest, of one window or more. diverged: where the whole loss left the ground again, or was no
    number; None where it did not. of: the objective whose loss this is; None: all of them together.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    steepest: float | None
    lowest: float
    diverged: float | None
    of: str | None = None


class _Rising(pl.Callback):
    """Raises the rate, and keeps the whole loss of each update, and the part of it that one objective has."""

    def __init__(self, rates: np.ndarray, part: str | None = None) -> None:
        self.rates, self.part = rates, part
        self.losses, self.parts = list[float](), list[float]()

    def on_train_batch_start(self, trainer: pl.Trainer, method: Any, batch: Any, batch_idx: int) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = float(self.rates[method.step]) * group.get("lr_factor", 1.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, method: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if method.step > len(self.losses):  # once an update, however many batches that took
            self.losses.append(float(outputs["loss"]) * method.accumulate)
            if self.part is not None:
                _, names, values = method.history.rows[-1]
                self.parts.append(float(values[1 + names.index(self.part)]))
            trainer.should_stop = _ending(self.losses, len(self.rates)) is not None


def range_test(subject: Subject, *, steps: int) -> RateRange:
    """Return what a training command's loss does over `steps` updates, while the rate rises from LOW to HIGH by one factor a step.

    The command's own optimiser, groups, objectives and hardware, from its own beginning; its schedule is left out.
    """
    config = subject.config | {
        "optimizer": subject.config["optimizer"] | {"schedule": "constant", "warmup_steps": 0}
    }
    built = build(config, subject.data)
    method = built.method
    # Phases of objectives begin and end as in the training itself.
    planned, _ = plan_steps(settings_of(Fit, config["fit"], "fit"), built)
    method.max_steps = max(planned, steps)
    rising = _Rising(np.geomspace(LOW, HIGH, steps), _task_beside_others(method))
    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, Path(folder), [rising], steps)
        stream = built.data.train_stream(seed=config["seed"], device=trainer.strategy.root_device)
        stream.seek(0, steps * method.accumulate)
        try:
            trainer.fit(method, stream)
        finally:
            method.release()
    return read(rising.rates, rising.losses, rising.part, rising.parts)


def _task_beside_others(method: Method) -> str | None:
    """Return the objective that is the task, where it counts throughout, and not alone; else None."""
    tasks = [o for o in method.objectives if isinstance(o, Task) and o.weight and o.schedule.never_off]
    alone_first = any(o.schedule.name == "alone_first" for o in method.objectives)
    return tasks[0].name if tasks and len(list(method.objectives)) > 1 and not alone_first else None


def read(
    rates: np.ndarray, losses: list[float], of: str | None = None, parts: list[float] | None = None
) -> RateRange:
    """Return what the losses (steps,) at rising rates (at least as many) say; parts: of them, those of the objective `of`."""
    end, windows = _ending(losses, len(rates)), [max(8, math.ceil(len(rates) / part)) for part in (6, 3)]
    losses = losses if of is None else list(parts or ())
    kept = _smoothed(losses)[:end]
    used = rates[: len(kept)]
    settled = min(windows[0], len(kept)) - 1  # before it few batches make the mean
    # One power of ten tells the rate well; where batches scatter too much for it, two may tell it at all.
    low = settled + int(np.argmin(kept[settled:])) if len(kept) else 0
    falls = [_steepest(used[: low + 1], np.array(losses[: low + 1]), window) for window in windows]
    return RateRange(
        rates=tuple(float(rate) for rate in used),
        losses=tuple(float(loss) for loss in kept),
        steepest=next((rate for rate in falls if rate is not None), None),
        lowest=float(rates[low]),
        diverged=None if end is None else float(rates[end]),
        of=of,
    )


def _steepest(rates: np.ndarray, losses: np.ndarray, window: int) -> float | None:
    """Return the middle of the window of steps in which a line through the losses falls most, of those that fall for certain."""
    if len(losses) < window:
        return None
    x = np.log(rates[:window])
    x = x - x.mean()
    parts = sliding_window_view(losses, window)
    slopes = parts @ x / (x @ x)
    rest = parts - parts.mean(axis=1, keepdims=True) - slopes[:, None] * x
    errors = np.sqrt((rest**2).sum(axis=1) / (window - 2) / (x @ x))
    falling = np.where(slopes < -CERTAIN * errors, slopes, 0)
    best = int(np.argmin(falling))
    return float(np.sqrt(rates[best] * rates[best + window - 1])) if falling[best] < 0 else None


def _smoothed(losses: list[float]) -> np.ndarray:
    mean, found = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**count))
    return np.array(found)


def _ending(losses: list[float], steps: int) -> int | None:
    """Return the first step at which the loss has diverged."""
    smoothed = _smoothed(losses)
    for step, loss in enumerate(smoothed):
        if not math.isfinite(loss):
            return step
        if step > steps / 3 and loss > DIVERGED * abs(smoothed[:step].min()):
            return step
    return None


def sentence(found: RateRange, steps: int) -> str:
    """Say what was found, and what to try."""
    if not found.losses:
        return "learning rate: the training loss is no finite number at the first step, whatever the rate"
    loss = "the training loss" if found.of is None else f"the loss of the objective '{found.of}' in training"
    if found.steepest is None:
        return (
            f"learning rate: over {steps} steps from {LOW:g} to {HIGH:g} {loss} never fell by more than its scatter from batch "
            f"to batch; more steps (rates={3 * steps}) or a larger data.batch_size may tell"
        )
    ends = "it did not diverge" if found.diverged is None else f"it left the ground at {found.diverged:.1e}"
    grid = ",".join(
        f"{found.steepest * factor:.1e}" for factor in (0.3, 1, 3) if LOW <= found.steepest * factor <= HIGH
    )
    return (
        f"learning rate: over {steps} steps from {LOW:g} to {HIGH:g} {loss} fell fastest at {found.steepest:.1e} and was "
        f"lowest at {found.lowest:.1e}; {ends}. To choose from, on validation: optimizer.lr={grid}"
    )
