"""Whether answers hold: under common corruptions at five severities, and under attacks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.alignment.guides import FeatureGuide
from tutelage.analysis.analysis_request import Outcome, Request, Subject
from tutelage.analysis.attack_suite import ATTACKS, Suite, budget_of, chosen
from tutelage.analysis.opening import between, opened, over_runs, whole
from tutelage.engine.shared_work import agreed, is_first, shared
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.reporting.measured import recall, remember
from tutelage.reporting.quantities import direction
from tutelage.reporting.statistics import bounds_of, summarize
from tutelage.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from tutelage.robustness.pixels import Pixels
from tutelage.robustness.typos_and_gaps import missing, typos
from tutelage.tasks import Batch, Binary, Classification

MEAN = "corruptions"
"""The condition that is the mean over all others that are corruptions."""
Rows = list[dict[str, Any]]


def outcome(request: Request) -> Outcome:
    """Accuracy under corruptions and attacks of every network, each measured once: what was found before is read again."""
    lines: list[str] = []
    table: Rows = []
    for subject in request.subjects:
        root = Path(request.options["runs_dir"])
        rows = None if subject.role else agreed(recall(root, subject.run, "robustness", request.asked))
        if rows is None:
            rows = measure(subject, request)
            if not subject.role and is_first():  # at once, so that a command that is stopped goes on here
                remember(root, subject.run, "robustness", request.asked, rows)
        rows = [{**row, "network": subject.label, "arm": subject.arm, "seed": subject.seed} for row in rows]
        lines += said(subject.label, rows)
        table += rows
    return lines + over_arms(table), {}, table, lambda path: draw(table, path)


def measure(subject: Subject, request: Request) -> Rows:
    """Return the rows of one network: a condition each, with the accuracy and its interval. Raises UserError for what cannot be changed."""
    network, data, batches = opened(subject, request, samples=whole("samples", request.options, 1000))
    if isinstance(network.network, FeatureGuide):
        raise UserError(f"{type(network.network).__name__} is a rule: it has features and no answers")
    every = list(batches)
    if (
        every[0].inputs.is_floating_point()
        and every[0].inputs.ndim == 4
        and isinstance(data.task, Classification | Binary)
    ):
        found = _of_images(subject.label, network, data, every, request)
    else:
        if (attacks := request.options["attacks"]) not in ("", "none"):
            _refuse_attack(attacks, every[0], data.task)
        found = _of_others(network, data, every, request)
    return [{"network": subject.label, "arm": subject.arm, "seed": subject.seed, **row} for row in found]


def _refuse_attack(attacks: str, batch: Batch, task: Any) -> None:
    if not batch.inputs.is_floating_point():
        what = "these data are tokens, of which no small change exists"
    elif not isinstance(task, Classification | Binary):
        what = f"a task of {task.name} has no wrong class to reach"
    else:
        what = f"these inputs, {tuple(batch.inputs.shape[1:])} per sample, have no range"
    raise UserError(
        f"attacks={attacks} change pixels of images with one class each, and {what}: say attacks=none"
    )


def classifier(network: FrozenNetwork, pixels: Pixels, task: Any) -> Any:
    """Return the function from pixels (n, channels, height, width) in [0, 1] to logits (n, classes), with a gradient."""

    def logits(images: Tensor) -> Tensor:
        output = network.differentiable(pixels.normalised(images))
        return task.select(output, Batch(images, torch.zeros(len(images)), torch.zeros(len(images))))[0]

    return logits


def _of_images(
    label: str, network: FrozenNetwork, data: Any, batches: Sequence[Batch], request: Request
) -> Rows:
    """Corruptions and attacks on images."""
    kinds = chosen("corruptions", request.options, tuple(CORRUPTIONS))
    wanted = request.options["attacks"] or "all"
    names = chosen("attacks", {"attacks": wanted}, ATTACKS)
    budget = budget_of(request.options)
    pixels = Pixels(data.normalization, batches[0].inputs)
    batch = _counted(batches)
    suite = Suite(
        classifier(network, pixels, data.task),
        pixels.of(batch.inputs).clamp(0, 1),
        batch.targets,
        batch.index,
        budget,
    )
    clean = suite.right(suite.pixels)
    rows = [_row("clean", clean)]
    total = torch.zeros(len(clean), device=clean.device)

    def of_one(change: tuple[str, int]) -> Tensor:
        parts = [
            corrupted(p, *change, i)
            for p, i in zip(suite.pixels.split(500), suite.index.split(500), strict=True)
        ]
        return suite.right(torch.cat(parts))

    changes = list(itertools.product(kinds, SEVERITIES))
    for (kind, severity), right in zip(changes, shared(changes, of_one, clean.device), strict=True):
        total += right
        rows.append(_row(f"{kind}_{severity}", right, severity=severity))
    if kinds:
        over = summarize((total / (len(kinds) * len(SEVERITIES))).tolist(), bounds=(0.0, 1.0))
        rows.append(
            {"condition": MEAN, "n": over.n, "accuracy": over.mean, "low": over.low, "high": over.high}
        )
    if names:
        found = suite.run(names)
        rows += [
            _row(name, right, epsilon=budget.epsilon, norm=budget.norm)
            for name, right in found.items()
            if name != "clean"
        ]
        rows += [
            {"condition": f"check: {check.name}", "holds": check.holds, "detail": check.detail}
            for check in suite.checks(found)
        ]
    return rows


def _of_others(network: FrozenNetwork, data: Any, batches: Sequence[Batch], request: Request) -> Rows:
    """Typos in texts, missing values in series and tables; of what is no class, the monitored metric."""
    tokens = not batches[0].inputs.is_floating_point()
    entries = getattr(data, "entries", None) or []
    if tokens and (len(entries) < 3 or data.level not in ("word", "character")):
        raise UserError(
            "typos are made in words or characters, and these data have none: texts with a target and level=word or character have"
        )
    kind = "typos" if tokens else "missing values"

    def changed(batch: Batch, severity: int) -> Batch:
        if severity == 0:
            return batch
        if tokens:
            real = torch.ones_like(batch.inputs, dtype=torch.bool) if batch.mask is None else batch.mask
            words = data.level == "word"
            return batch._replace(
                inputs=typos(batch.inputs, real, severity, batch.index, entries=entries, words=words)
            )
        return batch._replace(inputs=missing(batch.inputs, severity, batch.index))

    task, classes = data.task, isinstance(data.task, Classification | Binary)

    def of_one(severity: int) -> dict[str, Any]:
        name = "clean" if severity == 0 else f"{kind.replace(' ', '_')}_{severity}"
        metrics = task.metrics().to(batches[0].inputs.device)
        right: list[Tensor] = []
        for batch in batches:
            seen = changed(batch, severity)
            output = network(seen.inputs, seen.mask)
            metrics.update(output, batch)
            if classes:
                logits, targets = task.select(output, batch)
                right.append(logits.argmax(1) == targets)
        more = {"severity": severity} if severity else {}
        if classes:
            return _row(name, torch.cat(right), **more)
        count = sum(len(batch.inputs) for batch in batches)
        return {"condition": name, "n": count, task.monitor: metrics.compute()[task.monitor], **more}

    rows: Rows = list(shared((0, *SEVERITIES), of_one))
    key = "accuracy" if classes else task.monitor
    rows.append(
        {"condition": MEAN, "n": rows[0]["n"], key: sum(row[key] for row in rows[1:]) / len(SEVERITIES)}
    )
    return rows


def _counted(batches: Sequence[Batch]) -> Batch:
    """Return the samples that count as one batch."""
    kept = [slice(None) if b.target_mask is None else b.target_mask for b in batches]
    return Batch(*(torch.cat([part[keep] for part, keep in zip(parts, kept, strict=True)]) for parts in (
        [b.inputs for b in batches], [b.targets for b in batches], [b.index for b in batches],
    )))  # fmt: skip


def _row(condition: str, right: Tensor, **more: Any) -> dict[str, Any]:
    """Return the row of a condition: the accuracy with its 95 % Wilson interval over samples."""
    n, share = len(right), float(right.double().mean())
    low, high = wilson(share, n)
    return {"condition": condition, **more, "n": n, "accuracy": share, "low": low, "high": high}


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval of a share of n (Wilson 1927), 95 % at the usual z."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # of a share of 0 or 1 the interval ends there, but for rounding
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def said(label: str, rows: Rows) -> list[str]:
    """Return what is printed of one network: the conditions that are no single corruption, and what does not hold of the attacks."""
    lines = []
    of = {row["condition"]: row for row in rows}
    metric = next(key for key in of["clean"] if key not in ("network", "arm", "seed", "condition", "n"))
    for row in rows:
        if "severity" in row or "holds" in row:
            continue
        where = f" (95 % over {row['n']} samples {between(row['low'], row['high'])})" if "low" in row else ""
        size = f" {row['norm']} {row['epsilon']:.4g}" if "norm" in row else ""
        lines.append(f"{label}: {row['condition']}{size}: {metric} {row[metric]:.3f}{where}")
    checks = [row for row in rows if "holds" in row]
    for row in checks:
        verdict = "holds" if row["holds"] else "DOES NOT HOLD"
        lines.append(f"  {row['condition'].removeprefix('check: ')}: {verdict} ({row['detail']})")
    if any(not row["holds"] for row in checks):
        lines.append(
            "  accuracies under attack of this network are upper bounds: give more steps=, restarts= or queries="
        )
    return lines


def over_arms(table: Rows) -> list[str]:
    """Return a line for each arm of several runs and each condition that is no single corruption."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in table):
        own = [row for row in table if row["arm"] == arm and "severity" not in row and "accuracy" in row]
        for condition in dict.fromkeys(row["condition"] for row in own):
            values = [row["accuracy"] for row in own if row["condition"] == condition]
            if len(values) > 1:
                over = summarize(values, bounds=bounds_of("accuracy"))
                lines.append(f"{arm}: {condition} accuracy {over.mean:.3f}{over_runs(over)}")
    return lines


