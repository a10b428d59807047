"""Where tables are printed: as wide as the terminal, and wide enough for every column where there is none."""

from __future__ import annotations

import sys
from typing import Any


def console() -> Any:
    """Return rich's console for standard output."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)
