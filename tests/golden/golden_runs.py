"""Small runs of every method as numbers: loss rows, weights' digests, test values.

Recorded by `OMP_NUM_THREADS=1 PYTHONPATH=src:tests python tests/golden/golden_runs.py`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from golden_words import SYNTHESIS, TWO_RANKS, WORDS, full
from safetensors.torch import load_file
from torch import Tensor

from forked_command import Forked
from tutelage.config.planner import plan_of
from tutelage.engine.checkpoints import Checkpoints
from tutelage.generators import shards
from tutelage.generators.conditioning import Conditioning
from tutelage.generators.noise import NoiseDomain
from tutelage.jobs.launch import run_plan
from tutelage.runs.run import Run
from tutelage.runs.store import Store

NUMBERS = Path(__file__).with_name("golden_numbers.json")


def environment() -> dict[str, str]:
    """What the last bits of a float32 product depend on."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


class Inputs:
    """The files that some runs read, made on first use: a series, a pseudo data set, a trained teacher of other classes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def series(self) -> str:
        lines = ["date,a,b,c"]
        for hour in range(400):
            values = [math.sin(hour / 24 * math.tau + k) + 0.3 * math.sin(hour * (k + 1.7)) for k in range(3)]
            stamp = f"2021-01-{1 + hour // 24:02d} {hour % 24:02d}:00:00"
            lines.append(",".join([stamp, *(f"{value:.4f}" for value in values)]))
        path = self.folder / "series.csv"
        path.write_text("\n".join(lines[: 24 * 16 + 1]) + "\n")
        return str(path)

    @functools.cached_property
    def pseudo(self) -> str:
        path = str(self.folder / "pseudo")
        generator, labels = NoiseDomain((1, 8, 8), 10), Conditioning("uniform", classes=10, seed=0)
        shards.write(
            path, generator, labels, shards.recipe(generator, labels, count=64, seed=0), shard_size=32
        )
        return path

    @functools.cached_property
    def teacher(self) -> str:
        words = ["data.classes=[3,4,5,6,7,8,9]", "model.depth=2", "fit.max_steps=60"]
        return str(do(full(words), self.folder / "teacher").path)

    def fill(self, words: list[str]) -> list[str]:
        """Return the words with the places of files filled in."""
        for name in ("series", "pseudo", "teacher"):
            if any(f"{{{name}}}" in word for word in words):
                words = [word.replace(f"{{{name}}}", getattr(self, name)) for word in words]
        return words


def do(words: list[str], folder: Path) -> Run:
    """Do a run and return it."""
    plan = plan_of([*words, f"runs_dir={folder}"])
    run_plan(plan)
    return Store(folder).run(plan.name, plan.identity)


def do_broken(words: list[str], folder: Path, step: int) -> Run:
    """Do a run that dies once its state is saved at a step, and do it again."""
    save = Checkpoints.save

    def save_then_die(self: Checkpoints, trainer: Any) -> None:
        save(self, trainer)
        if trainer.global_step >= step:
            raise KeyboardInterrupt

    words = [*words, "fit.checkpoint_every_s=0"]
    Checkpoints.save = save_then_die  # type: ignore[method-assign]
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            do(words, folder)
    finally:
        Checkpoints.save = save  # type: ignore[method-assign]
    run = do(words, folder)
    assert run.result is not None and run.result["cost"]["resumed_at_step"] == step
    return run


def do_on_two_ranks(words: list[str], folder: Path) -> Run:
    """Do a run in two processes that are started as torchrun starts its ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True)

    def become(rank: int) -> None:
        os.environ.update(
            TORCHELASTIC_RUN_ID="test", RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip

    command = ["train", *words, f"runs_dir={folder}"]
    ranks = [Forked(command, folder / f"rank-{r}.txt", functools.partial(become, r)) for r in range(2)]
    codes = [rank.wait() for rank in ranks]
    assert codes == [0, 0], "\n".join(rank.text() for rank in ranks)
    (run,) = Store(folder).runs()
    return run


def numbers(run: Run) -> dict[str, Any]:
    """Return what a run is held to: its loss rows, digests of the final state and of the kept network, its last test values."""
    assert run.result is not None
    terms = {"train/loss", *(f"train/{name}" for name in terms_of(run.config["method"]))}
    rows = [
        {k: v for k, v in row.items() if k in terms or k == "step" or k.startswith("train/weight/")}
        for row in run.metrics.rows
        if "train/loss" in row
    ]
    state = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    kept = load_file(run.path / "network.safetensors")
    return {"rows": rows, "final": digest(state), "kept": digest(kept), "test": run.result["last"]["test"]}


def terms_of(method: dict[str, Any]) -> list[str]:
    """Return the names of a configured method's loss terms."""
    return list(method["objectives"])


def digest(tensors: dict[str, Tensor]) -> str:
    """Return one digest of the tensors' bytes, whatever their names and order."""
    each = sorted(
        hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest() for tensor in tensors.values()
    )
    return hashlib.sha256("".join(each).encode()).hexdigest()[:32]


def record(folder: Path) -> dict[str, Any]:
    """Do every run and return all numbers."""
    inputs = Inputs(folder / "inputs")
    inputs.folder.mkdir()
    runs: dict[str, Any] = {}
    for number, (name, words) in enumerate({**WORDS, **TWO_RANKS}.items()):
        start = time.perf_counter()
        act = do_on_two_ranks if name in TWO_RANKS else do
        runs[name] = numbers(act(inputs.fill(full(words)), folder / str(number)))
        print(f"{time.perf_counter() - start:6.1f} s  {name}", flush=True)
    made = do(SYNTHESIS, folder / "synthesis").result
    assert made is not None
    return {"environment": environment(), "runs": runs, "synthesis": content(made)}


def content(result: dict[str, Any]) -> str:
    """Return the digest of a pseudo data set's bytes."""
    return str(result["pseudo"]["content_sha256"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="golden-") as place:
        found = record(Path(place))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else NUMBERS
    target.write_text(json.dumps(found, indent=1) + "\n")
