"""From commands to plans. Of many, what Hydra makes of the files they choose is made once for all that choose the same.

Hydra composes in two steps. It merges the files that the words choose (95 % of the time), then applies the other words to the result, in
their order. Here the second step, by Hydra's own code, goes to a copy of what the first one gave; commands that differ in plain values have
them put into the result of one of them (`templates`). Whatever else there is to it (a word of Hydra's own, one that cannot be read, an
error) is composed as a whole, as a single command is.
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tutelage.config import compose
from tutelage.config.groups import PRIMARY, user_folder
from tutelage.config.resolvers import Asked, changed, noting
from tutelage.config.templates import Template, depends, is_plain, read_elsewhere
from tutelage.errors import UserError
from tutelage.runs import needs
from tutelage.runs.needs import Plan
from tutelage.runs.words import one_length

Shape = tuple[str | tuple[str], ...]
"""The words of a command, of plain values the keys alone."""
log = logging.getLogger("tutelage")
_MISTAKES = (HydraException, OmegaConfBaseException, ValueError)
_WHOLE = re.compile(r"0|[1-9]\d{0,17}", re.ASCII)


class _Word(NamedTuple):
    """A word as Hydra reads it; whether it chooses a file, gives a plain value, or is one that only a whole composition can take."""

    read: Override
    chooses: bool
    plain: bool
    whole: bool


class Planner:
    """Plans the commands of one moment: what a configuration's files say holds from when they are first chosen; of data and weights, what
    they are when a command is planned.
    """

    def __init__(self, primary: str = PRIMARY) -> None:
        self.primary = primary
        self._words: dict[str, _Word] = {}
        self._with_whole_number: dict[str, Override] = {}
        self._groups: dict[str, bool] = {}
        self._bases: dict[tuple[str, ...], bytes | None] = {}
        self._needed: dict[tuple[str, ...], dict[str, Any]] = {}
        self._templates: dict[Shape, Template | None] = {}
        self._met: set[Shape] = set()
        self._elsewhere: dict[Shape, set[str]] = {}
        self._asked: Asked = {}

    def __call__(self, overrides: Sequence[str]) -> Plan:
        """Return the plan of a command: its run and the runs it needs. Raises UserError as `compose.compose` does."""
        with compose.hydra_ready():
            return needs.plan(self._current(overrides), self._need, overrides)

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return what `compose.compose` returns."""
        with compose.hydra_ready():
            return self._current(overrides)

    def _current(self, overrides: Sequence[str]) -> dict[str, Any]:
        if (place := changed(self._asked)) is not None:
            log.warning(
                "%s changed while this command was planning: what it plans from now on is of what is there now",
                place,
            )
            self._asked.clear()
            self._needed.clear()
            self._templates.clear()
            self._met.clear()
        return self._composed(overrides)

    def _composed(self, overrides: Sequence[str]) -> dict[str, Any]:
        words = compose.readable(one_length(overrides), self.primary)
        with noting(self._asked):
            try:
                if (config := self._of_many(words)) is not None:
                    return compose.checked(config, words, self.primary)
            except _MISTAKES:
                pass  # said by the whole composition, which knows the words
            return compose.compose(overrides, self.primary)

    def _need(self, words: Sequence[str]) -> dict[str, Any]:
        if tuple(words) not in self._needed:
            self._needed[tuple(words)] = self._composed(words)
        return self._needed[tuple(words)]  # the planner copies it

    def _of_many(self, words: Sequence[str]) -> dict[str, Any] | None:
        """Return the resolved configuration; None where it has to be composed as a whole."""
        known = [self._read(word) for word in words]
        if any(word.whole for word in known):
            return None
        shape = _shape(known, words)
        if bound := self._elsewhere.get(shape):
            known = [of._replace(plain=of.plain and of.read.key_or_group not in bound) for of in known]
            shape = _shape(known, words)
        plain = [word.read for word in known if word.plain]
        if (template := self._templates.get(shape)) is not None:
            return template.filled(plain)
        settings = [word.read for word in known if not word.chooses]
        base = self._base(tuple(word for of, word in zip(known, words, strict=True) if of.chooses))
        if base is None:
            return None
        node: DictConfig = pickle.loads(base)
        if shape in self._met and any(depends(node, word) for word in settings):
            self._templates[shape] = None
        OmegaConf.set_struct(node, True)
        ConfigLoaderImpl._apply_overrides_to_config(settings, node)
        OmegaConf.set_struct(node, None)
        OmegaConf.clear_cache(node)
        follows = _split_seed_follows(node)
        config = compose.plain(node)
        if shape not in self._met:
            self._met.add(shape)
        elif shape not in self._templates and follows in (
            "",
            "${seed}",
        ):  # of another it is seen too late that it is null
            others = [word.read for word in known if not word.chooses and not word.plain]
            if bound := read_elsewhere(
                node, plain
            ):  # from now on a word as others are, the same in all of a shape
                self._elsewhere[shape] = bound
            else:
                self._templates[shape] = Template.of(node, config, plain, others)
        return config

    def _read(self, word: str) -> _Word:
        if word not in self._words:
            key, _, value = word.partition("=")
            number = int(value) if _WHOLE.fullmatch(value) else None
            if number is not None and (
                other := self._with_whole_number.get(key)
            ):  # parsing takes a quarter of a millisecond
                read = dataclasses.replace(other, _value=number, input_line=word)
            else:
                read = OverridesParser.create().parse_override(word)
            if number is not None:
                self._with_whole_number[key] = read
            chooses = self._chooses(read)
            whole = read.is_sweep_override() or read.key_or_group.startswith("hydra")
            self._words[word] = _Word(read, chooses, not chooses and is_plain(read), whole)
        return self._words[word]

    def _chooses(self, word: Override) -> bool:
        """Say whether a word chooses a file, which is Hydra's rule: its key is a group, and its value no dictionary."""
        if isinstance(word.value(), dict):
            return False
        key = word.key_or_group
        if key not in self._groups:
            sources = GlobalHydra.instance().config_loader().get_sources()
            own = user_folder()
            self._groups[key] = any(source.is_group(key) for source in sources) or (
                own is not None and Path(own, key).is_dir()
            )
        return self._groups[key]

    def _base(self, choices: tuple[str, ...]) -> bytes | None:
        """Return what the chosen files give, as bytes to make copies of; None where that has a mistake."""
        if choices not in self._bases:
            try:
                node = compose.merged(choices, self.primary)
                self._bases[choices] = pickle.dumps(node, pickle.HIGHEST_PROTOCOL)
            except (*_MISTAKES, UserError, pickle.PicklingError):
                self._bases[choices] = None
        return self._bases[choices]


def _shape(known: Sequence[_Word], words: Sequence[str]) -> Shape:
    return tuple((of.read.key_or_group,) if of.plain else word for of, word in zip(known, words, strict=True))


def _split_seed_follows(node: DictConfig) -> str:
    """Return what the seed of the splits is composed of; "": it is a value, or there is none."""
    settings: Any = OmegaConf.to_container(node)
    data = settings.get("data")
    said = data.get("split_seed") if isinstance(data, dict) else data
    return said if isinstance(said, str) else ""


def plan_of(overrides: Sequence[str]) -> Plan:
    """Return the plan of one command: its run and the runs it needs."""
    return Planner()(overrides)
