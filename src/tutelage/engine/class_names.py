"""Whether two sets of classes are the same: outputs are compared by number, so their names must stand in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

LISTED = 8


def classes_apart(
    theirs: Sequence[str] | None, ours: Sequence[str] | None
) -> Literal["order", "names"] | None:
    """Say how two lists of class names differ: in their order alone, or in the names; None where they do not.

    A list that is missing tells nothing.
    """
    if not theirs or not ours or list(theirs) == list(ours):
        return None
    return "order" if sorted(theirs) == sorted(ours) else "names"


def names_in(record: Mapping[str, Any]) -> list[str] | None:
    """Return the class names in the record of a data module (`DataModule.summary`); None where it has none, or numbers for them."""
    return None if record.get("name") == "PseudoImages" else record.get("classes")


def same_set(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Say whether two records of data modules are of one set with classes in common, so that a place in it is one sample for both."""
    shared = set(first.get("classes") or ()) & set(second.get("classes") or ())
    return bool(shared) and all(
        first.get(fact) == second.get(fact) for fact in ("name", "fingerprint", "pseudo", "absent")
    )


def listed(names: Sequence[str]) -> str:
    """Return the first few names."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
