"""A search: trials proposed by Optuna, run by a launcher, judged on validation. The runs are the study; there is no other store."""

from __future__ import annotations

import csv
import logging
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import UserError
from tutelage.jobs.outcomes import headline
from tutelage.runs.needs import Plan
from tutelage.runs.records import replacing
from tutelage.runs.run import Run, State
from tutelage.runs.store import Store

log = logging.getLogger("tutelage")


@dataclass(frozen=True)
class Settings:
    """How to search; see `hydra_plugins.tutelage_search`."""

    trials: int
    at_a_time: int
    seed: int
    random_trials: int
    stop_below_median: bool

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("at_a_time", 1), ("seed", 0), ("random_trials", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"hydra.sweeper.{name} must be a whole number of at least {least}, got {value!r}"
                )
        if not isinstance(self.stop_below_median, bool):
            raise UserError(
                f"hydra.sweeper.stop_below_median must be true or false, got {self.stop_below_median!r}"
            )


@dataclass
class Trial:
    """A proposal and what became of it. curve: the best validation metric so far, by step."""

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


class Search:
    """Propose, run, learn.

    words: the fixed overrides of every trial. space: {key: dimension}, a dimension being {choices} or {low, high, step, log, whole}.
    folder: where the trials' table goes. launch: runs a batch of commands whose first has the given number.
    """

    def __init__(
        self,
        settings: Settings,
        words: Sequence[str],
        space: Mapping[str, Mapping[str, Any]],
        *,
        folder: str,
        launch: Callable[[Sequence[Sequence[str]], int], None],
    ) -> None:
        if not space:
            raise UserError(
                "a search needs something to search: give a setting several values, such as 'model.depth=range(2,9)', "
                "'optimizer.lr=tag(log,interval(1e-4,1e-1))' or model=fcn,convnet"
            )
        self.settings, self.words, self.space = settings, list(words), dict(space)
        self.folder, self.launch = Path(folder), launch
        self.done: list[Trial] = []

    def run(self) -> None:
        """Do all trials, say which is best, and write `trials.csv`."""
        optuna = _optuna()
        first = [f"{key}={_first(dimension)}" for key, dimension in self.space.items()]
        self.monitor, self.mode = objective([*self.words, *first])
        sampler = optuna.samplers.TPESampler(
            seed=self.settings.seed,
            n_startup_trials=self.settings.random_trials,
            constant_liar=self.settings.at_a_time > 1,
        )
        study = optuna.create_study(
            sampler=sampler, direction="maximize" if self.mode == "max" else "minimize"
        )
        while len(self.done) < self.settings.trials:
            count = min(self.settings.at_a_time, self.settings.trials - len(self.done))
            asked = [study.ask() for _ in range(count)]
            batch = [self._propose(trial) for trial in asked]
            # What is known of a trial that was stopped under the same conditions needs no process.
            missing = [trial for trial in batch if not self._look(trial) and trial.state != "stopped"]
            if missing:
                self.launch([trial.words for trial in missing], missing[0].number)
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
        return Trial(trial.number, values, _plan(words), words, asked=asked)

    def _thresholds(self) -> list[list[float]]:
        complete = [trial for trial in self.done if trial.state == "complete"]
        if not self.settings.stop_below_median or len(complete) < self.settings.random_trials:
            return []
        steps = sorted(set.intersection(*(set(trial.curve or {}) for trial in complete)))
        # The last step is left out: who has come there is evaluated.
        return [[step, statistics.median((t.curve or {})[step] for t in complete)] for step in steps[:-1]]

    def _look(self, trial: Trial) -> bool:
        """Read what the trial's run has; say whether it is complete."""
        if trial.plan is None:
            return False
        run = Store(trial.plan.config["runs_dir"]).run(trial.plan.name, trial.plan.identity)
        trial.key, state = run.key, run.state
        trial.curve = self._curve(run)
        if state is State.COMPLETE:
            best = (run.result or {})["best"]
            trial.state, trial.metric = "complete", float(best["validation"][self.monitor])
            trial.test = float(best["test"][self.monitor])
            return True
        failure = (run.failure or {}) if state is State.FAILED else {}
        stopped = failure.get("error") == "StoppedBelow" and failure.get("asked") == trial.asked
        trial.state = "stopped" if stopped else "failed"
        trial.metric = float(failure["value"]) if stopped else float("nan")
        return False

    def _curve(self, run: Run) -> dict[int, float]:
        better = max if self.mode == "max" else min
        curve: dict[int, float] = {}
        for row in run.metrics.rows:
            value = row.get(f"validation/{self.monitor}")
            if value is not None and value == value:
                curve[int(row["step"])] = better([*list(curve.values())[-1:], value])
        return curve

    def _tell(self, study: Any, asked: Any, trial: Trial) -> None:
        from optuna.trial import TrialState

        for step, value in (trial.curve or {}).items():
            asked.report(value, step)
        if trial.state == "complete" and trial.metric == trial.metric:
            study.tell(asked, trial.metric)
        else:
            study.tell(asked, state=TrialState.PRUNED if trial.state == "stopped" else TrialState.FAIL)
        shown = ", ".join(f"{key}={value}" for key, value in trial.values.items())
        log.info(
            "trial %d: %s: %s %.4g on validation (%s)",
            trial.number,
            shown,
            self.monitor,
            trial.metric,
            trial.state,
        )

    def report(self) -> None:
        """Say which trial is best, and write all of them to `trials.csv`."""
        complete = [
            trial for trial in self.done if trial.state == "complete" and trial.metric == trial.metric
        ]
        with replacing(self.folder / "trials.csv") as part, part.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["trial", *self.space, "state", f"validation/{self.monitor}", f"test/{self.monitor}", "run"]
            )
            for t in self.done:
                writer.writerow([t.number, *t.values.values(), t.state, t.metric, t.test, t.key])
        log.info(
            "%d trials, %d complete; written: %s", len(self.done), len(complete), self.folder / "trials.csv"
        )
        if not complete:
            log.error("no trial is complete, so there is no best one")
            return
        best = (max if self.mode == "max" else min)(complete, key=lambda trial: trial.metric)
        assert best.plan is not None
        result = Store(best.plan.config["runs_dir"]).at(best.key).result or {}
        words = " ".join(f"{key}={value}" for key, value in best.values.items())
        log.info("best on validation: trial %d, %s: %s\n  %s", best.number, best.key, headline(result), words)


def objective(words: Sequence[str]) -> tuple[str, str]:
    """Return what the task of a command is judged by: its metric's name, and "max" or "min"."""
    from tutelage.config.compose import compose
    from tutelage.engine.build import build_data

    data = build_data(compose(words))
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


def _plan(words: Sequence[str]) -> Plan | None:
    from tutelage.config.compose import plan_of

    try:
        return plan_of(words)
    except UserError:
        return None  # its own job says what is wrong


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'tutelage[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
