"""Points as runs of the store: each is identified, locked, recorded and continued like any other run."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.runs import provenance
from tutelage.runs.run import Run
from tutelage.runs.store import Store
from tutelage.scaling.critical_samples import critical_samples
from tutelage.scaling.grid import Point, run_point, settings

log = logging.getLogger("tutelage")
HALVINGS = 2


def config_of(point: Point, *, runs_dir: str, hardware: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved configuration of a point's run; the run's name is `scale/<experiment>`."""
    return {
        "name": f"scale/{point.experiment}",
        "seed": point.seed,
        "runs_dir": runs_dir,
        "hardware": dict(hardware),
        "point": {
            "name": point.name,
            "sizes": dict(point.sizes),
            "samples": list(point.samples),
            **settings(point),
        },
    }


def run_of(config: Mapping[str, Any]) -> Run:
    """The run of a point's configuration, whether or not it exists yet."""
    return Store(config["runs_dir"]).for_config(config)


def measured(run: Run) -> dict[str, Any] | None:
    """A complete run's result in the form the analysis reads, or None."""
    return (run.result or {}).get("point") if run.is_complete else None


def run_stored(
    point: Point, config: Mapping[str, Any], *, rerun: bool = False, say: Callable[[str], None] = log.info
) -> dict[str, Any]:
    """Return a point's result: stored, if its run is complete; otherwise after running what is missing of it.

    rerun: archive the earlier attempt first. A failure is recorded with the run and passed on.
    """
    run = run_of(config)
    if not rerun and (found := measured(run)) is not None:
        return found
    with run.lock(say=say):
        if (
            not rerun and (found := measured(run)) is not None
        ):  # made by another process while this one waited
            return found
        if rerun:
            run.archive()
        device = "cuda" if config["hardware"]["accelerator"] == "gpu" else "cpu"
        run.begin(config, provenance.collect())
        try:
            result = _attempt(point, run, device, say)
        except (KeyboardInterrupt, SystemExit):
            say(f"{run.key} was interrupted: the same command continues it")
            raise
        except BaseException as error:
            trace = "" if isinstance(error, UserError) else traceback.format_exc()
            run.fail(type(error).__name__, str(error), traceback=trace)
            raise
        run.complete({**_headline(point, result), "point": result})
    return result


def _attempt(point: Point, run: Run, device: str, say: Callable[[str], None]) -> dict[str, Any]:
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
                if halved == HALVINGS or "diverged" not in str(error):
                    raise
                say(f"{run.key}: step size {tried.step_size:g} diverged, halving it")
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
