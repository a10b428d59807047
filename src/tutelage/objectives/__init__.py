"""Objectives: one named term of a loss a file, unweighted; weighing, scheduling and summing them live once, in `total`.

May import alignment, losses, models and tasks, and for pseudo images their readers in data; objectives do not import each other.
Each class is here by its name, imported when it is asked for: `from tutelage.objectives import Hint, Objectives`.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "AdaMatch": "adamatch",
    "Adversarial": "adversarial",
    "Alignment": "alignment",
    "Attention": "attention",
    "CRD": "crd",
    "CrossCorrelation": "cross_correlation",
    "DIST": "dist",
    "Decoupled": "decoupled",
    "Dimension": "dimension",
    "FixMatch": "fixmatch",
    "FlexMatch": "flexmatch",
    "FreeMatch": "freematch",
    "GKD": "gkd",
    "Hint": "hint",
    "Logits": "logits",
    "MLKD": "mlkd",
    "Made": "made",
    "MeanTeacher": "mean_teacher",
    "NKD": "nkd",
    "OFA": "ofa",
    "Objective": "base",
    "Objectives": "total",
    "ProbabilisticTransfer": "probabilistic_transfer",
    "PseudoLabel": "pseudo_label",
    "REPA": "repa",
    "Relational": "relational",
    "ReviewKD": "review",
    "SRD": "srd",
    "Schedule": "schedule",
    "SimilarityPreserving": "similarity_preserving",
    "SoftMatch": "softmatch",
    "SoftTargets": "soft_targets",
    "Step": "base",
    "Task": "task",
    "UDA": "uda",
    "USKD": "uskd",
    "VID": "vid",
    "VkD": "vkd",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tutelage.objectives' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tutelage.objectives.{_HOMES[name]}"), name)
