"""Thresholds and weights of semi-supervised learning against the papers' formulas, written as loops."""

import math

import torch
import torch.nn.functional as F

from tutelage.losses.thresholds import (
    aligned,
    fairness,
    flexible_thresholds,
    gaussian_weights,
    self_adaptive_thresholds,
)

CLASSES = 4


def probabilities(n=12, seed=0):
    return torch.randn(n, CLASSES, generator=torch.Generator().manual_seed(seed)).double().softmax(dim=1)


def test_aligned_probabilities_are_those_times_wanted_over_mean():
    p, wanted = probabilities(), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    mean = p.mean(dim=0)
    found = aligned(p.log(), wanted, mean).softmax(dim=1)
    for row, ours in zip(p.tolist(), found.tolist(), strict=True):
        raw = [value * w / m for value, w, m in zip(row, wanted.tolist(), mean.tolist(), strict=True)]
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(raw) / sum(raw), rtol=1e-4, atol=1e-5)
    once = aligned(p.log(), mean, mean)
    torch.testing.assert_close(once.softmax(dim=1), p)  # nothing to align


def test_flexible_thresholds_follow_the_papers_equations():
    selected, samples = [5, 0, 2, 1], 20
    unseen = samples - sum(selected)
    expected = []
    for count in selected:
        beta = count / max(*selected, unseen)  # eq. 11
        expected.append(beta / (2 - beta) * 0.95)  # eq. 7 with the convex mapping
    found = flexible_thresholds(torch.tensor(selected), samples, threshold=0.95)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert flexible_thresholds(torch.zeros(3), 9, threshold=0.95).tolist() == [0, 0, 0]
    torch.testing.assert_close(  # all seen, all alike: FixMatch
        flexible_thresholds(torch.tensor([3, 3, 3]), 9, threshold=0.95), torch.full((3,), 0.95)
    )


def test_self_adaptive_thresholds_are_the_confidence_scaled_by_the_expected_class():
    means = torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = self_adaptive_thresholds(torch.tensor(0.8), means)
    torch.testing.assert_close(found, torch.tensor([0.8 * m / 0.4 for m in (0.1, 0.2, 0.3, 0.4)]))


def test_fairness_is_minus_the_cross_entropy_of_two_normalised_ratios():
    logits = torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(1)).double()
    used = torch.arange(12) % 3 > 0
    means = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    histogram = torch.tensor([0.3, 0.3, 0.2, 0.2], dtype=torch.float64)
    rows = [row.softmax(dim=0) for row, one in zip(logits, used, strict=True) if one]
    mean = [sum(float(row[c]) for row in rows) / len(rows) for c in range(CLASSES)]
    hist = [sum(int(row.argmax()) == c for row in rows) / len(rows) for c in range(CLASSES)]
    assert 0 in hist or len(set(hist)) > 1

    def normalised(values, counts):
        ratio = [v / h if h else 0.0 for v, h in zip(values, counts, strict=True)]
        return [r / sum(ratio) for r in ratio]

    first, second = normalised(means.tolist(), histogram.tolist()), normalised(mean, hist)
    expected = sum(a * math.log(b + 1e-12) for a, b in zip(first, second, strict=True))
    torch.testing.assert_close(float(fairness(logits, used, means, histogram)), expected)
    none = fairness(logits.requires_grad_(), used & False, means, histogram)
    none.backward()
    assert float(none) == 0 and logits.grad is not None and logits.grad.isfinite().all()


def test_gaussian_weights_are_one_from_the_mean_on_and_a_tail_below():
    confidence, mean, variance = torch.tensor([0.2, 0.5, 0.6, 0.9]), torch.tensor(0.6), torch.tensor(0.04)
    for sigmas in (1.0, 2.0):
        expected = [
            1.0 if c >= 0.6 else math.exp(-((c - 0.6) ** 2) / (2 * 0.04 / sigmas**2))
            for c in confidence.tolist()
        ]
        found = gaussian_weights(confidence, mean, variance, sigmas=sigmas)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_half_precision_is_computed_in_single():
    logits = torch.randn(6, CLASSES).to(torch.bfloat16)
    wanted = torch.full((CLASSES,), 0.25)
    assert aligned(logits, wanted, wanted).dtype == torch.float32
    assert F.softmax(aligned(logits, wanted, wanted), dim=1).isfinite().all()
