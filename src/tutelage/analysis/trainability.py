"""Whether a network trains by itself: a rule on what is seen of it before any training, calibrated on a phase diagram.

The rule knows one number, by how many powers of ten the first layer's gradient, over its weights, exceeds the last's: on the diagram, of
fully connected networks with batch norms, it tells networks that train from those that do not almost without error. Of gradients that
vanish towards the first layer the diagram has none, so the rule says nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.engine.signal import Signal

INTERCEPT, SLOPE = 11.22, -7.65
"""Of the logarithm of the odds by log10 of the gradient ratio: `calibrate` of experiments/guidance/results/phase_diagram.csv."""
LEAST = 0.1
"""The gradient ratio below which the rule says nothing; the diagram's smallest is 0.39."""
TRAINS = 0.54
"""The test accuracy of that diagram from which a network counts as one that trains: half way from chance to the best, 0.98."""
GUIDED = 10.0
"""The gradient ratio above which an untrained CNN as guide was ahead in 31 of the diagram's 33 networks; below, it cost in 25 of 27."""
_BLIND = 0.999
"""A correlation of two samples from which on a network gives nearly the same answer to all."""


@dataclass(frozen=True)
class Verdict:
    """What the rule says: the probability that the network trains alone in a few hundred updates at a good rate (None: it does not know),
    and a sentence.
    """

    probability: float | None
    sentence: str


def probability(gradient_ratio: float) -> float | None:
    """Return the rule's probability; gradient_ratio: the first layer's gradient over the last's, each over its weights.

    0 where no gradient reaches the first layer, None where the rule does not know.
    """
    if gradient_ratio <= 0:
        return 0.0
    if math.isnan(gradient_ratio) or gradient_ratio < LEAST:
        return None
    odds = INTERCEPT + SLOPE * math.log10(gradient_ratio)
    return 1 / (1 + math.exp(min(700.0, -odds)))


def calibrate(
    gradient_ratios: Sequence[float], trained: Sequence[bool], *, steps: int = 50
) -> tuple[float, float]:
    """Return intercept and slope of the logistic regression of `trained` on log10 of the ratio, by Newton's method.

    A ridge of 0.01 on the slope keeps it finite where data are separable.
    """
    x = np.log10(np.asarray(gradient_ratios, dtype=np.float64))
    design, y = np.stack([np.ones_like(x), x], axis=1), np.asarray(trained, dtype=np.float64)
    ridge, found = np.diag([1e-9, 0.01]), np.zeros(2)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
        curvature = design.T @ (design * (p * (1 - p))[:, None]) + ridge
        found = found - np.linalg.solve(curvature, design.T @ (p - y) + ridge @ found)
    return float(found[0]), float(found[1])


def verdict(seen: Signal) -> Verdict:
    """Say whether a network trains alone."""
    ratio, chance = seen.gradient_ratio, probability(seen.gradient_ratio)
    if math.isnan(ratio):
        return Verdict(
            None,
            "its gradients are no numbers before any training: look at the network's outputs and the data",
        )
    factor = max(ratio, 1 / max(ratio, 1e-30))
    many = f"gradients are {factor:.3g} times {'larger' if ratio >= 1 else 'smaller'} at the first layer than at the last"
    if chance is None:
        said = "whether it trains alone the rule does not know: it was calibrated on gradients that grow towards the first layer"
    elif chance >= 0.8:
        said = f"trains alone, the rule says ({chance:.0%})"
    elif chance <= 0.2:
        said = f"does not train alone within a few hundred updates, the rule says ({chance:.0%} that it does)"
    else:
        said = f"at the border: it trains alone with {chance:.0%}, the rule says"
    blind = " Its last layer is given nearly the same for every sample." if seen.correlation > _BLIND else ""
    return Verdict(chance, f"{said}; {many}.{blind}")


def guide_sentence(gradient_ratio: float) -> str:
    """Return what the diagram says of a guide for such a network; nothing where it does not know."""
    if math.isnan(gradient_ratio) or gradient_ratio < LEAST:
        return ""
    if gradient_ratio > GUIDED:
        return "on digits an untrained convolutional guide helped 31 of 33 networks with such a gradient ratio (above 10)"
    return "on digits an untrained convolutional guide cost 25 of 27 networks with such a gradient ratio (below 10) some accuracy"
