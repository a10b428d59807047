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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tutelage.errors import UserError, choices
from tutelage.reporting.table_paths import name_of
from tutelage.reporting.tables import Arm, Table
from tutelage.reporting.verdict import Published
from tutelage.runs.needs import check_words
from tutelage.runs.records import read_yaml
from tutelage.runs.words import joined, key_of, value_of

_KEYS = {
    "title", "metric", "beside", "analyses", "mode", "split", "percent", "setting", "seeds", "tuning_seeds", "processes", "grid", "base",
    "arms", "compare", "published", "notes",
}  # fmt: skip
_ARM_KEYS = {"words", "grid"}


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
    _refuse_repeated_keys(path)
    _check_keys(data, _KEYS, {"title", "metric", "seeds", "arms"}, str(path))

    def one_of(key: str, known: tuple[Any, ...]) -> None:
        value = data.get(key, known[0])
        _check(value in known, path, key, " or ".join(str(k) for k in known if k is not None), value)

    one_of("setting", ("reduced", "paper"))
    one_of("mode", (None, "max", "min"))
    one_of("split", ("test", "validation"))
    percent, processes = data.get("percent", False), data.get("processes")
    _check(isinstance(percent, bool), path, "percent", "true or false", percent)
    whole = isinstance(processes, int) and not isinstance(processes, bool) and processes > 0
    _check(processes is None or whole, path, "processes", "a whole number of at least 1", processes)
    seeds = _seeds(data["seeds"], path, "seeds")
    name = name_of(path)
    arms = _arms(data, path, name)
    return Table(
        title=str(data["title"]),
        metric=str(data["metric"]),
        arms=arms,
        seeds=seeds,
        tuning_seeds=_seeds(data["tuning_seeds"], path, "tuning_seeds") if "tuning_seeds" in data else seeds,
        name=name,
        split=data.get("split", "test"),
        mode=data.get("mode"),
        percent=percent,
        paper_setting=data.get("setting") == "paper",
        compare=_pairs(data.get("compare"), [arm.label for arm in arms], path),
        processes=processes,
        analyses=_analyses(data.get("analyses"), path),
        beside=_beside(data, path),
        notes=str(data.get("notes") or "").strip(),
    )


def _analyses(entry: Any, path: Path) -> dict[str, dict[str, str]]:
    wanted = entry or {}
    _check(
        isinstance(wanted, Mapping)
        and all(isinstance(options or {}, Mapping) for options in wanted.values()),
        path,
        "analyses",
        "a mapping from an analysis to its options, such as `calibration: {}`",
        entry,
    )
    return {
        str(name): {str(key): _word(value) for key, value in (options or {}).items()}
        for name, options in wanted.items()
    }


