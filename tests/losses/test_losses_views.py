"""Losses of two views against loops over the papers' sums, and against lightly's."""

import math

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss

from tutelage.losses.views import barlow_twins, byol, nt_xent, vicreg

LOSSES = (nt_xent, vicreg, barlow_twins)


def views(n=6, d=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(n, d, generator=draw, dtype=torch.float64)
    return first, first + 0.3 * torch.randn(n, d, generator=draw, dtype=torch.float64)


def slow_nt_xent(first, second, temperature):
    rows = [*first, *second]
    n, total = len(first), 0.0
    cosine = lambda a, b: float(a @ b / (a.norm() * b.norm()))  # noqa: E731
    for i in range(2 * n):
        others = [math.exp(cosine(rows[i], rows[k]) / temperature) for k in range(2 * n) if k != i]
        total -= math.log(math.exp(cosine(rows[i], rows[(i + n) % (2 * n)]) / temperature) / sum(others))
    return total / (2 * n)


def slow_vicreg(first, second):
    (n, d), total = first.shape, 0.0
    total += 25 * sum(float(first[i, j] - second[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    for z in (first, second):
        means = [sum(float(z[i, j]) for i in range(n)) / n for j in range(d)]
        cov = [
            [sum((float(z[i, a]) - means[a]) * (float(z[i, b]) - means[b]) for i in range(n)) / (n - 1) for b in range(d)]
            for a in range(d)
        ]  # fmt: skip
        total += 25 * sum(max(0.0, 1 - math.sqrt(cov[j][j] + 1e-4)) for j in range(d)) / d / 2
        total += sum(cov[a][b] ** 2 for a in range(d) for b in range(d) if a != b) / d
    return total


def slow_barlow(first, second, redundancy):
    (n, d), total = first.shape, 0.0
    one, two = ((z - z.mean(dim=0)) / (z.var(dim=0, unbiased=False) + 1e-5).sqrt() for z in (first, second))
    for a in range(d):
        for b in range(d):
            c = sum(float(one[i, a] * two[i, b]) for i in range(n)) / n
            total += (c - 1) ** 2 if a == b else redundancy * c**2
    return total


def slow_byol(predicted, target):
    total = 0.0
    for p, z in zip(predicted, target, strict=True):
        total += sum(
            (float(a) / float(p.norm()) - float(b) / float(z.norm())) ** 2 for a, b in zip(p, z, strict=True)
        )
    return total / len(predicted)


def test_byol_is_the_papers_distance_whatever_the_lengths_and_its_target_gets_no_gradient():
    predicted, target = (x.requires_grad_() for x in views())
    loss = byol(predicted, target)
    assert float(loss) == pytest.approx(slow_byol(predicted, target), rel=1e-6)
    assert float(byol(3 * predicted, 0.2 * target)) == pytest.approx(float(loss))
    assert float(byol(target, 5 * target)) == pytest.approx(0.0, abs=1e-6)
    loss.backward()
    assert predicted.grad.abs().sum() > 0 and target.grad is None


def test_they_are_the_papers_sums():
    first, second = views()
    assert float(nt_xent(first, second, temperature=0.2)) == pytest.approx(slow_nt_xent(first, second, 0.2))
    assert float(vicreg(first, second)) == pytest.approx(slow_vicreg(first, second))
    assert float(barlow_twins(first, second)) == pytest.approx(slow_barlow(first, second, 0.005))


def test_they_are_lightlys():
    first, second = (view.float() for view in views(16, 8, seed=1))
    torch.testing.assert_close(nt_xent(first, second), NTXentLoss(temperature=0.5)(first, second))
    torch.testing.assert_close(vicreg(first, second), VICRegLoss()(first, second))
    torch.testing.assert_close(
        barlow_twins(first, second), BarlowTwinsLoss(lambda_param=0.005)(first, second), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_order_and_sides_do_not_matter_and_equal_views_are_better(loss):
    first, second = views()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    expected = loss(first, second)
    torch.testing.assert_close(loss(first[order], second[order]), expected)
    torch.testing.assert_close(loss(second, first), expected)
    assert loss(first, first) < loss(first, second.flip(0))


def test_lengths_and_affine_maps_leave_what_they_should():
    first, second = views()
    torch.testing.assert_close(nt_xent(3 * first, 0.5 * second), nt_xent(first, second))
    torch.testing.assert_close(vicreg(first + 2, second + 2), vicreg(first, second))
    torch.testing.assert_close(
        barlow_twins(5 * first + 1, second), barlow_twins(first, second), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_computed_in_single_and_gradients_flow(loss):
    first, second = (view.to(torch.bfloat16).requires_grad_() for view in views())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(first, second)
    assert value.dtype == torch.float32
    value.backward()
    assert first.grad.isfinite().all() and second.grad.abs().sum() > 0
