"""What a job of an in-process sweep costs beyond its training by hand: planning, locking, recording, saving, the table's rows."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

from tutelage.bench.throughput import BareLoop
from tutelage.bench.timing import Row, in_turn, row

WORDS = ["data=digits", "model=fcn", "model.depth=2", "model.width=16", "hardware.threads=1", "data.batch_size=1024",
         "fit.max_steps=1", "fit.validate_every_steps=1"]  # fmt: skip
JOBS, TURNS = 20, 5


def rows() -> list[Row]:
    """Measure with and without the W&B mirror, and what a further job leaves in memory."""
    return [*measure("none", 0.05), *measure("wandb", 0.25)]


def measure(logger: str, at_most: float) -> list[Row]:
    """Time sweeps of new jobs of one update each, in turn with as many of the same trainings by hand."""
    from tutelage.cli import train
    from tutelage.config.planner import plan_of
    from tutelage.engine import mirrors

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = [*WORDS, f"logger={logger}", f"runs_dir={folder}/runs"]
        config = plan_of(words).config
        next_seed = 0

        def sweep() -> None:
            nonlocal next_seed
            train.multirun([*words, f"seed=range({next_seed},{next_seed + JOBS})"])
            next_seed += JOBS

        def by_hand() -> None:
            for number in range(JOBS):
                _by_hand(config, Path(folder) / f"by-hand-{number}")

        sweep()
        before = _resident()
        pairs = in_turn(sweep, by_hand, pairs=TURNS, warmup=0)
        mirrors.drain()
        kilobytes = (_resident() - before) / 1e3 / (JOBS * TURNS)
    beyond = [(ours - theirs) / JOBS for ours, theirs in pairs]
    note = "seconds, not a ratio: a job of one update, less the same by hand, written without waiting for the disk"
    return [
        row(f"per new job of a sweep beyond its training (logger={logger})", beyond, at_most=at_most, note=note),
        row(f"memory per new job of a sweep (logger={logger})", [kilobytes], at_most=300, note="kB, not a ratio"),
    ]  # fmt: skip


def _by_hand(config: dict[str, Any], folder: Path) -> None:
    """Build, do one update, validate, test, and save the network and the optimizer's state."""
    import torch

    from tutelage.engine.build import build

    built = build(config)
    loop = BareLoop(built)
    loop.run(1)
    built.data.open_test()
    for batch in built.data.batches("test", device="cpu"):
        with torch.no_grad():
            loop.network(batch.inputs)
    folder.mkdir(exist_ok=True)
    torch.save(loop.network.state_dict(), folder / "network.pt")
    torch.save(loop.optimizer.state_dict(), folder / "optimizer.pt")
    built.data.teardown()


def _resident() -> int:
    """Return the bytes that this process holds now (Linux)."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
