"""The jobs of a sweep, through a launcher: a list of commands, or what a search proposes."""

from __future__ import annotations

import functools
import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import UserError, counted, gist
from tutelage.jobs.outcomes import Jobs, is_stored
from tutelage.runs.needs import Plan
from tutelage.runs.run import Run
from tutelage.runs.store import Store

if TYPE_CHECKING:
    from tutelage.config.planner import Planner

log = logging.getLogger("tutelage")
NAMED = 50
"""Of a sweep of more jobs, what is stored is counted, not named."""
SAY_EVERY_S = 10.0
CLUSTERS = ("tutelage.jobs.cluster", "tutelage.jobs.ray_cluster")
"""The launchers that submit jobs."""
PLACES = ("runs_dir=", "sweep=")
"""The words that say where the runs of a sweep are; its jobs say the rest."""
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")

Launch = Callable[[Jobs, Sequence[Sequence[str]], Mapping[tuple[str, ...], Plan]], None]
"""Does the jobs of commands; those whose plan is known already come with it."""


def run_search(
    words: Sequence[str],
    settings: Mapping[str, Any],
    launch: Launch,
    planner: Planner,
    measure: Callable[[Run], float] | None = None,
) -> Jobs:
    """Run the jobs that a search proposes; return them, none of which is busy any more.

    words: what every trial has, and what is searched.
    settings: of the search, see `tutelage.config.hydra_choices`.
    measure: from a complete run to its network's latency in milliseconds, for `cost=[latency]`.
    """
    from tutelage.config.compose import hydra_ready
    from tutelage.config.sweeps import space_of
    from tutelage.jobs.search import Search, Settings

    with hydra_ready():
        fixed, space = space_of(words)
        jobs = Jobs.new(planner.compose([word for word in words if word.startswith(PLACES)])["runs_dir"])

        def do(commands: Sequence[Sequence[str]], plans: Sequence[Plan | None]) -> None:
            known = {
                tuple(words): plan for words, plan in zip(commands, plans, strict=True) if plan is not None
            }
            launch(jobs, commands, known)
            jobs.finish_busy()  # who searches needs the value now

        cost = settings["cost"]
        asked = Settings(**{**settings, "cost": cost.split(",") if isinstance(cost, str) else cost})
        Search(asked, fixed, space, folder=jobs.folder, launch=do, planner=planner, measure=measure).run()
    return jobs


def run_commands(
    commands: Sequence[Sequence[str]], launch: Launch, runs_dir: str, plan: Callable[[Sequence[str]], Plan]
) -> tuple[Jobs, list[Plan | None]]:
    """Run the commands of a sweep; return their jobs, none of which is busy any more, and the plan of each (None: it has none).

    plan: from a command to its plan.

    Raises:
        UserError: no command can be planned, for one and the same reason.
    """
    from tutelage.config.compose import hydra_ready

    with hydra_ready():
        plans, mistakes = plans_of(commands, plan)
        if len(set(map(gist, mistakes))) == 1 and len(mistakes) == len(commands):
            raise UserError(mistakes[0])
        announce(plans, launch)
        jobs = Jobs.new(runs_dir)
        known = {tuple(words): plan for words, plan in zip(commands, plans, strict=True) if plan is not None}
        wrong_first = sorted(
            commands, key=lambda words: tuple(words) in known
        )  # said at once, not after hours
        launch(jobs, wrong_first, known)
        jobs.finish_busy()
    return jobs, plans


def announce(plans: Sequence[Plan | None], launch: Launch) -> None:
    """Say what a sweep will do, before anything heavy is loaded."""
    stored = sum(map(is_stored, plans))
    there = {plan.key for plan in plans if plan is not None}
    needs = {need.key: need for plan in plans if plan is not None for need in plan.prerequisites()}
    missing = [
        n
        for n in needs.values()
        if n.key not in there and not Store(n.config["runs_dir"]).at(n.key).is_complete
    ]
    more = f", and {counted(len(missing), 'run')} that they need" if missing else ""
    log.info(
        "%s, %d stored%s%s", counted(len(plans), "run"), stored, more, at_a_time(launch, len(plans) - stored)
    )


def at_a_time(launch: Launch, jobs: int) -> str:
    """Return ", 2 at a time" of so many jobs; nothing of fewer than two, or where a cluster decides."""
    if jobs < 2 or not isinstance(launch, functools.partial) or launch.func is not _run:
        return ""
    from tutelage.jobs.parallel import cores

    processes = launch.keywords["processes"]
    if processes is None and any(Path(device).exists() for device in _GPU_DEVICES):
        return ", as many at a time as there are GPUs"  # counting them takes torch
    return f", {min(processes or cores(), jobs)} at a time"


