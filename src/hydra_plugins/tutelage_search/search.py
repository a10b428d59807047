"""`hydra/sweeper=optuna`: hyperparameters proposed by Optuna, judged on validation by the task's own metric."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from tutelage.runs.run import Run

# trials: how many in all. at_a_time: proposed together, for a launcher that runs them beside each other. seed: of the proposals.
# random_trials: before the sampler learns from results. stop: "median" stops a trial that is below the median of the complete ones at the
# same step (above, where less is better), once there are `random_trials` of them; "halving" all but the best in `reduction` at each
# rung (ASHA); "never"; null: the median, or never where there are costs. cost: what is to be low beside the metric that is to be good:
# parameters, flops, latency; then there is a Pareto front in place of a best trial. params: as in a sweep, the space.
NODE = {
    "_target_": "hydra_plugins.tutelage_search.search.OptunaSweeper",
    "trials": 20,
    "at_a_time": 1,
    "seed": 0,
    "random_trials": 5,
    "stop": None,
    "reduction": 3,
    "cost": [],
    "params": {},
}
ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=NODE, provider="tutelage")


class OptunaSweeper(Sweeper):
    """Ask Optuna, run, tell. The runs are the study: proposals are a function of the seed and of earlier results, so the same
    command, given again, walks the same way over stored results and goes on; `trials` may be larger then.
    """

    def __init__(
        self,
        trials: int,
        at_a_time: int,
        seed: int,
        random_trials: int,
        stop: str | None = None,
        reduction: int = 3,
        cost: Sequence[str] | str = (),
        params: DictConfig | None = None,
    ) -> None:
        self.trials, self.at_a_time, self.seed, self.random_trials = trials, at_a_time, seed, random_trials
        self.stop, self.reduction = stop, reduction
        self.cost = cost.split(",") if isinstance(cost, str) else list(cost)
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's Sweeper."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search; see the class."""
        from tutelage.jobs.search import Search, Settings

        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parsed = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(words)
        fixed = [word for word in parsed if not word.is_sweep_override()]
        space = {word.get_key_element(): _dimension(word) for word in parsed if word.is_sweep_override()}
        settings = Settings(
            self.trials, self.at_a_time, self.seed, self.random_trials, self.stop, self.reduction, self.cost
        )
        search = Search(
            settings,
            [_word(word) for word in fixed],
            space,
            folder=self.config.hydra.sweep.dir,
            launch=self._launch,
            measure=_latency_ms if "latency" in self.cost else None,
        )
        search.run()
        if self.cost:
            from tutelage.reporting.pareto_figure import draw

            if path := draw(Path(self.config.hydra.sweep.dir) / "trials.csv"):
                logging.getLogger("tutelage").info("written: %s", path)

    def _launch(self, batch: Sequence[Sequence[str]], first: int) -> None:
        self.validate_batch_is_legal(batch)
        self.launcher.launch(batch, initial_job_idx=first)


def _latency_ms(run: Run) -> float:
    """Return the median milliseconds of one sample on one thread, measured once and kept beside the runs."""
    from tutelage.analysis.network_cost import latency_ms
    from tutelage.reporting import measured

    root = run.path.parents[len(run.key.split("/")) - 1]
    asked = {"batch": "1", "threads": "1"}
    if (found := measured.recall(root, run, "latency", asked)) is None:
        found = [{"latency_ms": latency_ms(run, root)}]
        measured.remember(root, run, "latency", asked, found)
    return float(found[0]["latency_ms"])


def _word(word: Override) -> str:
    return f"{word.get_key_element()}={word.get_value_element_as_str()}"


def _dimension(word: Override) -> dict[str, Any]:
    """Return an override's values as plain data: {choices} or {low, high, step, log, whole}."""
    value: Any = word.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return {"low": value.start, "high": value.end, "step": None, "log": log, "whole": whole}
    if isinstance(value, RangeSweep):
        points = list(value.range())
        whole = all(isinstance(point, int) for point in points)
        low, high = (points[0], points[-1]) if whole else (float(points[0]), float(points[-1]))
        return {
            "low": low,
            "high": high,
            "step": value.step if whole else float(value.step),
            "log": log,
            "whole": whole,
        }
    return {"choices": list(word.sweep_string_iterator())}
