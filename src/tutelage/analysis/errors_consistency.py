"""Error consistency: whether two networks err on the same samples beyond what their accuracies make inevitable.

Cohen's kappa of the two networks' rights and wrongs (Geirhos, Meding, Wichmann 2020, arXiv 2006.16736, section 2.1): 0 for errors
that fall independently, 1 for the same errors, negative for errors that avoid each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.alignment.guides import FeatureGuide
from tutelage.analysis.analysis_request import Outcome, Request
from tutelage.analysis.drawing import MOST_NUMBERED, heat_map, literal, separate
from tutelage.analysis.opening import between, opened
from tutelage.engine.shared_work import shared
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.reporting.palette import save
from tutelage.reporting.statistics import bounds_of, summarize
from tutelage.tasks import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What a network answered to m questions: predicted and true classes, (m,) each, and each question's sample, (m,)."""

    predicted: np.ndarray
    targets: np.ndarray
    index: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Which answers are right, (m,) bool."""
        return self.predicted == self.targets


@dataclass(frozen=True)
class Consistency:
    """Agreement of two networks on n questions.

    observed: share on which both are right or both wrong. expected: the same if their errors were independent. kappa: the excess,
    (observed - expected) / (1 - expected); NaN where both are right everywhere, or both wrong, which leaves
    nothing beyond chance. With one of them constant it is 0.
    standard_error, analytic: large-sample error and its interval. bootstrap: percentile interval over samples.
    """

    n: int
    accuracies: tuple[float, float]
    observed: float
    expected: float
    kappa: float
    standard_error: float
    analytic: tuple[float, float]
    bootstrap: tuple[float, float]


def error_consistency(
    first: np.ndarray, second: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Consistency:
    """Return the error consistency of two networks from their rights and wrongs, (n,) bool each, in the same order.

    level: of both intervals. The bootstrap draws samples with replacement, which for a 2 x 2 table is a multinomial draw of its
    cells; the same seed gives the same interval. Both intervals take the n samples as independent and the networks as fixed.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0:
        raise UserError(
            f"error consistency compares two lists of rights and wrongs of equal length, got {first.shape} and {second.shape}"
        )
    first, second = first.astype(bool), second.astype(bool)
    n = len(first)
    cells = np.array(
        [
            np.sum(first & second),
            np.sum(first & ~second),
            np.sum(~first & second),
            np.sum(~first & ~second),
        ],
        dtype=float,
    )
    shares = cells / n
    kappa = float(_kappa(shares))
    error = _standard_error(shares, n)
    from scipy.special import ndtri

    half = float(ndtri((1 + level) / 2)) * error
    drawn = _kappa(np.random.default_rng(seed).multinomial(n, shares, size=resamples) / n)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (math.nan, math.nan)
    return Consistency(
        n=n,
        accuracies=(float(first.mean()), float(second.mean())),
        observed=float(shares[0] + shares[3]),
        expected=float(_expected(shares)),
        kappa=kappa,
        standard_error=error,
        analytic=(max(kappa - half, -1.0), min(kappa + half, 1.0)),
        bootstrap=(float(low), float(high)),
    )


def _expected(shares: np.ndarray) -> np.ndarray:
    """Chance agreement from the shares (..., 4) of both right, first alone, second alone, both wrong."""
    one, two = shares[..., 0] + shares[..., 1], shares[..., 0] + shares[..., 2]
    return np.asarray(one * two + (1 - one) * (1 - two))


def _kappa(shares: np.ndarray) -> np.ndarray:
    expected = _expected(shares)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = (shares[..., 0] + shares[..., 3] - expected) / (1 - expected)
    return np.asarray(np.where(1 - expected > 1e-12, kappa, math.nan))


