"""How looking at runs grows with their number: slopes over stores of 10, 100 and 1,000 runs that are written as files."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.bench.timing import Row, row

SIZES = (10, 100, 1_000)
SEEDS = 10


def rows(repeats: int = 3) -> list[Row]:
    """Measure milliseconds per further run of a first look, of a listing and of a report."""
    from tutelage.reporting.collect import collect
    from tutelage.reporting.index import FRESH_S
    from tutelage.reporting.render import markdown
    from tutelage.reporting.runs_report import free_report
    from tutelage.reporting.runs_table import render_runs_table
    from tutelage.runs.store import Store

    with tempfile.TemporaryDirectory() as folder:
        stores = [Store(Path(folder) / str(size)) for size in SIZES]
        for store, size in zip(stores, SIZES, strict=True):
            _fill(store, size)
        time.sleep(FRESH_S)  # what was written just now is not kept
        first = _slope([_seconds(collect, store) for store in stores])
        lists = [_slope([_seconds(render_runs_table, store) for store in stores]) for _ in range(repeats)]
        reports = [
            _slope([_seconds(lambda s: markdown(free_report(s)), store) for store in stores])
            for _ in range(repeats)
        ]
    note = "milliseconds, not a ratio: a slope over 10, 100 and 1,000 runs"
    return [
        row("per run that is looked at for the first time", [first], at_most=10, note=note),
        row("per listed run", lists, at_most=0.2, note=note),
        row("per reported run, without its figure", reports, at_most=0.5, note=note),
    ]


def _seconds(look: Callable[[Any], Any], store: Any) -> float:
    began = time.perf_counter()
    look(store)
    return time.perf_counter() - began


def _slope(seconds: list[float]) -> float:
    """Return milliseconds per run: the least-squares line through the sizes."""
    import numpy as np

    return float(1e3 * np.polyfit(SIZES, seconds, 1)[0])


def _fill(store: Any, size: int) -> None:
    import yaml

    for place in range(size):
        config = {
            "name": "study/plain",
            "seed": place % SEEDS,
            "model": {"_target_": "tutelage.models.fcn.FCN", "depth": 3, "width": 8 + place // SEEDS},
            "data": {"_target_": "tutelage.data.images.Digits", "_reads_": "published", "split_seed": 0},
            "optimizer": {f"setting_{number}": 0.1 for number in range(60)},
            "needs": {},
        }
        folder = store.for_config(config).path
        folder.mkdir(parents=True)
        scores = {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5 + place % SEEDS / 100}}
        result = {
            "state": "complete",
            "best": {"step": 1, **scores},
            "selection": {"monitor": "accuracy", "mode": "max"},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "provenance.json").write_text(
            json.dumps({"attempts": [{"started": "2026-01-01T00:00:00+00:00"}]})
        )
