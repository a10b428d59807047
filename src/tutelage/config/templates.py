"""Commands that differ in plain values alone are composed once: what one came to is copied, and the others' values are put in their places.

That is done where it cannot make a difference: the values are numbers, texts, truth values or null of settings that are leaves, no word
speaks of what is above, below or at the same setting, and whatever else is composed of one of them is that value itself (`${seed}`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import AnyNode, DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

_KEY = re.compile(r"\w+(?:\.\w+)*")
_COPY = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")
_RESOLVER = re.compile(r"\$\{\s*([^:${}]*):")
_COMPUTED = re.compile(r"\$\{(?:(?:oc\.select|word):[^,{}]*|[^:{}]*)\$\{")
"""The name of a setting that is composed itself: any one may be meant."""
_KNOWN = {
    "fingerprint",
    "text_fingerprint",
    "pseudo_fingerprint",
    "model_digest",
    "word",
    "oc.env",
    "oc.select",
}
"""Resolvers that read no other settings than those that stand in their words."""
_SPLIT_SEED = "data.split_seed"


def is_plain(word: Override) -> bool:
    """Say whether a word gives a setting that is there one plain value."""
    if word.type is not OverrideType.CHANGE or word.package is not None or word.key_or_group == _SPLIT_SEED:
        return False
    value = word.value()
    if isinstance(value, str) and ("${" in value or "???" in value or value.startswith("need:")):
        return False
    return (value is None or isinstance(value, int | float | str)) and bool(_KEY.fullmatch(word.key_or_group))


def depends(node: DictConfig, word: Override) -> bool:
    """Say whether what a word adds or takes away is composed of other values, which may let it be there or not. node: before the word."""
    at: Any = node
    for name in word.key_or_group.split(".") if word.is_add() or word.is_delete() else ():
        content = at._content if isinstance(at, DictConfig) else at
        if not isinstance(content, dict) or name not in content:
            return not isinstance(content, dict)
        at = content[name]
    return at is not node and isinstance(at._value(), str) and "${" in at._value()


class Template:
    """What a command came to, and the places of its plain values."""

    def __init__(self, config: dict[str, Any], places: dict[str, list[tuple[str, ...]]]) -> None:
        self._copied = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
        self._places = places

    @classmethod
    def of(
        cls, node: DictConfig, config: dict[str, Any], plain: Sequence[Override], others: Sequence[Override]
    ) -> Template | None:
        """Return the template of a command; None where a value may make another difference than its own.

        node: composed and not resolved; config: what it was resolved to; plain, others: the words that are plain, and the other settings.
        """
        keys = [word.key_or_group for word in (*plain, *others)]
        if not all(map(_KEY.fullmatch, keys)) or any(_speak_of_one(a, b) for a, b in combinations(keys, 2)):
            return None
        places, read, texts, leaves = _followed(node, plain)
        if any(_COMPUTED.search(text) or not {*_RESOLVER.findall(text)} <= _KNOWN for text in texts):
            return None
        for word in plain:
            own = places[word.key_or_group]
            is_there = repr(leaves.get(own[0], ...)) == repr(word.value())
            if not is_there or any(read.intersection(place) for place in own):
                return None
        return cls(config, places)

    def filled(self, plain: Sequence[Override]) -> dict[str, Any]:
        """Return what a command comes to that has other plain values."""
        config: dict[str, Any] = pickle.loads(self._copied)
        for word in plain:
            value = word.value()
            for *above, last in self._places[word.key_or_group]:
                section = config
                for name in above:
                    section = section[name]
                section[last] = value
        return config


def read_elsewhere(node: DictConfig, plain: Sequence[Override]) -> set[str]:
    """Return the plain words' settings that something else is composed of than a copy, as a fingerprint is of `data.root`."""
    places, read, _, _ = _followed(node, plain)
    return {key for key, own in places.items() if any(read.intersection(place) for place in own)}


def _followed(
    node: DictConfig, plain: Sequence[Override]
) -> tuple[dict[str, list[tuple[str, ...]]], set[str], list[str], dict[tuple[str, ...], Any]]:
    """Return the places of each plain word's value, the names that something is composed of otherwise, by which texts, and all leaves."""
    leaves, texts = dict[tuple[str, ...], Any](), list[str]()
    _look(node, (), leaves, texts)
    copies: dict[str, list[tuple[str, ...]]] = {}
    for path, value in leaves.items():
        if isinstance(value, str) and (match := _COPY.fullmatch(value)):
            copies.setdefault(match[1], []).append(path)
    above = [key for key in copies if (*key.split("."),) not in leaves]  # copies of whole sections
    read = {token.rpartition(".")[2] for text in (*texts, *above) for token in re.findall(r"[\w.]+", text)}
    keys = [word.key_or_group for word in plain]
    return {key: [(*key.split("."),), *_copies_of(key, copies)] for key in keys}, read, texts, leaves


def _speak_of_one(key: str, other: str) -> bool:
    """Whether two settings are one, or one of them is a part of the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _look(
    node: BaseContainer, at: tuple[str, ...], leaves: dict[tuple[str, ...], Any], texts: list[str]
) -> None:
    """Note the leaves below mappings, and the texts that something is composed by and that are no copies of a leaf."""
    content: Any = node._content
    if not isinstance(node, DictConfig) or not isinstance(content, dict):
        texts.extend(_texts(OmegaConf.to_container(node) if isinstance(content, dict | list) else content))
        return
    for key, child in content.items():
        path = (*at, key)
        if isinstance(child, BaseContainer):
            _look(child, path, leaves, texts)
        elif type(child) is AnyNode and isinstance(key, str):
            leaves[path] = value = child._value()
            if isinstance(value, str) and "${" in value and not _COPY.fullmatch(value):
                texts.append(value)
        else:
            texts.extend(_texts(child._value()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str) and "${" in value:
        yield value


def _copies_of(key: str, copies: dict[str, list[tuple[str, ...]]]) -> Iterator[tuple[str, ...]]:
    for path in copies.get(key, ()):
        yield path
        yield from _copies_of(".".join(path), copies)
