"""Table files, `experiments/<paper>/<table>.yaml`: base words, the arms as further words, the seeds and the published numbers.

title: Guided learning on digits
metric: accuracy            # the task's name for it
split: test                 # default
percent: true               # values are shown times 100, as published
setting: reduced            # paper: only then can a size be reproduced; default reduced
seeds: 6                    # or a list
processes: 1                # runs at a time of `train -m sweep=<table>`; default: one per GPU, or per core
grid: {optimizer.lr: [1.0e-3, 3.0e-4]}   # every arm chooses from it, on validation; an arm may have its own
tuning_seeds: [0, 1]        # default: all seeds
base: [experiment=demo/plain]   # the words that all arms share; an arm's word takes the place of a base word of the same key
arms:
  base: []
  guided: [method=guidance, model@guide=residual_convnet]
  guided, tuned apart: {words: [experiment=demo/guided-trained], grid: {optimizer.lr: [1.0e-2]}}
analyses: {robustness: {epsilon: 0.1}, calibration: {}}   # what `tutelage analyse` is to find of every run, with its options
beside: [robustness.strong_accuracy, calibration.ece]     # further metrics, of the runs or of analyses: each is shown like the first
compare: base               # every other arm against this one; or a list of such labels and of pairs [arm (or list of arms), baseline]
published:
  arXiv 2410.20035, Table 4: {base: 60.58, guided: [70.15, 0.31]}   # by source; [value, error]
notes: free text

The runs of an arm are called `<table>/<label>` in letters that a folder may have; a word name=... in the arm says otherwise.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from tutelage.errors import UserError, choices
from tutelage.reporting.table_paths import name_of
from tutelage.reporting.tables import Arm, Table
from tutelage.reporting.verdict import Published
from tutelage.runs.needs import check_words
from tutelage.runs.records import read_yaml
from tutelage.runs.words import joined, key_of, value_of
from tutelage.typed import Count, Range, read

Label = str | int | float
Values = Annotated[list[Any], "a list of values (a date in quotes)"]
Grid = Mapping[str, Values]
Words = Annotated[list[str], "a list of words key=value"]
Seeds = Annotated[Count | list[int], "a number of seeds or a list of different seeds"]


@dataclass(frozen=True)
class _ArmEntry:
    """An arm that has a grid of its own."""

    words: Words | None
    grid: Grid | None = None


@dataclass(frozen=True)
class _File:
    """What a table file may hold, see above."""

    title: str
    metric: str
    seeds: Seeds
    arms: Mapping[Label, Words | Mapping[str, Any] | None]
    mode: Literal["max", "min"] | None = None
    split: Literal["test", "validation"] = "test"
    percent: bool = False
    setting: Literal["reduced", "paper"] = "reduced"
    tuning_seeds: Seeds | None = None
    processes: Count | None = None
    analyses: Mapping[str, Mapping[str, Any] | None] | None = None
    beside: list[str] | None = None
    grid: Grid | None = None
    base: Words | None = None
    compare: Any = None
    published: Mapping[str, Mapping[Label, float | tuple[float, Annotated[float, Range(0)]]]] | None = None
    notes: str | None = None


def load(path: Path) -> Table:
    """Read a table file.

    Raises:
        UserError: it is missing, has an unknown or missing key, or names an arm that does not exist.
    """
    if not path.is_file():
        raise UserError(
            f"there is no table {path}; {choices(path.stem, [p.stem for p in path.parent.glob('*.yaml')])}"
        )
    data = read_yaml(path)
    try:
        _refuse_repeated_keys(path)
        return _table(read(_File, data), name_of(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _table(file: _File, name: str) -> Table:
    arms = _arms(file, name)
    seeds = _seeds(file.seeds, "seeds")
    return Table(
        title=file.title,
        metric=file.metric,
        arms=arms,
        seeds=seeds,
        tuning_seeds=seeds if file.tuning_seeds is None else _seeds(file.tuning_seeds, "tuning_seeds"),
        name=name,
        split=file.split,
        mode=file.mode,
        percent=file.percent,
        paper_setting=file.setting == "paper",
        compare=_pairs(file.compare, [arm.label for arm in arms]),
        processes=file.processes,
        analyses={
            name: {str(key): _word(value) for key, value in (options or {}).items()}
            for name, options in (file.analyses or {}).items()
        },
        beside=_beside(file),
        notes=(file.notes or "").strip(),
    )


def _beside(file: _File) -> tuple[str, ...]:
    for metric in (file.metric, *(file.beside or ())):
        analysis = metric.partition(".")[0]
        if "." in metric and analysis not in (file.analyses or {}):
            raise UserError(
                f"the metric '{metric}' is of the analysis '{analysis}', which 'analyses' does not name: add {analysis}: {{}}"
            )
    return tuple(dict.fromkeys(file.beside or ()))


def _arms(file: _File, name: str) -> tuple[Arm, ...]:
    base, published = _words(file.base, "base"), _published(file)
    arms: list[Arm] = []
    for label, entry in ((str(label), entry) for label, entry in file.arms.items()):
        own = (
            read(_ArmEntry, entry, f"arms.{label}")
            if isinstance(entry, Mapping)
            else _ArmEntry(entry, file.grid)
        )
        grid = own.grid if not isinstance(entry, Mapping) or "grid" in entry else file.grid
        own_words = _words(own.words, f"arms.{label}")
        for key in grid or {}:
            if (value := value_of(own_words, key)) is not None:
                raise UserError(
                    f"the arm '{label}' sets {key}={value}, which its grid sets, too: leave it out of the arm's words, or give the arm a "
                    f"grid of its own, '{label}: {{words: [...], grid: {{}}}}'"
                )
        words = joined(base, own_words)
        if value_of(words, "name") is None:
            words.append(f"name={name}/{_folder(label)}")
        arm = Arm(label, tuple(words), _points(grid or {}, label), published.get(label))
        for earlier in arms:
            if _kind(arm) == _kind(earlier):
                raise UserError(f"the arms '{earlier.label}' and '{label}' are the same runs")
            if (shared := value_of(arm.command, "name")) == value_of(earlier.command, "name"):
                raise UserError(
                    f"the arms '{earlier.label}' and '{label}' have one name for their runs, name={shared}: give each its own among its "
                    "words, or none, and the table's and the arm's name are taken"
                )
        arms.append(arm)
    _check(
        arms,
        "arms",
        "a mapping from an arm's label to its words, such as `guided: [method=guidance]`",
        file.arms,
    )
    return tuple(arms)


def _kind(arm: Arm) -> tuple[Any, ...]:
    return ([word for word in arm.command if key_of(word) != "name"], arm.points)


def _folder(label: str) -> str:
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    folder = re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")
    _check(folder, "arms", "labels with a letter or a digit, after which the runs are named", label)
    return folder


def _words(words: list[str] | None, where: str) -> list[str]:
    check_words(words or [], where)
    seeded = [word for word in words or [] if word.startswith("seed=")]
    _check(not seeded, where, "words with no seed: `seeds` gives those of every arm", seeded)
    return list(words or [])


def _points(grid: Grid, label: str) -> tuple[tuple[str, ...], ...]:
    plain = all(values and _is_plain(values) for values in grid.values())
    _check(plain, f"{label}.grid", "of lists of values (a date in quotes)", grid)
    check_words(map(str, itertools.chain(grid, *grid.values())), f"{label}.grid")
    return tuple(
        itertools.product(*([f"{key}={_word(value)}" for value in values] for key, values in grid.items()))
    )


def _pairs(entry: Any, labels: list[str]) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for item in [] if entry is None else entry if isinstance(entry, list) else [entry]:
        if isinstance(item, list):
            expected = "labels, and pairs [arm (or list of arms), baseline] of arms that differ"
            _check(len(item) == 2 and item[0] != item[1], "compare", expected, item)
            arms = item[0] if isinstance(item[0], list) else [item[0]]
            found += [(str(arm), str(item[1])) for arm in arms]
        else:
            found += [(label, str(item)) for label in labels if label != str(item)]
    _check_labels("compare", itertools.chain(*found), labels)
    return tuple(dict.fromkeys(found))


def _published(file: _File) -> dict[str, Published]:
    found: dict[str, Published] = {}
    for source, values in (file.published or {}).items():
        _check_labels("published", map(str, values), map(str, file.arms))
        for label, value in values.items():
            number, error = (value, None) if isinstance(value, int | float) else value
            found[str(label)] = Published(float(number), None if error is None else float(error), source)
    return found


def _check_labels(key: str, named: Iterable[str], labels: Iterable[str]) -> None:
    known = list(labels)
    for label in named:
        if label not in known:
            raise UserError(f"'{key}' names the arm '{label}', which does not exist; {choices(label, known)}")


def _refuse_repeated_keys(path: Path) -> None:
    """Refuse a label or key that stands twice in a mapping, of which YAML keeps the last in silence."""
    waiting: list[Any] = [yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            repeated = sorted({key for key in keys if keys.count(key) > 1})
            _check(not repeated, "the file", "keys and labels that stand once", repeated)
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _seeds(value: int | list[int], key: str) -> tuple[int, ...]:
    if isinstance(value, int):
        return tuple(range(value))
    _check(
        value and len(set(value)) == len(value), key, "a number of seeds or a list of different seeds", value
    )
    return tuple(value)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_plain(value: Any) -> bool:
    """Say whether JSON can write it; YAML reads 2024-01-01 as a date."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _check(holds: Any, key: str, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"{key} must be {expected}, got {got!r:.80}")
