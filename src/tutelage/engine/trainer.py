"""Lightning's trainer as runs use it: made for a configuration's hardware, quiet, left by an interrupt as an interrupt."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import registry
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import StrategyRegistry

from tutelage.config.settings import Fit, Hardware
from tutelage.engine.checkpoints import WholeFiles
from tutelage.engine.rank_environment import in_ranks, lightning_environment, ranks_and_nodes
from tutelage.errors import UserError, choices
from tutelage.typed import read

OF_A_BATCH = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
    "on_train_batch_end", "on_validation_batch_start", "on_validation_batch_end",
)  # fmt: skip
"""Hooks of callbacks that Lightning calls for each batch."""


class _NoProfiler(PassThroughProfiler):
    """Profiles nothing, as Lightning's own, but makes no new context of each of some forty hooks a step."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.nullcontext[None]:  # type: ignore[override]
        return self._nothing


def make_trainer(
    config: dict[str, Any],
    folder: Path,
    callbacks: list[pl.Callback],
    max_steps: int,
    *,
    by_hand: bool = False,
    all_parameters_get_gradients: bool = True,
) -> pl.Trainer:
    """Return Lightning's trainer for a configuration's hardware. Raises UserError where this machine cannot run it.

    by_hand: the method updates its networks itself, so that accumulation and clipping are its own business too.
    all_parameters_get_gradients: see `Method`.
    """
    settings, hardware = read(Fit, config["fit"], "fit"), read(Hardware, config["hardware"], "hardware")
    for callback, hook in itertools.product(callbacks, OF_A_BATCH):
        if getattr(type(callback), hook) is getattr(pl.Callback, hook):
            setattr(callback, hook, None)  # Lightning calls what is callable
    chosen: dict[str, Any] = {
        key: getattr(hardware, key)
        for key in ("accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic")
    }
    if in_ranks() and hardware.devices in (
        "auto",
        -1,
    ):  # as many as there are: elastic ranks may be fewer or more at each start
        chosen["devices"], chosen["num_nodes"] = ranks_and_nodes()
    known = ["auto", *StrategyRegistry.available_strategies()]
    if hardware.strategy not in known:
        raise UserError(
            f"there is no hardware.strategy '{hardware.strategy}'; {choices(hardware.strategy, known)}"
        )
    if chosen["strategy"] == "ddp" and not all_parameters_get_gradients:
        chosen["strategy"] = "ddp_find_unused_parameters_true"
    try:
        return pl.Trainer(
            **chosen,
            max_steps=max_steps,
            max_epochs=-1,
            accumulate_grad_batches=1 if by_hand else settings.accumulate,
            gradient_clip_val=None if by_hand else settings.gradient_clip,
            callbacks=callbacks,
            plugins=[WholeFiles(), lightning_environment()],
            profiler=_NoProfiler(),
            default_root_dir=folder,
            reload_dataloaders_every_n_epochs=1,  # the last interval may be shorter than the others
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # our streams know their rank
        )
    except (pl.utilities.exceptions.MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(f"this machine cannot run hardware {chosen}: {error}") from error


@contextlib.contextmanager
def interrupts_first() -> Iterator[None]:
    """Let an interrupt leave as one: Lightning makes it an exit, or its tidying up meets what was half made and raises an error."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning has the process ignore further ones
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from None


def check_ranks(trainer: pl.Trainer) -> None:
    """Raise RuntimeError where the process group is of another size than the trainer counts."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        actual = torch.distributed.get_world_size()
        if actual != trainer.world_size:
            raise RuntimeError(
                f"the process group has {actual} ranks, the trainer counts {trainer.world_size}"
            )


def quiet_lightning() -> None:
    """Leave Lightning's warnings, drop its greetings and advertisements. Each trainer asks all installed packages for callbacks: once."""
    if not hasattr(registry.entry_points, "cache_clear"):
        registry.entry_points = functools.cache(registry.entry_points)  # type: ignore[assignment]

    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        for handler in [one for one in logger.handlers if type(one) is logging.StreamHandler]:
            logger.removeHandler(handler)  # it writes on the screen; the run's log takes what is said
    for pattern in (
        ".*does not have many workers.*",
        ".*Consider increasing the value of the `num_workers`.*",
        ".*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        "The `srun` command is available on your system but is not used",  # it looks for it at each fit
        ".*module\\(s\\) in eval mode at the start of training.*",  # an average is so on purpose
        ".*You defined a `validation_step` but have no `val_dataloader`.*",  # a range test trains alone
        ".*It is recommended to use `self.log\\(.*sync_dist=True.*",  # our metrics are over all ranks already
    ):
        warnings.filterwarnings("ignore", pattern)
