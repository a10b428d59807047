"""`tutelage list runs`: the runs with their states, filtered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.reporting.collect import Row, collect
from tutelage.reporting.long_table import LongTable
from tutelage.reporting.render import number
from tutelage.runs.run import State
from tutelage.runs.store import Store

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

    Raises:
        UserError: a state or date that is none, or a name, a method or a data set that no run has.
    """
    rows = collect(store, under)
    if under and not rows:
        raise UserError(f"no run '{under}' in {store.root}; {choices(store.name_in(under), store.names())}")
    if state is not None:
        if state not in set(State):
            raise UserError(f"there is no state '{state}'; {choices(state, State)}")
        rows = [row for row in rows if row.state == state]
    for kind, wanted in (("method", method), ("data", data)):
        if wanted is not None:
            known = {word for row in rows for word in kinds(row, kind)}
            if rows and _bare(wanted) not in map(_bare, known):
                raise UserError(f"no run has {kind} '{wanted}'; {choices(wanted, known)}")
            rows = [row for row in rows if _bare(wanted) in map(_bare, kinds(row, kind))]
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


def render_runs_table(store: Store, **filters: Any) -> LongTable:
    """Return the runs as a table for rich's `Console.print`; the filters are those of `filtered_rows`."""
    rows = filtered_rows(store, **filters)
    return LongTable(
        f"{len(rows)} runs in {store.root}",
        ("run", "seed", "state", "method", "data", "result", "started (UTC)"),
        [
            (
                row.key,
                str(row.seed),
                str(row.state),
                *(next(iter(kinds(row, kind)), "-") for kind in ("method", "data")),
                _result(row),
                row.started[:16].replace("T", " "),
            )
            for row in rows
        ],
        right=("seed",),
        styles={"state": {str(state): colour for state, colour in COLOURS.items()}},
    )


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


def _result(row: Row) -> str:
    metric = f"test/{row.monitor}"
    if metric in row.metrics:
        return f"{row.monitor} {number(row.metrics[metric], 4)}"
    return row.reason.removeprefix("failed: ") if row.state is not State.COMPLETE else ""
