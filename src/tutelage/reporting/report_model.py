"""What a report holds: arms with their values over seeds, gaps with reasons, comparisons, what a reader must know."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage.reporting.row import Row
from tutelage.reporting.statistics import Summary, bounds_of, summarize
from tutelage.reporting.verdict import Comparison, Published
from tutelage.runs.run import State


@dataclass(frozen=True)
class Line:
    """An arm of a report. Values are in the report's unit, by seed; `metric` is "<split>/<name>"."""

    label: str
    metric: str
    values: Mapping[int, float]
    gaps: Mapping[int, str]
    rows: tuple[Row, ...] = ()
    published: Published | None = None
    choice: str = ""
    """How the hyperparameters were chosen, if they were."""
    command: str = ""
    """The command that makes the arm's runs, if a table file names it."""
    scale: float = 1.0
    """What a recorded metric was multiplied with."""
    costs: Mapping[str, str] = field(default_factory=dict)
    """What the arm's network costs, in words, by column."""

    @functools.cached_property
    def summary(self) -> Summary:
        """Mean, spread, n and interval over the seeds."""
        return summarize([self.values[seed] for seed in sorted(self.values)], bounds=self.bounds)

    @property
    def bounds(self) -> tuple[float, float]:
        """What the values lie between, in the report's unit."""
        return bounds_of(self.metric, self.scale)


@dataclass(frozen=True)
class Report:
    """Everything that the Markdown, CSV, terminal and figure show."""

    title: str
    lines: tuple[Line, ...]
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str = ""
    scale: float = 1.0
    """What a recorded metric is multiplied with to be in `unit`."""
    needed: tuple[Row, ...] = ()
    """Runs that were only made because others need them."""
    sections: tuple[Report, ...] = ()
    """The same arms by further metrics."""

    @property
    def complete(self) -> int:
        """How many complete runs the lines are of."""
        return sum(row.state is State.COMPLETE for line in self.lines for row in line.rows)
