"""One run as reports see it. `collect` reads it from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage.reporting.facts import TestData
from tutelage.runs.run import State


@dataclass(frozen=True)
class Row:
    """One run as a report sees it.

    `inputs` maps dotted keys of what enters the identity (needed runs spelled out under `needs.<name>.`) to
    JSON text; the seed is apart. `metrics` maps "<split>/<metric>" to the value of the checkpoint chosen on
    validation.
    """

    key: str
    name: str
    seed: int
    state: State
    inputs: Mapping[str, str]
    metrics: Mapping[str, float]
    monitor: str | None = None
    mode: str | None = None
    directions: Mapping[str, str] = field(default_factory=dict)
    best_step: int | None = None
    reason: str = ""
    commits: tuple[str, ...] = ()
    started: str = ""
    finished: str = ""
    train_s: float | None = None
    machine: str = ""
    needs: tuple[str, ...] = ()
    tested_on: TestData | None = None
    step: int | None = None
    """The last one that is recorded, of `steps`."""
    steps: int | None = None
    so_far: float | None = None
    """Of a run that is not complete, the best value of `monitor` on validation."""
    folds: int = 0
    """Of how many folds this is the mean; 0: it is one run."""
    by_fold: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    words: tuple[str, ...] | None = None
    """Of the command; None in old records."""

    @property
    def value(self) -> float | None:
        """The metric that selects: on test, of a run that is not complete the best on validation so far."""
        return self.metrics.get(f"test/{self.monitor}", self.so_far)
