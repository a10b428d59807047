"""`make bench`, or `python -m tutelage.bench [name ...]`: a table on the screen, and `runs/bench.json`."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

BENCHES = (
    "guided_step",
    "throughput",
    "jobs",
    "startup",
    "ensemble_step",
    "transfer_step",
    "augmentation",
    "own_data",
    "growth",
)
BY_NAME = (*BENCHES, "hardware", "growth_large", "distillation_arms", "distillation_peers")


def main(names: list[str]) -> int:
    """Measure the named benches, or all; return the exit code: 0 when every measured ratio meets its target, else 1."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from tutelage.bench.timing import Row, rows_of
    from tutelage.errors import choices
    from tutelage.reporting.console import console
    from tutelage.runs import provenance, records

    if unknown := next((name for name in names if name not in BY_NAME), None):
        known = choices(unknown, BY_NAME, limit=len(BY_NAME))
        print(f"there is no bench '{unknown}'; {known}", file=sys.stderr)
        return 2
    folder = Path("runs")
    folder.mkdir(exist_ok=True)
    machine = provenance.machine() | {
        "date": provenance.now()[:10],
        "torch_threads": os.environ.get("OMP_NUM_THREADS"),
    }
    rows: list[Row] = []
    broken: list[str] = []
    for name in names or BENCHES:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        # a process of its own, as a command has: after the others, in theirs, the ensemble ran at two thirds of its speed
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            try:
                rows += process.submit(rows_of, name).result()
            except Exception:  # the others are worth their time without it
                traceback.print_exc()
                broken.append(name)
        # after each: all of them take a quarter of an hour
        records.write_json(folder / "bench.json", {"machine": machine, "rows": [asdict(row) for row in rows]})
    console().print(_table(rows))
    print(f"written: {folder}/bench.json")
    if broken:
        print(f"measured nothing: {', '.join(broken)}, for the reasons above", file=sys.stderr)
    return 0 if not broken and all(row.met is not False for row in rows) else 1


def _table(rows: list[Any]) -> object:
    from rich.table import Table

    table = Table(title="ratios within one run: ours over its floor or reference", title_justify="left")
    for column in ("what", "ratio", "spread", "n", "target", "met", "note"):
        table.add_column(column, justify="right" if column in ("ratio", "n") else "left")
    for row in rows:
        met = {True: "yes", False: "no", None: "-"}[row.met]
        table.add_row(
            row.name,
            f"{row.ratio:.3g}",
            f"{row.low:.3g} to {row.high:.3g}",
            str(row.n),
            row.target,
            met,
            row.note,
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
