"""The stages of a programme on this machine: which of them can be done, what each misses, and how long that takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.cli.speed import Speed, alone
from tutelage.errors import UserError
from tutelage.reporting.programme_file import Programme, Stage
from tutelage.reporting.tables import finder, unfinished
from tutelage.runs.identity import identify, is_need
from tutelage.runs.needs import Plan
from tutelage.runs.records import read_json
from tutelage.runs.store import Store
from tutelage.runs.words import joined

PlanOf = Callable[[Sequence[str]], Plan]
"""From a command to its plan."""


@dataclass
class Work:
    """A stage on this machine: what it misses, and how many seconds each of it takes, about (NaN: not known)."""

    stage: Stage
    words: tuple[str, ...]
    missing: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds that are left to do; what is not known counts as nothing."""
        return math.fsum(seconds for _, seconds in self.missing if seconds == seconds)

    @property
    def value(self) -> float:
        """Worth per minute."""
        return self.stage.worth / max(self.seconds, 1.0)


def works_of(
    programme: Programme, places: dict[str, str], extra: Sequence[str], tiny: bool, runs_dir: str
) -> tuple[list[Work], dict[str, str]]:
    """Return what can be done here, and why the rest cannot."""
    found, left_out = [], {}
    for stage in programme.stages:
        if lacking := [name for name in stage.needs if name not in places]:
            left_out[stage.label] = f"give {lacking[0]}=<{programme.places[lacking[0]]}>"
        elif stage.gpu and not tiny and not _gpu():
            left_out[stage.label] = "needs a GPU, and this machine has none"
        else:
            words = [word.format(**places) for word in stage.words]
            try:
                if stage.table:
                    _, table = stage.read_table()
                    stage = replace(stage, seeds=table.seeds[:1]) if tiny else stage
                elif _done(stage, runs_dir):
                    continue
            except UserError as error:
                left_out[stage.label] = str(error)
                continue
            found.append(
                Work(stage, tuple(joined(joined(words, extra), stage.tiny if tiny and stage.table else ())))
            )
            if tiny and stage.command:
                found[-1].words = stage.tiny or ("-c", "pass")
    return found, left_out


def _gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def planner(tiny: bool) -> PlanOf:
    """Return what plans a command, each once; in a rehearsal a run needs no other one, whose settings would not be small."""
    from tutelage.config.planner import Planner

    plans: dict[tuple[str, ...], Plan] = {}
    plan_of = Planner()

    def planned(words: Sequence[str]) -> Plan:
        if tuple(words) not in plans:
            plan = plan_of(words)
            plans[tuple(words)] = _alone(plan) if tiny else plan
        return plans[tuple(words)]

    return planned


def _alone(plan: Plan) -> Plan:
    config = alone(plan.config)
    if is_need(config["data"].get("root")):
        raise UserError("its data are made by another run, which a rehearsal leaves out")
    return Plan(config=config, name=config["name"], identity=identify(config))


def missing(work: Work, plan_of: PlanOf) -> list[tuple[str, ...]]:
    """Return the commands of the runs that a stage misses, the first seed of every arm first."""
    _, table = work.stage.read_table()
    cells = unfinished(table, finder(list(work.words), plan_of))
    order = {seed: place for place, seed in enumerate(table.seeds)}
    return [
        (*cell.overrides, *work.words) for cell in sorted(cells, key=lambda cell: order.get(cell.seed, 0))
    ]


def timed(work: Work, plan_of: PlanOf, speed: Speed) -> list[tuple[tuple[str, ...], float]]:
    """Fill in what a stage with a table misses, each with about how many seconds it takes; return it."""
    planned: set[str] = set()
    work.missing = [
        (command, _seconds(plan_of(command), speed, planned)) for command in missing(work, plan_of)
    ]
    return work.missing


def measured(works: Sequence[Work], plan_of: PlanOf, speed: Speed, left_out: dict[str, str]) -> list[Work]:
    """Fill in what is missing of each stage and how long it takes; return those that miss something, the most worth per minute first."""
    found = []
    for work in works:
        try:
            if work.stage.command:
                work.missing = [(work.words or work.stage.command, 60 * work.stage.minutes)]
            else:
                timed(work, plan_of, speed)
        except UserError as error:
            left_out[work.stage.label] = str(error).splitlines()[0]
            continue
        if work.missing:
            found.append(work)
    return sorted(found, key=lambda work: -work.value)


def _seconds(plan: Plan, speed: Speed, planned: set[str]) -> float:
    """Return how long a run takes with those that it needs and nobody makes before. planned: keys of these; added to."""
    store = Store(plan.config["runs_dir"])
    ahead = [p for p in plan.prerequisites() if p.key not in planned and not store.at(p.key).is_complete]
    planned.update(p.key for p in ahead)
    return math.fsum(speed.seconds(one) for one in [*ahead, plan])


def note_path(stage: Stage, runs_dir: str) -> Path:
    """Return the file that says how a stage that is a command ended."""
    return Path(runs_dir).expanduser() / "reproduce" / f"{stage.label.replace(' ', '-')}.json"


def _done(stage: Stage, runs_dir: str) -> bool:
    path = note_path(stage, runs_dir)
    return path.is_file() and read_json(path).get("exit_code") == 0
