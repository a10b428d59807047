"""One run, from its configuration to its result: build, fit or resume, select on validation, write."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from tutelage.config.settings import Fit, Hardware, Logger
from tutelage.data.base import DataModule
from tutelage.data.splits import SPLITS
from tutelage.engine.build import Built, build
from tutelage.engine.callbacks import EndEarly, Progress, Recording, StopBelow
from tutelage.engine.checkpoints import Checkpoints, latest_checkpoint
from tutelage.engine.cpu import prepared_cpu
from tutelage.engine.layer_watch import LayerWatch
from tutelage.engine.mirror_kinds import about
from tutelage.engine.mirrors import Mirrors, open_mirrors, summary_of
from tutelage.engine.outcome import cost, evaluate_and_save, networks
from tutelage.engine.run_pictures import pictures_in
from tutelage.engine.trainer import check_ranks, interrupts_first, make_trainer, quiet_lightning
from tutelage.engine.validation_intervals import ValidationIntervals
from tutelage.errors import UserError, counted
from tutelage.runs.records import replacing, write_json
from tutelage.runs.run import Run
from tutelage.runs.setting import reads_of
from tutelage.typed import read

log = logging.getLogger("tutelage")


def fit(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """Train what the configuration describes in the run's folder, and return the result.

    Call it under the run's lock, in one process or in every rank of a started group. A checkpoint in the folder is resumed.
    Raises UserError for what the user can mend; NonFiniteLoss when a loss term is not finite.
    """
    hardware = read(Hardware, config["hardware"], "hardware")
    with prepared_cpu(hardware.threads):
        return _fit(config, run, read(Fit, config["fit"], "fit"), hardware)


def _fit(config: dict[str, Any], run: Run, settings: Fit, hardware: Hardware) -> dict[str, Any]:
    started = time.perf_counter()
    quiet_lightning()
    check_machine(hardware)
    if torch.cuda.is_initialized():  # by an earlier run of this process, whose peak is not this one's
        torch.cuda.reset_peak_memory_stats()
    torch.set_float32_matmul_precision(hardware.matmul_precision)
    reads = reads_of(config)
    built = build(config)
    max_steps, every = plan_steps(settings, built)
    if _never_falls(config.get("optimizer") or {}, max_steps // every):
        log.warning(
            "optimizer.schedule=plateau never lowers the rate of this training, which has %s: lower optimizer.patience, or validate more "
            "often",
            counted(max_steps // every, "validation"),
        )
    checkpoint = latest_checkpoint(run)
    first_step = 0 if checkpoint is None else checkpoint[1]
    trainer, recording, checkpoints, mirrors = assemble(config, run, built, max_steps)
    early = None if settings.patience is None else EndEarly(settings.patience, every, checkpoints)
    if early is not None and settings.patience is not None:
        if settings.patience * every >= max_steps and trainer.is_global_zero:
            log.warning(
                "fit.patience=%d never ends this training, which has %s: give fewer, or validate more often",
                settings.patience,
                counted(max_steps // every, "validation"),
            )
        trainer.callbacks.append(early)  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        record: dict[str, Any] = {
            "data": built.data.summary(),
            "method": built.method.describe(),
            "heads": built.heads,
        }
        selection = {"monitor": checkpoints.monitor, "mode": checkpoints.mode, "split": "validation"}
        record |= {"steps": max_steps, "selection": selection}
        write_json(run.path / "setup.json", record | ({"reads": reads} if reads else {}), durable=False)
        with replacing(run.path / "splits.npz", durable=False) as part, part.open("wb") as file:
            np.savez_compressed(file, **built.data.splits)  # type: ignore[arg-type] # their hashes are in the setup
        if recording.writer is not None:
            recording.writer.truncate_after(first_step)
    result: dict[str, Any] = {}
    try:
        train(
            trainer,
            built,
            every=every,
            max_steps=max_steps,
            checkpoint=checkpoint and checkpoint[0],
            config=config,
            early=early,
        )
        result = evaluate_and_save(trainer, built, checkpoints, run)
        result["networks"] = networks(built)
        steps = int(checkpoints.last["step"])
        result["cost"] = cost(trainer, recording, built, steps, first_step, started)
        if steps < max_steps:
            result["ended_early"] = {"step": steps, "of": max_steps, "patience": settings.patience}
        if reads:
            result["reads"] = reads
        if trainer.is_global_zero:
            run.complete(result)
            if not settings.keep_checkpoints:
                run.drop_checkpoints()
        trainer.strategy.barrier("result")  # no rank leaves, or reads the result, before it is written
    finally:
        try:
            if recording.writer is not None:
                recording.writer.close()
        finally:
            mirrors.finish(summary_of(result), functools.partial(pictures_in, run.path))
            built.method.release()
            built.data.teardown()
    return result


def _never_falls(optimizer: Mapping[str, Any], validations: int) -> bool:
    """Whether a rate that waits for a plateau has too few validations: the first sets the mark, and `patience` have to miss it."""
    return optimizer.get("schedule") == "plateau" and validations <= optimizer.get("patience", 5)


def plan_steps(settings: Fit, built: Built) -> tuple[int, int]:
    """Return (updates in all, updates between validations), and tell the method, whose schedules end with them."""
    per_epoch = max(1, built.data.steps_per_epoch // settings.accumulate)
    steps, epochs = settings.max_steps, settings.epochs
    wanted = steps if steps is not None else (epochs or 0) * built.data.steps_per_epoch / settings.accumulate
    max_steps = max(1, round(wanted))
    every = settings.validate_every_steps or per_epoch
    method = built.method
    method.max_steps, method.accumulate, method.gradient_clip = (
        max_steps,
        settings.accumulate,
        settings.gradient_clip,
    )
    return max_steps, min(every, max_steps)


def assemble(
    config: dict[str, Any], run: Run, built: Built, max_steps: int
) -> tuple[pl.Trainer, Recording, Checkpoints, Mirrors]:
    """Return the trainer and the callbacks of this run."""
    settings, task = read(Fit, config["fit"], "fit"), built.data.task
    is_first = _rank() == 0
    mirrors = Mirrors([])
    if is_first:
        code = (run.attempts[-1] if run.attempts else {}).get("code") or {}
        facts = about(config, run.path.name, code, built.method.describe())
        mirrors = open_mirrors(read(Logger, config["logger"], "logger"), run.path, config, facts)
    per_epoch = built.data.steps_per_epoch / settings.accumulate
    recording = Recording(
        run.writer() if is_first else None,
        mirrors,
        log_every=settings.log_every_steps,
        accumulate=settings.accumulate,
        steps_per_epoch=per_epoch,
        threads=config["hardware"]["threads"],
        watch=LayerWatch(built.method, built.data, config["seed"]) if settings.watch_layers else None,
    )
    checkpoints = Checkpoints(
        run.path / "checkpoints",
        monitor=task.monitor,
        mode=task.mode,
        every_s=settings.checkpoint_every_s,
        keep_all=settings.protocol == "best_on_test",
        keep_last=settings.keep_checkpoints,
    )
    callbacks: list[pl.Callback] = [
        recording,
        checkpoints,
        Progress(f"{config['name']} seed {config['seed']}", max_steps, task.monitor, recording),
    ]
    if settings.stop_below:
        callbacks.append(StopBelow(settings.stop_below, checkpoints))
    trainer = make_trainer(
        config,
        run.path,
        callbacks,
        max_steps,
        by_hand=not built.method.automatic_optimization,
        all_parameters_get_gradients=built.method.all_parameters_get_gradients,
    )
    return trainer, recording, checkpoints, mirrors


def check_machine(hardware: Hardware) -> None:
    """Raise UserError where this machine lacks the accelerator, before data are read."""
    found = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(hardware.accelerator, True):
        has = ", ".join(name for name, there in found.items() if there) or "neither"
        raise UserError(
            f"hardware.accelerator={hardware.accelerator}: this machine has no such device (of gpu and mps: {has}); "
            "choose hardware=cpu, or ddp_cpu for several ranks"
        )


def check_samples(data: DataModule, ranks: int, method: Any) -> None:
    """Raise UserError where a split has too few samples for its ranks, or a batch too few for what compares the samples of one."""
    for name in SPLITS:
        if len(data.splits[name]) < ranks:
            raise UserError(
                f"{len(data.splits[name])} {name} samples cannot be shared by {ranks} ranks: use fewer devices"
            )
    for name in SPLITS:
        together = data.batch_size  # over all ranks: they see each other's
        if name != "train":
            together = min(-(-len(data.splits[name]) // ranks), max(1, data.eval_batch_size // ranks))
        if together < method.fewest:
            needed = "data.batch_size" if name == "train" else f"the {name} split and data.eval_batch_size"
            raise UserError(
                f"what is learnt compares the samples of a batch, and a {name} batch holds {together} (each rank): at least "
                f"{method.fewest} are needed, see {needed}"
            )


def train(
    trainer: pl.Trainer,
    built: Built,
    *,
    every: int,
    max_steps: int,
    checkpoint: Path | None,
    config: dict[str, Any],
    early: EndEarly | None = None,
) -> None:
    """Fit, from a checkpoint if there is one; early: what may end it before its last step."""
    method, data, device = built.method, built.data, trainer.strategy.root_device
    check_ranks(trainer)
    check_samples(data, trainer.world_size, method)
    share: dict[str, Any] = {"rank": trainer.global_rank, "world_size": trainer.world_size, "device": device}
    stream = data.train_stream(seed=config["seed"], **share)
    intervals = ValidationIntervals(
        stream, lambda: method.step, every=every, max_steps=max_steps, accumulate=method.accumulate
    )
    if config["hardware"]["compile"]:
        torch.compiler.reset()  # or a graph of an earlier run of this process serves, which knows nothing of this network's taps
        method.network.compile()
    try:
        with interrupts_first():
            trainer.fit(
                method,
                intervals,
                data.batches("validation", **share),
                ckpt_path=checkpoint and str(checkpoint),
                weights_only=True,
            )
    except pl.utilities.exceptions.MisconfigurationException as error:
        raise UserError(f"Lightning cannot run this combination of method and settings: {error}") from error
    except RuntimeError as error:
        if "not used in producing the loss" not in str(error):
            raise
        raise UserError(
            f"at step {method.step} some trained parameters had no gradient, which DDP does not expect as it is configured: where it is "
            "the network that leaves them out, set hardware.strategy=ddp_find_unused_parameters_true; a method of yours says "
            "`all_parameters_get_gradients = False`"
        ) from error
    if method.step < max_steps and not (early and early.over):
        raise KeyboardInterrupt(f"stopped at step {method.step} of {max_steps}")


def _rank() -> int:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0) or 0)
