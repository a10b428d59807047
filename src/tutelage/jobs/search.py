"""A search: trials proposed by Optuna, run by a launcher, judged on validation. The runs are the study; there is no other store."""

from __future__ import annotations

import csv
import logging
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tutelage.errors import UserError, choices, counted, extra
from tutelage.jobs.outcomes import headline, run_of
from tutelage.runs.needs import Plan
from tutelage.runs.records import replacing
from tutelage.runs.run import Run, State
from tutelage.runs.store import Store
from tutelage.typed import Range, checked

if TYPE_CHECKING:
    from tutelage.config.planner import Planner

log = logging.getLogger("tutelage")


COUNTED = {"parameters": "parameters", "flops": "operations"}
"""Costs that every run records of its network, by their names there."""
COSTS = (*COUNTED, "latency")
STOPS = ("median", "halving", "never")
Measure = Callable[[Run], float]
"""From a complete run to the latency of its network in milliseconds: remembered, or a search given again walks another way."""


@dataclass(frozen=True)
class Settings:
    """How to search; see `tutelage.config.hydra_choices`."""

    trials: int
    at_a_time: int
    seed: int
    random_trials: int
    stop: str | None = None
    reduction: int = 3
    cost: Sequence[str] = ()

    def __post_init__(self) -> None:
        counts = (("trials", 1), ("at_a_time", 1), ("seed", 0), ("random_trials", 1), ("reduction", 2))
        for name, least in counts:
            checked(f"hydra.sweeper.{name}", getattr(self, name), Annotated[int, Range(least)])
        if self.stop is not None and self.stop not in STOPS:
            raise UserError(f"hydra.sweeper.stop={self.stop} is not known; {choices(str(self.stop), STOPS)}")
        for name in self.cost:
            if name not in COSTS:
                raise UserError(f"hydra.sweeper.cost has no '{name}'; {choices(str(name), COSTS)}")
        if self.cost and self.stop not in (None, "never"):
            raise UserError(
                f"hydra.sweeper.stop={self.stop} would give up the small networks that hydra.sweeper.cost looks for: leave one of them out"
            )

    @property
    def stops(self) -> str:
        """What is done with hopeless trials."""
        return self.stop or ("never" if self.cost else "median")


@dataclass
class Trial:
    """A proposal and what became of it. curve: the best validation metric so far, by step. costs: as `Settings.cost` names them."""

    number: int
    values: dict[str, Any]
    plan: Plan | None
    words: list[str]
    asked: Any = None
    state: str = "failed"
    metric: float = float("nan")
    curve: dict[int, float] | None = None
    key: str = ""
    test: float = float("nan")
    costs: tuple[float, ...] = ()


