"""From results to verdicts: measured exponents beside the predicted ones, collapse, specialisation, guidance.

A verdict compares an interval (95%, bootstrap over data draws) with the prediction: *agrees* when the
prediction lies within the interval widened by `TOLERANCE` (finite sizes bend exponents, which no bootstrap
sees), *disagrees* when it lies outside, and *undecided* when the interval is wider than `WIDEST` or too few
sizes crossed A_f = 0.5. The predictions come from `claims`, which computes them by the rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.errors import UserError
from tutelage.scaling.critical_samples import (
    Curves,
    Estimate,
    best_collapse,
    collapse_score,
    critical_samples,
    crossing,
    exponent,
)
from tutelage.scaling.measure import specialised_neurons

TOLERANCE = 0.1
WIDEST = 0.6
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """One line of the table."""

    experiment: str
    quantity: str
    predicted: float | None
    measured: Estimate | None
    sizes: str
    verdict: str
    note: str = ""

    def row(self) -> dict[str, str]:
        """As text, for CSV and Markdown."""

        def number(value: float | None) -> str:
            return "" if value is None else f"{value:.3g}"

        known = self.measured is not None and not np.isnan(self.measured.low)  # of one draw there is none
        interval = f"{self.measured.low:.3g} to {self.measured.high:.3g}" if self.measured and known else ""
        return {
            "experiment": self.experiment,
            "quantity": self.quantity,
            "predicted": number(self.predicted),
            "measured": number(self.measured.value if self.measured else None),
            "95% interval": interval,
            "sizes": self.sizes,
            "verdict": self.verdict,
            "note": self.note,
        }


def judge(
    predicted: float | None, measured: Estimate, *, tolerance: float = TOLERANCE, widest: float = WIDEST
) -> str:
    """agrees, disagrees or undecided (see the module); nothing where nothing was predicted."""
    if predicted is None:
        return ""
    if not measured.high - measured.low <= widest:  # of one draw it is unknown
        return "undecided"
    inside = measured.low - tolerance <= predicted <= measured.high + tolerance
    return "agrees" if inside else "disagrees"


def of(results: Sequence[Result], experiment: str) -> list[Result]:
    """The results of one experiment, by size."""
    return sorted(
        (r for r in results if r["experiment"] == experiment), key=lambda r: list(r["sizes"].values())
    )


def critical(results: Sequence[Result]) -> list[tuple[Result, Estimate]]:
    """P* of each result whose curve crosses 0.5."""
    found = []
    for place, result in enumerate(results):
        try:
            estimate = critical_samples(result["samples"], np.asarray(result["alignment"]), seed=place)
        except UserError:
            continue
        found.append((result, estimate))
    return found


def curves(results: Sequence[Result], size: str = "d") -> Curves:
    """Mean alignment curves, by one size."""
    return {
        r["sizes"][size]: (np.asarray(r["samples"], float), np.asarray(r["alignment"]).mean(1))
        for r in results
    }


def size_range(values: Sequence[float]) -> str:
    """Smallest to largest, for a table."""
    return f"{min(values):g} to {max(values):g}"


def power_law(
    results: Sequence[Result], experiment: str, *, size: str, predicted: float | None, quantity: str
) -> list[Verdict]:
    """The exponent of P* in one size, over all sizes and over the larger half."""
    own = of(results, experiment)
    found = critical(own)
    missing = len(own) - len(found)
    note = f"{missing} of {len(own)} sizes never cross 0.5" if missing else ""
    if len(found) < 3:
        return [
            Verdict(experiment, quantity, predicted, None, "", "undecided", note or "fewer than three sizes")
        ]
    sizes = [r["sizes"][size] for r, _ in found]
    estimates = [estimate for _, estimate in found]
    whole = exponent(sizes, estimates)
    rows = [
        Verdict(
            experiment,
            quantity,
            predicted,
            whole,
            f"{size} {size_range(sizes)}",
            judge(predicted, whole),
            note,
        )
    ]
    if len(found) >= 5:
        half = len(found) // 2
        late = exponent(sizes[half:], estimates[half:])
        label = f"{size} {size_range(sizes[half:])}"
        rows.append(
            Verdict(
                experiment, f"{quantity}, larger half", predicted, late, label, judge(predicted, late), note
            )
        )
    return rows


def collapse(
    results: Sequence[Result],
    experiment: str,
    *,
    scale: Callable[[Mapping[str, float]], float],
    quantity: str,
) -> list[Verdict]:
    """Whether curves fall on one another against P / scale, as far as their own errors allow.

    Agrees when the score is below 0.05 or below three times the score that the curves' standard errors alone give;
    undecided when these errors alone give more than 0.1, or no curve crosses 0.5.
    """
    own = of(results, experiment)
    if len(own) < 2:
        return []
    values = {float(place): np.asarray(r["alignment"]) for place, r in enumerate(own)}
    keyed: Curves = {
        float(place): (np.asarray(r["samples"], float), np.asarray(r["alignment"]).mean(1))
        for place, r in enumerate(own)
    }
    predicted = {float(place): scale(r["sizes"]) for place, r in enumerate(own)}
    try:
        score = collapse_score(keyed, predicted)
    except UserError as apart:
        return [Verdict(experiment, quantity, 0.0, None, "", "undecided", str(apart))]
    error = np.mean([(v.var(1, ddof=1) / v.shape[1]).mean() for v in values.values()])
    floor = float(error / np.concatenate([v.mean(1) for v in values.values()]).var())
    try:
        unscaled = f"{collapse_score(keyed, dict.fromkeys(keyed, 1.0)):.3f}"
    except UserError:
        unscaled = "no common range"
    note = f"0 is perfect; standard errors alone: {floor:.3f}; against P itself: {unscaled}"
    if all("d" in r["sizes"] for r in own) and len({r["sizes"]["d"] for r in own}) == len(own):
        with contextlib.suppress(UserError):  # no power under which the curves share a range
            alpha, best = best_collapse(curves(own), np.arange(0.2, 2.51, 0.05).tolist())
            note += f"; best single power of d: {alpha:.2f} ({best:.3f})"
    measured = Estimate(score, np.nan, np.nan, np.array([score]))  # of all points together: no interval
    where = ", ".join(f"{name} {size_range([r['sizes'][name] for r in own])}" for name in own[0]["sizes"])
    verdict = "agrees" if score < max(0.05, 3 * floor) else "disagrees"
    if not floor <= 0.1 or not critical(own):
        verdict = "undecided"
    return [Verdict(experiment, quantity, 0.0, measured, where, verdict, note)]


def sharpness(results: Sequence[Result], experiment: str) -> list[Verdict]:
    """Exponent of the transition's width log P(A = 0.6) - log P(A = 0.3) in d; below 0 means sharper with d."""
    widths, sizes = [], []
    for place, result in enumerate(of(results, experiment)):
        grid, values = np.asarray(result["samples"], float), np.asarray(result["alignment"])
        rng = np.random.default_rng(place)
        picks = [
            values,
            *(
                np.take_along_axis(values, rng.integers(values.shape[1], size=values.shape), 1)
                for _ in range(400)
            ),
        ]
        with np.errstate(divide="ignore", invalid="ignore"):  # curves that begin above or end below a level
            found = np.array(
                [
                    np.log(crossing(grid, p.mean(1), 0.6)) - np.log(crossing(grid, p.mean(1), 0.3))
                    for p in picks
                ]
            )
        if np.isfinite(found).mean() > 0.9 and np.isfinite(found[0]):
            widths.append(Estimate.of(found[0], np.clip(found[1:][np.isfinite(found[1:])], 0.02, None)))
            sizes.append(result["sizes"]["d"])
    if len(sizes) < 3:
        return []
    least = min(len(width.resamples) for width in widths)
    trimmed = [Estimate(w.value, w.low, w.high, w.resamples[:least]) for w in widths]
    slope = exponent(sizes, trimmed)
    verdict = "agrees" if slope.high < 0 else ("disagrees" if slope.low > 0 else "undecided")
    note = "predicted: sharper with d, so below 0"
    return [
        Verdict(
            experiment,
            "exponent of the transition's width",
            None,
            slope,
            f"d {size_range(sizes)}",
            verdict,
            note,
        )
    ]


