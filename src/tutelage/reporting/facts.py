"""What a report reads in one run's files: a function of their content alone, so that it can be kept (`index`)."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.errors import UserError, counted
from tutelage.reporting.settings_by_section import Inputs
from tutelage.runs.declared import DECLARATIONS
from tutelage.runs.identity import canonical, flatten, without_excluded
from tutelage.runs.provenance import commits
from tutelage.runs.records import read_json
from tutelage.runs.run import Run, State


@dataclass(frozen=True)
class TestData:
    """What a run was tested on: the kind of data, its samples, and the digest that the data gave of what is asked (none, in old runs)."""

    __test__ = False  # pytest would otherwise collect the class by its name

    kind: str
    samples: str
    digest: str | None

    def is_that_of(self, other: TestData) -> bool:
        """Say whether values on the two may be compared."""
        same = self.digest == other.digest if self.digest and other.digest else self.samples == other.samples
        return self.kind == other.kind and same


@dataclass(frozen=True, slots=True)
class Settings:
    """What a report wants of a configuration: its seed, its own inputs (needed runs by their identity), the keys of needed runs by role."""

    seed: int
    inputs: Inputs
    needs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run's files say, whoever holds its lock.

    unfinished: of a run that is not complete, what to say in one of the states (`failed`, else `begun`), as (state, text).
    step, steps: the last step that is recorded, and how many there are to be.
    so_far: of a run that is not complete, the best value on validation of the metric that selects.
    words: of the command; None in old records.
    """

    settings: Settings
    complete: bool
    metrics: Mapping[str, float]
    monitor: str | None
    mode: str | None
    directions: Mapping[str, str]
    best_step: int | None
    commits: tuple[str, ...]
    started: str
    finished: str
    train_s: float | None
    machine: str
    tested_on: TestData | None
    unfinished: tuple[str, str]
    step: int | None = None
    steps: int | None = None
    so_far: float | None = None
    words: tuple[str, ...] | None = None

    def reason(self, state: State) -> str | None:
        """Say why a run in a state is not complete; None: these facts do not say it."""
        kind, text = self.unfinished
        if state in (State.COMPLETE, State.MISSING):
            return ""
        if kind != ("failed" if state is State.FAILED else "begun"):
            return None
        return text if state is State.FAILED else f"{state}{text}"


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Read a configuration."""
    inputs = {
        key: _shared_text(value) if type(value) in _SIMPLE else _text(value)
        for key, value in flatten(without_excluded(config))
        if key.rpartition(".")[2] not in DECLARATIONS  # of a `_target_`, which is there itself
    }
    inputs.pop("seed", None)
    needs = config.get("needs") or {}
    return Settings(
        seed=_seed(config),
        inputs=Inputs.of(inputs),
        needs=tuple(
            (role, entry["run"])
            for role, entry in needs.items()
            if isinstance(entry, Mapping) and "run" in entry
        ),
    )


_SIMPLE = (str, int, float, bool, type(None))


def _text(value: Any) -> str:
    return json.dumps(canonical(value), sort_keys=True)


@functools.lru_cache(2**12, typed=True)  # 1 and True are equal
def _shared_text(value: Any) -> str:
    """Return the text of a value that ten thousand runs share."""
    return _text(value)


class NoConfig(UserError):
    """There is no configuration in a run's folder, or a damaged one."""


