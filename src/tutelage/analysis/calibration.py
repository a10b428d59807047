"""Whether probabilities mean what they say: calibration, temperature scaling and selective prediction."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import literal
from tutelage.analysis.opening import between, on_other, opened
from tutelage.engine.shared_work import shared
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.reporting.palette import canvas, save, style
from tutelage.reporting.statistics import bounds_of, summarize
from tutelage.tasks import Binary, Classification

BINS = 15
DRAWS = 1000


@dataclass(frozen=True)
class Calibration:
    """Of one network on one split.

    ece: expected calibration error; low, high: its 95 % bootstrap interval over samples. after: the same error at `temperature`, which was
    learnt on validation. nll, nll_after: mean negative log likelihood in nats. aurc: area under the risk-coverage curve.
    risk_at_80: share of errors among the 80 % of samples with the highest confidence.
    """

    n: int
    accuracy: float
    ece: float
    low: float
    high: float
    temperature: float
    after: float
    nll: float
    nll_after: float
    aurc: float
    risk_at_80: float

    def __str__(self) -> str:
        """A line of what matters."""
        return (
            f"ECE {self.ece:.3f}, 95 % over samples {between(self.low, self.high)}; at the temperature {self.temperature:.3f} learnt on "
            f"validation {self.after:.3f}; errors {1 - self.accuracy:.3f}, of the surest 80 % {self.risk_at_80:.3f}"
        )


@torch.inference_mode()
def logits_of(network: FrozenNetwork, task: Any, batches: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, classes) and classes (n,) of all samples that count. Raises UserError for other tasks."""
    if not isinstance(task, Classification | Binary):
        raise UserError(f"calibration needs data with one class for each sample, got a task of {task.name}")
    parts = [*shared(batches, lambda batch: task.select(network(batch.inputs, batch.mask), batch))]
    logits, targets = (torch.cat([part[i].cpu() for part in parts]) for i in (0, 1))
    return logits.double().numpy(), targets.numpy()


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return probabilities (n, classes)."""
    return torch.from_numpy(logits / temperature).softmax(1).numpy()


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Return the bin (n,) of each confidence: `BINS` of equal width, ((k / BINS), (k + 1) / BINS]."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def expected_error(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the expected calibration error: the mean over samples of |accuracy - confidence| of their bin (Guo et al. 2017, equation 3).

    weights: (n,) how often each sample counts; None: once.
    """
    counts = np.ones(len(right)) if weights is None else weights
    gaps = np.bincount(bins_of(confidence), weights=counts * (right - confidence), minlength=BINS)
    return float(np.abs(gaps).sum() / counts.sum())


