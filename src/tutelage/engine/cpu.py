"""What training on a CPU asks of its process: threads that spin briefly while they wait, and freed memory that is kept."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_SPINS = "1000"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them, <malloc.h>
_KEPT_BYTES, _LARGEST_KEPT = 1 << 30, 32 << 20  # glibc maps what is larger than 32 MiB whatever we say


def set_openmp_wait() -> None:
    """Let waiting threads spin for about as long as a small operation takes, then sleep. Say it before torch is imported.

    OpenMP's own choice, milliseconds, holds a small network's step up tenfold to a hundredfold where two threads share a core with
    anything else; sleeping at once doubles the step where nothing does. Either is the user's by OMP_WAIT_POLICY or GOMP_SPINCOUNT.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
        if sys.platform == "darwin":  # LLVM's OpenMP knows no count
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def prepare_cpu(threads: int | None) -> None:
    """Use that many threads (None: as torch chooses), and keep what tensors free instead of handing it back to the system.

    A step frees what the next one asks for again. glibc returns the top of the heap in between, and the system then clears every
    page anew: a convolutional network's step took half as long again, an ensemble's more than twice as long.
    """
    import ctypes

    import torch

    if threads:
        torch.set_num_threads(threads)
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGEST_KEPT)
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)


@contextlib.contextmanager
def prepared_cpu(threads: int | None) -> Iterator[None]:
    """`prepare_cpu` for the length of a block: one run's number of threads is not the next one's, however the block is left."""
    import torch

    before = torch.get_num_threads()
    prepare_cpu(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
