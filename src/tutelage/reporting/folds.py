"""Runs of the folds of one split as one value: the mean over folds. Folds share training rows, so they are no independent samples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tutelage.reporting.row import Row
from tutelage.reporting.settings_by_section import Inputs
from tutelage.runs.declared import USUAL_FOLDS
from tutelage.runs.run import State

FOLD, FOLDS = "data.fold", "data.folds"
_WORD = re.compile(r"(?:^|[ ,]+)\+{0,2}data\.fold=\d+")


def together(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with those that differ in nothing but the fold as one, where the first of them stood.

    Its metrics are means over the folds, `by_fold` has the single values. Where a fold is missing it is not complete, and says so. A
    single fold of its kind stays the run that it is; `note` says of what it is one.
    """
    clusters: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.inputs.get(FOLD, "null") != "null":
            clusters.setdefault(_kind(row), []).append(row)
    seen = max((1 + int(row.inputs[FOLD]) for cluster in clusters.values() for row in cluster), default=0)
    joined = {cluster[0].key: _joined(cluster, seen) for cluster in clusters.values() if len(cluster) > 1}
    inside = {row.key for cluster in clusters.values() for row in cluster[1:]}
    return [joined.get(row.key, row) for row in rows if row.key not in inside]


def of_sweep(arms: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """Return the arms of a sweep, by label, with the folds of each put together."""
    found: dict[str, list[Row]] = {}
    for label, rows in arms.items():
        bare = _WORD.sub("", label).strip(" ,")
        found.setdefault(bare or ("all folds" if label else label), []).extend(rows)
    return {label: together(rows) for label, rows in found.items()}


def note(label: str, rows: Sequence[Row], metric: str, scale: float = 1.0) -> str | None:
    """Say of an arm how its folds count; None where it has none."""
    folds = sorted({row.folds for row in rows if row.folds})
    single = sorted(
        {(int(row.inputs[FOLD]), _wanted(row, 0)) for row in rows if row.inputs.get(FOLD, "null") != "null"}
    )
    if single and not folds:
        which = ", ".join(f"fold {fold}{f' of {of}' if of else ''}" for fold, of in single)
        return f"{label}: each value is of one fold ({which}) and no mean over folds"
    if not folds:
        return None
    values = [scale * value for row in rows for value in row.by_fold.get(metric, ())]
    spread = f", which reach from {min(values):.4g} to {max(values):.4g}" if values else ""
    return (
        f"{label}: each value is the mean over {folds[0]} folds{spread}; n counts seeds, since folds share training samples and are "
        "not independent"
    )


def _kind(row: Row) -> tuple[object, ...]:
    shared = (
        f"{key}={text}" for key, text in row.inputs.items() if key != FOLD and not key.endswith(f".{FOLD}")
    )
    return row.seed, *sorted(one for one in shared if not re.match(r"needs\.[^.]+\.run=", one))


def _wanted(row: Row, otherwise: int) -> int:
    """Return how many folds there are: as the command says, or as data of Tutelage have them where it does not."""
    if (said := row.inputs.get(FOLDS, "null")) != "null":
        return int(said)
    return USUAL_FOLDS if "tutelage.data." in row.inputs.get("data._target_", "") else otherwise


def _joined(rows: Sequence[Row], seen: int) -> Row:
    done = {int(row.inputs[FOLD]): row for row in rows if row.state is State.COMPLETE}
    wanted = max(_wanted(rows[0], seen), *(1 + int(row.inputs[FOLD]) for row in rows))
    missing = [fold for fold in range(wanted) if fold not in done]
    names = set.intersection(*(set(row.metrics) for row in done.values())) if done else set()
    by_fold = {name: tuple(done[fold].metrics[name] for fold in sorted(done)) for name in names}
    first = next(iter(done.values()), rows[0])
    odd = next((row.state for row in rows if row.state is not State.COMPLETE), State.MISSING)
    return replace(
        first,
        key=rows[0].key,
        inputs=Inputs.of(
            {k: text for k, text in first.inputs.items() if k != FOLD and not k.endswith(f".{FOLD}")}
        ),
        state=odd if missing else State.COMPLETE,
        metrics={name: math.fsum(values) / len(values) for name, values in by_fold.items()}
        if not missing
        else {},
        reason=f"{len(done)} of {wanted} folds: {', '.join(map(str, missing))} not complete"
        if missing
        else "",
        needs=tuple(dict.fromkeys(key for row in rows for key in row.needs)),
        train_s=None if missing else math.fsum(row.train_s or 0.0 for row in rows),
        folds=wanted,
        by_fold=by_fold,
    )
