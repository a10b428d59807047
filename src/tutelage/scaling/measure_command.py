"""`tutelage scale measure` and `report`: a case's points as runs of the store, and the tables and figures of their results."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import UserError, choices, exit_code
from tutelage.scaling.scale_request import PRIMARY, Request, case_names

if TYPE_CHECKING:
    from tutelage.config.planner import Planner
    from tutelage.jobs.outcomes import Jobs

log = logging.getLogger("tutelage")
HARDWARE = ("accelerator", "matmul_precision", "threads")
"""The settings of `hardware` that sampling follows; the others must say one process in single precision."""
PLAIN = {"devices": 1, "num_nodes": 1, "precision": "32-true", "compile": False}


def run(request: Request) -> int:
    """Run the command; return its exit code."""
    if request.verb == "report":
        return report(request)
    if "-m" in request.flags:
        return sweep(request)
    points = planned(request)
    if "--dry" in request.flags:
        return show_points(points)
    from tutelage.jobs.outcomes import Jobs

    jobs = Jobs.new(points[0][1]["runs_dir"])
    words = [*(request.layers or request.cases), *request.overrides]
    do_points(jobs, points, words)
    return finish_jobs(request, jobs, points[0][1]["runs_dir"])


def do_points(jobs: Jobs, points: Sequence[tuple[Any, dict[str, Any]]], words: Sequence[str]) -> list[float]:
    """Do points as jobs of a command, one after the other; return the mean alignment of each, NaN where it failed."""
    from tutelage.scaling.stored import kind_of, plan_of

    return [
        jobs.do(functools.partial(plan_of, config), words=words, kind=kind_of(point))
        for point, config in points
    ]


def finish_jobs(request: Request, jobs: Jobs, root: str) -> int:
    """Report on the points that are done, and list those that failed; return the exit code."""
    from tutelage.jobs.notes import Outcome
    from tutelage.runs.store import Store
    from tutelage.scaling.stored import measured

    done = [note.key for note in jobs.notes() if note.outcome is Outcome.DONE]
    results = [found for key in done if (found := measured(Store(root).at(key))) is not None]
    results.sort(key=lambda r: (r["experiment"], list(r["sizes"].values()), r["settings"]["seed"]))
    finish(request, results, root)
    return jobs.close()


def planned(request: Request) -> list[tuple[Any, dict[str, Any]]]:
    """Return (point, configuration of its run) for every point of the cases."""
    return [part for case in request.cases for part in points_of(request.config(case))]


def points_of(config: Mapping[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Return the points of one resolved configuration, each with the configuration of its run."""
    hardware = hardware_of(config["hardware"])
    from tutelage.engine.instantiate import construct
    from tutelage.scaling.grid import Point
    from tutelage.scaling.stored import config_of

    node = dict(config["measure"])
    if isinstance(node.get("layers"), list):
        from tutelage.scaling.predict_command import built

        node["layers"], arguments = built({**config["predict"]})
        node["scales"] = {name: str(power) for name, power in arguments["scales"].items()}
    _check(node)
    points = construct("measure", node)
    if not isinstance(points, list) or not points or not all(isinstance(point, Point) for point in points):
        raise UserError(
            f"measure._target_={node['_target_']} makes no points; see tutelage.scaling.cases.two_layer"
        )
    for point in points:
        if len(point.samples) < 2:
            raise UserError(
                f"measure.factors leave P = {point.samples[0]} alone at {point.name}, and no crossing lies at one P: give more, "
                "or larger, factors"
            )
    return [(point, config_of(point, config, hardware)) for point in points]


def _check(node: Mapping[str, Any]) -> None:
    # A case passes on to its points what it does not name itself, so their fields are checked here.
    from tutelage.engine.instantiate import parameters_of, resolve
    from tutelage.scaling.grid import Point
    from tutelage.typed import checked

    named = parameters_of(resolve(node["_target_"], "measure"))[0]
    hints = typing.get_type_hints(Point)
    for key, value in node.items():
        if key == "_target_" or key in named:
            continue
        if key not in hints:
            raise UserError(f"there is no setting 'measure.{key}'; {choices(key, [*named, *hints])}")
        checked(f"measure.{key}", value, hints[key])


