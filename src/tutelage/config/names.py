"""The names of the runs that commands make and need: what the tables of a folder speak of, found without planning."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tutelage.config.compose import explain, hydra_ready, readable, search_path
from tutelage.config.groups import PRIMARY, folders, user_folder
from tutelage.config.variants import variant
from tutelage.runs import needs

_PLAIN_VALUE = re.compile(
    r"\+*(?:(?!needs\.|chain\.|hydra)[^@=/]*\.[^@=/]*=(?!.*(?:need:|\$))|(?:seed|chain\.[\w.]+)=(?:\d+|null)$)"
    r"|~(?!needs\.|chain\.|hydra)[^@=/]*\.[^@=/]*$"  # what it takes away may be in a file that is not read here
)
"""A word that changes neither what is chosen nor what is needed, and no name unless that is composed of its value."""
_USES_NEED = re.compile(r"\+*(?!needs\.|chain\.|hydra)[^@=/]*\.[^@=/]*=need:([\w.-]+)")
_SPEAKS_OF_NEEDS = re.compile(r"^[^#\n]*\b(?:needs|need|chain)\b\s*[:.]", re.MULTILINE)


@dataclass(frozen=True)
class Names:
    """What a composed command says: the name of its run, the commands of the needs it offers, and which of them it uses.

    composed: whether the name is made of plain values.
    """

    own: str = ""
    offered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    used: frozenset[str] = frozenset()
    composed: bool = False


class NameFinder:
    """Finds the names of a command's run and of all the runs it needs. Nothing else is resolved, so that no data have to be there.

    Commands are composed once that differ in their names, in plain values, in what they need of what is offered, or in choices of files
    that speak of no need. A command that replaces by such a file one that needs a run may be said to need it still.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Names] = {}
        self._silent: dict[tuple[str, str], bool] = {}
        self._needed: dict[tuple[str, ...], set[str]] = {}

    def __call__(self, overrides: Sequence[str]) -> set[str]:
        """Return the names. Raises UserError for what cannot be composed."""
        words = readable(overrides)
        given = next((word.partition("=")[2] for word in reversed(words) if word.startswith("name=")), None)
        used = {match[1] for word in words if (match := _USES_NEED.fullmatch(word))}
        choices = [
            word
            for word in words
            if not (_PLAIN_VALUE.match(word) or _USES_NEED.fullmatch(word) or word.startswith("name="))
            and not self._says_nothing(word)
        ]
        found = self._composed(choices)
        own = given or (self._composed(words) if found.composed else found).own
        needed = [tuple(found.offered[role]) for role in {*found.used, *used} if found.offered.get(role)]
        return {own}.union(*map(self._of_need, needed))

    def _of_need(self, command: tuple[str, ...]) -> set[str]:
        if command not in self._needed:
            self._needed[command] = set()  # a need of itself ends here; the planner names it
            self._needed[command] = self(command)
        return self._needed[command]

    def _composed(self, words: Sequence[str]) -> Names:
        if tuple(words) not in self._known:
            self._known[tuple(words)] = _compose(words)
        return self._known[tuple(words)]

    def _says_nothing(self, word: str) -> bool:
        """Whether a word chooses a file that needs no run."""
        group, _, option = word.lstrip("+").partition("=")
        return self._is_silent(group.partition("@")[0], option)

    def _is_silent(self, group: str, option: str) -> bool:
        """Whether a file of a group speaks of no need and gives no name, nor any file that it is made of."""
        if (group, option) not in self._silent:
            self._silent[group, option] = True  # for files that choose each other
            if (varied := variant(f"{group}/{option}")) and not any(
                (folder / group / f"{option}.yaml").is_file() for folder in folders()
            ):
                self._silent[group, option] = self._is_silent(group, varied.of)  # no variant names a need
                return self._silent[group, option]
            files = [folder / group / f"{option}.yaml" for folder in folders()]
            texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
            self._silent[group, option] = bool(texts) and all(
                not _SPEAKS_OF_NEEDS.search(text)
                and "@package _global_" not in text
                and all(self._is_silent(*one) for one in _defaults(text, group))
                for text in texts
            )
        return self._silent[group, option]


def _compose(words: Sequence[str]) -> Names:
    with hydra_ready():
        try:
            node = hydra_compose(PRIMARY, overrides=[*search_path(), *words])
            raw: Any = OmegaConf.to_container(node)
            offered = {str(role): _there(node.needs, role) for role in node.get("needs") or ()}
            name = str(node.name)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise explain(error, words) from error
    used = needs.used(raw)
    composed = any(role.startswith("${") for role in used)  # a value is composed to be one (need:${...}): any
    return Names(
        name,
        offered,
        frozenset(offered if composed else used),
        "${" in str(raw["name"]).replace("${chain.", ""),
    )


def _defaults(text: str, group: str) -> Iterator[tuple[str, str]]:
    """Yield the (group, option) of the files that a file of a group is made of."""
    for entry in (yaml.safe_load(text) or {}).get("defaults") or []:
        for key, option in entry.items() if isinstance(entry, dict) else [("", str(entry))]:
            key = key.removeprefix("override ").partition("@")[0]
            path = f"{key}/{option}" if key else option.partition("@")[0]
            place = PurePosixPath(path[1:] if path.startswith("/") else f"{group}/{path}")
            if option not in (None, "_self_"):
                yield str(place.parent), place.name


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