def read_facts(run: Run, state: State) -> Facts:
    """Read a run's files. A record that holds other things than Tutelage writes raises what comes of it.

    Raises:
        NoConfig: there is no configuration.
    """
    try:
        config = run.config
    except UserError as error:
        raise NoConfig(str(error)) from error
    complete = state is State.COMPLETE
    result = (run.result or {}) if complete else {}
    setup = _setup(run)
    selection = result.get("selection") or setup.get("selection") or {}
    best, cost, attempts = result.get("best", {}), result.get("cost", {}), run.attempts
    rows = [] if complete or state is State.MISSING else run.metrics.rows
    last = rows[-1] if rows else {}
    return Facts(
        settings=settings_of(config),
        complete=complete,
        metrics=_metrics(best or result.get("metrics", {}))
        | _metrics({"best_on_test": result.get("best_on_test", {}).get("test")}),
        monitor=selection.get("monitor"),
        mode=selection.get("mode"),
        directions=_directions(selection),
        best_step=best.get("step"),
        commits=tuple(commits(attempts)),
        started=str(attempts[0].get("started", "")) if attempts else "",
        finished=str(attempts[-1].get("finished", "")) if attempts else "",
        train_s=cost.get("train_s") if complete else last.get("train_s"),
        machine=_machine(attempts[-1].get("machine", {}), config) if attempts else "",
        tested_on=_tested_on(setup, config),
        unfinished=_unfinished(run, state, last),
        step=cost.get("steps") if complete else last.get("step"),
        steps=cost.get("steps") if complete else setup.get("steps"),
        so_far=_so_far(rows, selection),
        words=_words(attempts),
    )


def _words(attempts: Sequence[Mapping[str, Any]]) -> tuple[str, ...] | None:
    words = attempts[-1].get("words") if attempts else None
    return None if words is None else tuple(map(str, words))


def _setup(run: Run) -> dict[str, Any]:
    path = run.path / "setup.json"
    return read_json(path) if path.is_file() else {}


def _so_far(rows: Sequence[Mapping[str, Any]], selection: Mapping[str, Any]) -> float | None:
    key = f"validation/{selection.get('monitor')}"
    values = [row[key] for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    if not values:
        return None
    return float(max(values) if selection.get("mode") == "max" else min(values))


def _tested_on(setup: Mapping[str, Any], config: Mapping[str, Any]) -> TestData | None:
    if not setup:
        return None
    data, given = setup.get("data") or {}, config.get("data") or {}
    kind = ", ".join(str(given[key]) for key in ("_target_", "dataset", "name") if given.get(key))
    indices = data.get("split_sha256", {}).get("test")
    samples = json.dumps([indices, data.get("fingerprint"), data.get("output_size")])
    return TestData(kind, samples, data.get("test_sha256"))


def _seed(config: Mapping[str, Any]) -> int:
    seed = config.get("seed", 0)
    return seed if isinstance(seed, int) and seed in range(2**64) else 0


def _metrics(best: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{split}/{name}": float(value)
        for split, values in best.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _directions(selection: Mapping[str, Any]) -> dict[str, str]:
    """Which way each metric is better, as the run's task said; of older runs that of the one that selected."""
    stated = selection.get("directions")
    known = {str(name): str(mode) for name, mode in stated.items()} if isinstance(stated, Mapping) else {}
    if selection.get("monitor") and selection.get("mode"):
        known[str(selection["monitor"])] = str(selection["mode"])
    return known


def _machine(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    on_cpu = (config.get("hardware") or {}).get("accelerator") == "cpu"  # a GPU beside it did nothing
    gpus = [] if on_cpu else facts.get("gpus") or []
    return f"{len(gpus)} x {gpus[0]}" if gpus else f"{facts.get('cpu', 'unknown processor')}, {cores(facts)}"


def cores(machine: Mapping[str, Any]) -> str:
    """Return how many cores a recorded machine lets be used, in words."""
    usable = machine.get("cores_usable")
    return counted(usable, "core") if isinstance(usable, int) else "? cores"


def _unfinished(run: Run, state: State, last: Mapping[str, Any]) -> tuple[str, str]:
    if state is State.FAILED:
        return "failed", _failure(run)
    if state in (State.INTERRUPTED, State.RUNNING):
        return "begun", f" at step {last['step']}" if last else ""
    return "", ""


def _failure(run: Run) -> str:
    try:
        failure = run.failure or {}
    except UserError as error:
        return str(error)
    message = str(failure.get("message", "")).strip().splitlines()
    kind = str(failure.get("error", ""))
    if kind == "StoppedBelow":  # as fit.stop_below asked: no failure
        return " ".join(message[:1]) or "stopped"
    told = [] if kind == "UserError" else [kind]  # a mistake needs no class name
    return ": ".join(["failed", *told, *message[:1]])
