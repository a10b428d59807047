"""What training came to: the test set opened once for the last and the selected weights, the network stored, the cost stated."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from tutelage.engine.build import Built
from tutelage.engine.callbacks import Recording
from tutelage.engine.checkpoints import Checkpoints
from tutelage.engine.networks import example_of
from tutelage.methods.base import Method
from tutelage.models.counts import counted
from tutelage.models.weights_files import shrunk
from tutelage.runs.records import replacing
from tutelage.runs.run import Run


def evaluate_and_save(
    trainer: pl.Trainer, built: Built, checkpoints: Checkpoints, run: Run
) -> dict[str, Any]:
    """Open the test set, evaluate the last and the selected weights on it, and store the selected network."""
    method, data = built.method, built.data
    last, best = dict(checkpoints.last), dict(checkpoints.best)
    data.open_test()
    batches = data.batches(
        "test", rank=trainer.global_rank, world_size=trainer.world_size, device=trainer.strategy.root_device
    )
    last["test"] = _test(trainer, method, batches)
    if best["step"] == last["step"]:
        best["test"] = dict(last["test"])
    else:
        method.load_state_dict(checkpoints.load_best())
        best["test"] = _test(trainer, method, batches)
    arrays = method.metrics_of["test"].arrays()  # on every rank, which computing them waits for
    if trainer.is_global_zero:
        state = {
            n.removeprefix("network."): t
            for n, t in checkpoints.load_best().items()
            if n.startswith("network.")
        }
        with replacing(run.path / "network.safetensors", durable=False) as part:
            save_file(
                state,
                part,
                metadata={"normalization": json.dumps(data.normalization), **shrunk(method.network)},
            )
            _order_metadata(part)
    selection = {
        "monitor": checkpoints.monitor,
        "mode": checkpoints.mode,
        "split": "validation",
        "directions": built.data.task.directions(),
    }
    result = {
        "metrics": {split: best[split] for split in ("validation", "test")},
        "best": best,
        "last": last,
        "selection": selection,
    }
    if arrays:
        result["arrays"] = {"test": arrays, "classes": built.data.task.class_names}
    if checkpoints.keep_all:
        result["best_on_test"] = _best_on_test(trainer, method, batches, checkpoints)
    return result


def _order_metadata(path: Path) -> None:
    """Sort what a safetensors file says beside its tensors: the library orders it at random, and equal networks have equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def _best_on_test(
    trainer: pl.Trainer, method: Method, batches: Any, checkpoints: Checkpoints
) -> dict[str, Any]:
    """Return the best test value over all validations: what papers report that select on the test set. It selects nothing here."""
    monitor, sign = checkpoints.monitor, 1 if checkpoints.mode == "max" else -1
    tested = []
    for step, state in checkpoints.seen():
        method.load_state_dict(state)
        tested.append((step, _test(trainer, method, batches)))
    step, values = max(tested, key=lambda one: (one[1][monitor] == one[1][monitor], sign * one[1][monitor]))
    note = "selected on the test set, for comparison with papers that do; an overestimate"
    return {"step": step, "test": values, "of": len(tested), "note": note}


def _test(trainer: pl.Trainer, method: Method, batches: Any) -> dict[str, float]:
    trainer.test(method, batches, verbose=False)
    return dict(method.values["test"])


def networks(built: Built) -> dict[str, Any]:
    """Return what the trained network and the frozen ones hold and compute for a sample, by role; see `counts.counted`."""
    example = example_of(built.data, 1)
    roles = {"model": built.method.network, **built.method.frozen}
    return {role: counted(network, example.inputs, example.mask) for role, network in roles.items()}


def cost(
    trainer: pl.Trainer, recording: Recording, built: Built, max_steps: int, first_step: int, started: float
) -> dict[str, Any]:
    """Return what the run cost: updates, samples per second of training alone, peak memory, seconds; energy is not measured."""
    samples = max_steps * built.data.batch_size * built.method.accumulate
    on_gpu = trainer.strategy.root_device.type == "cuda"
    unit = (
        1024**2 if sys.platform == "darwin" else 1024
    )  # getrusage counts bytes on macOS, kilobytes elsewhere
    peak_mb = (
        torch.cuda.max_memory_allocated() / 2**20
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    )
    return {
        "steps": max_steps,
        "resumed_at_step": first_step,
        "train_s": round(recording.train_s, 3),
        "samples_per_s": round(samples / max(recording.train_s, 1e-9), 1),
        "peak_memory_mb": round(peak_mb, 1),
        "peak_memory_of": "device" if on_gpu else "process",
        "total_s": round(time.perf_counter() - started, 3),
        "ranks": trainer.world_size,
    }
