"""Points as runs of the store: planned, locked, recorded, tried again and continued like any other run."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.jobs.outcomes import Kind
from tutelage.runs.identity import identify
from tutelage.runs.needs import Plan
from tutelage.runs.run import Run
from tutelage.runs.store import Store
from tutelage.scaling.critical_samples import critical_samples
from tutelage.scaling.grid import Point, run_point, settings

log = logging.getLogger("tutelage")
HALVINGS = 2


class Diverged(UserError):
    """A point diverged at every step size that was tried: found by sampling, so that its run stays on record."""

    facts: ClassVar[dict[str, bool]] = {"began": True}


def config_of(point: Point, given: Mapping[str, Any], hardware: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved configuration of a point's run, whose name is `scale/<experiment>`.

    given: the command's own settings: `runs_dir`, `rerun`, `retry`, `on_failure`.
    hardware: of the machine, resolved.
    """
    return {
        "name": f"scale/{point.experiment}",
        "seed": point.seed,
        **{key: given[key] for key in ("runs_dir", "rerun", "retry", "on_failure")},
        "hardware": dict(hardware),
        "point": {
            "name": point.name,
            "sizes": dict(point.sizes),
            "samples": list(point.samples),
            **settings(point),
        },
    }


def plan_of(config: dict[str, Any]) -> Plan:
    """Return the plan of a point's configuration: it needs no other run."""
    return Plan(config=config, name=str(config["name"]), identity=identify(config))


def run_of(config: Mapping[str, Any]) -> Run:
    """The run of a point's configuration, whether or not it exists yet."""
    return Store(config["runs_dir"]).for_config(config)


def measured(run: Run) -> dict[str, Any] | None:
    """A complete run's result in the form the analysis reads, or None."""
    return (run.result or {}).get("point") if run.is_complete else None


def kind_of(point: Point) -> Kind:
    """Return how a point's run is made and its result read."""

    def value(result: dict[str, Any]) -> float:
        return float(np.mean(result["point"]["alignment"]))

    return Kind(
        functools.partial(sample, point), lambda result: f"{point.name}: {line(result['point'])}", value
    )


def run_stored(point: Point, config: dict[str, Any], *, rerun: bool = False) -> dict[str, Any]:
    """Return a point's result: stored, if its run is complete; otherwise after running what is missing of it, as `launch.run_plan` does."""
    return dict(run_plan(plan_of(config), rerun=rerun, make=functools.partial(sample, point))["point"])


def sample(point: Point, config: dict[str, Any], run: Run) -> None:
    """Make a point's run complete."""
    grid = f"P {point.samples[0]} to {point.samples[-1]}"
    log.info(f"{run.key} {point.name}: {point.members} networks, {grid}")
    result = _attempt(point, run, "cuda" if config["hardware"]["accelerator"] == "gpu" else "cpu")
    run.complete({**_headline(point, result), "point": result})


def line(result: Mapping[str, Any]) -> str:
    """Return a result in a line: P* with its interval, or why there is none."""
    try:
        critical = critical_samples(result["samples"], result["alignment"])
    except UserError as error:
        return str(error)
    interval = (
        f"{critical.low:.0f} to {critical.high:.0f}"
        if critical.low == critical.low
        else "one draw, no interval"
    )
    return f"P* = {critical.value:.0f} ({interval}), {result['seconds']:.0f} s"


def _attempt(point: Point, run: Run, device: str) -> dict[str, Any]:
    # A step size that diverges is halved, at twice the steps: the same time in the units of the dynamics. The state's file
    # names the attempt it belongs to.
    files = [run.path / "checkpoints" / f"halved-{halved}.safetensors" for halved in range(HALVINGS + 1)]
    first = max((halved for halved, file in enumerate(files) if file.exists()), default=0)
    with run.writer() as writer:
        for halved in range(first, HALVINGS + 1):
            factor = 2**halved
            tried = dataclasses.replace(point, step_size=point.step_size / factor, steps=point.steps * factor)
            try:
                return run_point(
                    tried, device=device, checkpoint=files[halved], progress=_recorder(tried, writer)
                )
            except UserError as error:
                files[halved].unlink(missing_ok=True)
                if "diverged" not in str(error):
                    raise
                if halved == HALVINGS:
                    raise Diverged(str(error)) from error
                log.info("%s: step size %g diverged, halving it", run.key, tried.step_size)
    raise AssertionError("unreachable")


def _recorder(point: Point, writer: Any) -> Callable[[int, list[float]], None]:
    def record(step: int, alignments: list[float]) -> None:
        writer.truncate_after(step - 1)  # of an interrupted attempt, or of one at a larger step size
        values = {f"alignment/P={p}": a for p, a in zip(point.samples, alignments, strict=True)}
        writer.write({"step": step, **values})
        writer.flush()

    return record


def _headline(point: Point, result: Mapping[str, Any]) -> dict[str, Any]:
    # What lists and reports of runs show: P*, where the curve crosses.
    shown: dict[str, Any] = {"cost": {"train_s": result["seconds"], "steps": result["settings"]["steps"]}}
    try:
        critical = critical_samples(result["samples"], result["alignment"]).value
    except UserError:
        return shown
    best = {"step": result["settings"]["steps"], "test": {"critical_samples": critical}}
    return {**shown, "best": best, "selection": {"monitor": "critical_samples", "mode": "min"}}


def results_of(configs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Run]]:
    """The results of complete runs, and the runs that are not complete."""
    runs = [run_of(config) for config in configs]
    found = [measured(run) for run in runs]
    return [f for f in found if f is not None], [r for r, f in zip(runs, found, strict=True) if f is None]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The results in a folder's `results.json`.

    Raises:
        UserError: when there is none, or it holds something else.
    """
    from tutelage.runs.records import read_json

    path = folder / "results.json" if folder.is_dir() else folder
    if not path.is_file():
        raise UserError(
            f"no results under {folder}: expected a file results.json, as `tutelage scale measure` writes it"
        )
    found = read_json(path)
    needed = {"experiment", "sizes", "samples", "alignment", "settings"}
    if (
        not isinstance(found, list)
        or not found
        or not all(isinstance(r, dict) and needed <= set(r) for r in found)
    ):
        raise UserError(
            f"{path} holds no results of points: expected a list of mappings with {', '.join(sorted(needed))}"
        )
    return found
