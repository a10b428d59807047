"""Whether two sets of classes are the same: outputs are compared by number, so their names must stand in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

LISTED = 8


def classes_apart(
    theirs: Sequence[str] | None, ours: Sequence[str] | None
) -> Literal["order", "names"] | None:
    """Say how two lists of class names differ: in their order alone, or in the names; None where they do not.

    Numbers beside names tell nothing (pseudo data sets number their classes), nor does a list that is missing.
    """
    if not theirs or not ours or list(theirs) == list(ours):
        return None
    if all(name.isdigit() for name in theirs) != all(name.isdigit() for name in ours):
        return None
    return "order" if sorted(theirs) == sorted(ours) else "names"


def listed(names: Sequence[str]) -> str:
    """Return the first few names."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
