"""`tutelage list runs`: the runs with their states, filtered."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

from tutelage.errors import UserError, choices, counted
from tutelage.reporting.collect import collect
from tutelage.reporting.long_table import LongTable
from tutelage.reporting.render import number
from tutelage.reporting.row import Row
from tutelage.runs.run import State
from tutelage.runs.store import Store, shortest

COLOURS = {State.COMPLETE: "green", State.RUNNING: "cyan", State.FAILED: "red", State.INTERRUPTED: "yellow"}


def filtered_rows(
    store: Store,
    *,
    under: str = "",
    state: str | None = None,
    method: str | None = None,
    data: str | None = None,
    since: str | None = None,
    before: str | None = None,
    settings: Sequence[str] = (),
    met: dict[str, Row] | None = None,
) -> list[Row]:
    """Return the runs that pass every given filter, in the order of their keys.

    Args:
        store: where the runs are.
        under: a name; the runs at or below it.
        state: complete, running, interrupted or failed.
        method: a method's class or module, such as guidance.
        data: a data set's class or module, such as digits.
        since: a date such as 2026-01-31; the runs that ended, or if they have not, began on or after it (UTC).
        before: a date; the runs that ended, or if they have not, began before it.
        settings: words key=value, each of which holds: model.width=64, seed=3, or the class or module of a section, model=fcn.
        met: takes the rows that were read, see `collect`.

    Raises:
        UserError: a state or date that is none, or a name, a method, a data set or a value that no run has.
    """
    rows = collect(store, under, met=met)
    if under and not rows:
        raise UserError(f"no run '{under}' in {store.root}; {choices(store.name_in(under), store.levels())}")
    if state is not None:
        if state not in set(State):
            raise UserError(f"there is no state '{state}'; {choices(state, State)}")
        rows = [row for row in rows if row.state == state]
    for kind, wanted in (("method", method), ("data", data), *map(_setting, settings)):
        if wanted is not None and rows:
            found = [row for row in rows if _holds(row, kind, wanted)]
            if not found:
                known = {text.strip('"') for row in rows for text in _called(row, kind)}
                if not known:
                    keys = {"seed", *(key for row in rows for key in row.inputs)}
                    raise UserError(f"no run has a setting '{kind}'; {choices(kind, keys)}")
                raise UserError(f"no run has {kind} '{wanted}'; {choices(wanted, known)}")
            rows = found
    for option, given in (("--since", since), ("--before", before)):
        if given is not None:
            try:
                day = date.fromisoformat(given).isoformat()
            except ValueError:
                raise UserError(f"{option} needs a date such as 2026-01-31, got '{given}'") from None
            rows = [
                row for row in rows if ((row.finished or row.started)[:10] >= day) is (option == "--since")
            ]
    return rows


SORTS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.key,
    "seed": lambda row: row.seed,
    "state": lambda row: str(row.state),
    "value": lambda row: row.value,
    "time": lambda row: row.train_s,
    "progress": lambda row: row.step / row.steps if row.step and row.steps else None,
    "started": lambda row: row.started or None,
    "finished": lambda row: row.finished or None,
}
"""What runs can be sorted by; what has none comes last."""


def sorted_rows(rows: Sequence[Row], by: str | None) -> list[Row]:
    """Return runs in an order of `SORTS`, with a minus before it the largest first.

    Raises:
        UserError: there is no such order.
    """
    if not by:
        return list(rows)
    name = by.removeprefix("-")
    if name not in SORTS:
        raise UserError(
            f"runs cannot be sorted by '{name}'; {choices(name, SORTS)}; the largest first: sort=-value"
        )
    there = [row for row in rows if SORTS[name](row) is not None]
    ordered = sorted(there, key=SORTS[name], reverse=by.startswith("-"))
    return ordered + [row for row in rows if SORTS[name](row) is None]


def render_runs_table(
    store: Store, *, sort: str | None = None, most: int | None = None, **filters: Any
) -> LongTable:
    """Return the runs as a table for rich's `Console.print`.

    Args:
        store: where the runs are.
        sort: their order, see `sorted_rows`.
        most: how many are shown; None: all.
        filters: those of `filtered_rows`.
    """
    found = filtered_rows(store, **filters)
    rows = sorted_rows(found, sort)[:most]
    digits = shortest(row.key.rpartition("/")[2] for row in found)
    metrics = {row.monitor for row in rows if f"test/{row.monitor}" in row.metrics or row.so_far is not None}
    shared = metrics.pop() if len(metrics) == 1 else ""
    few = f"{len(rows)} of " if len(rows) < len(found) else ""
    return LongTable(
        f"{few}{counted(len(found), 'run')} in {store.root}",
        ("run", "seed", "state", result := shared or "result", "time", "method", "data", "started (UTC)"),
        [
            (
                _short(row.key, digits),
                str(row.seed),
                _state(row),
                _result(row, named=not shared),
                duration(row.train_s),
                *(next(iter(kinds(row, kind)), "-") for kind in ("method", "data")),
                row.started[:16].replace("T", " "),
            )
            for row in rows
        ],
        left=("state", result, "method", "data", "started (UTC)"),
        styles={"state": {str(state): colour for state, colour in COLOURS.items()}},
        drop=("data", "method", "started (UTC)", "time"),
        wraps=(result,),
    )


def duration(seconds: float | None) -> str:
    """Return a time as a person reads it: 48 s, 12:05 or 3:12:05."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _short(key: str, digits: int) -> str:
    name, _, identity = key.rpartition("/")
    return f"{name}/{identity[:digits]}"


def _state(row: Row) -> str:
    if row.state is State.COMPLETE or not row.step or not row.steps:
        return str(row.state)
    return f"{row.state} {min(99, 100 * row.step // row.steps)} %"


def _setting(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or not key or key[0] in "+~":
        raise UserError(
            f"runs are chosen by settings as they have them, such as model.width=64, got {word!r}"
        )
    return key, value


def _called(row: Row, key: str) -> list[str]:
    """Return what a run's setting may be called: its value in JSON, or where it is a section the names of its class."""
    own = str(row.seed) if key == "seed" else row.inputs.get(key)
    return kinds(row, key) if own is None else [own]


def _holds(row: Row, key: str, wanted: str) -> bool:
    found = _called(row, key)
    if key != "seed" and key not in row.inputs:
        return _bare(wanted) in map(_bare, found)
    with contextlib.suppress(ValueError):
        return float(found[0]) == float(wanted)
    plain, text = wanted.replace(" ", ""), found[0].replace(" ", "")
    return plain in (text, text.strip('"'))


def kinds(row: Row, kind: str) -> list[str]:
    """Return the names a run's method or data answer to, in snake case: the class, then the module."""
    return list(dict.fromkeys(_names(row.inputs.get(f"{kind}._target_", ""))))


def _names(target: str) -> Iterator[str]:
    parts = target.strip('"').split(".")
    yield from (snake(part) for part in parts[:-3:-1] if part)


def _bare(name: str) -> str:
    # NormPenalty, norm_penalty and normpenalty are one; so are WikiText and its module, wikitext.
    return name.replace("_", "").lower()


def snake(name: str) -> str:
    """Return NormPenalty as norm_penalty, the way files and commands are written."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _result(row: Row, *, named: bool) -> str:
    metric, name = f"test/{row.monitor}", f"{row.monitor} " if named else ""
    if metric in row.metrics:
        return f"{name}{number(row.metrics[metric], 4)}"
    if row.so_far is not None and row.state is not State.FAILED:
        return f"{name}{number(row.so_far, 4)} (val.)"
    return row.reason.removeprefix("failed: ") if row.state is not State.COMPLETE else ""
