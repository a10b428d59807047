"""The overfitting gap: how much better the selected network is on what it was trained on than on what it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import direction, literal
from tutelage.analysis.opening import SPLITS, on_other, opened, over_runs
from tutelage.data.base import DataModule
from tutelage.engine.class_names import classes_apart, names_in
from tutelage.engine.load import evaluate_network
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.reporting.palette import canvas, save
from tutelage.reporting.statistics import bounds_of, summarize


@dataclass(frozen=True)
class Gap:
    """One run's metric on the three splits, without augmentation; the training targets are those it was trained on, noise included.

    network: what it is called. other: the metric on the test split of other data, where some are named.
    """

    network: str
    run: str
    seed: int
    metric: str
    mode: str
    train: float
    validation: float
    test: float
    other: float | None = None

    @property
    def gap(self) -> float:
        """Training minus test in the direction that is better: positive where the network overfits, in the metric's unit."""
        return self.train - self.test if self.mode == "max" else self.test - self.train


def gap_of(
    run: str,
    seed: int,
    result: Mapping[str, Any],
    on_train: Mapping[str, float],
    other: Mapping[str, float] | None = None,
    *,
    network: str = "",
) -> Gap:
    """Return the gap of a finished run from its result and the selected network's metrics on the training split.

    Raises UserError for a result without the metric that it was selected by.
    """
    try:
        selection, best = result["selection"], result["best"]
        metric = selection["monitor"]
        values = {split: float(best[split][metric]) for split in ("validation", "test")}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the result of {run} holds no validation and test metrics of its selected network"
        ) from error
    elsewhere = None if other is None else float(other[metric])
    return Gap(
        network, run, seed, metric, selection["mode"], float(on_train[metric]), other=elsewhere, **values
    )


def draw(arms: Mapping[str, Sequence[Gap]], path: Path) -> None:
    """Write a figure: for each named arm every run's training (open) and test (filled) metric, joined."""
    figure = canvas(7.5, 1.9 + 0.4 * len(arms))
    axes = figure.subplots()
    for place, gaps in enumerate(arms.values()):
        for number, gap in enumerate(gaps):
            height = place + 0.5 * ((number + 0.5) / len(gaps) - 0.5)
            axes.plot([gap.test, gap.train], [height] * 2, "-", color="0.7", linewidth=1, zorder=1)
            axes.plot(gap.train, height, "o", color="#D55E00", fillstyle="none", markersize=5)
            axes.plot(gap.test, height, "o", color="#0072B2", markersize=5)
        over = summarize([gap.gap for gap in gaps])
        said = f"gap {over.mean:.3g}" + (f" ({over.low:.3g} to {over.high:.3g})" if over.n > 1 else "")
        axes.annotate(said, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
    axes.plot([], [], "o", color="#D55E00", fillstyle="none", label="training")
    axes.plot([], [], "o", color="#0072B2", label="test")
    metrics = sorted({gap.metric for gaps in arms.values() for gap in gaps})
    axes.set_yticks(range(len(arms)), [literal(arm) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    modes = {gap.mode for gaps in arms.values() for gap in gaps}
    better = direction(modes)
    axes.set_xlabel(", ".join(metrics) + (f" ({better})" if better else ""))
    axes.set_title(
        "Training against test, a line for each run; the mean gap with its 95 % interval", fontsize=9
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    save(figure, path)


def outcome(request: Request) -> Outcome:
    """Metric of the selected network on the training split beside validation and test."""
    arms: dict[str, list[Gap]] = {}
    for subject in request.subjects:
        if subject.role:
            raise UserError(
                f"'{subject.label}': the gap is that of a trained network, not of its {subject.role}"
            )
        network, data, batches = opened(subject, request, split="train")
        on_train = evaluate_network(network.network, data.task, batches, request.options["device"])
        other = _elsewhere(network, data, request) if request.options["other"] else None
        found = gap_of(
            subject.run.key, subject.seed, subject.run.result or {}, on_train, other, network=subject.label
        )
        arms.setdefault(subject.arm, []).append(found)
    lines = []
    for arm, gaps in arms.items():
        low, high = bounds_of(gaps[0].metric)
        summary = summarize([found.gap for found in gaps], bounds=(low - high, high - low))
        shown = {split: [getattr(found, split) for found in gaps] for split in SPLITS}
        if name := request.options["other"]:
            shown[name] = [found.other for found in gaps]
        means = [f"{split} {sum(values) / len(gaps):.3f}" for split, values in shown.items()]
        lines.append(
            f"{arm}: {gaps[0].metric} {', '.join(means)}; gap {summary.mean:.3f}{over_runs(summary)}"
        )
    rows = [{"arm": arm, **asdict(found), "gap": found.gap} for arm, gaps in arms.items() for found in gaps]
    return lines, {}, rows, lambda path: draw(arms, path)


def _elsewhere(network: FrozenNetwork, data: DataModule, request: Request) -> dict[str, float]:
    """Metrics on the test split of the data that `other` names, whose classes must be numbered as the network's own are."""
    seen, theirs, batches = on_other(network, data, request)
    said, its, ours = request.options["other"], data.task.output_size, theirs.task.output_size
    names = names_in(data.summary()), names_in(theirs.summary())
    if its != ours or classes_apart(*names) == "order":
        raise UserError(
            f"other={said} numbers {ours} classes in its own order, the network knows {its} in theirs"
        )
    return evaluate_network(seen, theirs.task, batches, request.options["device"])
