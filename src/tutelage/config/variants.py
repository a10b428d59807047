"""Choices that are files of their group with other values: the entries of `conf/variants.yaml`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tutelage.config.groups import variant_entries
from tutelage.typed import read


@dataclass(frozen=True)
class Variant:
    """A choice that is a file of its group with other values.

    of: the file, or choice, whose values it has.
    about: what it is.
    set: its own values.
    override: what it chooses in place of the choices of its file.
    """

    of: str
    about: str
    set: Mapping[str, Any] = field(default_factory=dict)
    override: Mapping[str, str] = field(default_factory=dict)

    def node(self, group: str) -> dict[str, Any]:
        """Return what a file of it would hold."""
        overrides = [{f"override {key}": choice} for key, choice in self.override.items()]
        return {"defaults": [f"/{group}/{self.of}@_here_", "_self_", *overrides], **self.set}


@functools.cache
def variant(path: str) -> Variant | None:
    """Return the variant of a path such as model/lstm, or None where there is none."""
    entry = variant_entries().get(path)
    return None if entry is None else read(Variant, entry, path.replace("/", ".", 1))
