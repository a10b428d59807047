"""Suites of the scaling experiments (`cases`), and the driver that runs them, restartable.

    python -m tutelage.scaling.experiments --suite gpu --out DIR --time-budget 480
    python -m tutelage.scaling.experiments --analyse DIR

Every point's result is its own JSON file, written atomically: giving the command again runs what is
missing. Suites: `gpu` (minutes on one data-centre GPU), `cpu` (one to two hours an experiment on two
cores), `smoke` (seconds, for tests).
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import UserError, choices
from tutelage.scaling.cases import (
    TWO_LAYER_GRID,
    WIDTH_GRID,
    attention,
    convolution,
    convolution_channels,
    guided,
    three_layer,
    three_layer_width,
    two_layer,
    two_layer_width,
)
from tutelage.scaling.grid import Point, run_point
from tutelage.scaling.measure import OutOfTime


def suite(name: str) -> list[Point]:
    """The points of a suite, in the order in which they should run: what matters most, small sizes first.

    Raises:
        UserError: for an unknown suite.
    """
    if name not in SUITES:
        raise UserError(f"Unknown suite '{name}': {choices(name, SUITES)}")
    return SUITES[name]()


def _gpu() -> list[Point]:
    pairs = [(d, context) for context in (4, 2, 8) for d in (8, 12, 16, 24, 32)]
    trained: dict[str, Any] = {"draws": 8, "steps": 6000}
    below = [factor for factor in TWO_LAYER_GRID if factor <= 16]  # wide grids of large d cost most
    return [
        *two_layer(inputs=(12, 16, 24, 32, 48, 64), draws=12),
        *three_layer(inputs=(12, 16, 24, 32, 48, 64), draws=10),
        *convolution(sides=(4, 5, 6, 8, 10, 12), draws=12, step_size=0.008),
        *attention(pairs=pairs[:5], draws=12),
        *two_layer_width(inputs=(32,), ratios=(0.5, 1, 2, 4, 8), draws=16),
        *guided(sides=(4, 6, 8), strengths=(0, 1, 10), draws=10),
        *three_layer_width(inputs=(32,), ratios=(0.25, 0.5, 1, 2, 4, 8), draws=12),
        *attention(pairs=pairs[5:], draws=10),
        *two_layer(inputs=(12, 16, 24, 32, 48), method="adam", step_size=0.02, **trained),
        *two_layer(inputs=(12, 16, 24, 32, 48), method="sgd", step_size=0.15, **trained),
        *two_layer(inputs=(16, 32, 48), start="planted", draws=12),
        *two_layer(inputs=(96, 128), draws=8, factors=below),
        *convolution_channels(side=8, channels=(4, 8, 16, 32), draws=10, step_size=0.008),
        *convolution(sides=(16,), draws=8, step_size=0.008),
        *three_layer(inputs=(96,), draws=8, factors=below[1:]),
        *two_layer_width(inputs=(48,), ratios=(0.5, 2, 8), draws=8, factors=WIDTH_GRID[:-1]),
    ]


def _cpu() -> list[Point]:
    return [
        *two_layer(inputs=(8, 12, 16, 24, 32), draws=6, steps=10_000),
        *three_layer(inputs=(8, 12, 16, 24), draws=5, steps=10_000),
        *convolution(sides=(4, 5, 6, 7, 8), draws=6, steps=10_000, step_size=0.008),
        *attention(pairs=[(d, context) for context in (2, 4) for d in (6, 8, 12)], draws=4, steps=6000),
        *two_layer_width(inputs=(16,), ratios=(0.5, 1, 2, 4), draws=6, steps=10_000),
        *three_layer_width(inputs=(16,), ratios=(0.25, 0.5, 1, 2, 4), draws=5, steps=10_000),
        *guided(sides=(3, 4), strengths=(0, 10), draws=4, steps=6000),
        *two_layer(inputs=(8, 12, 16, 24), method="adam", step_size=0.02, draws=6, steps=4000),
        *two_layer(inputs=(8, 12, 16, 24), method="sgd", step_size=0.15, draws=6, steps=4000),
    ]


def _smoke() -> list[Point]:
    quick: dict[str, Any] = {"draws": 2, "steps": 40, "measurements": 4, "test_points": 200}
    few = (2, 20)
    return [
        *two_layer(inputs=(4, 6), factors=few, **quick),
        *two_layer(inputs=(4, 6), factors=few, start="planted", **quick),
        *two_layer(inputs=(4, 6), factors=few, method="adam", **quick),
        *two_layer(inputs=(4, 6), factors=few, method="sgd", **quick),
        *two_layer_width(inputs=(4,), ratios=(1, 2), factors=few, **quick),
        *three_layer(inputs=(4, 6), factors=few, **quick),
        *three_layer_width(inputs=(4,), ratios=(1, 2), factors=few, **quick),
        *convolution(sides=(2, 3), factors=few, **quick),
        *convolution_channels(side=2, channels=(2, 4), factors=few, **quick),
        *attention(pairs=((3, 2), (4, 2), (3, 3)), factors=few, **quick),
        *guided(sides=(2, 3), strengths=(0, 1), patches=2, factors=few, **quick),
    ]


SUITES: dict[str, Callable[[], list[Point]]] = {"gpu": _gpu, "cpu": _cpu, "smoke": _smoke}


def write_json(path: Path, value: Any) -> None:
    """Write atomically: readers see the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value))
    partial.replace(path)


