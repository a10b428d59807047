"""In what the arms of a report differ beside what they are compared for: data, training budget, model, optimiser."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tutelage.reporting.arm_labels import is_seed, shown
from tutelage.reporting.facts import TestData
from tutelage.reporting.report_model import Line
from tutelage.reporting.row import Row
from tutelage.runs.run import State

SUBJECTS = (
    "method",
    "objective",
    "objectives",
    "guide",
    "teacher",
    "source",
    "frozen",
    "needs",
    "setting",
    "name",
)
"""Sections of a configuration that arms are there to differ in."""
WORDED = {"fit": "training budget (fit)"}
FEW = 4
"""Settings of a section, and arms of a value, that are named; of more, the number."""


def same_test_data(first: Line, second: Line) -> bool:
    """Say whether the runs of two arms were tested on the same data, seed by seed; where nothing is recorded, yes."""
    ours, theirs = _tested_on(first), _tested_on(second)
    pairs = [(ours[seed], theirs[seed]) for seed in ours.keys() & theirs.keys()]
    pairs = pairs or [*zip(list(ours.values())[:1], list(theirs.values())[:1], strict=False)]
    return all(one.is_that_of(other) for one, other in pairs)


def notes_on_differences(lines: Sequence[Line], swept: Collection[str] = ()) -> list[str]:
    """Return a sentence on test data that differ, and one for each section of the configuration in which arms differ.

    swept: keys (with what lies below them) that are known to differ, such as those of a grid.
    """
    return [*_on_test_data(lines), *_on_settings(lines, swept)]


def _tested_on(line: Line) -> dict[int, TestData]:
    done = (row for row in line.rows if row.state is State.COMPLETE)
    return {row.seed: row.tested_on for row in done if row.tested_on is not None}


def _on_test_data(lines: Sequence[Line]) -> list[str]:
    kinds: list[list[Line]] = []
    for line in (line for line in lines if line.values):
        for kind in kinds:
            if same_test_data(kind[0], line):
                kind.append(line)
                break
        else:
            kinds.append([line])
    if len(kinds) < 2:
        return []
    said = "; ".join(_some([line.label for line in kind]) for kind in kinds)
    return [f"The arms are tested on different data, so that their values have no common verdict: {said}"]


def _on_settings(lines: Sequence[Line], swept: Collection[str]) -> list[str]:
    inputs = _inputs(lines)
    sections: dict[str, dict[tuple[int, ...], list[str]]] = {}
    for key in sorted({key for one in inputs.values() for key in one}):
        values = [one.get(key) for one in inputs.values()]
        section = key.partition(".")[0]
        if len(set(values)) > 1 and section not in SUBJECTS and not _is_known(key, swept, inputs):
            alike = tuple(map(values.index, values))
            sections.setdefault(section, {}).setdefault(alike, []).append(key)
    return [
        _on_section(section, list(groups.values()), inputs) for section, groups in sorted(sections.items())
    ]


def _inputs(lines: Sequence[Line]) -> dict[str, Mapping[str, str]]:
    """The inputs of one run of each arm: of a seed that all have, else without what is a seed."""
    rows = {line.label: {row.seed: row for row in line.rows if row.inputs} for line in lines}
    rows = {label: by_seed for label, by_seed in rows.items() if by_seed}
    common = set.intersection(*(set(by_seed) for by_seed in rows.values())) if rows else set()
    chosen: dict[str, Row] = {label: by_seed[min(common or by_seed)] for label, by_seed in rows.items()}
    return {
        label: {key: text for key, text in row.inputs.items() if common or not is_seed(key)}
        for label, row in chosen.items()
    }


def _is_known(key: str, swept: Collection[str], inputs: Mapping[str, Mapping[str, str]]) -> bool:
    last = key.rpartition(".")[2]
    return any(key == known or key.startswith(f"{known}.") for known in swept) or all(
        f"{last}={shown(key, one.get(key))}" in label for label, one in inputs.items()
    )


def _on_section(section: str, groups: list[list[str]], inputs: Mapping[str, Mapping[str, str]]) -> str:
    said = []
    # What goes hand in hand (a change of data set alters ten keys) is named by one.
    for keys in sorted(groups, key=lambda keys: min(map(_rank, keys)))[:FEW]:
        key = min(keys, key=_rank)
        by_value: dict[str, list[str]] = {}
        for label, one in inputs.items():
            by_value.setdefault(shown(key, one.get(key)), []).append(label)
        values = ", ".join(f"{value} ({_some(labels)})" for value, labels in by_value.items())
        others = f" and {len(keys) - 1} more settings with it" if len(keys) > 1 else ""
        said.append(f"{key.partition('.')[2] or key}{others}: {values}")
    more = f"; and {len(groups) - FEW} more" if len(groups) > FEW else ""
    return f"The arms differ in {WORDED.get(section, section)}: {'; '.join(said)}{more}"


def _rank(key: str) -> tuple[bool, int, int, str]:
    return not key.endswith("._target_"), key.count("."), len(key), key


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:FEW]) + (f" and {len(labels) - FEW} more" if len(labels) > FEW else "")