_SPOKEN = {"fgsm": "FGSM", "pgd": "PGD", "apgd": "APGD", "square": "Square", "strong": "APGD or\nSquare"}


def draw(table: Rows, path: Path) -> None:
    """Write a figure: the mean over corruptions by severity, and every condition that is no single corruption, by arm."""
    from tutelage.analysis.drawing import literal
    from tutelage.reporting.palette import canvas, save, style

    metric = next(key for key in table[0] if key not in ("network", "arm", "seed", "condition", "n"))
    arms: Mapping[str, Rows] = {
        arm: [row for row in table if row["arm"] == arm and metric in row]
        for arm in dict.fromkeys(row["arm"] for row in table)
    }
    conditions = list(
        dict.fromkeys(row["condition"] for rows in arms.values() for row in rows if "severity" not in row)
    )
    figure = canvas(10.0, 2.6 + max(2.4, 0.075 * len(arms) * len(conditions)))
    left, right = figure.subplots(1, 2)
    for number, (arm, rows) in enumerate(arms.items()):
        colour, dashes = style(number)
        by_severity = [[row[metric] for row in rows if row.get("severity", 0 if row["condition"] == "clean" else None) == s]
                       for s in (0, *SEVERITIES)]  # fmt: skip
        if all(by_severity):
            over = [summarize(values, bounds=bounds_of(metric)) for values in by_severity]
            beside = [s + 0.6 * (number - (len(arms) - 1) / 2) / len(arms) for s in range(6)]
            left.plot(
                beside,
                [one.mean for one in over],
                marker="o",
                markersize=3.5,
                linewidth=1,
                color=colour,
                linestyle=dashes,
            )
            left.vlines(
                beside, [one.low for one in over], [one.high for one in over], color=colour, linewidth=1.4
            )
        for place, condition in enumerate(conditions):
            values = [row[metric] for row in rows if row["condition"] == condition]
            at = place + 0.8 * (number - (len(arms) - 1) / 2) / max(1, len(arms))
            right.plot(values, [at] * len(values), "o", color=colour, markersize=3, alpha=0.5)
            if values:
                mean = summarize(values, bounds=bounds_of(metric))
                right.plot([mean.low, mean.high], [at, at], "-", color=colour, linewidth=1)
                right.plot([mean.mean], [at], "|", color=colour, markersize=9, markeredgewidth=2)
        right.plot([], [], "o", color=colour, label=literal(arm))
    left.set(
        xlabel="severity of the corruptions; 0: none",
        ylabel=f"{metric}{direction(metric)}",
        title="Mean over the corruptions, 95 % over runs",
    )
    right.set_yticks(range(len(conditions)), [_SPOKEN.get(one, one) for one in conditions])
    right.set_ylim(len(conditions) - 0.5, -0.5)
    right.set(xlabel=f"{metric}{direction(metric)}", title="Each run, and the mean of its arm, 95 %")
    for axes in (left, right):
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *right.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=max(1, min(4, 130 // (6 + max(map(len, arms))))),
        frameon=False,
        fontsize=7,
    )
    save(figure, path)
