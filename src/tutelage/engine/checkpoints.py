"""The states a run resumes from and the best weights so far, as files that a kill at any moment leaves whole."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tutelage.runs.bounded import check_archive
from tutelage.runs.records import replacing
from tutelage.runs.run import Run

log = logging.getLogger("tutelage")
WORTH_S = 1.0
"""How much training at the end of a run is saved before it is evaluated."""


class WholeFiles(TorchCheckpointIO):
    """Write a checkpoint where it is asked for; its caller renames it. Lightning's own way goes through the system's temporary folder,
    which may be small, or on another disk, and keeps what a killed process leaves there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See Lightning's CheckpointIO."""
        # Through a file of ours: an error of the disk comes back as such, not as one of torch's writer.
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


def best_weights(folder: Path, step: int) -> Path:
    """Return the file of the best weights that were reached at a step."""
    return folder / f"best-{step}.safetensors"


class Checkpoints(pl.Callback):
    """Keep the state to resume from (`last.ckpt`, and the one before it) and the best weights by the task's validation metric.

    The last state is saved at the end of a chunk when `every_s` seconds have passed since the latest save, and at the end of fit: there
    only where it is to be kept (keep_last), several ranks train, or a second has passed, since less is sooner trained again than saved.
    The best weights stay in memory until then, so that a metric that rises at each validation does not write at each.
    keep_all: keep the weights of every validation as well, for a protocol that looks at the test set after each.
    Files appear by renaming: a kill at any moment leaves the previous ones whole.
    """

    def __init__(
        self,
        folder: Path,
        *,
        monitor: str,
        mode: str,
        every_s: float,
        keep_all: bool = False,
        keep_last: bool = False,
    ) -> None:
        self.folder, self.monitor, self.mode, self.every_s = folder, monitor, mode, every_s
        self.keep_all, self.keep_last = keep_all, keep_last
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.best_state: dict[str, torch.Tensor] | None = None
        self._saved_best: Path | None = None  # of the latest state written or resumed from
        self._saved_at = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, method: Any) -> None:
        if self.last and self.last["step"] == method.step:
            return  # Lightning closes the chunk once more after resuming at its end
        values = dict(method.values["validation"])
        self.last = {"step": method.step, "validation": values}
        improves = self._improves(values[self.monitor])
        if improves or self.keep_all:
            state = trainer.strategy.lightning_module_state_dict()  # gathers where the weights are sharded
            state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
            if improves:
                self.best, self.best_state = dict(self.last), state
            if self.keep_all and trainer.is_global_zero:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._write(state, self._seen(method.step))
        passed = time.monotonic() - self._saved_at
        worth = passed >= WORTH_S or self.keep_last or trainer.world_size > 1
        due = passed >= self.every_s or (method.step >= method.max_steps and worth)
        if trainer.strategy.broadcast(due):  # the ranks' clocks differ, saving is collective
            self.save(trainer)

    def _improves(self, value: float) -> bool:
        if not self.best:
            return True  # the first state counts, also when its metric is NaN: an untrainable network has a best state too
        best = self.best["validation"][self.monitor]
        if best != best:
            return value == value
        return value > best if self.mode == "max" else value < best

    def best_path(self) -> Path:
        """Return the file of the best weights so far."""
        return best_weights(self.folder, self.best["step"])

    def save(self, trainer: pl.Trainer) -> None:
        """Write the best weights, then the state to resume from, then drop what neither needs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        last, previous, fresh = (
            self.folder / "last.ckpt",
            self.folder / "previous.ckpt",
            self.folder / "fresh.tmp",
        )
        if trainer.is_global_zero and self.best_state is not None:
            self._write(self.best_state, self.best_path(), durable=False)
        try:
            trainer.save_checkpoint(fresh)
        except (
            RuntimeError,
            OSError,
        ) as error:  # torch words a full disk as a failed check inside its writer
            fresh.unlink(missing_ok=True)
            if isinstance(error, OSError) or "PytorchStreamWriter" in str(error) or "write" in str(error):
                raise OSError(
                    getattr(error, "errno", None) or errno.EIO,
                    f"the checkpoint could not be written ({str(error).splitlines()[0]})",
                    str(last),
                ) from error
            raise
        if trainer.is_global_zero:
            if last.exists():
                last.replace(
                    previous
                )  # not linked: where a file system has no links, gigabytes would be copied
            needs = [
                path for path in (self.best_path(), self.folder.parent / "metrics.jsonl") if path.exists()
            ]
            with replacing(last, after=needs) as part:
                fresh.replace(part)
            needed = {
                self.best_path(),
                self._saved_best,
            }  # the state before this one is resumed from if this one is damaged
            for old in self.folder.glob("best-*.safetensors"):
                if old not in needed:
                    old.unlink()
            self._saved_best = self.best_path()
        self._saved_at = time.monotonic()

    def _seen(self, step: int) -> Path:
        return self.folder / f"seen-{step}.safetensors"

    @staticmethod
    def _write(state: dict[str, torch.Tensor], path: Path, *, durable: bool = True) -> None:
        with replacing(path, durable=durable) as part:
            save_file(state, part)

    def seen(self) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yield the step and weights of every validation, in order; those of this run only where `keep_all` was asked for."""
        steps = sorted(
            int(path.stem.removeprefix("seen-")) for path in self.folder.glob("seen-*.safetensors")
        )
        for step in steps:
            if step <= self.last["step"]:
                yield step, load_file(self._seen(step))

    def load_best(self) -> dict[str, torch.Tensor]:
        """Return the best weights, from memory, or from the file where an earlier attempt or another rank had them."""
        return self.best_state or load_file(self.best_path())

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.last = state_dict["best"], state_dict["last"]
        self._saved_best = self.best_path() if self.best else None


def latest_checkpoint(run: Run) -> tuple[Path, int] | None:
    """Return the newest readable state to resume from and its step; one that is damaged, or whose best weights are, is named and
    passed over.
    """
    for which in ("last", "previous"):
        path = run.checkpoint(which)
        if not path.is_file():
            continue
        try:
            check_archive(path)
            state = torch.load(path, map_location="meta", weights_only=True, mmap=True)["callbacks"]
            if best := state["Checkpoints"]["best"]:
                with safe_open(best_weights(path.parent, int(best["step"])), framework="pt"):
                    pass  # reading the header compares the file's length with what it announces
            return path, int(state["Recording"]["step"])
        except Exception as error:
            log.warning(
                "checkpoint %s of %s cannot be read (%s); trying the one before", path.name, run.key, error
            )
    return None