def result_path(out: Path, point: Point) -> Path:
    """Where a point's result lies."""
    return out / "points" / f"{point.experiment}-{point.name}.json"


def run_suite(
    points: Sequence[Point],
    out: Path,
    *,
    device: str = "cpu",
    time_budget_s: float = math.inf,
    report: Callable[[str], None] = print,
) -> bool:
    """Run the points that have no result yet, in order, until the time is spent; `out/results.json` joins them.

    A point that diverges is tried again at half the step size and twice the steps, twice. A point that
    fails otherwise is reported and passed over. What is expected not to fit into the remaining time is
    passed over too.

    Returns:
        Whether every point has a result.
    """
    deadline = time.monotonic() + time_budget_s
    rate, complete = 0.0, True  # seconds per step and activation, measured on the point before
    for point in points:
        path = result_path(out, point)
        if path.exists():
            continue
        left = deadline - time.monotonic()
        expected = rate * point.steps * point.elements
        if left < 5 or expected > left:
            report(
                f"{path.stem}: no time left for it (needs about {expected:.0f} s, {max(0.0, left):.0f} s left)"
            )
            complete = False
            continue
        try:
            result = _run_halving(point, device, path.with_suffix(".safetensors"), deadline, report)
        except OutOfTime:
            report(f"{path.stem}: stopped by the time budget")
            complete = False
            continue
        except (UserError, RuntimeError) as failure:
            report(f"{path.stem}: failed: {failure}")
            complete = False
            continue
        write_json(path, result)
        if device == "cuda":  # captured graphs keep their memory until collected
            import torch

            gc.collect()
            torch.cuda.empty_cache()
        rate = result["seconds"] / (result["settings"]["steps"] * point.elements)
        middle = [f"{sum(row) / len(row):.2f}" for row in result["alignment"]]
        report(f"{path.stem}: {result['seconds']:.1f} s, A_f {' '.join(middle)}")
        write_json(out / "results.json", load_results(out))
    return complete


def _run_halving(
    point: Point, device: str, checkpoint: Path, deadline: float, report: Callable[[str], None]
) -> dict[str, Any]:
    for attempt in range(3):
        factor = 2**attempt
        tried = dataclasses.replace(point, step_size=point.step_size / factor, steps=point.steps * factor)
        try:
            return run_point(
                tried, device=device, checkpoint=None if device == "cuda" else checkpoint, deadline=deadline
            )
        except UserError as diverged:
            checkpoint.unlink(missing_ok=True)
            if attempt == 2 or "diverged" not in str(diverged):
                raise
            report(f"{checkpoint.stem}: step size {tried.step_size:g} diverged, halving it")
    raise AssertionError("unreachable")


def load_results(out: Path) -> list[dict[str, Any]]:
    """All results under `out`: the single files, or `results.json` where only that was kept.

    Raises:
        UserError: when there are none.
    """
    files = sorted((out / "points").glob("*.json"))
    if files:
        return [json.loads(file.read_text()) for file in files]
    joined = out / "results.json"
    if joined.exists():
        found: list[dict[str, Any]] = json.loads(joined.read_text())
        return found
    raise UserError(f"No results under {out}: expected points/*.json or results.json, as --suite writes them")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", choices=sorted(SUITES), help="run a suite's points")
    parser.add_argument("--only", nargs="*", help="names of experiments to run, all if left out")
    parser.add_argument("--out", type=Path, default=Path("outputs/scaling"), help="folder of the results")
    parser.add_argument("--device", help="cpu or cuda; cuda where there is one if left out")
    parser.add_argument("--time-budget", type=float, default=math.inf, help="seconds after which to stop")
    parser.add_argument("--analyse", type=Path, help="folder of results to turn into tables and figures")
    parser.add_argument(
        "--report", type=Path, help="where tables and figures go, the results' folder if left out"
    )
    given = parser.parse_args(arguments)
    try:
        if given.analyse:
            from tutelage.scaling.summary import analyse

            print(analyse(load_results(given.analyse), given.report or given.analyse))
            return 0
        if not given.suite:
            raise UserError("Give --suite to run experiments or --analyse to read results")
        import torch

        device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_float32_matmul_precision("high")
        points = [p for p in suite(given.suite) if not given.only or p.experiment in given.only]
        if not points:
            names = sorted({p.experiment for p in suite(given.suite)})
            raise UserError(f"No such experiment: {choices(given.only[0], names)}")

        def say(line: str) -> None:
            print(line, flush=True)

        complete = run_suite(points, given.out, device=device, time_budget_s=given.time_budget, report=say)
        print("complete" if complete else "incomplete: give the same command again to run what is missing")
        return 0
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
