"""What the file of a group declares of itself, since plans and identities know no class by name.

`_reads_`, of data: `published` (the set's name says what is read, and `root` only where it lies) or `pseudo` (a pseudo data set).
`_makes_`, of a method: `pseudo_data`, or `generator` (a network that is trained on source data and then given away).
No constructor sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECLARATIONS: dict[str, tuple[str, ...]] = {
    "_reads_": ("published", "pseudo"),
    "_makes_": ("pseudo_data", "generator"),
}

USUAL_FOLDS = 5
"""Of how many folds `data.fold` is one where the command does not say; what data split by it and what reports count with."""


def reads(config: Mapping[str, Any]) -> str | None:
    """Return what a configuration's data declare that they read."""
    return (config.get("data") or {}).get("_reads_")


def makes(config: Mapping[str, Any]) -> str | None:
    """Return what a configuration's method declares that it makes."""
    return (config.get("method") or {}).get("_makes_")
