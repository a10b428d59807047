"""The jobs of a sweep: every combination of the words that hold several values, each a command of its own; or the space of a search.

Each command is composed by itself, so that a word need only make sense where it is used: `-m data=digits,cifar10_folder data.root=...`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from tutelage.config.compose import explain, hydra_ready, of_hydra
from tutelage.config.groups import options
from tutelage.errors import UserError
from tutelage.runs.words import key_of

SEARCH = "tutelage.jobs.search.Search"
"""What `hydra/sweeper=optuna` names."""


@dataclass(frozen=True)
class SweptCommand:
    """A command of a sweep. words: its overrides; swept: those of them that other commands have with another value."""

    words: tuple[str, ...]
    swept: tuple[str, ...]


def sweeper_of(words: Sequence[str]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the settings of the search that words ask for (None: a grid), and the words of its jobs.

    These are the command's, with the values that a file of `conf/sweep` gives what the command does not name.
    """
    file = [word for word in words if word.startswith("sweep=") and word[6:] in dict(options("sweep"))]
    asked = [word for word in words if word.startswith(("hydra/sweeper=", "hydra.sweeper."))]
    if not file and not asked:
        return None, list(words)
    settings = of_hydra([*file, *asked], "sweeper")
    given = [word for word in words if word not in asked]
    named = {key_of(word) for word in given}
    params = settings.pop("params", None) or {}
    jobs = [f"{key}={value}" for key, value in params.items() if key not in named]
    searches = settings.pop("_target_") == SEARCH
    return settings if searches else None, [*jobs, *given]


def space_of(words: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Return the words that every trial of a search has, and what it searches: {key: {choices} or {low, high, step, log, whole}}."""
    parsed = [(word, _parsed(word)) for word in words]
    fixed = [word for word, one in parsed if not one.is_sweep_override()]
    return fixed, {one.get_key_element(): _dimension(one) for _, one in parsed if one.is_sweep_override()}


def _dimension(word: Override) -> dict[str, Any]:
    value: Any = word.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return {"low": value.start, "high": value.end, "step": None, "log": log, "whole": whole}
    if isinstance(value, RangeSweep):
        points = list(value.range())
        whole = all(isinstance(point, int) for point in points)
        low, high = (points[0], points[-1]) if whole else (float(points[0]), float(points[-1]))
        step = value.step if whole else float(value.step)
        return {"low": low, "high": high, "step": step, "log": log, "whole": whole}
    return {"choices": list(word.sweep_string_iterator())}


def _parsed(word: str) -> Override:
    with hydra_ready():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        try:
            return parser.parse_overrides([word])[0]
        except HydraException as error:
            raise explain(error, [word]) from error


def expand(words: Sequence[str]) -> list[SweptCommand]:
    """Return the commands of a sweep, in the order of the words.

    Raises:
        UserError: a word cannot be read, or is an interval, which is for searches.
    """
    choices: dict[str, list[tuple[str, bool]]] = {}  # by key: of one that is given twice the last word holds
    for word in words:
        parsed = _parsed(word)
        key = parsed.get_key_element()
        if not parsed.is_sweep_override():
            choices[key] = [(word, False)]
        elif not parsed.is_discrete_sweep():
            raise UserError(f"{word}: an interval is for a search; add hydra/sweeper=optuna")
        else:
            try:
                choices[key] = [(f"{key}={value}", True) for value in parsed.sweep_string_iterator()]
            except HydraException as error:
                raise explain(error, [word]) from error
    return [
        SweptCommand(tuple(word for word, _ in one), tuple(word for word, swept in one if swept))
        for one in itertools.product(*choices.values())
    ]