def _standard_error(shares: np.ndarray, n: int) -> float:
    """The large-sample standard error of kappa (Fleiss, Cohen, Everitt 1969, Psychological Bulletin 72, eq. 13)."""
    kappa, expected = float(_kappa(shares)), float(_expected(shares))
    if math.isnan(kappa):
        return math.nan
    table = shares.reshape(2, 2)
    rows, columns = table.sum(1), table.sum(0)
    diagonal = sum(table[i, i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in range(2))
    rest = sum(table[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in range(2))
    variance = diagonal + (1 - kappa) ** 2 * rest - (kappa - expected * (1 - kappa)) ** 2
    return math.sqrt(max(float(variance), 0.0) / n) / (1 - expected)


def answers(network: FrozenNetwork, task: Task, batches: Iterable[Batch]) -> Answers:
    """Return a network's answers over batches; of a token task one for each counted position.

    Raises UserError for a task whose answers are not right or wrong (a forecast), and for a rule, which has no answers.
    """
    import torch

    if isinstance(network.network, FeatureGuide):
        raise UserError(
            f"{type(network.network).__name__} is a rule: it has features and no answers, so no errors to compare"
        )

    def answered(batch: Batch) -> tuple[Tensor, ...]:
        chosen, true = task.select(network(batch.inputs, batch.mask), batch)
        if true.is_floating_point():
            raise UserError(
                f"errors can be compared where an answer is right or wrong; a task of {task.name} has no such"
            )
        per_sample = torch.arange(len(batch.index), device=true.device)
        if task.per_position:
            keep = batch.mask if batch.target_mask is None else batch.target_mask
            spread = per_sample.unsqueeze(1).expand_as(batch.targets)
            per_sample = spread.flatten() if keep is None else spread[keep]
        index = batch.index.to(per_sample.device)[per_sample]
        return chosen.argmax(dim=-1).cpu(), true.cpu(), index.cpu()

    with torch.inference_mode():
        parts = zip(*shared(batches, answered), strict=True)
        return Answers(*(torch.cat(part).numpy() for part in parts))


def all_pairs(runs: Mapping[str, Answers], *, level: float = 0.95) -> dict[tuple[str, str], Consistency]:
    """Return the error consistency of every two of the named answers, in their order.

    Raises UserError where two runs did not answer the same questions.
    """
    if len(runs) < 2:
        raise UserError(f"error consistency compares at least two runs, got {len(runs)}")
    names = list(runs)
    for name in names[1:]:
        check_same_questions(names[0], runs[names[0]], name, runs[name])
    return {
        (a, b): error_consistency(runs[a].correct, runs[b].correct, level=level)
        for a, b in combinations(names, 2)
    }


def check_same_questions(first: str, ours: Answers, second: str, theirs: Answers) -> None:
    """Raise UserError unless both answered the same questions in the same order."""
    same = np.array_equal(ours.index, theirs.index) and np.array_equal(ours.targets, theirs.targets)
    if not same:
        raise UserError(
            f"errors are compared on the same samples: {first} answered {len(ours.index)} questions, {second} {len(theirs.index)}, "
            "and they are not the same. Compare runs of one data set with one data.split_seed"
        )


def draw(
    pairs: Mapping[tuple[str, str], Consistency], path: Path, arms: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write the matrix of kappas as a PNG, with the numbers in its cells.

    arms: the names of each arm's runs in the order of their seeds; runs of an arm stand together, between lines.
    """
    there = list(dict.fromkeys(name for pair in pairs for name in pair))
    groups = [[name for name in names if name in there] for names in (arms or {"": there}).values()]
    names = [name for group in groups for name in group]
    values = np.full((len(names), len(names)), math.nan)
    for (a, b), found in pairs.items():
        i, j = names.index(a), names.index(b)
        values[i, j] = values[j, i] = found.kappa
    np.fill_diagonal(values, math.nan)
    label = "kappa: 0 by chance, 1 the same errors"
    figure, axes = heat_map(
        values, rows=names, columns=names, low=-1.0, high=1.0, label=label, diverging=True
    )
    separate(axes, [len(group) for group in groups])
    if (
        arms and len(names) > MOST_NUMBERED
    ):  # too many to name each: an arm at the middle of its runs, in the order of their seeds
        said = [
            f"{arm} (n = {len(group)})" if len(group) > 1 else arm
            for arm, group in zip(arms, groups, strict=True)
        ]
        middles = np.cumsum([len(group) for group in groups]) - [(len(group) + 1) / 2 for group in groups]
        axes.set_xticks(middles, [*map(literal, said)], rotation=90, fontsize=8)
        axes.set_yticks(middles, [*map(literal, said)], fontsize=8)
        axes.tick_params(length=0)
    axes.set_title("Do they err on the same samples?", fontsize=10)
    save(figure, path)


def outcome(request: Request) -> Outcome:
    """Error consistency of every two networks, and its mean over seeds for every two arms."""
    answered = {}
    for subject in request.subjects:
        network, data, batches = opened(subject, request)
        answered[subject.label] = answers(network, data.task, batches)
    pairs = all_pairs(answered)
    of = {subject.label: subject for subject in request.subjects}
    rows = [{"first": a, "second": b, **_flat(found)} for (a, b), found in pairs.items()]
    lines = [
        f"{a} | {b}: kappa {found.kappa:.3f}, 95 % over samples {between(*found.bootstrap)}"
        for (a, b), found in pairs.items()
    ]
    runs = Counter(subject.arm for subject in request.subjects)
    arms: dict[tuple[str, str], dict[int, float]] = {}
    order = {arm: place for place, arm in enumerate(runs)}
    for (a, b), found in pairs.items():
        # Runs come in the order of their identities: two arms are one pair, whichever run comes first.
        first, second = sorted((of[a], of[b]), key=lambda subject: order[subject.arm])
        # Runs of one seed alone, so that the values are independent; within an arm every two pairs may share a run. What has one run
        # only, such as a guide, is held against every seed.
        alone = 1 in (runs[first.arm], runs[second.arm])
        if first.arm != second.arm and (first.seed == second.seed or alone):
            seed = second.seed if runs[first.arm] == 1 else first.seed
            arms.setdefault((first.arm, second.arm), {})[seed] = found.kappa
    by_seed = sorted(request.subjects, key=lambda subject: subject.seed)
    groups = {arm: [s.label for s in by_seed if s.arm == arm] for arm in runs}
    over_seeds = []
    for (a, b), values in arms.items():
        summary = summarize(list(values.values()), bounds=bounds_of("kappa"))
        over_seeds.append({"first": a, "second": b, **summary._asdict()})
        if summary.n > 1:
            spread = f"95 % over {summary.n} seeds {between(summary.low, summary.high)}"
            which = "one run against each seed" if 1 in (runs[a], runs[b]) else "runs of one seed"
            lines.append(f"{a} | {b}, {which}: mean kappa {summary.mean:.3f}, {spread}")
    return lines, {"arms": over_seeds}, rows, lambda path: draw(pairs, path, groups)


def _flat(found: Consistency) -> dict[str, Any]:
    values = asdict(found)
    first, second = values.pop("accuracies")
    values |= {"accuracy_first": first, "accuracy_second": second}
    for name in ("analytic", "bootstrap"):
        values[f"{name}_low"], values[f"{name}_high"] = values.pop(name)
    return values
