"""What the target columns of a table ask for: classes, labels or values, by what they hold; said aloud, and overridable (no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tutelage.data.column_cells import is_text, number_as_name
from tutelage.data.frame import Frame, column
from tutelage.errors import UserError, choices

TaskKind = Literal["classification", "binary", "multi_label", "regression"]
FEW_VALUES = 20
"""Up to so many different whole numbers are taken for classes."""


@dataclasses.dataclass(frozen=True)
class Targets:
    """task: of `TaskKind`. values: classes (rows,) int64, -1 for one that is left out, or (rows, columns) float64. classes: their names,
    or those of the labels. note: how they were taken, in a sentence.
    """

    task: str
    values: np.ndarray
    classes: list[str] | None
    note: str


def read(
    frame: Frame,
    names: Sequence[str],
    *,
    root: Any,
    task: str | None = None,
    classes: Sequence[Any] | None = None,
    known: Sequence[str] | None = None,
) -> Targets:
    """Return what the columns `names` hold as targets.

    classes: the ones to keep, in this order; rows of others are left out. known: those of the data that a network was trained on, where
    it is to be judged on these: each row's class is found there by name. Raises UserError for what is no target.
    """
    if not names:
        raise UserError(f"`target` must name the column to predict; {choices('', frame.columns.columns)}")
    if twice := next((name for name in names if list(names).count(name) > 1), None):
        raise UserError(f"`target` names the column '{twice}' more than once")
    columns = [column(frame, name, "target", root) for name in names]
    for name, cells in zip(names, columns, strict=True):
        if empty := int(cells.isna().sum()):
            row = int(np.flatnonzero(cells.isna().to_numpy())[0]) + 1
            raise UserError(
                f"{root}: the target '{name}' is empty in {empty} of {len(cells)} rows, the first of them row {row}: remove these rows, or "
                "fill them in"
            )
        if is_text(cells) and not isinstance(odd := cells.iloc[0], str | int | float | bool | bytes):
            raise UserError(
                f"{root}: the target '{name}' holds {type(odd).__name__} objects such as {odd}, where a word or a number a row is "
                "expected; several labels are a column of 0 and 1 each"
            )
        if not is_text(cells) and not np.isfinite(cells.to_numpy(dtype=np.float64)).all():
            raise UserError(f"{root}: the target '{name}' holds infinite values")
    task = task or _found(columns, classes)
    if task == "regression":
        return _values(names, columns, root)
    if task == "multi_label":
        return _labels(names, columns, root)
    if len(names) > 1:
        raise UserError(
            f"`target`={list(names)}: one column holds the classes; several are task=multi_label (each 0 or 1) or task=regression"
        )
    return _classes(names[0], columns[0], root, task, classes, known)


def _found(columns: Sequence[Any], classes: Sequence[Any] | None) -> str:
    if len(columns) > 1:
        return (
            "multi_label" if all(not is_text(c) and c.isin([0, 1]).all() for c in columns) else "regression"
        )
    (cells,) = columns
    if classes is not None or is_text(cells) or cells.dtype == bool:
        return "classification"
    values = cells.to_numpy(dtype=np.float64)
    whole = bool((values == np.round(values)).all())
    return "classification" if whole and len(np.unique(values)) <= FEW_VALUES else "regression"


def _values(names: Sequence[str], columns: Sequence[Any], root: Any) -> Targets:
    for name, cells in zip(names, columns, strict=True):
        if is_text(cells):
            raise UserError(
                f"{root}: the target '{name}' holds words such as '{cells.iloc[0]}', no numbers: task=classification takes them"
            )
        if cells.nunique() < 2:
            raise UserError(
                f"{root}: the target '{name}' is {cells.iloc[0]} in every row: there is nothing to predict"
            )
    values = np.stack([cells.to_numpy(dtype=np.float64) for cells in columns], axis=1)
    ends = ", ".join(f"'{n}' from {v.min():g} to {v.max():g}" for n, v in zip(names, values.T, strict=True))
    return Targets(
        "regression",
        values,
        None,
        f"the target {ends} is taken as values (regression); data.task=classification takes classes",
    )


def _labels(names: Sequence[str], columns: Sequence[Any], root: Any) -> Targets:
    for name, cells in zip(names, columns, strict=True):
        if is_text(cells) or not cells.isin([0, 1]).all():
            odd = cells[~cells.isin([0, 1])].iloc[0]
            raise UserError(f"{root}: a label is 0 or 1, the column '{name}' holds '{odd}'")
    values = np.stack([cells.to_numpy(dtype=np.float64) for cells in columns], axis=1)
    return Targets(
        "multi_label",
        values,
        list(names),
        f"{len(names)} labels of 0 and 1: several may hold at once (multi-label)",
    )


def as_names(cells: Any) -> np.ndarray:
    """Return class names (rows,): whole numbers without a decimal point, words without spaces around them."""
    if is_text(cells):
        return cells.astype(str).str.strip().to_numpy(dtype=object)
    if cells.dtype == bool:
        return np.where(cells.to_numpy(), "true", "false").astype(object)
    if cells.dtype.kind not in "iuf":  # times
        return cells.astype(str).to_numpy(dtype=object)
    different, place = np.unique(cells.to_numpy(), return_inverse=True)
    return np.asarray([number_as_name(value) for value in different], dtype=object)[place]


def _order(names: set[str]) -> list[str]:
    try:
        return sorted(names, key=lambda name: (float(name), len(name), name))
    except ValueError:
        return sorted(names)


def _classes(
    name: str, cells: Any, root: Any, task: str, classes: Sequence[Any] | None, known: Sequence[str] | None
) -> Targets:
    said = as_names(cells)
    there = _order(set(said))
    if known is not None:
        if unknown := [one for one in there if one not in known]:
            raise UserError(
                f"{root}: the target '{name}' has classes that the network does not know: {', '.join(unknown[:8])}; it knows "
                f"{', '.join(known[:8])}. data.classes=[...] keeps some"
            )
        wanted = list(known)
    elif classes is not None:
        wanted = [str(one) for one in classes]
        for one in wanted:
            if one not in there or wanted.count(one) > 1:
                what = f"does not exist; {choices(one, there)}" if one not in there else "occurs twice"
                raise UserError(f"`classes`: class '{one}' {what}")
    else:
        wanted = there
    if len(wanted) < 2:
        raise UserError(
            f"{root}: the target '{name}' holds one class only, '{wanted[0]}': there is nothing to tell apart"
        )
    if classes is None and len(wanted) > max(FEW_VALUES, len(said) // 2):
        raise UserError(
            f"{root}: the target '{name}' holds {len(wanted)} different values in {len(said)} rows, which are no classes; "
            f"{'data.task=regression takes them as values' if not is_text(cells) else 'choose another column as `target`'}"
        )
    if task == "binary" and len(wanted) != 2:
        raise UserError(
            f"{root}: task=binary needs two classes, the target '{name}' has {len(wanted)}: {', '.join(wanted[:8])}"
        )
    number = {one: place for place, one in enumerate(wanted)}
    different, place = np.unique(said.astype(str), return_inverse=True)
    values = np.asarray([number.get(one, -1) for one in different], dtype=np.int64)[place]
    listed = ", ".join(wanted[:8]) + (f" and {len(wanted) - 8} more" if len(wanted) > 8 else "")
    note = f"the target '{name}' is taken as {len(wanted)} classes: {listed}"
    if not is_text(cells) and cells.dtype != bool:
        note += "; data.task=regression takes it as values"
    if left_out := int((values < 0).sum()):
        note += f"; {left_out} rows of other classes are left out"
    return Targets(task, values, wanted, note)
