"""How a study grows with its runs: slopes over 10, 100 and 1,000 of them (`growth_large`: 10,000 too), which are written as files."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tutelage.bench.timing import Row, processor_s, row

SIZES = (10, 100, 1_000)
SEEDS = 10
Slopes = tuple[list[float], list[float]]
"""Milliseconds a run, of several turns: by the clock, and of the processor's time."""
STUDY = ["data=digits", "model=fcn", "logger=none", "name=study/plain"]


def rows(sizes: Sequence[int] = SIZES, repeats: int = 3) -> list[Row]:
    """Measure milliseconds, memory and files per further run."""
    from tutelage.config.compose import hydra_ready
    from tutelage.config.planner import Planner
    from tutelage.reporting.collect import collect
    from tutelage.reporting.runs_table import render_runs_table
    from tutelage.runs.digests import FRESH_S
    from tutelage.runs.store import Store

    def planned(store: Any) -> None:
        planner = Planner()
        with hydra_ready():
            for place in range(len(list(store.folders("study/plain")))):
                planner(
                    [
                        *STUDY,
                        f"runs_dir={store.root}",
                        f"seed={place % SEEDS}",
                        f"model.width={8 + place // SEEDS}",
                    ]
                )

    def reported(store: Any) -> None:
        for path in (store.root / "study").glob("*.*"):
            path.unlink()
        _command("report", "study", f"runs_dir={store.root}")

    with tempfile.TemporaryDirectory() as folder:
        stores = [Store(Path(folder) / str(size)) for size in sizes]
        for store, size in zip(stores, sizes, strict=True):
            _fill(store, size)
        time.sleep(FRESH_S)  # what was written just now is not kept

        def slopes(look: Callable[[Any], Any], times: int) -> Slopes:
            measured = [[_seconds(look, store) for store in stores] for _ in range(times)]
            clock, processor = (
                [_slope(sizes, [one[of] for one in turn]) for turn in measured] for of in (0, 1)
            )
            return clock, processor

        first = slopes(collect, 1)
        lists = slopes(render_runs_table, repeats)
        reports = slopes(reported, repeats)
        plans = slopes(planned, 1)
        _sweep(stores[0])
        before = _memory()
        finished = slopes(_sweep, 1)
        kilobytes = (_memory() - before) / 1e3 / sizes[-1]
        _command(
            "remove", "--all", "--dry", f"runs_dir={stores[0].root}"
        )  # which reads the tables here, once
        owners = stores[0].root / ".index" / "owners.json"
        for store in stores[1:] if owners.is_file() else ():  # there is none where no tables are
            shutil.copy(owners, store.root / ".index")
        dry = slopes(lambda store: _command("remove", "--all", "--dry", f"runs_dir={store.root}"), repeats)
        for store in stores:
            shutil.copytree(store.root, f"{store.root}-copy")
        bare = slopes(
            lambda store: subprocess.run(["rm", "-rf", f"{store.root}-copy"], check=True),
            1,
        )
        removed = slopes(lambda store: _command("remove", "--all", "--yes", f"runs_dir={store.root}"), 1)
    over = ", ".join(f"{size:,}" for size in sizes)

    def of(name: str, found: Slopes, at_most: float | None = None) -> Row:
        clock, processor = found
        note = (
            f"milliseconds, not a ratio: a slope over {over} runs; the processor's: {median(processor):.3g}"
        )
        return row(name, clock, at_most=at_most, note=note)

    return [
        of("per run that is looked at for the first time", first, 10),
        of("per listed run", lists, 0.2),
        of("per reported run, with figure and page", reports, 2),
        of("per planned command", plans, 2),
        of("per finished job of a sweep", finished, 10),
        of("per run that `remove --dry` lists", dry, 0.2),
        of("per removed run", removed),
        of("per run that `rm -rf` removes", bare),
        row("memory per finished job of a sweep", [kilobytes], at_most=50, note="kB, not a ratio"),
        row("files per run", [_files_of_a_run()], at_most=9, note="a count, its lock too"),
    ]  # fmt: skip


def _seconds(look: Callable[[Any], Any], store: Any) -> tuple[float, float]:
    """Return the seconds that a look takes by the clock, and of the processor's time."""
    began, used = time.perf_counter(), processor_s()
    look(store)
    return time.perf_counter() - began, processor_s() - used


def _slope(sizes: Sequence[int], seconds: list[float]) -> float:
    """Return milliseconds per run: the least-squares line through the sizes."""
    import numpy as np

    return float(1e3 * np.polyfit(sizes, seconds, 1)[0])


def _memory() -> int:
    """Return the most bytes that this process has held."""
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _command(*words: str) -> None:
    from tutelage.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if main(list(words)):
            raise RuntimeError(f"failed: {words}")


def _sweep(store: Any) -> None:
    size = len(store.folders("study/plain"))
    widths = f"model.width=range(8,{8 + size // SEEDS})"
    _command("train", "-m", *STUDY, f"runs_dir={store.root}", f"seed=range({SEEDS})", widths)


def _files_of_a_run() -> int:
    with tempfile.TemporaryDirectory() as folder:
        _command("train", *STUDY, "fit.max_steps=1", f"runs_dir={folder}")
        return sum(path.is_file() and path.name != "data.lock" for path in Path(folder).rglob("*"))


def _fill(store: Any, size: int) -> None:
    """Write the complete runs of `_sweep`'s commands, with all that a run keeps: the files of one that is made here, with other values."""
    from tutelage.config.compose import compose
    from tutelage.runs.folders import lock_of, make_folder
    from tutelage.runs.records import read_json, write_yaml

    with tempfile.TemporaryDirectory(dir=store.root.parent) as folder:
        _command("train", *STUDY, "fit.max_steps=1", f"runs_dir={folder}")
        (made,) = (path.parent for path in Path(folder).rglob("result.json"))
        result, provenance = (read_json(made / f"{name}.json") for name in ("result", "provenance"))
        make_folder(lock_of(store.root, "").parent)
        base = compose([*STUDY, f"runs_dir={store.root}"])
        for place in range(size):
            seed, width = place % SEEDS, 8 + place // SEEDS
            config = {**base, "seed": seed, "model": {**base["model"], "width": width}}
            path = store.for_config(config).path
            path.mkdir(parents=True)
            lock_of(store.root, path.name).write_text("{}")
            for file in ("setup.json", "splits.npz", "metrics.jsonl", "log.txt", "network.safetensors"):
                (path / file).hardlink_to(made / file)
            write_yaml(path / "config.yaml", config, durable=False)
            result["best"]["test"]["accuracy"] = 0.5 + seed / 100 + width / 10_000
            (path / "result.json").write_text(json.dumps(result, indent=2))
            provenance["attempts"][-1]["words"] = [*STUDY, f"seed={seed}", f"model.width={width}"]
            (path / "provenance.json").write_text(json.dumps(provenance, indent=2))