def _beside(data: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    beside = data.get("beside") or []
    _check(
        isinstance(beside, list) and all(isinstance(metric, str) for metric in beside),
        path,
        "beside",
        "a list of metrics",
        beside,
    )
    for metric in (data["metric"], *beside):
        analysis = str(metric).partition(".")[0]
        if "." in str(metric) and analysis not in (data.get("analyses") or {}):
            raise UserError(
                f"{path}: the metric '{metric}' is of the analysis '{analysis}', which 'analyses' does not name: add {analysis}: {{}}"
            )
    return tuple(dict.fromkeys(beside))


def _arms(data: Mapping[str, Any], path: Path, name: str) -> tuple[Arm, ...]:
    entries, base = data["arms"], data.get("base") or []
    _check(
        isinstance(entries, Mapping) and entries,
        path,
        "arms",
        "a mapping from an arm's label to its words, such as `guided: [method=guidance]`",
        entries,
    )
    base = _words(base, path, "base")
    published = _published(data.get("published"), path, [str(label) for label in entries])
    arms: list[Arm] = []
    for label, entry in ((str(label), entry) for label, entry in entries.items()):
        if isinstance(entry, Mapping):
            _check_keys(entry, _ARM_KEYS, {"words"}, f"{path}: the arm '{label}'")
        own = entry if isinstance(entry, Mapping) else {"words": entry}
        words = joined(base, _words(own["words"] or [], path, label))
        if value_of(words, "name") is None:
            words.append(f"name={name}/{_folder(label, path)}")
        arm = Arm(
            label, tuple(words), _points(own.get("grid", data.get("grid")), path, label), published.get(label)
        )
        for earlier in arms:
            if _kind(arm) == _kind(earlier):
                raise UserError(f"{path}: the arms '{earlier.label}' and '{label}' are the same runs")
            if value_of(arm.command, "name") == value_of(earlier.command, "name"):
                raise UserError(
                    f"{path}: the arms '{earlier.label}' and '{label}' have one name for their runs: {words[-1]}"
                )
        arms.append(arm)
    return tuple(arms)


def _kind(arm: Arm) -> tuple[Any, ...]:
    return ([word for word in arm.command if key_of(word) != "name"], arm.points)


def _folder(label: str, path: Path) -> str:
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    folder = re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")
    _check(folder, path, "arms", "labels with a letter or a digit, after which the runs are named", label)
    return folder


def _words(value: Any, path: Path, where: str) -> list[str]:
    _check(
        isinstance(value, list) and all(isinstance(word, str) for word in value),
        path,
        where,
        "a list of words key=value",
        value,
    )
    check_words(value, f"{path}: {where}")
    seeded = [word for word in value if word.startswith("seed=")]
    _check(not seeded, path, where, "no seed: `seeds` gives those of every arm", seeded)
    return list(value)


def _points(grid: Any, path: Path, label: str) -> tuple[tuple[str, ...], ...]:
    grid = grid or {}
    _check(
        _is_grid(grid),
        path,
        f"{label}.grid",
        "a mapping from a key to a list of values (a date in quotes)",
        grid,
    )
    check_words(map(str, itertools.chain(grid, *grid.values())), f"{path}: {label}.grid")
    return tuple(
        itertools.product(*([f"{key}={_word(value)}" for value in values] for key, values in grid.items()))
    )


def _pairs(entry: Any, labels: list[str], path: Path) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for item in [] if entry is None else entry if isinstance(entry, list) else [entry]:
        if isinstance(item, list):
            expected = "labels, and pairs [arm (or list of arms), baseline] of arms that differ"
            _check(len(item) == 2 and item[0] != item[1], path, "compare", expected, item)
            arms = item[0] if isinstance(item[0], list) else [item[0]]
            found += [(str(arm), str(item[1])) for arm in arms]
        else:
            found += [(label, str(item)) for label in labels if label != str(item)]
    for label in itertools.chain(*found):
        if label not in labels:
            raise UserError(
                f"{path}: 'compare' names the arm '{label}', which does not exist; {choices(label, labels)}"
            )
    return tuple(dict.fromkeys(found))


def _published(entry: Any, path: Path, labels: list[str]) -> dict[str, Published]:
    found: dict[str, Published] = {}
    by_source = entry or {}
    _check(
        isinstance(by_source, Mapping),
        path,
        "published",
        "a mapping from a source to {arm: value or [value, error]}",
        entry,
    )
    for source, values in by_source.items():
        _check(
            isinstance(values, Mapping),
            path,
            f"published.{source}",
            "a mapping from an arm to value or [value, error]",
            values,
        )
        for label, value in ((str(label), value) for label, value in values.items()):
            if label not in labels:
                raise UserError(
                    f"{path}: 'published' names the arm '{label}', which does not exist; {choices(label, labels)}"
                )
            pair = value if isinstance(value, list) else [value, None]
            right = (
                len(pair) == 2
                and _is_number(pair[0])
                and (pair[1] is None or (_is_number(pair[1]) and pair[1] >= 0))
            )
            _check(
                right,
                path,
                f"published.{source}.{label}",
                "a number, or [value, error] with an error from 0 on",
                value,
            )
            found[label] = Published(float(pair[0]), None if pair[1] is None else float(pair[1]), str(source))
    return found


def _refuse_repeated_keys(path: Path) -> None:
    """Refuse a label or key that stands twice in a mapping, of which YAML keeps the last in silence."""
    waiting: list[Any] = [yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            repeated = sorted({key for key in keys if keys.count(key) > 1})
            _check(not repeated, path, "the file", "keys and labels that stand once", repeated)
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


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
