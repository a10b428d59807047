"""The intrinsic dimension against a slow version, known sets and its invariances."""

import math

import pytest
import torch

from tutelage.errors import UserError
from tutelage.losses.dimension import intrinsic_dimension


def slow(points, k):
    total = []
    for i, x in enumerate(points):
        distances = sorted(math.dist(x, y) for j, y in enumerate(points) if j != i)[:k]
        total += [math.log(distances[-1] / distance) for distance in distances[:-1]]
    return len(total) / sum(total)


@pytest.mark.parametrize("neighbours", [2, 5, 20])
def test_it_is_that_of_the_slow_version(neighbours):
    torch.manual_seed(0)
    points = torch.randn(40, 2, 3)
    expected = slow(points.flatten(1).double().tolist(), neighbours)
    assert float(intrinsic_dimension(points, neighbours=neighbours)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_flat_piece_in_a_large_space_has_its_own_dimension(dimension):
    torch.manual_seed(1)
    inside = torch.rand(2000, dimension, dtype=torch.float64)
    plane = torch.linalg.qr(torch.randn(50, dimension, dtype=torch.float64)).Q
    found = float(intrinsic_dimension(inside @ plane.T, neighbours=20))
    assert found == pytest.approx(dimension, rel=0.15)


def test_rotation_shift_and_scale_change_nothing():
    torch.manual_seed(2)
    points = torch.randn(60, 8)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    for moved in (points @ turn, points + 100, points * 1e4, points * 1e-4):
        torch.testing.assert_close(intrinsic_dimension(moved), intrinsic_dimension(points), rtol=2e-3, atol=0)


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(3)
    points = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    # The spread that distances are divided by is no part of the value: it cancels.
    assert torch.autograd.gradcheck(lambda x: intrinsic_dimension(x, neighbours=4), points)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_and_repeated_samples_stay_finite(dtype):
    for points in (torch.ones(30, 4), torch.randn(3, 4).repeat(10, 1)):
        x = points.to(dtype).requires_grad_()
        value = intrinsic_dimension(x, neighbours=5)
        value.backward()
        assert value.isfinite() and value.dtype is torch.float32
        assert x.grad.isfinite().all()


def test_a_collapsed_set_has_no_dimension_and_a_lump_does_not_count():
    assert intrinsic_dimension(torch.full((30, 4), 0.1)) == 0
    points = torch.randn(60, 8, generator=torch.Generator().manual_seed(4))
    lump = torch.full((30, 8), 100.0)
    found = intrinsic_dimension(torch.cat([points, lump]), neighbours=5)
    torch.testing.assert_close(found, intrinsic_dimension(points, neighbours=5), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("n", "neighbours"), [(10, 10), (30, 1)])
def test_too_few_samples_or_neighbours_are_told(n, neighbours):
    with pytest.raises(UserError, match="neighbours"):
        intrinsic_dimension(torch.randn(n, 3), neighbours=neighbours)


def test_repeated_samples_cost_no_precision():
    """Short sequences recur and dead units make rows alike: their distances are what is left of equal products."""
    points = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    points = torch.cat([points, points[:32]])
    for neighbours in (5, 20):
        value = intrinsic_dimension(points, neighbours=neighbours)
        torch.testing.assert_close(
            value.double(), intrinsic_dimension(points.double(), neighbours=neighbours), rtol=1e-5, atol=0
        )


def test_a_large_shift_costs_no_precision():
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).mul(64).round() / 64
    shifted = intrinsic_dimension(points + 1024)  # exact in single precision
    torch.testing.assert_close(shifted, intrinsic_dimension(points), rtol=1e-6, atol=0)