class Search:
    """Propose, run, learn.

    words: the fixed overrides of every trial. space: {key: dimension}, a dimension being {choices} or {low, high, step, log, whole}.
    folder: where the trials' table goes. launch: runs a batch of commands, given their plans.
    measure: needed where latency is among the costs.
    """

    def __init__(
        self,
        settings: Settings,
        words: Sequence[str],
        space: Mapping[str, Mapping[str, Any]],
        *,
        folder: Path,
        launch: Callable[[Sequence[Sequence[str]], Sequence[Plan | None]], None],
        planner: Planner,
        measure: Measure | None = None,
    ) -> None:
        if not space:
            raise UserError(
                "a search needs something to search: give a setting several values, such as 'model.depth=range(2,9)', "
                "'optimizer.lr=tag(log,interval(1e-4,1e-1))' or model=fcn,convnet"
            )
        self.settings, self.words, self.space = settings, list(words), dict(space)
        self.folder, self.launch, self.planner, self.measure = folder, launch, planner, measure
        self.done: list[Trial] = []

    def run(self) -> None:
        """Do all trials, say which is best, and write `trials.csv`."""
        optuna = _optuna()
        first = [f"{key}={_first(dimension)}" for key, dimension in self.space.items()]
        self.monitor, self.mode = objective(self.planner.compose([*self.words, *first]))
        sampler = optuna.samplers.TPESampler(
            seed=self.settings.seed,
            n_startup_trials=self.settings.random_trials,
            constant_liar=self.settings.at_a_time > 1,
        )
        better = "maximize" if self.mode == "max" else "minimize"
        study = optuna.create_study(
            sampler=sampler, directions=[better, *("minimize" for _ in self.settings.cost)]
        )
        while len(self.done) < self.settings.trials:
            count = min(self.settings.at_a_time, self.settings.trials - len(self.done))
            asked = [study.ask() for _ in range(count)]
            batch = [self._propose(trial) for trial in asked]
            # What is known of a trial that was stopped under the same conditions needs no process.
            missing = [trial for trial in batch if not self._look(trial) and trial.state != "stopped"]
            if missing:
                self.launch([trial.words for trial in missing], [trial.plan for trial in missing])
            for trial, one in zip(batch, asked, strict=True):
                self._look(trial)
                self._tell(study, one, trial)
                self.done.append(trial)
        self.report()

    def _propose(self, trial: Any) -> Trial:
        values = {key: suggest(trial, key, dimension) for key, dimension in self.space.items()}
        words = [*self.words, *(f"{key}={value}" for key, value in values.items())]
        asked = self._thresholds()
        if asked:
            words.append("fit.stop_below=[" + ",".join(f"[{step},{value!r}]" for step, value in asked) + "]")
        try:
            plan = self.planner(words)
        except UserError:
            plan = None  # its own job says what is wrong
        return Trial(trial.number, values, plan, words, asked=asked)

    def _thresholds(self) -> list[list[float]]:
        complete = [trial for trial in self.done if trial.state == "complete"]
        if self.settings.stops == "never" or not complete:
            return []
        # The last step is left out: who has come there is evaluated.
        steps = sorted(set.intersection(*(set(trial.curve or {}) for trial in complete)))[:-1]
        if self.settings.stops == "halving":
            return self._rungs(steps)
        if len(complete) < self.settings.random_trials:
            return []
        return [[step, statistics.median((t.curve or {})[step] for t in complete)] for step in steps]

    def _rungs(self, steps: Sequence[int]) -> list[list[float]]:
        """Of all trials that came to a rung the best in `reduction` go on (ASHA: Li et al. 2020, arXiv 1810.05934, without its promotions:
        who was stopped stays so). Rungs lie at the steps from which `reduction` times as many lead to the next, up to the whole.
        """
        factor, found = self.settings.reduction, []
        curves = [trial.curve or {} for trial in self.done]
        length = max((max(curve) for curve in curves if curve), default=0)
        while length >= factor * min(steps, default=math.inf):
            length //= factor
            rung = max(step for step in steps if step <= length)
            values = sorted((curve[rung] for curve in curves if rung in curve), reverse=self.mode == "max")
            if len(values) >= factor:
                found.append([rung, values[math.ceil(len(values) / factor) - 1]])
        return sorted(found)

    def _look(self, trial: Trial) -> bool:
        """Read what the trial's run has; say whether it is complete."""
        if trial.plan is None:
            return False
        run = run_of(trial.plan)
        trial.key, state = run.key, run.state
        trial.curve = self._curve(run)
        if state is State.COMPLETE:
            best = (run.result or {})["best"]
            trial.state, trial.metric = "complete", float(best["validation"][self.monitor])
            trial.test = float(best["test"][self.monitor])
            trial.costs = tuple(self._cost(name, run) for name in self.settings.cost)
            return True
        failure = (run.failure or {}) if state is State.FAILED else {}
        stopped = failure.get("error") == "StoppedBelow" and failure.get("asked") == trial.asked
        trial.state = "stopped" if stopped else "failed"
        trial.metric = float(failure["value"]) if stopped else float("nan")
        return False

    def _cost(self, name: str, run: Run) -> float:
        if name in COUNTED:
            found = (run.result or {}).get("networks", {}).get("model", {}).get(COUNTED[name])
            return float("nan") if found is None else float(found)
        assert self.measure is not None
        return self.measure(run)

    def _curve(self, run: Run) -> dict[int, float]:
        better = max if self.mode == "max" else min
        curve: dict[int, float] = {}
        best: list[float] = []
        for row in run.metrics.rows:
            value = row.get(f"validation/{self.monitor}")
            if value is not None and value == value:
                best = [better([*best, value])]
                curve[int(row["step"])] = best[0]
        return curve

    def _tell(self, study: Any, asked: Any, trial: Trial) -> None:
        from optuna.trial import TrialState

        for step, value in (trial.curve or {}).items() if not self.settings.cost else ():
            asked.report(value, step)
        if trial.state == "complete" and all(map(math.isfinite, (trial.metric, *trial.costs))):
            study.tell(asked, [trial.metric, *trial.costs])
        else:
            study.tell(asked, state=TrialState.PRUNED if trial.state == "stopped" else TrialState.FAIL)
        shown = ", ".join(f"{key}={value}" for key, value in trial.values.items())
        judged = f"{self.monitor} {trial.metric:.4g} on validation{self._said(trial)}"
        log.info(f"trial {trial.number}: {shown}: {judged} ({trial.state})")

    def report(self) -> None:
        """Say which trial is best, or with costs which are on the Pareto front, and write all of them to `trials.csv`."""
        complete = [
            trial for trial in self.done if trial.state == "complete" and trial.metric == trial.metric
        ]
        front = pareto([self._signed(trial) for trial in complete])
        on_front = {trial.number for trial, there in zip(complete, front, strict=True) if there}
        with replacing(self.folder / "trials.csv") as part, part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["trial", *self.space, "state", f"validation/{self.monitor}", f"test/{self.monitor}", "run",
                 *self.settings.cost, *(["pareto"] if self.settings.cost else [])]
            )  # fmt: skip
            for t in self.done:
                costs = [f"{cost:.6g}" for cost in t.costs] or [""] * len(self.settings.cost)
                marked = ["yes" if t.number in on_front else "no"] if self.settings.cost else []
                writer.writerow(
                    [t.number, *t.values.values(), t.state, t.metric, t.test, t.key, *costs, *marked]
                )
        trials, written = counted(len(self.done), "trial"), self.folder / "trials.csv"
        log.info("%s, %d complete; written: %s", trials, len(complete), written)
        if not complete:
            log.error("no trial is complete, so there is no best one")
            return
        if self.settings.cost:
            log.info(
                "no trial is better than these in one thing without being worse in another (validation):"
            )
            best_of = {
                t.key: t for t in reversed(complete) if t.number in on_front
            }  # the first trial of a run
            for trial in sorted(best_of.values(), key=lambda t: t.costs):
                words = " ".join(f"{key}={value}" for key, value in trial.values.items())
                judged = f"{self.monitor} {trial.metric:.4g}{self._said(trial)}"
                log.info(f"  trial {trial.number}: {judged}: {words}")
            return
        best = (max if self.mode == "max" else min)(complete, key=lambda trial: trial.metric)
        assert best.plan is not None
        result = Store(best.plan.config["runs_dir"]).at(best.key).result or {}
        words = " ".join(f"{key}={value}" for key, value in best.values.items())
        log.info("best on validation: trial %d, %s: %s\n  %s", best.number, best.key, headline(result), words)

    def _signed(self, trial: Trial) -> tuple[float, ...]:
        """What a trial is judged by, all of it the less the better."""
        return (-trial.metric if self.mode == "max" else trial.metric, *trial.costs)

    def _said(self, trial: Trial) -> str:
        names = zip(self.settings.cost, trial.costs, strict=False)
        return "".join(f", {name} {value:.4g}{' ms' if name == 'latency' else ''}" for name, value in names)