def plans_of(
    commands: Sequence[Sequence[str]], plan: Callable[[Sequence[str]], Plan]
) -> tuple[list[Plan | None], list[str]]:
    """Return the plan of each command, None where it has none, and the mistakes that these have."""
    plans: list[Plan | None] = []
    mistakes: list[str] = []
    for words in walked(commands, "planned"):
        try:
            plans.append(plan(words))
        except UserError as error:
            plans.append(None)
            mistakes.append(str(error))
    return plans, mistakes


def walked(commands: Sequence[Sequence[str]], done: str) -> Iterator[Sequence[str]]:
    """Yield the commands, and say now and then how many are done."""
    said = time.monotonic()
    for number, words in enumerate(commands):
        if time.monotonic() - said > SAY_EVERY_S:
            log.info("%s: %s of %s commands", done, f"{number:,}", f"{len(commands):,}")
            said = time.monotonic()
        yield words


def launcher_of(words: Sequence[str], processes: int | None) -> tuple[Launch, list[str]]:
    """Return how to do the jobs of commands, and the words that do not say so.

    processes: how many at a time where the words do not say; None: one per device or core.
    """
    gpu_memory_gb = None
    counts = [word.partition("=")[2] for word in words if word.startswith("processes=")]
    chosen = [word for word in words if word.startswith(("hydra/launcher=", "hydra.launcher."))]
    rest = [word for word in words if word not in chosen and not word.startswith("processes=")]
    if others := [word for word in rest if word.startswith(("hydra.", "hydra/"))]:
        raise UserError(
            f"{others[0]}: of Hydra's own a sweep takes hydra/launcher and hydra.launcher.<setting>"
        )
    if counts and any(not word.startswith("hydra.launcher.") for word in chosen):
        raise UserError(f"processes={counts[-1]} and {chosen[0]} are two launchers: give one of them")
    if counts and not (counts[-1].isdigit() and int(counts[-1]) >= 1):
        raise UserError(f"processes must be a whole number of at least 1, got {counts[-1]!r}")
    if counts:
        processes = int(counts[-1])
    file = [word for word in rest if word.startswith("sweep=")]
    if chosen or file:
        from tutelage.config.compose import of_hydra
        from tutelage.jobs.parallel import check_processes

        of_file = of_hydra(file, "launcher")["_target_"].startswith("tutelage.") if file else False
        if chosen and not of_file and not any(word.startswith("hydra/launcher=") for word in chosen):
            chosen = ["hydra/launcher=local", *chosen]
        options = of_hydra([*file, *chosen], "launcher")
        if (kind := options.pop("_target_")) in CLUSTERS:
            return functools.partial(_submit, module=kind, options=options), rest
        check_processes(options.get("processes"))
        gpu_memory_gb = options.get("gpu_memory_gb")
        processes = processes if counts else options.get("processes", 1)
    return functools.partial(_run, processes=processes, gpu_memory_gb=gpu_memory_gb), rest


def _run(
    jobs: Jobs,
    commands: Sequence[Sequence[str]],
    plans: Mapping[tuple[str, ...], Plan],
    *,
    processes: int | None,
    gpu_memory_gb: float | None = None,
) -> None:
    from tutelage.jobs.parallel import check_processes

    check_processes(processes)
    jobs.gpu_memory_gb = gpu_memory_gb
    say = log.info if len(commands) <= NAMED else log.debug
    missing = [
        words
        for words in walked(commands, "looked up")
        if jobs.take(plans.get(tuple(words)), words, say=say) is None
    ]
    if say == log.debug and (stored := len(commands) - len(missing)):
        log.info(
            "%s of %s runs are complete: their stored results are used", f"{stored:,}", f"{len(commands):,}"
        )
    jobs.run_all(missing, processes, plans=plans)


def _submit(
    jobs: Jobs,
    commands: Sequence[Sequence[str]],
    plans: Mapping[tuple[str, ...], Plan],
    *,
    module: str,
    options: dict[str, Any],
) -> None:
    wanted = [
        (words, plans.get(tuple(words))) for words in commands
    ]  # who plans a job that has none says why
    submit = importlib.import_module(module).submit
    submit(jobs, [(list(words), plan, is_stored(plan)) for words, plan in wanted], options)
