"""The names of the runs that commands make and need: what the tables of a folder speak of, found without planning."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tutelage.config.compose import explain, hydra_ready, readable, search_path
from tutelage.config.groups import PRIMARY, user_folder
from tutelage.runs import needs

_PLAIN_VALUE = re.compile(r"\+*(?!needs\.|chain\.|hydra)[^@=/]*\.[^@=/]*=(?!.*(?:need:|\$))")
"""A word that changes neither what is chosen nor what is needed, and no name unless that is composed of its value."""


@dataclass(frozen=True)
class Names:
    """What a command's run and its needs, at any depth, are called. composed: whether the own name is made of plain values."""

    own: str = ""
    needed: frozenset[str] = frozenset()
    composed: bool = False


def names_of(overrides: Sequence[str], known: dict[tuple[str, ...], Names]) -> set[str]:
    """Return the names of a command's run and of all the runs it needs. Nothing else is resolved, so that no data have to be there.

    known: what was looked at, kept between the calls: commands that differ in their names and in plain values alone are looked at once.
    """
    words = readable(overrides)
    given = next((word.partition("=")[2] for word in reversed(words) if word.startswith("name=")), None)
    choices = tuple(word for word in words if not _PLAIN_VALUE.match(word) and not word.startswith("name="))
    if choices not in known:
        known[choices] = Names()  # a need of itself ends here; the planner names it
        known[choices] = _names(choices if given else words, known)
    found = known[choices]
    own = given or (_names(words, known).own if found.composed else found.own)
    return {own, *found.needed}


def _names(words: Sequence[str], known: dict[tuple[str, ...], Names]) -> Names:
    with hydra_ready():
        try:
            node = hydra_compose(PRIMARY, overrides=[*search_path(), *words])
            raw: Any = OmegaConf.to_container(node)
            needed = [_there(node.needs, role) for role in _offered(node, raw)]
            name = str(node.name)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise explain(error, words) from error
    composed = "${" in str(raw["name"]).replace("${chain.", "")
    below = frozenset().union(*(names_of(command, known) for command in needed if command))
    return Names(name, below, composed)


def _offered(node: DictConfig, raw: dict[str, Any]) -> list[str]:
    """Return the needs that a composed configuration uses; all, where a value is composed to be one (need:${...})."""
    used = needs.used(raw)
    composed = any(role.startswith("${") for role in used)
    return [str(role) for role in node.get("needs") or () if composed or str(role) in used]


def _there(needs: DictConfig, role: Any) -> list[str]:
    """Return the words of a need, without those that point at a value which is not given (where the data lie)."""
    words = needs[role]
    found = []
    for place in range(len(words) if words is not None else 0):
        with contextlib.suppress(OmegaConfBaseException):
            found.append(str(words[place]))
    return found


@contextlib.contextmanager
def files_remembered() -> Iterator[None]:
    """Have Hydra be ready, and read each file once however many commands choose it; not where a user's folder adds files to each."""
    with hydra_ready():
        loader: Any = GlobalHydra.instance().config_loader()
        before = loader.repository
        if user_folder() is None:
            loader.repository = _Remembering(before)
        try:
            yield
        finally:
            loader.repository = before


class _Remembering:
    """Hydra's reader of configuration files, with a memory. Each call gets a copy of its own."""

    def __init__(self, repository: Any) -> None:
        self._repository = repository
        self._read: dict[str, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)

    def __deepcopy__(self, _: Any) -> _Remembering:
        return self  # Hydra copies its reader for each command

    def load_config(self, config_path: str) -> Any:
        """See Hydra's own."""
        if config_path not in self._read:
            self._read[config_path] = pickle.dumps(self._repository.load_config(config_path))
        return pickle.loads(self._read[config_path])
