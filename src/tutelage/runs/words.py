"""The words of a command, `key=value`, as text: what a table file, a sweep and a need are made of."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.errors import UserError


def key_of(word: str) -> str:
    """Return the key of a word key=value."""
    return word.lstrip("+~").partition("=")[0]


def value_of(words: Sequence[str], key: str) -> str | None:
    """Return the value that the words give a key last, or None."""
    return next((word.partition("=")[2] for word in reversed(words) if key_of(word) == key), None)


def one_length(words: Sequence[str]) -> list[str]:
    """Return the words with the other of fit.epochs and fit.max_steps taken back where they give one.

    Raises:
        UserError: they give both.
    """
    lengths = {key: value_of(words, key) for key in ("fit.max_steps", "fit.epochs")}
    given = [key for key, value in lengths.items() if value not in (None, "null")]
    if len(given) == 2:
        said = " and ".join(f"{key}={lengths[key]}" for key in given)
        raise UserError(f"{said}: a run is so many updates or so many epochs long; give one of them")
    return [*words, *(f"{key}=null" for key in lengths if given and lengths[key] is None)]


def joined(base: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the words of both: a later one stands in the place of an earlier one of the same key, new ones come last."""
    found: dict[str, str] = {}
    for word in (*base, *words):
        found[key_of(word)] = word
    return list(found.values())


def distinguishing(commands: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return, for each command, its words that not all of them have."""
    common = set.intersection(*map(set, commands)) if len(commands) > 1 else set()
    return [[word for word in words if word not in common] for words in commands]


def told_apart(commands: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the words as labels have them: briefly, and experiments by the last part of their names, where that tells them apart."""
    values = {word.partition("=")[2] for words in commands for word in words if key_of(word) == "experiment"}
    short = {value: value.rpartition("/")[2] for value in values}
    if len(set(short.values())) < len(values):
        short = {value: value for value in values}
    return [
        [short[word.partition("=")[2]] if key_of(word) == "experiment" else brief(word) for word in words]
        for words in commands
    ]


def brief(word: str) -> str:
    """Return a word as labels have it: an objective's setting by the objective's own name, as a command may say it too."""
    return word.replace("method.objectives.", "", 1)
