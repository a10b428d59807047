"""PyTorch under a shell's limit on memory: its libraries end the process, with no error that Python sees, where they do not fit."""

from __future__ import annotations

import sys
from typing import Any

if sys.platform == "linux":
    import resource

AMPLE = 16 * 2**30
"""Bytes of address space with which any build of PyTorch is loaded."""
NEEDED = 2**28
"""Bytes that threads and the libraries beside PyTorch take at the least."""


def _in_use() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


class _Room:
    """Finds nothing; before PyTorch is imported, tries in another process whether it can be."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name != "torch":
            return
        import subprocess  # here, for it costs a start of every command

        sys.meta_path.remove(self)
        left = resource.getrlimit(resource.RLIMIT_AS)[0] - _in_use() - NEEDED
        limited = f"import resource as r; r.setrlimit(r.RLIMIT_AS, ({max(left, 2**26)},) * 2); import torch"
        if (
            left <= 0
            or subprocess.run([sys.executable, "-c", limited], capture_output=True, check=False).returncode
        ):
            raise MemoryError("PyTorch alone does not fit")


def watch() -> None:
    """Have the first import of PyTorch raise MemoryError where a limit (`ulimit -v`) would have it abort."""
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < AMPLE:
        sys.meta_path.insert(0, _Room())
