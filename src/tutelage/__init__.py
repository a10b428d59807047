"""Tutelage: experiments in which one network learns under another."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tutelage._version import __version__

__all__ = [
    "Alignment",
    "Taps",
    "__version__",
    "load_exported",
    "load_run",
    "losses",
    "objectives",
    "similarity",
]

if TYPE_CHECKING:
    from tutelage import losses, objectives
    from tutelage.alignment import similarity
    from tutelage.alignment.alignment import Alignment
    from tutelage.alignment.taps import Taps
    from tutelage.engine.exported import load_exported
    from tutelage.engine.load import load_run

# Importing the package must stay cheap (`--help`, `list` and `report` load no torch), so what needs torch comes on demand.
_HOMES = {
    "load_exported": "tutelage.engine.exported",
    "load_run": "tutelage.engine.load",
    "Alignment": "tutelage.alignment.alignment",
    "Taps": "tutelage.alignment.taps",
}
_MODULES = {
    "losses": "tutelage.losses",
    "objectives": "tutelage.objectives",
    "similarity": "tutelage.alignment.similarity",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'tutelage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
