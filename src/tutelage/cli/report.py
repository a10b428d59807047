"""`tutelage report`: runs in, tables and figures out. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    raise NotImplementedError
