"""The frozen networks of a configuration: guide, teacher, source, and any number more by name (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tutelage.errors import UserError

ROLES = ("guide", "teacher", "source")


def where_of(name: str) -> str:
    """Return the place of a frozen network in a configuration: `guide`, or `frozen.second`."""
    return name if name in ROLES else f"frozen.{name}"


def frozen_named(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the frozen networks that a configuration has, by the names under which objectives read them."""
    roles = {role: config[role] for role in ROLES if config.get(role)}
    return roles | {name: node for name, node in (config.get("frozen") or {}).items() if node}


def frozen_read(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the frozen networks that the objectives of a configuration read."""
    return list(dict.fromkeys(name for _, node in objectives_of(config) for name in networks_of(node)))


def networks_of(objective: Mapping[str, Any]) -> list[str]:
    """Return the names of the frozen networks that an objective reads: one, several or none. Raises UserError for anything else."""
    named = objective.get("network") or []
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"an objective's `network` is the name of a frozen network, or a list of names, got {named!r}"
        )
    return list(names)


def objectives_of(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, node) of the objectives of a configuration's method."""
    objectives = (config.get("method") or {}).get("objectives") or {}
    for name, node in objectives.items():
        if isinstance(node, Mapping):
            yield name, dict(node)
