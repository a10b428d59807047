"""Which unlabelled samples count, and how much: the thresholds and weights of semi-supervised learning.

Probabilities are those of a network's prediction on a weak view, (n, classes). No gradient flows through any of this but `fairness`'s
outputs. What is remembered from step to step is the caller's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.losses.precision import in_single


@in_single
def aligned(logits: Tensor, wanted: Tensor, mean: Tensor) -> Tensor:
    """Return logits (n, classes) whose probabilities are those given times wanted / mean, normalised: distribution alignment.

    wanted: (classes,) the distribution that predictions should have on the average. mean: (classes,) the one they have. Source:
    Berthelot et al. 2019, arXiv 1911.09785, section 3.1.
    """
    tiny = 1e-6  # a class that was never predicted
    return logits + (wanted + tiny).log() - (mean + tiny).log()


def flexible_thresholds(selected: Tensor, samples: int, *, threshold: float) -> Tensor:
    """Return FlexMatch's threshold of each class, (classes,): lower where few predictions of a class were ever confident.

    selected: (classes,) how many unlabelled samples have each class as their latest confident prediction. samples: of all of them; those
    without any count as one more class, so that thresholds rise from 0. Source: Zhang et al. 2021, arXiv 2110.08263, eq. 5 to 7 and 11,
    with the mapping x / (2 - x).
    """
    selected = selected.float()
    unseen = samples - selected.sum()
    share = selected / torch.maximum(selected.max(), unseen).clamp(min=1)
    return share / (2 - share) * threshold


def self_adaptive_thresholds(confidence: Tensor, means: Tensor) -> Tensor:
    """Return FreeMatch's threshold of each class, (classes,): the mean confidence, scaled by how often the class is expected.

    confidence: () moving average of the largest probability. means: (classes,) moving average of the predictions. Source: Wang et al.
    2022, arXiv 2205.07246, eq. 5 to 8.
    """
    return means / means.max() * confidence


@in_single
def fairness(output: Tensor, used: Tensor, means: Tensor, histogram: Tensor) -> Tensor:
    """Return FreeMatch's self-adaptive fairness of the outputs on the strong view, one number: 0 where no sample is used.

    output: (n, classes) logits. used: (n,) bool, which samples passed their threshold. means, histogram: (classes,) moving averages of the
    predictions on weak views and of how often each class was the most probable. Classes without a sample are left out of a ratio, as in
    the released code. Source: arXiv 2205.07246, eq. 9 to 11.
    """
    classes = output.shape[1]
    weight = used.to(output.dtype)[:, None]
    probabilities = output.softmax(dim=1)
    counts = (torch.nn.functional.one_hot(output.argmax(dim=1), classes) * weight).sum(dim=0)
    batch = _ratio((probabilities * weight).sum(dim=0), counts)
    expected = _ratio(means, histogram)
    return (expected * (batch + 1e-12).log()).sum() * used.any()


def _ratio(values: Tensor, counts: Tensor) -> Tensor:
    found = torch.where(counts > 0, values / counts.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
    return found / found.sum().clamp(min=torch.finfo(values.dtype).tiny)


def gaussian_weights(confidence: Tensor, mean: Tensor, variance: Tensor, *, sigmas: float) -> Tensor:
    """Return SoftMatch's weight of each sample, (n,): 1 from the mean confidence on, a Gaussian's tail below.

    confidence: (n,) largest probabilities. mean, variance: () moving averages of them. sigmas: the Gaussian's deviation is that of the
    confidences over this; 1 in the paper's formula, 2 in the released code. Source: Chen et al. 2023, arXiv 2301.10921, eq. 5 and 7.
    """
    below = (confidence - mean).clamp(max=0)
    return (-(below**2) * sigmas**2 / (2 * variance)).exp()