def interval(confidence: np.ndarray, right: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the expected calibration error over samples."""
    generator, n = np.random.default_rng(seed), len(right)
    draws = [
        expected_error(
            confidence, right, np.bincount(generator.integers(n, size=n), minlength=n).astype(float)
        )
        for _ in range(DRAWS)
    ]
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def nll(logits: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log likelihood at a temperature, in nats."""
    log_p = torch.from_numpy(logits / temperature).log_softmax(1).numpy()
    return float(-log_p[np.arange(len(targets)), targets].mean())


def temperature_of(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature in [0.01, 100] of the least negative log likelihood, by which logits are divided (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    # convex in 1 / T, so with one minimum in log T
    found = minimize_scalar(
        lambda log_t: nll(logits, targets, float(np.exp(log_t))),
        bounds=(np.log(0.01), np.log(100)),
        method="bounded",
    )
    return float(np.exp(found.x))


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the share of errors among the k most confident samples, for k = 1 ... n (ties in the order of the samples)."""
    wrong = 1.0 - right[np.argsort(-confidence, kind="stable")]
    return np.asarray(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))


@torch.inference_mode()
def outside_logits(network: FrozenNetwork, task: Any, batches: Any) -> np.ndarray:
    """Return logits (n, classes) on inputs of another kind, whose targets are not looked at. task: the network's own."""
    logits = torch.cat([*shared(batches, lambda batch: network(batch.inputs, batch.mask).cpu())])
    return (F.pad(logits, (1, 0)) if isinstance(task, Binary) else logits).double().numpy()


def scores(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores (n,) that are high for inputs of the training kind: the largest softmax (Hendrycks and Gimpel 2017), and minus the
    energy (Liu et al. 2020).
    """
    return {"max_softmax": softmax(logits).max(1), "energy": torch.from_numpy(logits).logsumexp(1).numpy()}


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return how often the score of an inside sample is above that of an outside one; ties count half."""
    ordered = np.sort(outside)
    below, upto = (np.searchsorted(ordered, inside, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(outside)))


def calibration(
    validation: tuple[np.ndarray, np.ndarray], judged: tuple[np.ndarray, np.ndarray]
) -> Calibration:
    """Return all numbers of one network; the temperature is learnt on `validation` alone."""
    logits, targets = judged
    p, t = softmax(logits), temperature_of(*validation)
    right, confidence = (p.argmax(1) == targets).astype(float), p.max(1)
    risk = risk_coverage(confidence, right)
    return Calibration(
        len(targets),
        float(right.mean()),
        expected_error(confidence, right),
        *interval(confidence, right),
        t,
        expected_error(softmax(logits, t).max(1), right),
        nll(logits, targets),
        nll(logits, targets, t),
        float(risk.mean()),
        float(risk[max(0, round(0.8 * len(risk)) - 1)]),
    )


def draw(found: Mapping[str, Sequence[tuple[float, np.ndarray, np.ndarray]]], path: Path) -> None:
    """Write the reliability diagrams, a panel for each arm, and the risk-coverage curves; means over runs, with their 95 % interval.

    found: for each arm its runs, each (ece, confidence, right answers (n,)).
    """
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = canvas(9.6, 2.5 * rows + 3.6)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.5 * rows, 3.6)).ravel()
    panels = upper.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    axes = lower.subplots()
    for number, (panel, (arm, runs)) in enumerate(zip(panels, found.items(), strict=False)):
        colour, dashes = style(number)
        binned = [_reliability(confidence, right) for _, confidence, right in runs]
        over = [summarize([one[k] for one in binned if k in one], bounds=(0.0, 1.0)) for k in range(BINS)]
        there = [((k + 0.5) / BINS, one) for k, one in enumerate(over) if one.n]
        held = np.concatenate([bins_of(confidence) for _, confidence, _ in runs])
        shares = [np.mean(held == k) for k, one in enumerate(over) if one.n]
        xs, means = [x for x, _ in there], [one.mean for _, one in there]
        panel.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
        panel.plot(xs, means, "-", color=colour, linewidth=0.8)
        panel.scatter(xs, means, s=[6 + 70 * share for share in shares], color=colour, zorder=3)
        panel.vlines(
            xs, [one.low for _, one in there], [one.high for _, one in there], color=colour, linewidth=1
        )
        error = sum(ece for ece, _, _ in runs) / len(runs)
        many = f", n = {len(runs)}" if len(runs) > 1 else ""
        panel.set_title(f"{textwrap.fill(literal(arm), 34)}\ncalibration error {error:.3f}{many}", fontsize=8)
        share = np.linspace(0.01, 1, 100)
        risks = [risk_coverage(confidence, right) for _, confidence, right in runs]
        mean = np.mean(
            [np.interp(share, np.arange(1, len(one) + 1) / len(one), one) for one in risks], axis=0
        )
        axes.plot(share, mean, dashes, color=colour, linewidth=1.2, label=literal(arm))
    for panel in panels[len(found) :]:
        panel.axis("off")
    upper.supxlabel("confidence", fontsize=8)
    upper.supylabel("accuracy", fontsize=8)
    upper.suptitle(
        f"Reliability in {BINS} bins of confidence: the dotted line is calibrated; area: share of samples; bars: 95 % over runs",
        fontsize=9,
    )
    axes.set(xlabel="share of samples answered, the surest first", ylabel="share of errors; lower is better")
    axes.set_title("Selective prediction, mean over runs", fontsize=9)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for one in (*panels, axes):
        one.grid(alpha=0.25, linewidth=0.6)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=7)
    save(figure, path)


def _reliability(confidence: np.ndarray, right: np.ndarray) -> dict[int, float]:
    """Return the accuracy in each bin of confidence that has samples."""
    place = bins_of(confidence)
    return {int(k): float(right[place == k].mean()) for k in np.unique(place)}


def outcome(request: Request) -> Outcome:
    """Calibration, temperature scaling and selective prediction of every network."""
    rows, lines = [], []
    shown: dict[str, list[tuple[float, np.ndarray, np.ndarray]]] = {}
    arms: dict[str, list[float]] = {}
    for subject in request.subjects:
        network, data, batches = opened(subject, request)
        device = request.options["device"]
        validation = logits_of(network, data.task, data.batches("validation", device=device))
        judged = logits_of(network, data.task, batches)
        found = calibration(validation, judged)
        row = {"network": subject.label, "arm": subject.arm, "seed": subject.seed, **asdict(found)}
        lines.append(f"{subject.label}: {found}")
        if other := request.options["other"]:
            seen, _, theirs = on_other(network, data, request)
            outside = outside_logits(seen, data.task, theirs)
            inside = scores(judged[0])
            aurocs = {name: auroc(inside[name], value) for name, value in scores(outside).items()}
            row |= {f"auroc_{name}": value for name, value in aurocs.items()}
            shares = ", ".join(f"{name} {value:.3f}" for name, value in aurocs.items())
            lines.append(f"  told from {other}, area under the ROC curve: {shares}")
        rows.append(row)
        arms.setdefault(subject.arm, []).append(found.ece)
        p = softmax(judged[0])
        shown.setdefault(subject.arm, []).append(
            (found.ece, p.max(1), (p.argmax(1) == judged[1]).astype(float))
        )
    for arm, values in arms.items():
        if len(values) > 1:
            over = summarize(values, bounds=bounds_of("share"))
            lines.append(
                f"{arm}: mean ECE {over.mean:.3f}, 95 % over {over.n} runs {between(over.low, over.high)}"
            )
    return lines, {"bins": BINS}, rows, lambda path: draw(shown, path)
