"""Several runs on one GPU: how many have room beside each other, and which GPU each is given."""

from __future__ import annotations

import csv
import itertools
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tutelage.errors import UserError
from tutelage.typed import Range, checked

CONTEXT_BYTES = 600 * 2**20
"""About what CUDA itself takes for each process, which PyTorch's limit does not count."""
_ASK = ("uuid", "memory.free", "memory.total")


@dataclass(frozen=True)
class Gpu:
    """A GPU as CUDA_VISIBLE_DEVICES names it, and its memory in bytes, now."""

    name: str
    free: int
    total: int


def look() -> list[Gpu]:
    """Return the GPUs that this process may use. NVIDIA's tool is asked: CUDA, once begun here, would be lost to forked jobs."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASK)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    rows = [
        row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if len(row) == len(_ASK)
    ]
    found = [Gpu(name, int(free) * 2**20, int(total) * 2**20) for name, free, total in rows if free.isdigit()]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return found
    names = [name.strip() for name in given.split(",") if name.strip()]
    by_name = {str(place): gpu for place, gpu in enumerate(found)} | {gpu.name: gpu for gpu in found}
    return [by_name[name] for name in names if name in by_name]


def places(need_gb: float, gpus: Sequence[Gpu]) -> list[str]:
    """Return the GPU of each job that has room at once, the GPUs in turn.

    need_gb: GiB that each job may take.

    Raises:
        UserError: no GPU has room for one.
    """
    need = need_gb * 2**30
    rooms = [[gpu.name] * math.floor(gpu.free / need) for gpu in gpus]
    in_turn = [name for row in itertools.zip_longest(*rooms) for name in row if name is not None]
    if not in_turn:
        most = max((gpu.free / 2**30 for gpu in gpus), default=None)
        has = "this machine has no GPU" if most is None else f"the most that a GPU has free is {most:.1f} GiB"
        raise UserError(f"hydra.launcher.gpu_memory_gb={need_gb:g}: {has}")
    return in_turn


def has_room(name: str, need_gb: float, gpus: Sequence[Gpu]) -> bool:
    """Whether a GPU has, at the moment, room for one more job."""
    return any(gpu.name == name and gpu.free >= need_gb * 2**30 for gpu in gpus)


def share(need_gb: float, gpu: Gpu) -> float:
    """Return the part of a GPU's memory that PyTorch may take in a job, so that one that wants more fails alone."""
    return min(1.0, max(need_gb * 2**30 - CONTEXT_BYTES, 0.1 * need_gb * 2**30) / gpu.total)


def check(need_gb: object) -> None:
    """Raise UserError for what cannot be an amount of memory."""
    amount: Any = Annotated[float, Range(0, math.inf, above=True, below=True), "a number above 0"] | None
    checked("hydra.launcher.gpu_memory_gb", need_gb, amount)
