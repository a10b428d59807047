"""The picture of guidance: how similar every layer becomes to the guide's, step by step, one arm beside another, and the metric.

As a figure (the end of training) and as an animation, in which training goes on. A plain network is watched with the schedule
`from` beyond its last step: the alignment is recorded and gives no gradient (`experiment=demo/plain-watched`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.analysis.alignment_curves import pairs_of
from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import literal
from tutelage.analysis.opening import method_of, monitored
from tutelage.errors import UserError
from tutelage.reporting.palette import PALETTE, RAMP, canvas, save
from tutelage.reporting.quantities import clipped, direction, spoken
from tutelage.reporting.statistics import summarize
from tutelage.runs.layer_pairs import LayerPairs
from tutelage.runs.records import replacing

MOST_ARMS = 4
MOST_FRAMES = 60
FRAME_MS = 110
REST_MS = 2500
"""How long the last picture of the animation stays."""
_MOST_NAMED = 24


@dataclass(frozen=True)
class Arm:
    """What is drawn of an arm.

    label: its name. runs: how many it has. pairs: the layer pairs' names. steps, values: (pairs, steps), the mean over runs.
    metric: name, and (step, mean, low, high) of its validation metric.
    """

    label: str
    runs: int
    pairs: tuple[str, ...]
    steps: tuple[int, ...]
    values: np.ndarray
    metric: tuple[str, tuple[tuple[int, float, float, float], ...]]


def arm_of(
    label: str,
    runs: Sequence[tuple[LayerPairs, Sequence[Mapping[str, Any]]]],
    metric: str,
    scale: float = 1.0,
) -> Arm:
    """Return an arm of its runs' (layer pairs, rows). Raises UserError where the runs do not have the same pairs or no common step."""
    first = runs[0][0]
    if any(one.pairs != first.pairs for one, _ in runs):
        raise UserError(
            f"the runs of {label} have different layer pairs: name runs that differ in their seed alone"
        )
    steps = sorted(set.intersection(*(set(one.steps) for one, _ in runs)))
    if not steps:
        raise UserError(f"the runs of {label} were recorded at different steps")
    values = np.mean(
        [[[row[one.steps.index(step)] for step in steps] for row in one.values] for one, _ in runs], axis=0
    )
    key = f"validation/{metric}"
    at: dict[int, list[float]] = {}
    for _, rows in runs:
        for row in rows:
            if isinstance(value := row.get(key), int | float) and math.isfinite(value):
                at.setdefault(int(row["step"]), []).append(scale * value)
    curve = []
    for step in sorted(at):
        found = summarize(at[step])
        low, high = (
            found.mean if math.isnan(end) else clipped(end, key, scale) for end in (found.low, found.high)
        )
        curve.append((step, found.mean, low, high))
    return Arm(label, len(runs), tuple(first.names), tuple(steps), values, (metric, tuple(curve)))


def draw(arms: Sequence[Arm], path: Path) -> list[Path]:
    """Write the figure to a path (PNG), and the animation beside it (WebP); return both."""
    picture = _Picture(arms, dpi=150)
    picture.show(max(arm.steps[-1] for arm in arms))
    save(picture.figure, path)
    return [path, animate(arms, path.with_suffix(".webp"))]


def animate(arms: Sequence[Arm], path: Path) -> Path:
    """Write the animation: training from its first recorded step to its last, in at most MOST_FRAMES pictures."""
    from PIL import Image

    picture = _Picture(arms, dpi=96)
    steps = sorted({step for arm in arms for step in arm.steps})
    chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, MOST_FRAMES).round().astype(int))]
    frames = []
    for step in chosen:
        picture.show(step)
        frames.append(Image.fromarray(picture.pixels()))
    durations = [FRAME_MS if len(frames) > 20 else 2 * FRAME_MS] * (len(frames) - 1) + [REST_MS]
    try:
        with replacing(path) as temporary:
            frames[0].save(
                temporary,
                format="WEBP",
                save_all=True,
                append_images=frames[1:],
                duration=durations,
                loop=0,
                quality=85,
                method=4,
            )
    except OSError as error:
        raise UserError(f"cannot write the animation {path}: {error.strerror or error}") from error
    return path


def edges(steps: Sequence[int]) -> list[int]:
    """Return where the column of each step begins and ends: it ends at its step, and the first is as wide as the second."""
    return [2 * steps[0] - steps[1] if len(steps) > 1 else steps[0] - 1, *steps]