@dataclass(frozen=True)
class Specialised:
    """Specialised neurons per network: how many, above which overlap they count, and in words how the threshold matters."""

    count: Estimate
    threshold: float
    note: str


def specialised(result: Result, layer: str = "weight", resamples: int = 400) -> Specialised | None:
    """Specialised neurons at the largest P; None for a single mode."""
    if layer not in result.get("overlaps", {}):
        return None
    networks = result["overlap_networks"]
    overlaps = np.asarray(result["overlaps"][layer]).reshape(networks, -1)
    found = specialised_neurons(overlaps, networks)
    if not np.isfinite(found.threshold):
        return None
    draws = result["settings"]["draws"]
    counts = (np.abs(overlaps) > found.threshold).sum(1).reshape(-1, draws).mean(0)
    rng = np.random.default_rng(0)
    means = counts[rng.integers(draws, size=(resamples, draws))].mean(1)
    spread = f"{min(found.sensitivity.values()):.2g} to {max(found.sensitivity.values()):.2g}"
    note = f"threshold {found.threshold:.2f}; {spread} for thresholds 0.7 to 1.3 times it"
    return Specialised(Estimate.of(counts.mean(), np.clip(means, 0.05, None)), found.threshold, note)


def specialisation(
    results: Sequence[Result], experiment: str, *, width: str, predicted: float
) -> list[Verdict]:
    """Exponent of the first layer's specialised neurons in its width at fixed d, and the counts themselves."""
    rows: list[Verdict] = []
    own = of(results, experiment)
    for d in sorted({r["sizes"]["d"] for r in own}):
        found = [(r, specialised(r)) for r in own if r["sizes"]["d"] == d]
        counted = [(r["sizes"][width], s.count, s.note) for r, s in found if s is not None]
        for size, count, note in counted:
            where = f"d {d}, {width}/d {size / d:g}"
            rows.append(Verdict(experiment, "specialised neurons", None, count, where, "", note))
        single = [f"{r['sizes'][width] / d:g}" for r, s in found if s is None]
        note = f"a single mode at {width}/d = {', '.join(single)}" if single else ""
        quantity = f"exponent of specialised neurons in {width}"
        if len(counted) < 3:
            rows.append(
                Verdict(
                    experiment, quantity, predicted, None, f"d {d}", "undecided", note or "too few widths"
                )
            )
            continue
        slope = exponent([size for size, _, _ in counted], [count for _, count, _ in counted])
        where = f"d {d}, {width} {size_range([size for size, _, _ in counted])}"
        rows.append(Verdict(experiment, quantity, predicted, slope, where, judge(predicted, slope), note))
    return rows


def ratio(
    results: Sequence[Result],
    experiment: str,
    *,
    base: Callable[[Result], bool],
    other: Callable[[Result], bool],
    quantity: str,
    predicted: float | None = None,
) -> list[Verdict]:
    """Mean over sizes d of the ratio of P* between two arms (log average); agrees when the interval holds `predicted`."""
    arms = [
        {r["sizes"]["d"]: e for r, e in critical([r for r in results if arm(r)])} for arm in (base, other)
    ]
    common = sorted(set(arms[0]) & set(arms[1]))
    if not common:
        return []
    rng = np.random.default_rng(0)
    logs = [
        rng.permutation(np.log(arms[1][d].resamples)) - rng.permutation(np.log(arms[0][d].resamples))
        for d in common
    ]
    middle = np.exp(np.mean([np.log(arms[1][d].value / arms[0][d].value) for d in common]))
    found = Estimate.of(float(middle), np.exp(np.mean(logs, axis=0)))
    verdict = ""
    if predicted is not None:
        verdict = "agrees" if found.low <= predicted <= found.high else "disagrees"
        if not found.low <= found.high:
            verdict = "undecided"
    return [Verdict(experiment, quantity, predicted, found, f"d {size_range(common)}", verdict)]
