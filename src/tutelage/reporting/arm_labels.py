"""What a report calls its arms: by name, and by the words of their commands, or the settings, in which those of one name differ."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.reporting.row import Row
from tutelage.runs.identity import is_excluded
from tutelage.runs.words import distinguishing, joined, key_of, told_apart

_FEW = 4
"""How many settings an arm's label may name where fewer tell it apart."""
_MOST_WORDS = 6
_FOLD = "data.fold"


def labels(arms: Sequence[Sequence[Row]]) -> list[str]:
    """Return a label for each arm, given as its runs.

    Arms of one name are told apart by the words in which their commands differ; where these are not recorded, too many, or do not tell
    all of them apart, by the settings in which their configurations do.
    """
    names = [rows[0].name for rows in arms]
    short: dict[str, set[str]] = {}
    for name in names:
        short.setdefault(_last(name), set()).add(name)
    twins: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        twins.setdefault(name, []).append(place)
    found = [""] * len(arms)
    for name, places in twins.items():
        label = _last(name) if len(short[_last(name)]) == 1 else name
        same = [arms[place] for place in places]
        told = _told_by_words(same) if len(same) > 1 else [[]]
        by_words = told is not None
        for place, parts in zip(places, told if told is not None else _told_by_settings(same), strict=True):
            alone = by_words and len(twins) == 1  # a name that all have says nothing
            said = ", ".join(parts)
            found[place] = label if not parts else said if alone else f"{label} ({said})"
    return found


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _told_by_words(arms: Sequence[Sequence[Row]]) -> list[list[str]] | None:
    """Return the words that tell arms apart; None where words do not."""
    commands = []
    for rows in arms:
        given = {tuple(_words(row)) for row in rows}
        if len(given) > 1 or any(row.words is None for row in rows):
            return None
        commands.append(given.pop())
    inputs = [rows[0].inputs for rows in arms]

    @functools.cache
    def differs(key: str) -> bool:
        return not all(key in one for one in inputs) or len({one[key] for one in inputs}) > 1

    told = [[word for word in words if differs(key_of(word))] for words in distinguishing(commands)]
    apart = len({tuple(words) for words in told}) == len(arms)
    told = told_apart(told)
    return told if apart and max(map(len, told)) <= _MOST_WORDS else None


def _words(row: Row) -> list[str]:
    """Return the words that can make an arm what it is: choices first, then values, each in the order of their keys."""
    given = [word.lstrip("+") for word in joined(row.words or (), ())]
    kept = [word for word in given if not _says_nothing(key_of(word))]
    return sorted(kept, key=lambda word: ("." in key_of(word), word))


def _says_nothing(key: str) -> bool:
    return is_excluded(key) or is_seed(key) or key == _FOLD


def _told_by_settings(arms: Sequence[Sequence[Row]]) -> list[list[str]]:
    inputs = [rows[0].inputs for rows in arms]
    names = _short_names(_telling_keys(inputs))
    return [[f"{name}={_value(one, key)}" for key, name in names.items()] for one in inputs]


def _value(inputs: Mapping[str, str], key: str) -> str:
    # What others have not at all (guide=null) is here a section of settings: its class says which.
    whole = key if key in inputs else f"{key}._target_"
    return shown(whole, inputs.get(whole))


def _telling_keys(inputs: list[Mapping[str, str]]) -> list[str]:
    # A few settings that differ are all named, lest one be taken for the cause of what two did; what goes hand in hand within a section (a
    # change of data set alters ten keys) is named by one. Of many, the fewest that tell all groups apart, found greedily.
    keys = sorted({key for one in inputs for key in one})
    differing = [key for key in keys if len({one.get(key) for one in inputs}) > 1]
    kinds_of = {k: _kinds([one.get(k) for one in inputs]) for k in differing}
    legible = {k for k in differing if not any(is_digest(one.get(k)) for one in inputs)}
    together: dict[tuple[Any, ...], list[str]] = {}
    for key in sorted(legible):
        together.setdefault((key.split(".")[0], *kinds_of[key]), []).append(key)
    few = sorted(min(keys, key=lambda key: (key.count("."), len(key))) for keys in together.values())
    if len(few) <= _FEW and len({tuple(one.get(k) for k in few) for one in inputs}) == len(inputs):
        return few

    def preference(key: str) -> tuple[bool, int, int]:
        return key in legible, -key.count("."), -len(key)

    alike: dict[
        tuple[int, ...], list[str]
    ] = {}  # keys that tell the same apart: the best of them stands for all
    for key in differing:
        alike.setdefault(kinds_of[key], []).append(key)
    differing = sorted(max(keys, key=preference) for keys in alike.values())
    chosen: list[str] = []
    told = 1
    while differing:
        kinds = {key: len({tuple(one.get(k) for k in (*chosen, key)) for one in inputs}) for key in differing}
        best = max(differing, key=lambda key: (kinds[key], *preference(key)))
        if kinds[best] == told:
            break
        chosen.append(best)
        told = kinds[best]
    return sorted(chosen)


def _kinds(values: list[str | None]) -> tuple[int, ...]:
    """Return the values by number, in the order in which they first come."""
    numbers: dict[str | None, int] = {}
    return tuple(numbers.setdefault(value, len(numbers)) for value in values)


def _short_names(keys: list[str]) -> dict[str, str]:
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: name if last.count(name) == 1 and name != "_target_" else key
        for key, name in zip(keys, last, strict=True)
    }


def shown(key: str, text: str | None) -> str:
    """Return an input's JSON text as a label shows it."""
    if text is None:
        return "-"
    text = text.strip('"')
    if is_digest(text):
        return text[:8]
    return text.rpartition(".")[2] if key.endswith("_target_") else text


def is_digest(text: str | None) -> bool:
    """Say whether an input's JSON text is a digest."""
    return bool(re.fullmatch(r'"?[0-9a-f]{32,}"?', text or ""))


def is_seed(key: str) -> bool:
    """Say whether a key is that of a seed."""
    last = key.rpartition(".")[2]
    return last == "seed" or last.endswith("_seed")