class _Picture:
    """One figure whose parts are moved from step to step."""

    def __init__(self, arms: Sequence[Arm], *, dpi: int) -> None:
        import matplotlib

        self.arms = arms
        rows = max(len(arm.pairs) for arm in arms)
        self.figure = canvas(
            3.0 * len(arms) + 4.4, min(7.0, max(3.6, 1.6 + 0.17 * min(rows, _MOST_NAMED))), dpi=dpi
        )
        *maps, right = self.figure.subplots(1, len(arms) + 1, width_ratios=[1.0] * len(arms) + [1.1])
        low = min(0.0, math.floor(10 * min(np.nanmin(arm.values) for arm in arms)) / 10)
        colours = matplotlib.colormaps[RAMP].with_extremes(bad="0.93")
        self.images, self.titles = [], []
        names = arms[0].pairs
        for place, (arm, axes) in enumerate(zip(arms, maps, strict=True)):
            image = axes.pcolormesh(
                edges(arm.steps), np.arange(len(arm.pairs) + 1), arm.values, vmin=low, vmax=1, cmap=colours
            )
            axes.invert_yaxis()
            axes.set_xlabel("step")
            self.titles.append(axes.set_title("", fontsize=9))
            named = place == 0 or arm.pairs != names
            shown = arm.pairs if len(arm.pairs) <= _MOST_NAMED else ()
            if named and shown:
                axes.set_yticks(np.arange(len(shown)) + 0.5, [literal(name) for name in shown], fontsize=6.5)
            else:
                axes.set_yticks([])
                if named:
                    axes.set_ylabel(f"{len(arm.pairs)} layer pairs, input (top) to output")
            self.images.append(image)
        self.figure.colorbar(
            self.images[0], ax=maps, label="similarity to the guide's layer", shrink=0.85, pad=0.01
        )
        self.lines: list[Any] = []
        self.bands: list[Any] = []
        self.right = right
        metric = spoken(arms[0].metric[0])
        right.set(xlabel="step", ylabel=f"validation {metric}")
        right.set_title(f"What it learns{direction(arms[0].metric[0])}", fontsize=9)
        right.spines[["top", "right"]].set_visible(False)
        right.grid(alpha=0.25, linewidth=0.6)
        points = [point for arm in arms for point in arm.metric[1]]
        if points:
            ends = [value for _, mean, below, above in points for value in (mean, below, above)]
            margin = 0.04 * (max(ends) - min(ends)) or 0.05
            right.set_xlim(0, 1.02 * max(arm.steps[-1] for arm in arms))
            right.set_ylim(
                clipped(min(ends) - margin, f"validation/{arms[0].metric[0]}", math.inf), max(ends) + margin
            )
        for place, arm in enumerate(arms):
            label = f"{arm.label} (n = {arm.runs})" if arm.runs > 1 else arm.label
            self.lines.append(right.plot([], [], color=PALETTE[place], linewidth=2, label=literal(label))[0])
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False, fontsize=8)
        several = any(arm.runs > 1 for arm in arms)
        self.heading = self.figure.suptitle("", fontsize=10)
        self.said = "mean over runs; band: 95 % interval" if several else "one run each"

    def show(self, step: int) -> None:
        """Draw training up to a step."""
        for band in self.bands:
            band.remove()
        self.bands = []
        self.heading.set_text(f"Layers become like the guide's: step {step:,} ({self.said})")
        for place, (arm, image, title) in enumerate(zip(self.arms, self.images, self.titles, strict=True)):
            seen = np.where(np.array(arm.steps) <= step, arm.values, np.nan)
            image.set_array(np.ma.masked_invalid(seen))
            at = max((i for i, one in enumerate(arm.steps) if one <= step), default=0)
            title.set_text(f"{arm.label}: mean {np.nanmean(arm.values[:, at]):.2f}")
            points = [point for point in arm.metric[1] if point[0] <= step]
            self.lines[place].set_data([p[0] for p in points], [p[1] for p in points])
            if arm.runs > 1 and points:
                band = [[p[i] for p in points] for i in (0, 2, 3)]
                self.bands.append(
                    self.right.fill_between(*band, color=PALETTE[place], alpha=0.18, linewidth=0)
                )

    def pixels(self) -> np.ndarray:
        """Return the picture as (height, width, 3) bytes; from the second one on, nothing moves but what is drawn."""
        self.figure.canvas.draw()
        self.figure.set_layout_engine("none")
        return np.asarray(self.figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def outcome(request: Request) -> Outcome:
    """Layer pairs by step, one arm beside another, with the metric: a figure and an animation; loads no network."""
    runs: dict[str, list[Any]] = {}
    for subject in request.subjects:
        rows = subject.run.metrics.rows
        pairs = next(iter(pairs_of(subject.run.key, rows, method_of(subject)).values()))
        runs.setdefault(subject.arm, []).append((pairs, rows))
    if len(runs) > MOST_ARMS:
        raise UserError(
            f"guidance draws at most {MOST_ARMS} arms beside each other, got {len(runs)}: {', '.join(runs)}"
        )
    metric, _ = monitored(request.subjects[0])
    arms = [arm_of(label.rpartition("/")[2], found, metric) for label, found in runs.items()]
    table = [
        {"arm": arm.label, "pair": pair, "step": step, "similarity": float(arm.values[i, j])}
        for arm in arms
        for i, pair in enumerate(arm.pairs)
        for j, step in enumerate(arm.steps)
    ]
    return list(map(_told, arms)), {"metric": metric}, table, lambda path: draw(arms, path)


def _told(arm: Arm) -> str:
    first, last = arm.values[:, 0].mean(), arm.values[:, -1].mean()
    metric, points = arm.metric
    reached = f"; validation {metric} {points[-1][1]:.3f}" if points else ""
    over = f" (mean over {arm.runs} runs)" if arm.runs > 1 else ""
    return f"{arm.label}{over}: mean similarity {first:.3f} at step {arm.steps[0]}, {last:.3f} at step {arm.steps[-1]}{reached}"
