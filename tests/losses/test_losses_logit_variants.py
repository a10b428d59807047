"""Losses of logits against sums written by hand, and what leaves each unchanged."""

import math
import statistics

import pytest
import torch

from tutelage.errors import UserError
from tutelage.losses.logit_variants import (
    adapted,
    correlation,
    multi_level,
    normalised,
    self_taught,
    standardised,
)

N, CLASSES = 6, 5


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(3)
    student, teacher = (2 * torch.randn(N, CLASSES, generator=g, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(CLASSES, (N,), generator=g)


def softmax(row, temperature=1.0):
    powers = [math.exp(float(value) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_standardised_rows_have_mean_0_and_the_deviation_of_a_sample_1(pair):
    for row, ours in zip(pair[0].tolist(), standardised(pair[0]).tolist(), strict=True):
        mean, deviation = statistics.mean(row), statistics.stdev(row)
        assert ours == pytest.approx([(value - mean) / (deviation + 1e-7) for value in row])


def test_standardised_logits_know_no_shift_and_no_scale_and_a_constant_row_is_zero_with_a_finite_gradient(
    pair,
):
    assert torch.allclose(standardised(pair[0]), standardised(30 * pair[0] - 7), atol=1e-6)
    constant = torch.full((2, CLASSES), 4.0, requires_grad=True)
    out = standardised(constant)
    assert not out.any()
    out.square().sum().backward()
    assert torch.isfinite(constant.grad).all()


def test_correlation_is_the_sum_written_by_hand(pair):
    student, teacher, _ = pair
    for temperature in (1.0, 4.0):
        mine, theirs = ([softmax(row, temperature) for row in x.tolist()] for x in (student, teacher))
        rows = statistics.mean(1 - statistics.correlation(a, b) for a, b in zip(mine, theirs, strict=True))
        columns = statistics.mean(
            1 - statistics.correlation(a, b)
            for a, b in zip(zip(*mine, strict=True), zip(*theirs, strict=True), strict=True)
        )
        ours = correlation(
            student, teacher, temperature=temperature, between_classes=2.0, between_samples=3.0
        )
        assert float(ours) == pytest.approx((2 * rows + 3 * columns) * temperature**2)


def test_correlation_is_zero_where_predictions_agree_and_one_sample_has_no_column(pair):
    options = {"temperature": 4.0, "between_classes": 2.0, "between_samples": 2.0}
    assert float(correlation(pair[1] + 5, pair[1], **options)) == pytest.approx(0, abs=1e-12)
    student = pair[0][:1].clone().requires_grad_()
    correlation(student, pair[1][:1], **options).backward()  # a column of one value does not vary
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("on_a_device", [False, True])
def test_confident_predictions_give_the_correlation_of_double_precision_and_finite_gradients(
    monkeypatch, on_a_device
):
    if on_a_device:
        monkeypatch.setattr("tutelage.losses.logit_variants.on_cpu_and_all", lambda _: False)
    options = {"temperature": 1.0, "between_classes": 0.0, "between_samples": 1.0}
    made = torch.Generator().manual_seed(0)
    logits = [torch.randn(16, 100, generator=made, dtype=torch.float64) for _ in range(2)]
    for confidence in ((20, 10), (60, 1e-6), (30, 30), (1, 60), (1000, 60), (1e6, 1e3), (0, 1)):
        taught, student = (x * scale for x, scale in zip(logits, confidence, strict=True))
        single = student.float().requires_grad_()
        found = correlation(single, taught.float(), **options)
        found.backward()
        assert torch.isfinite(single.grad).all(), confidence
        exact = student.clone().requires_grad_()
        expected = correlation(exact, taught, **options)
        expected.backward()
        if max(confidence) <= 30:  # beyond, single precision has columns that are all zero
            assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)
            torch.testing.assert_close(single.grad.double(), exact.grad, rtol=1e-2, atol=1e-5)


def test_logits_that_are_nan_are_not_taken_for_constant_ones(pair):
    student = pair[0].clone()
    student[1, 1] = torch.nan
    out = standardised(student)
    assert out[1].isnan().all() and not out[0].isnan().any()
    assert correlation(student, pair[1], temperature=1.0, between_classes=1.0, between_samples=1.0).isnan()


def test_normalised_is_the_sum_written_by_hand(pair):
    student, teacher, targets = pair
    ours = normalised(student, teacher, targets, temperature=2.0, other_weight=1.5)
    for row, (s, t, y) in enumerate(zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True)):
        others = [[v for k, v in enumerate(x) if k != y] for x in (s, t)]
        mine, theirs = (softmax(x, 2.0) for x in others)
        rest = -sum(q * math.log(p) for p, q in zip(mine, theirs, strict=True))
        expected = -softmax(t)[y] * math.log(softmax(s)[y]) + 1.5 * 4 * rest
        assert float(ours[row]) == pytest.approx(expected)


def test_the_others_part_of_normalised_does_not_look_at_the_target(pair):
    student, teacher, targets = pair
    moved = teacher.clone()
    moved.scatter_add_(1, targets[:, None], torch.full((N, 1), 3.0, dtype=torch.float64))
    options = {"temperature": 1.0, "other_weight": 1.0}
    change = normalised(student, moved, targets, **options) - normalised(student, teacher, targets, **options)
    weight = torch.stack([x.softmax(1).gather(1, targets[:, None])[:, 0] for x in (moved, teacher)])
    log_p = student.log_softmax(1).gather(1, targets[:, None])[:, 0]
    assert torch.allclose(change, -(weight[0] - weight[1]) * log_p)


def test_multi_level_is_the_sum_written_by_hand(pair):
    student, teacher, _ = pair
    expected = [0.0, 0.0, 0.0]
    for temperature in (2.0, 3.0):
        p, q = ([softmax(row, temperature) for row in x.tolist()] for x in (student, teacher))
        expected[0] += sum(kl(b, a) for a, b in zip(p, q, strict=True)) / N * temperature**2
        for level, (mine, theirs) in (
            (1, (p, q)),
            (2, (list(zip(*p, strict=True)), list(zip(*q, strict=True)))),
        ):
            for i in range(len(mine)):
                for j in range(len(mine)):
                    gap = sum(a * b for a, b in zip(mine[i], mine[j], strict=True)) - sum(
                        a * b for a, b in zip(theirs[i], theirs[j], strict=True)
                    )
                    expected[level] += gap**2 / len(mine)
    assert multi_level(student, teacher, temperatures=(2.0, 3.0)).tolist() == pytest.approx(expected)
    assert multi_level(teacher + 2, teacher, temperatures=(2.0,)).abs().max() < 1e-12


LOSSES = {
    "correlation": lambda s, t, y: correlation(
        s, t, temperature=4.0, between_classes=2.0, between_samples=2.0
    ),
    "normalised": lambda s, t, y: normalised(s, t, y, temperature=1.0, other_weight=1.5).mean(),
    "multi_level": lambda s, t, y: multi_level(s, t, temperatures=(2.0, 4.0)).sum(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_what_holds_of_all(loss, pair):
    student, teacher, targets = pair
    with pytest.raises(UserError, match="one shape"):
        loss(student, teacher[:, :-1], targets)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        loss(student, teacher, targets), loss(student[order], teacher[order], targets[order])
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(student.bfloat16(), teacher.bfloat16(), targets)
    assert half.dtype == torch.float32
    moving = student.clone().requires_grad_()
    before = loss(moving, teacher, targets)
    before.backward()
    assert float(loss((moving - 0.05 * moving.grad).detach(), teacher, targets)) < float(before.detach())


def test_adapted_is_the_sum_written_by_hand_and_soft_targets_at_emphasis_1(pair):
    student, teacher, targets = pair
    for temperature, emphasis in ((1.0, 1.0), (4.0, 1.4)):
        ours = adapted(student, teacher, targets, temperature=temperature, emphasis=emphasis)
        for row, found in enumerate(ours.tolist()):
            p, q = softmax(student[row], temperature), softmax(teacher[row], temperature)
            true = [float(c == targets[row]) for c in range(CLASSES)]
            wanted = [(b + t) ** emphasis - t for b, t in zip(q, true, strict=True)]
            assert found == pytest.approx(-sum(w * math.log(a) for w, a in zip(wanted, p, strict=True)))
    plain = adapted(student, teacher, targets, temperature=2.0, emphasis=1.0)
    entropy = [-sum(b * math.log(b) for b in softmax(row, 2.0)) for row in teacher]
    divergence = [kl(softmax(t, 2.0), softmax(s, 2.0)) for s, t in zip(student, teacher, strict=True)]
    assert plain.tolist() == pytest.approx([a + b for a, b in zip(divergence, entropy, strict=True)])


def test_self_taught_is_the_sum_written_by_hand(pair):
    student, weak, targets = pair
    true = [softmax(row)[t] for row, t in zip(student, targets.tolist(), strict=True)]
    mean_square = statistics.mean(p * p for p in true)
    ours = self_taught(
        student, weak, targets, mean_square=torch.tensor(mean_square), other_weight=0.3, weak_weight=0.2
    )
    for row, target in enumerate(targets.tolist()):
        others = [c for c in range(CLASSES) if c != target]
        mine, theirs = softmax(student[row, others]), softmax(weak[row, others])
        order = sorted(range(len(others)), key=lambda i: -(mine[i] + theirs[i]))
        zipf = [0.0] * len(others)
        for rank, place in enumerate(order, start=1):
            zipf[place] = 1 / rank / sum(1 / r for r in range(1, CLASSES))
        smooth = [0.1 / CLASSES + 0.9 * (c == target) for c in range(CLASSES)]
        expected = -(true[row] ** 2 + 1 - mean_square) * math.log(true[row])
        expected -= 0.3 * sum(z * math.log(p) for z, p in zip(zipf, mine, strict=True))
        expected -= 0.2 * sum(s * math.log(p) for s, p in zip(smooth, softmax(weak[row]), strict=True))
        assert float(ours[row]) == pytest.approx(expected, rel=1e-6)


def test_the_labels_of_self_taught_are_constants_and_a_shift_of_the_logits_changes_nothing(pair):
    student, weak, targets = pair
    options = {"mean_square": torch.tensor(0.2), "other_weight": 0.3, "weak_weight": 0.0}
    moved = self_taught(student + 5, weak - 3, targets, **options)
    assert torch.allclose(self_taught(student, weak, targets, **options), moved)
    weak = weak.clone().requires_grad_()
    student = student.clone().requires_grad_()
    self_taught(student, weak, targets, **options).sum().backward()
    assert not weak.grad.any()
    p = student.detach().softmax(1)
    value = p.gather(1, targets[:, None]).square() + 1 - 0.2
    at_target = -value * (1 - p.gather(1, targets[:, None]))
    assert torch.allclose(student.grad.gather(1, targets[:, None]), at_target)
