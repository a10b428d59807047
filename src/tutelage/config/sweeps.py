"""The jobs of a sweep: every combination of the words that hold several values, each a command of its own.

Each command is composed by itself, so that a word need only make sense where it is used: `-m data=digits,cifar10_folder data.root=...`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tutelage.config.compose import explain, hydra_ready
from tutelage.config.groups import options
from tutelage.errors import UserError
from tutelage.runs.words import value_of


@dataclass(frozen=True)
class SweptCommand:
    """A command of a sweep. words: its overrides; swept: those of them that other commands have with another value."""

    words: tuple[str, ...]
    swept: tuple[str, ...]


def needs_hydra(words: Sequence[str]) -> bool:
    """Say whether Hydra's own sweeper is asked for: a search, or a file of `conf/sweep` with settings of Hydra's."""
    return any(word.startswith(("hydra/sweeper=", "hydra.sweeper.")) for word in words) or value_of(
        words, "sweep"
    ) in dict(options("sweep"))


def expand(words: Sequence[str]) -> list[SweptCommand]:
    """Return the commands of a sweep, in the order of the words.

    Raises:
        UserError: a word cannot be read, or is an interval, which is for searches.
    """
    choices: list[list[tuple[str, bool]]] = []
    with hydra_ready():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for word in words:
            try:
                parsed = parser.parse_override(word)
                if not parsed.is_sweep_override():
                    choices.append([(word, False)])
                elif parsed.is_discrete_sweep():
                    key = parsed.get_key_element()
                    choices.append([(f"{key}={value}", True) for value in parsed.sweep_string_iterator()])
                else:
                    raise UserError(f"{word}: an interval is for a search; add hydra/sweeper=optuna")
            except HydraException as error:
                raise explain(error, [word]) from error
    return [
        SweptCommand(tuple(word for word, _ in one), tuple(word for word, swept in one if swept))
        for one in itertools.product(*choices)
    ]
