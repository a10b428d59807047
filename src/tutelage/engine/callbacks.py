"""What happens beside the training steps: rows for the record, giving up, the progress bar."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from tutelage.engine import progress
from tutelage.engine.checkpoints import Checkpoints
from tutelage.engine.mirrors import Mirrors
from tutelage.errors import StoppedBelow
from tutelage.runs.json_lines import MetricsWriter
from tutelage.tasks import Batch

log = logging.getLogger("tutelage")


class Recording(pl.Callback):
    """Write a row of the training terms every `log_every` steps, and one with the validation metrics after each validation.

    steps_per_epoch: updates per pass over the training data, for the `epoch` column. accumulate: batches per update. threads: how many CPU
    threads the user asked for. Without, a resumed run goes on with as many as it began with: sums are split among threads, and round by
    how. watch: further columns of a method before its first step and after each validation.
    """

    def __init__(
        self,
        writer: MetricsWriter | None,
        mirrors: Mirrors,
        *,
        log_every: int,
        steps_per_epoch: float,
        accumulate: int = 1,
        threads: int | None = None,
        watch: Callable[[Any], dict[str, float]] | None = None,
    ) -> None:
        self.writer, self.mirrors, self.threads, self.watch = writer, mirrors, threads, watch
        self.log_every, self.steps_per_epoch = log_every, steps_per_epoch
        self._batches = log_every * accumulate
        self.train_s = 0.0
        self.step = self.rows = 0
        self.loss: float | None = None
        self._resumed_at = 0.0
        self._batch: Batch | None = None

    def on_fit_start(self, trainer: pl.Trainer, method: Any) -> None:
        """Compare the record with what the state that is resumed says of it."""
        if not trainer.is_global_zero or self.writer is None:
            return
        if (lost := self.rows - self.writer.rows) > 0:
            log.warning(
                "metrics.jsonl has %d of the %d rows written up to step %d: %d were lost, and its curves have a gap; rerun=true makes "
                "the run anew", self.writer.rows, self.rows, self.step, lost,
            )  # fmt: skip
            self.rows -= lost

    def on_train_start(self, trainer: pl.Trainer, method: Any) -> None:
        if self.watch is None or method.step > 0 or self.rows:
            return
        found = self.watch(method)  # every rank looks: some networks need all
        if (
            self.writer is not None and self.writer.rows
        ):  # begun again before its first checkpoint: the same row is there
            self.rows = self.writer.rows
        else:
            self._write(trainer, 0, found)

    def on_train_epoch_start(self, trainer: pl.Trainer, method: Any) -> None:
        self._resumed_at = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, method: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._batch = batch
        step = method.step
        if step % self.log_every == 0 and len(method.history) >= self._batches:
            self._write(trainer, step, method.flush(batch))

    def on_validation_start(self, trainer: pl.Trainer, method: Any) -> None:
        self.train_s += time.perf_counter() - self._resumed_at

    def on_validation_end(self, trainer: pl.Trainer, method: Any) -> None:
        self.step = method.step
        row = method.flush(self._batch)  # before any checkpoint: a loss that is not finite must not be saved
        row |= {f"validation/{name}": value for name, value in method.values["validation"].items()}
        row |= self.watch(method) if self.watch is not None else {}
        self._write(trainer, method.step, row)
        if self.writer is not None:
            self.writer.flush()

    def _write(self, trainer: pl.Trainer, step: int, values: dict[str, float]) -> None:
        if not trainer.is_global_zero or not values:
            return
        self.loss = values.get("train/loss", self.loss)
        group = trainer.optimizers[0].param_groups[0]
        rate = group["lr"] / group.get("lr_factor", 1.0)
        row = {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "train_s": round(self.train_s, 3),
            "lr": rate,
            **values,
        }
        if self.writer is not None:
            self.writer.write(row)
        self.rows += 1
        self.mirrors.log(row)

    def state_dict(self) -> dict[str, Any]:
        return {
            "train_s": self.train_s,
            "step": self.step,
            "rows": self.rows,
            "threads": torch.get_num_threads(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_s, self.step = state_dict["train_s"], state_dict["step"]
        self.rows = state_dict.get("rows", 0)
        threads = state_dict.get("threads")
        if threads and not self.threads and threads != torch.get_num_threads():
            log.info(
                "resumed with %d CPU threads, as it was begun (hardware.threads=N says otherwise)", threads
            )
            torch.set_num_threads(threads)


class StopBelow(pl.Callback):
    """Stop a run whose best validation metric has not reached what is asked at a step.

    asked: [step, value] pairs; of those up to the present step the last counts. best: the checkpoints' callback, which knows the
    best value so far, also of earlier attempts.
    """

    def __init__(self, asked: Sequence[Sequence[float]], best: Checkpoints) -> None:
        self.asked, self.best = sorted([int(step), float(value)] for step, value in asked), best

    def on_validation_end(self, trainer: pl.Trainer, method: Any) -> None:
        passed = [value for step, value in self.asked if step <= method.step]
        if not passed or method.step >= method.max_steps:
            return
        monitor, mode = self.best.monitor, self.best.mode
        value = method.values["validation"][monitor]
        if self.best.best:
            earlier = self.best.best["validation"][monitor]
            value = (
                earlier if value != value else max(value, earlier) if mode == "max" else min(value, earlier)
            )
        if value >= passed[-1] if mode == "max" else value <= passed[-1]:
            return
        raise StoppedBelow(
            f"stopped at step {method.step}: the best validation {monitor} is {value:.4g}, fit.stop_below asks for {passed[-1]:.4g}",
            step=method.step, value=value, asked=[list(pair) for pair in self.asked],
        )  # fmt: skip


class EndEarly(pl.Callback):
    """End the training, and keep its state, once `patience` validations have passed without a better metric.

    checkpoints: their callback, before this one; what it resumes from says all, so that a resumed run ends where the undisturbed one does.
    every: updates between validations.
    """

    def __init__(self, patience: int, every: int, checkpoints: Checkpoints) -> None:
        self.steps, self.checkpoints = patience * every, checkpoints

    @property
    def over(self) -> bool:
        """Whether the patience has run out."""
        best, last = self.checkpoints.best, self.checkpoints.last
        return bool(best) and last["step"] - best["step"] >= self.steps

    def on_train_start(self, trainer: pl.Trainer, method: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.over

    def on_train_epoch_end(self, trainer: pl.Trainer, method: Any) -> None:
        if self.over and not trainer.should_stop:
            trainer.should_stop = True
            self.checkpoints.save(trainer)


class Progress(pl.Callback):
    """Shows how far the run is; with what is recorded anyway, so that it costs a step nothing."""

    def __init__(self, title: str, max_steps: int, monitor: str, recording: Recording) -> None:
        self.title, self.max_steps, self.monitor, self.recording = title, max_steps, monitor, recording
        self._board: Any = None
        self._own: progress.Board | None = None
        self._began, self._from, self._shown_at = 0.0, 0, 0.0
        self._value: float | None = None

    def on_fit_start(self, trainer: pl.Trainer, method: Any) -> None:
        if not trainer.is_global_zero or progress.QUIET in os.environ:
            return
        self._own = None if progress.current() else progress.Board()
        self._board = progress.current() or self._own
        self._began, self._from = time.monotonic(), method.step

    def on_train_batch_end(
        self, trainer: pl.Trainer, method: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self._board is not None and time.monotonic() - self._shown_at > progress.REFRESH_S:
            self._show(method.step)

    def on_validation_end(self, trainer: pl.Trainer, method: Any) -> None:
        self._value = method.values["validation"][self.monitor]
        log.debug(
            "%s: step %d of %d, validation %s %.4f",
            self.title,
            method.step,
            self.max_steps,
            self.monitor,
            self._value,
        )
        if self._board is not None:
            self._show(method.step)

    def _show(self, step: int) -> None:
        self._shown_at = time.monotonic()
        seconds = self._shown_at - self._began
        self._board.show(
            progress.Status(
                title=self.title,
                step=step,
                steps=self.max_steps,
                rate=(step - self._from) / seconds if seconds > 0 else 0.0,
                seconds=seconds,
                loss=self.recording.loss,
                metric=self.monitor,
                value=self._value,
            )
        )

    def on_fit_end(self, trainer: pl.Trainer, method: Any) -> None:
        self.close()

    def on_exception(self, trainer: pl.Trainer, method: Any, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Take the run's bar off the terminal."""
        if self._board is not None:
            self._board.clear()
        if self._own is not None:
            self._own.close()
        self._board = self._own = None
