"""Settings of objectives by the objective's own name: `alignment.pairing.k=5` for `method.objectives.alignment.pairing.k=5`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tutelage.config.groups import PRIMARY, config_folder, groups, user_folder
from tutelage.errors import UserError
from tutelage.runs.bounded import load_yaml

_PLACE = "method.objectives."
_WORD = re.compile(r"(?P<start>[+~]*(?:[\w/]+@)?)(?P<name>\w+)\.")
_GIVEN = re.compile(rf"@{re.escape(_PLACE)}(\w+)")


def written_out(words: Sequence[str]) -> list[str]:
    """Return the words with the names of objectives written out: a first name that is one, and no section of a configuration.

    Raises:
        UserError: a first name is that of an objective and of a group.
    """
    return [_written_out(word, words) for word in words]


def _written_out(word: str, words: Sequence[str]) -> str:
    match = _WORD.match(word)
    if not match or (name := match["name"]) in _sections() or name not in {*_objectives(), *_given(words)}:
        return word
    rest = word[match.start("name") :]
    if name in groups():
        raise UserError(
            f"{word}: '{name}' is an objective and a group; say {match['start']}{_PLACE}{rest} for the objective, or give the group's "
            f"choice as {name}=<choice>"
        )
    return f"{match['start']}{_PLACE}{rest}"


def _given(words: Sequence[str]) -> set[str]:
    return {match[1] for word in words if (match := _GIVEN.search(word.partition("=")[0]))}


@functools.cache
def _sections() -> set[str]:
    """Return the top-level keys of a configuration, and those that Hydra has beside them."""
    content = load_yaml(config_folder() / f"{PRIMARY}.yaml")
    chosen = {str(key) for entry in content["defaults"] if isinstance(entry, dict) for key in entry}
    return {*content, *(key.rpartition("@")[2] for key in chosen if " " not in key), "hydra"} - {"defaults"}


def _objectives() -> set[str]:
    """Return the names of objectives in the configuration files."""
    own = user_folder()
    of_user = [_in_file(path, path.stat().st_mtime_ns) for path in own.rglob("*.yaml")] if own else []
    return set().union(_shipped(), *of_user)


@functools.cache
def _shipped() -> set[str]:
    return set().union(*(_in_file(path, 0) for path in config_folder().rglob("*.yaml")))


@functools.cache
def _in_file(path: Path, _changed: int) -> set[str]:
    return set(_names(load_yaml(path))) if b"objectives" in path.read_bytes() else set()


def _names(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, below in value.items():
            if key.rpartition(".")[2] == "objectives":
                yield str(name)
            elif match := re.search(r"@(?:[\w.]*\.)?objectives\.(\w+)", str(name)):  # among the defaults
                yield match[1]
            yield from _names(below, str(name))
    elif isinstance(value, list):
        for below in value:
            yield from _names(below)