def pareto(values: Sequence[Sequence[float]]) -> list[bool]:
    """Say of every point whether no other is at most as large in everything and smaller in something. NaN: never on the front."""
    known = [all(map(math.isfinite, one)) for one in values]
    return [
        fine and not any(
            there and all(b <= a for a, b in zip(one, other, strict=True)) and any(b < a for a, b in zip(one, other, strict=True))
            for other, there in zip(values, known, strict=True)
        )
        for one, fine in zip(values, known, strict=True)
    ]  # fmt: skip


def objective(config: dict[str, Any]) -> tuple[str, str]:
    """Return what the task of a command is judged by: its metric's name, and "max" or "min"."""
    from tutelage.engine.data_sets import build_data

    data = build_data(config)
    return data.task.monitor, data.task.mode


def suggest(trial: Any, key: str, dimension: Mapping[str, Any]) -> Any:
    """Ask Optuna for a value of one dimension."""
    if "choices" in dimension:
        return trial.suggest_categorical(key, dimension["choices"])
    low, high, step, logarithmic = (dimension[name] for name in ("low", "high", "step", "log"))
    if dimension["whole"]:
        return trial.suggest_int(key, low, high, step=step or 1, log=logarithmic)
    return trial.suggest_float(key, low, high, step=step, log=logarithmic)


def _first(dimension: Mapping[str, Any]) -> Any:
    return dimension["choices"][0] if "choices" in dimension else dimension["low"]


def _optuna() -> Any:
    with extra("search", "hydra/sweeper=optuna needs Optuna"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
