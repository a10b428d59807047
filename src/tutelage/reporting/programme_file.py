"""Programme files, `experiments/programmes/<name>.yaml`: stages of a piece of work that does not fit into one session on one machine.

title: Guided learning on a GPU
places: {cifar10: CIFAR-10 as an image folder}    # what the command gives as cifar10=<folder>, for words with {cifar10}
stages:
  deep FCN, one seed:
    table: guidance/paper/cifar10_layers          # its missing runs
    decides: whether the first layers guide best  # in words
    worth: 10                                     # stages run in the order of worth per minute, measured on the spot
    arms: [base, all]                             # default: all of the table
    seeds: [0]                                    # likewise
    grid: false                                   # true: every arm chooses its hyperparameters first, as `reproduce <table>` does
    words: ["data.root={cifar10}"]                # added to every command
    tiny: [model.width=8]                         # words of a rehearsal (--tiny), added last
    gpu: true                                     # left out where there is no GPU; a rehearsal does it on the CPU
  tests:
    command: [-m, pytest, -k, gpu]                # or a command of this Python, in place of a table
    minutes: 2                                    # how long that takes, about
    tiny: [-m, pytest, --version]                 # of a command: what stands in for it in a rehearsal
    gpu: true
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.reporting.table_file import load as load_table
from tutelage.reporting.table_paths import PROGRAMMES, TABLES, shipped, table_path
from tutelage.reporting.tables import Table
from tutelage.runs.records import read_yaml
from tutelage.typed import Positive, read


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a programme; see above. table and command: one of them is given. needs: the places that its words name."""

    label: str
    decides: str = ""
    worth: Positive = 1.0
    table: str = ""
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    grid: bool = False
    words: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    minutes: Positive = 1.0
    gpu: bool = False

    @property
    def needs(self) -> list[str]:
        """The places that its words name."""
        return [name for word in self.words for _, name, _, _ in Formatter().parse(word) if name]

    def read_table(self) -> tuple[Path, Table]:
        """Return its table with the arms and seeds of the stage alone. Raises UserError where there is no such table or arm."""
        path = table_path(self.table)
        if path is None:
            raise UserError(f"the table {self.table} is not in this checkout")
        table = load_table(path)
        labels = [arm.label for arm in table.arms]
        if unknown := [label for label in self.arms if label not in labels]:
            raise UserError(f"{path} has no arm '{unknown[0]}'; {choices(unknown[0], labels)}")
        arms = tuple(arm for arm in table.arms if not self.arms or arm.label in self.arms)
        if not self.grid:
            arms = tuple(dataclasses.replace(arm, points=((),)) for arm in arms)
        kept = {arm.label for arm in arms}
        compare = tuple(pair for pair in table.compare if kept.issuperset(pair))
        return path, dataclasses.replace(table, arms=arms, seeds=self.seeds or table.seeds, compare=compare)


@dataclasses.dataclass(frozen=True)
class Programme:
    """A programme file. places: what the command has to name, and what that is."""

    name: str
    title: str
    stages: tuple[Stage, ...]
    places: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _File:
    """What a programme file may hold, see above."""

    title: str
    stages: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, Any] | None = None


def programme_path(name: str) -> Path | None:
    """Return the file of a programme, the user's own first, or None."""
    if name.endswith(".yaml") and Path(name).parent.name == PROGRAMMES and Path(name).is_file():
        return Path(name)
    found = [folder / PROGRAMMES / f"{name}.yaml" for folder in (TABLES, shipped())]
    return next((path for path in found if path.is_file()), None)


def programmes() -> list[str]:
    """Return the names of the programmes there are."""
    return sorted(
        {path.stem for folder in (TABLES, shipped()) for path in (folder / PROGRAMMES).glob("*.yaml")}
    )


def load(path: Path) -> Programme:
    """Read a programme file.

    Raises:
        UserError: a key is unknown or lacks, or has a value of another kind; a word names a place that is not listed.
    """
    try:
        file = read(_File, read_yaml(path))
        stages = tuple(_stage(str(label), entry) for label, entry in file.stages.items())
        if not stages:
            raise UserError("stages must be a mapping from a stage's label to what it does, got none")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    places = {str(key): str(value) for key, value in (file.places or {}).items()}
    for stage in stages:
        if unknown := [name for name in stage.needs if name not in places]:
            raise UserError(
                f"{path}: '{stage.label}' names the place '{unknown[0]}'; {choices(unknown[0], places)}"
            )
    return Programme(path.stem, file.title, stages, places)


def _stage(label: str, entry: Mapping[str, Any]) -> Stage:
    stage = read(Stage, {"label": label, **entry}, f"stages.{label}")
    if bool(stage.table) == bool(stage.command):
        raise UserError(f"the stage '{label}' must name a table or a command")
    lists: dict[str, Any] = {
        key: tuple(value) for key, value in vars(stage).items() if isinstance(value, list)
    }
    return dataclasses.replace(stage, **lists)
