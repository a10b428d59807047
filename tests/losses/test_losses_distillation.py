"""Output losses against sums written by hand, and what must hold of any of them."""

import math

import pytest
import torch

from tutelage.errors import UserError
from tutelage.losses import distillation as losses

N, CLASSES = 5, 4


def mean_of(loss):
    return lambda *outputs, **options: loss(*outputs, **options).mean()


decoupled, logit_matching, soft_target = (
    mean_of(loss) for loss in (losses.decoupled, losses.logit_matching, losses.soft_target)
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        2 * torch.randn(N, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    targets = torch.randint(CLASSES, (N,), generator=generator)
    return student, teacher, targets


def softmax(row, temperature):
    powers = [math.exp(float(value) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def dkd(alpha, beta):
    return {"temperature": 3.0, "target_weight": alpha, "other_weight": beta}


LOSSES = {
    "soft": lambda s, t, y: soft_target(s, t, temperature=3.0),
    "logits": lambda s, t, y: logit_matching(s, t),
    "decoupled": lambda s, t, y: decoupled(s, t, y, **dkd(1.0, 8.0)),
}


def test_soft_target_is_the_sum_written_by_hand(pair):
    student, teacher, _ = pair
    for temperature in (0.5, 1.0, 4.0):
        by_hand = sum(
            kl(softmax(t, temperature), softmax(s, temperature))
            for s, t in zip(student, teacher, strict=True)
        )
        actual = soft_target(student, teacher, temperature=temperature)
        assert float(actual) == pytest.approx(by_hand / N * temperature**2, rel=1e-12)


def test_logit_matching_is_the_sum_written_by_hand(pair):
    student, teacher, _ = pair
    by_hand = sum(
        (float(student[i, c]) - float(teacher[i, c])) ** 2 for i in range(N) for c in range(CLASSES)
    )
    assert float(logit_matching(student, teacher)) == pytest.approx(0.5 * by_hand / N, rel=1e-12)


def test_decoupled_is_the_sum_written_by_hand(pair):
    student, teacher, targets = pair
    alpha, beta, temperature = 0.7, 5.0, 2.0
    total = 0.0
    for s, t, y in zip(student, teacher, targets.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += alpha * kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        others = [c for c in range(CLASSES) if c != y]
        total += beta * kl([p[c] / (1 - p[y]) for c in others], [q[c] / (1 - q[y]) for c in others])
    actual = decoupled(
        student, teacher, targets, temperature=temperature, target_weight=alpha, other_weight=beta
    )
    assert float(actual) == pytest.approx(total / N * temperature**2, rel=1e-10)


def test_decoupled_with_the_teachers_own_weight_is_the_soft_target(pair):
    for student, teacher, target in zip(*pair, strict=True):  # the weight differs by row, so rows one by one
        rest = 1 - softmax(teacher, 3.0)[int(target)]
        row = decoupled(student[None], teacher[None], target[None], **dkd(1.0, rest))
        assert float(row) == pytest.approx(
            float(soft_target(student[None], teacher[None], temperature=3.0)), rel=1e-10
        )


def test_a_confident_teacher_gives_finite_values_and_gradients():
    student = torch.tensor([[0.0, 90.0, -90.0]], requires_grad=True)
    loss = decoupled(student, torch.tensor([[200.0, -200.0, 0.0]]), torch.tensor([0]), **dkd(1.0, 1.0))
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_zero_at_equality_positive_elsewhere_and_falls_along_its_gradient(name, pair):
    student, teacher, targets = pair
    loss = LOSSES[name]
    assert float(loss(teacher.clone(), teacher, targets)) == pytest.approx(0.0, abs=1e-12)
    student = student.clone().requires_grad_()
    first = loss(student, teacher, targets)
    (gradient,) = torch.autograd.grad(first, student)
    assert first > 0.01
    step = student.detach() - 0.1 * gradient
    assert loss(step, teacher, targets) < first


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_differences(name, pair):
    student, teacher, targets = pair
    assert torch.autograd.gradcheck(
        lambda s: LOSSES[name](s, teacher, targets), student.clone().requires_grad_()
    )


@pytest.mark.parametrize("name", ["soft", "decoupled"])
def test_a_constant_added_to_a_row_changes_nothing(name, pair):
    student, teacher, targets = pair
    shifted = student + torch.arange(N, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        LOSSES[name](shifted, teacher, targets), LOSSES[name](student, teacher, targets)
    )


def test_the_gradients_scale_is_about_constant_in_the_temperature():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (0.1 * torch.randn(64, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    norms = []
    for temperature in (1.0, 4.0, 16.0):
        student.requires_grad_()
        (gradient,) = torch.autograd.grad(soft_target(student, teacher, temperature=temperature), student)
        norms.append(float(gradient.norm()))
    assert max(norms) / min(norms) < 1.1


def test_for_a_high_temperature_the_soft_target_is_logit_matching_over_the_classes(pair):
    student, teacher = (x - x.mean(dim=1, keepdim=True) for x in pair[:2])
    high = soft_target(student, teacher, temperature=1e4)
    assert float(high) == pytest.approx(float(logit_matching(student, teacher)) / CLASSES, rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_single_also_under_autocast(name, pair):
    student, teacher, targets = pair
    halves = [x.bfloat16() for x in (student, teacher)]
    expected = LOSSES[name](*(x.float() for x in halves), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = LOSSES[name](*halves, targets)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_unequal_classes_are_an_error_that_names_the_way_out(name, pair):
    student, teacher, targets = pair
    with pytest.raises(UserError, match="extra head"):
        LOSSES[name](student[:, :3], teacher, targets.clamp(max=2))
