"""Frozen networks in a sweep over methods: where a method has no place for one, its words are left out of that method's commands."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from tutelage.errors import UserError
from tutelage.runs.frozen_networks import ROLES, frozen_read, where_of
from tutelage.runs.words import key_of, value_of

log = logging.getLogger("tutelage")
_CHOICE = re.compile(r"model@(?P<network>[\w.]+)$")


def fitting(
    commands: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], dict[str, Any]]
) -> list[list[str]]:
    """Return the commands without the frozen networks that their method has no place for; what is left out is said.

    compose: from a command to its configuration.

    A network that no method of the sweep has a place for stays, and is the mistake that it is in a single command.
    """
    offered = {network for words in commands for network in _chosen(words)}
    if not offered or len({value_of(words, "method") for words in commands}) < 2:
        return [list(words) for words in commands]
    places = [_places(words, compose) for words in commands]
    somewhere = {network for found in places if found is not None for network in found}
    fitted, said = [], set()
    for words, found in zip(commands, places, strict=True):
        out = set() if found is None else (offered & somewhere) - found
        fitted.append([word for word in words if not _speaks_of(word, out)])
        for network in sorted(out.intersection(_chosen(words))):
            said.add(
                f"method={value_of(words, 'method')} has no place for a {network}: it is left out of these runs"
            )
    for sentence in sorted(said):
        log.info("%s", sentence)
    return fitted


def _chosen(words: Sequence[str]) -> list[str]:
    matches = [_CHOICE.match(key_of(word)) for word in words if not word.endswith("=null")]
    return [match["network"] for match in matches if match]


def _speaks_of(word: str, networks: set[str]) -> bool:
    key = key_of(word)
    return any(key == f"model@{network}" or key.startswith(f"{network}.") for network in networks)


def _places(words: Sequence[str], compose: Callable[[Sequence[str]], dict[str, Any]]) -> set[str] | None:
    """Return the frozen networks that a command's method reads; None: the command has a mistake, which its own job says."""
    from tutelage.engine.instantiate import parameters_of, resolve

    try:
        config = compose(words)
        parameters, _, _ = parameters_of(resolve(config["method"].get("_target_", ""), "method"))
    except UserError:
        return None
    return {*map(where_of, frozen_read(config)), *(role for role in ROLES if role in parameters)}