def hardware_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a point's run needs of the `hardware` section, with `auto` resolved, and set the threads."""
    for key, value in PLAIN.items():
        if given.get(key, value) != value:
            raise UserError(
                f"scale measure runs in one process in single precision: hardware.{key} must be {value}, got {given[key]}"
            )
    kept = {key: given[key] for key in (*HARDWARE, *PLAIN)}
    import torch

    from tutelage.engine.cpu import prepare_cpu

    if kept["accelerator"] == "auto":
        kept["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if kept["accelerator"] not in ("cpu", "gpu"):
        raise UserError(
            f"scale measure runs on hardware.accelerator cpu, gpu or auto, got {kept['accelerator']}"
        )
    if kept["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise UserError("hardware.accelerator=gpu, but this machine has no CUDA device: use hardware=cpu")
    prepare_cpu(kept["threads"])
    torch.set_float32_matmul_precision(kept["matmul_precision"])
    return kept


def show_points(points: Sequence[tuple[Any, dict[str, Any]]]) -> int:
    """Print what a command would run, and what of it is stored."""
    from tutelage.reporting.console import console, plain_table
    from tutelage.scaling.stored import run_of

    rows = [
        {
            "run": (run := run_of(config)).key,
            "sizes": ", ".join(f"{name} = {value:g}" for name, value in point.sizes.items()),
            "P": " ".join(map(str, point.samples)),
            "networks": str(point.members),
            "parameters": str(point.network.size),
            "steps": str(point.steps),
            "state": str(run.state),
        }
        for point, config in points
    ]
    console().print(plain_table(rows))
    return 0


def sweep(request: Request) -> int:
    """Run the jobs of a sweep through its launcher, then report on all of its points."""
    from tutelage.config import compose
    from tutelage.config.planner import Planner
    from tutelage.config.sweeps import expand
    from tutelage.jobs.outcomes import Jobs
    from tutelage.jobs.sweep import launcher_of

    launch, words = launcher_of([f"scale={','.join(request.cases)}", *request.overrides], 1)
    keywords = getattr(launch, "keywords", {})
    if "processes" not in keywords:
        raise UserError("scale measure runs on this machine: hydra/launcher=local, or processes=N")
    processes = keywords["processes"]
    commands = [command.words for command in expand(compose.readable(words, PRIMARY))]
    planner = Planner(PRIMARY)
    root = planner.compose([word for word in words if word.startswith("runs_dir=")])["runs_dir"]
    jobs = Jobs.new(root)
    made = [(words, functools.partial(_job, jobs, planner, words)) for words in commands]
    if processes == 1:
        for _, job in made:
            job()
    else:
        jobs.fork([(words, None, job) for words, job in made], processes)
    return finish_jobs(request, jobs, root)


def _job(jobs: Jobs, planner: Planner, words: Sequence[str]) -> float:
    """Do the points of one job of a sweep; return their mean alignment."""
    from tutelage.jobs.launch import first_line
    from tutelage.jobs.notes import Outcome

    try:
        points = points_of(planner.compose(words))
    except Exception as error:  # of the words, not of a point
        key = " ".join(words)
        log.error("%s failed: %s", key, error)
        jobs.note(key, Outcome.FAILED, first_line(error), exit_code(error) == 2, words=words)
        return float("nan")
    found = do_points(jobs, points, words)
    return sum(found) / len(found)


def report(request: Request) -> int:
    """Report on what is stored of the cases, or on the results of folders."""
    from tutelage.scaling.stored import read_results, results_of

    results, configs, root = [], [], "runs"
    for what in request.cases:
        if what in case_names() or request.layers:
            configs += [config for _, config in points_of(request.config(what))]
        elif os.sep in what or Path(what).exists():
            if request.overrides:
                raise UserError(
                    f"the results under {what} are as they are: {request.overrides[0]} cannot change them"
                )
            results += read_results(Path(what))
        else:
            raise UserError(f"there is no case or folder '{what}'; {choices(what, case_names())}")
    if configs:
        root = configs[0]["runs_dir"]
        stored, missing = results_of(configs)
        results += stored
        for run in missing:
            log.info("%s: %s", run.key, run.state)
        if not results:
            asked = request.layers or request.cases
            words = shlex.join([*asked, *request.settings])
            raise UserError(
                f"nothing of {' '.join(asked)} is stored in {root}: run `tutelage scale measure {words}` first"
            )
    return finish(request, results, root)


def finish(request: Request, results: list[dict[str, Any]], root: str) -> int:
    """Write and print tables and figures of the results; return the exit code."""
    if not results:
        return 0
    from tutelage.reporting.console import console, plain_table
    from tutelage.runs.records import write_text
    from tutelage.scaling.summary import analyse

    folder = _folder(request, results, root)
    folder.mkdir(parents=True, exist_ok=True)
    tables = analyse(results, folder)
    if Path(request.cases[0]) != folder:
        write_text(folder / "results.json", results_text(results))
    for name, rows in tables.items():
        console().print(plain_table(rows, name.replace("_", " ")))
    print(f"written: {folder}: results.json, verdicts.md, verdicts.csv, critical_samples.csv and figures")
    return 0


def results_text(results: Sequence[Mapping[str, Any]]) -> str:
    """Return results as JSON, one a line, so that a change of one shows as a change of one line."""
    import json

    return "[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n"


def _folder(request: Request, results: Sequence[Mapping[str, Any]], root: str) -> Path:
    if request.options.get("out"):
        return Path(request.options["out"]).expanduser()
    experiments = {result["experiment"] for result in results}
    folder = Path(root) / "scale"
    if len(experiments) > 1:
        return folder
    folder /= experiments.pop()
    # Networks that commands describe share an experiment: each has a folder of its own.
    return folder / f"{request.label}{request.digest}" if request.layers else folder
