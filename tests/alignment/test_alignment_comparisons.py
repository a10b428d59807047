"""Comparisons of layers against the papers' formulas written out on the features, and what leaves each unchanged."""

import math

import numpy as np
import pytest
import torch

from tutelage.alignment import comparisons
from tutelage.alignment.comparisons import MEASURES, Centred, chance, measure
from tutelage.errors import UserError

N = 30


@pytest.fixture
def layers():
    g = np.random.default_rng(0)
    x = g.normal(size=(N, 6)) * np.arange(1, 7) + 5
    return x, x[:, :3] @ g.normal(size=(3, 4)) + 0.5 * g.normal(size=(N, 4))


def of(x):
    return Centred.of_features(torch.from_numpy(x))


def centred(x):
    return x - x.mean(0)


def orthonormal(x, variance):
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    k = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), variance - 1e-12)) + 1
    return u[:, :k]


def test_procrustes_is_the_best_rotation_found_over_the_features(layers):
    x, y = (centred(v) for v in layers)
    y = np.pad(y, ((0, 0), (0, x.shape[1] - y.shape[1])))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    u, _, v = np.linalg.svd(x.T @ y)
    assert comparisons.procrustes(of(layers[0]), of(layers[1])) == pytest.approx(np.sum((x @ u @ v) * y))


def test_svcca_is_the_mean_cosine_of_the_principal_angles(layers):
    from scipy.linalg import subspace_angles

    x, y = (orthonormal(v, 0.99) for v in layers)
    expected = np.cos(subspace_angles(x, y)).mean()
    assert comparisons.svcca(of(layers[0]), of(layers[1])) == pytest.approx(expected)


def test_pwcca_weighs_by_the_projections_of_the_layers_own_components(layers):
    x, y = (orthonormal(v, 0.99) for v in layers)
    left, rho, _ = np.linalg.svd(x.T @ y, full_matrices=False)
    u, s, _ = np.linalg.svd(centred(layers[0]), full_matrices=False)
    neurons, directions = u * s, x @ left
    weights = [sum(abs(directions[:, i] @ neurons[:, j]) for j in range(len(s))) for i in range(len(rho))]
    expected = sum(w * r for w, r in zip(weights, rho, strict=True)) / sum(weights)
    assert comparisons.pwcca(of(layers[0]), of(layers[1])) == pytest.approx(expected)


def hsic(k, n):
    """Song et al. 2012, eq. 5, term by term."""
    k, other = (m - np.diag(np.diag(m)) for m in k)
    ones = np.ones(n)
    trace = np.trace(k @ other)
    both = ones @ k @ ones * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (trace + both - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3))


def test_rbf_cka_is_the_ratio_of_three_unbiased_hsic(layers):
    kernels = []
    for x in layers:
        squares = np.array([[np.sum((a - b) ** 2) for b in x] for a in x])
        apart = np.sort(squares[~np.eye(N, dtype=bool)])
        kernels.append(np.exp(-squares / (2 * apart[(len(apart) - 1) // 2])))
    k, m = kernels
    expected = hsic((k, m), N) / math.sqrt(hsic((k, k), N) * hsic((m, m), N))
    assert comparisons.rbf_cka(of(layers[0]), of(layers[1])) == pytest.approx(expected)


def test_mutual_neighbours_counts_the_common_ones(layers):
    def nearest(x, j):
        others = sorted((i for i in range(N) if i != j), key=lambda i: np.sum((x[i] - x[j]) ** 2))
        return set(others[:4])

    near = [[nearest(x, j) for j in range(N)] for x in layers]
    expected = np.mean([len(a & b) / 4 for a, b in zip(*near, strict=True)])
    assert comparisons.mutual_neighbours(of(layers[0]), of(layers[1]), k=4) == pytest.approx(expected)


def test_regression_is_the_explained_share_of_least_squares(layers):
    x, y = (centred(v) for v in layers)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    expected = 1 - np.sum(left**2) / np.sum(y**2)
    assert comparisons.regression(of(layers[0]), of(layers[1])) == pytest.approx(expected)


@pytest.mark.parametrize("name", MEASURES)
def test_a_layer_is_like_its_rotation_scaled_and_shifted(name, layers):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert measure(name)(of(layers[0]), of(3 * layers[0] @ rotation + 2)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_one_order_of_samples_on_both_sides_changes_nothing_and_grams_are_as_good_as_features(name, layers):
    x, y = (of(v) for v in layers)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    value = measure(name)(x, y)
    assert measure(name)(x.permuted(order), y.permuted(order)) == pytest.approx(value)
    raw = [Centred.of_gram(torch.from_numpy(v @ v.T)) for v in layers]
    assert measure(name)(*raw) == pytest.approx(value)


@pytest.mark.parametrize("name", MEASURES)
def test_chance_is_below_related_layers_and_equal_for_unrelated_ones(name):
    g = np.random.default_rng(2)
    x, noise = g.normal(size=(80, 3)), g.normal(size=(80, 3))
    related, unrelated = of(x + 0.1 * noise), of(noise)
    _, largest = chance(measure(name), of(x), related)
    assert measure(name)(of(x), related) > largest + 0.2
    _, largest = chance(measure(name), of(x), unrelated)
    assert measure(name)(of(x), unrelated) < largest + 0.15


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "mutual_neighbours"])
def test_a_layer_that_does_not_vary_has_no_value(name, layers):
    assert math.isnan(measure(name)(of(layers[0]), of(np.ones((N, 2)))))


def test_what_cannot_be_compared_is_said():
    with pytest.raises(UserError, match="procrustes"):
        measure("procrustis")
    with pytest.raises(UserError, match="at least 3"):
        Centred.of_features(torch.ones(2, 3))
    with pytest.raises(UserError, match="more than 10"):
        comparisons.mutual_neighbours(of(np.eye(8)), of(np.eye(8)))


def test_a_decomposition_goes_along_with_the_order_of_the_samples():
    x = Centred.of_features(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    anew = x.permuted(order)
    assert "factors" not in anew.__dict__
    x.factors
    (u, s), (v, t) = anew.factors, x.permuted(order).factors
    torch.testing.assert_close(s, t)
    torch.testing.assert_close(u * s.square() @ u.T, v * t.square() @ v.T)


def test_regression_keeps_directions_far_below_the_largest():
    """Of a map's Gram matrices: the smallest deviation is a thousandth of the largest, and explains half of the other layer."""
    from tutelage.analysis.gram_blocks import GramBlocks

    generator = torch.Generator().manual_seed(0)
    rows = torch.linalg.qr(torch.randn(200, 3, generator=generator))[0]
    first, second = rows * torch.tensor([1.0, 0.1, 0.001]), rows[:, 1:]
    blocks = GramBlocks(["first", "second"], 200, torch.device("cpu"), torch.float64)
    blocks.rows = blocks.columns = slice(0, 200)
    for name, features in (("first", first), ("second", second)):
        blocks.take(name, features.float())
    assert MEASURES["regression"](blocks.centred("first"), blocks.centred("second")) == pytest.approx(
        1.0, abs=1e-4
    )
