"""Tutelage: experiments in which one network learns under another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tutelage._version import __version__

__all__ = ["__version__", "load_run"]

if TYPE_CHECKING:
    from tutelage.engine.load import load_run


def __getattr__(name: str) -> Any:
    # Importing the package must stay cheap (`--help`, `list` and `report` load no torch), so the names that need torch come on demand.
    if name == "load_run":
        from tutelage.engine.load import load_run

        return load_run
    raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
