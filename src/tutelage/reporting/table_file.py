"""Table files, `experiments/<paper>/<table>.yaml`: the arms, the seeds and the published numbers.

title: Guided learning on digits
metric: accuracy            # the task's name for it
split: test                 # default
percent: true               # values are shown times 100, as published
setting: reduced            # paper: only then can a size be reproduced; default reduced
seeds: 6                    # or a list
grid: {optimizer.lr: [1.0e-3, 3.0e-4]}   # every arm chooses from it, on validation; an arm may have its
    own
tuning_seeds: [0, 1]        # default: all seeds
arms:
  - label: base
    command: [experiment=demo/plain]
    published: {value: 60.58, error: null, source: Table 4}
compare: [[guided, base]]
notes: free text
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.reporting.tables import Arm, Table
from tutelage.reporting.verdict import Published
from tutelage.runs.needs import check_words
from tutelage.runs.records import read_yaml

_KEYS = {
    "title", "metric", "mode", "split", "percent", "setting", "seeds", "tuning_seeds", "grid", "arms", "compare", "notes",
}  # fmt: skip
_ARM_KEYS = {"label", "command", "grid", "published"}


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
    _check_keys(data, _KEYS, {"title", "metric", "seeds", "arms"}, str(path))
    _check(
        data.get("setting", "reduced") in ("paper", "reduced"),
        path,
        "setting",
        "paper or reduced",
        data.get("setting"),
    )
    _check(data.get("mode") in (None, "max", "min"), path, "mode", "max or min", data.get("mode"))
    _check(
        data.get("split", "test") in ("test", "validation"),
        path,
        "split",
        "test or validation",
        data.get("split"),
    )
    _check(
        isinstance(data.get("percent", False), bool), path, "percent", "true or false", data.get("percent")
    )
    _check(isinstance(data["arms"], list) and data["arms"], path, "arms", "a list of arms", data["arms"])
    seeds = _seeds(data["seeds"], path, "seeds")
    arms = tuple(_arm(entry, data.get("grid"), path) for entry in data["arms"])
    labels = [arm.label for arm in arms]
    _check(len(set(labels)) == len(labels), path, "arms", "labels that differ", labels)
    for second, arm in enumerate(arms):
        for earlier in arms[:second]:
            if (arm.command, arm.points) == (earlier.command, earlier.points):
                raise UserError(f"{path}: the arms '{earlier.label}' and '{arm.label}' are the same runs")
    pairs = data.get("compare") or []
    _check(
        isinstance(pairs, list) and all(isinstance(p, list) and len(p) == 2 and p[0] != p[1] for p in pairs),
        path,
        "compare",
        "pairs [arm, baseline] of two arms",
        pairs,
    )
    for label in itertools.chain(*pairs):
        if label not in labels:
            raise UserError(
                f"{path}: 'compare' names the arm '{label}', which does not exist; {choices(label, labels)}"
            )
    return Table(
        title=str(data["title"]),
        metric=str(data["metric"]),
        arms=arms,
        seeds=seeds,
        tuning_seeds=_seeds(data["tuning_seeds"], path, "tuning_seeds") if "tuning_seeds" in data else seeds,
        split=data.get("split", "test"),
        mode=data.get("mode"),
        percent=bool(data.get("percent", False)),
        paper_setting=data.get("setting") == "paper",
        compare=tuple((first, second) for first, second in pairs),
        notes=str(data.get("notes") or "").strip(),
    )


def _arm(entry: Any, grid: Any, path: Path) -> Arm:
    _check(isinstance(entry, Mapping), path, "arms", "mappings with label and command", entry)
    _check_keys(entry, _ARM_KEYS, {"label", "command"}, f"{path}: an arm")
    label, command = str(entry["label"]), entry["command"]
    _check(_is_words(command), path, f"{label}.command", "a list of overrides", command)
    check_words(command, f"{path}: {label}.command")
    seeded = [word for word in command if word.startswith("seed=")]
    _check(not seeded, path, f"{label}.command", "no seed: `seeds` gives those of every arm", seeded)
    grid = entry.get("grid", grid) or {}
    _check(
        _is_grid(grid),
        path,
        f"{label}.grid",
        "a mapping from a key to a list of values (a date in quotes)",
        grid,
    )
    check_words(map(str, itertools.chain(grid, *grid.values())), f"{path}: {label}.grid")
    named = [[f"{key}={_word(value)}" for value in values] for key, values in grid.items()]
    return Arm(
        label,
        tuple(command),
        tuple(itertools.product(*named)),
        _published(entry.get("published"), path, label),
    )


def _published(entry: Any, path: Path, label: str) -> Published | None:
    if entry is None:
        return None
    _check(isinstance(entry, Mapping), path, f"{label}.published", "value, error and source", entry)
    _check_keys(entry, {"value", "error", "source"}, {"value", "source"}, f"{path}: {label}.published")
    for key in ("value", "error"):
        number = entry.get(key)
        _check(
            (number is None and key == "error") or (_is_number(number) and (key == "value" or number >= 0)),
            path,
            f"{label}.published.{key}",
            "a number" if key == "value" else "a number from 0 on",
            number,
        )
    error = entry.get("error")
    return Published(float(entry["value"]), None if error is None else float(error), str(entry["source"]))


def _seeds(value: Any, path: Path, key: str) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return tuple(range(value))
    whole = (
        isinstance(value, list)
        and value
        and all(isinstance(s, int) and not isinstance(s, bool) for s in value)
    )
    _check(
        whole and len(set(value)) == len(value),
        path,
        key,
        "a number of seeds or a list of different seeds",
        value,
    )
    return tuple(value)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _is_grid(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(v, list) and v for v in value.values())
        and _is_plain(value)
    )


def _is_plain(value: Any) -> bool:
    """Say whether JSON can write it; YAML reads 2024-01-01 as a date."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(holds: Any, path: Path, key: str, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"{path}: '{key}' must be {expected}, got {got!r:.80}")


def _check_keys(data: Mapping[str, Any], known: set[str], required: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise UserError(f"{where} has the unknown key '{key}'; {choices(str(key), known)}")
    if missing := sorted(required - set(data)):
        raise UserError(f"{where} lacks {', '.join(missing)}")
