"""Whether this machine has room for what is to lie in memory: said before it is tried, where a process would be killed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tutelage.errors import UserError

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_fits(count: int, what: str, instead: str) -> None:
    """Raise UserError where `count` bytes are more than there is room for; what: they are of, instead: what to do."""
    room = room_bytes()
    if room is not None and count > room:
        raise UserError(
            f"{what} need {count / 2**30:.1f} GB of memory, where {room / 2**30:.1f} GB are all there is: {instead}"
        )


def room_bytes() -> int | None:
    """Return how many bytes this process may have: of the machine, its container and what a shell's limit leaves; None where nothing says.

    All of the machine's memory, not what is free: decoded images are mapped from their file, and others make room for them.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemTotal:")]
    for limit in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            found.append(int(Path(limit).read_text()))
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        if limit_bytes != resource.RLIM_INFINITY:
            found.append(max(0, limit_bytes - pages * resource.getpagesize()))
    return min(found, default=None)
