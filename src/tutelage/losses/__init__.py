"""Losses: pure functions of tensors, for distillation, features and consistency.

Imports nothing of Tutelage but errors. All compute in float32 (float64 stays), whatever precision surrounds them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = (
    "consistency",
    "contrast",
    "dimension",
    "distillation",
    "feature",
    "logit_variants",
    "projected",
    "variational",
    "views",
)


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module 'tutelage.losses' has no attribute {name!r}")
    return importlib.import_module(f"tutelage.losses.{name}")
