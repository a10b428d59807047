"""Scores of samples: Frechet distance against closed forms and scipy, precision and recall against loops."""

import numpy as np
import pytest
import scipy.linalg
import torch

from tutelage.errors import UserError
from tutelage.generators.quality import frechet_distance, precision_recall


def points(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_distance_by_scipys_matrix_root():
    real, generated = points(40, 5, 0), 0.7 * points(30, 5, 1) @ points(5, 5, 2) + 1
    m1, m2 = real.mean(0).numpy(), generated.mean(0).numpy()
    s1, s2 = np.cov(real.T.numpy()), np.cov(generated.T.numpy())
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_shifted_and_scaled_sets_is_the_closed_form():
    x = points(200, 4, 0)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 4, rel=1e-9)
    centred = x - x.mean(0)
    spread = float(np.trace(np.cov(x.T.numpy())))
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * spread, rel=1e-9)


def test_frechet_distance_is_symmetric_invariant_to_rotation_and_survives_few_samples():
    real, generated = points(6, 20, 0), points(5, 20, 1)
    rotation, _ = torch.linalg.qr(points(20, 20, 2))
    value = frechet_distance(real, generated)
    assert value > 0
    assert frechet_distance(generated, real) == pytest.approx(value, rel=1e-6)
    assert frechet_distance(real @ rotation, generated @ rotation) == pytest.approx(value, rel=1e-6)


def test_precision_and_recall_by_loop():
    real, generated = points(30, 3, 0), 0.6 * points(25, 3, 1) + 0.5

    def inside(candidates, manifold):
        count = 0
        for c in candidates:
            for i, m in enumerate(manifold):
                others = sorted(float((m - o).norm()) for j, o in enumerate(manifold) if j != i)
                if float((c - m).norm()) <= others[2]:
                    count += 1
                    break
        return count / len(candidates)

    precision, recall = precision_recall(real, generated)
    assert 0 < precision < 1 or 0 < recall < 1
    assert precision == pytest.approx(inside(generated, real))
    assert recall == pytest.approx(inside(real, generated))


def test_one_point_repeated_is_precise_and_covers_nothing():
    real = points(50, 3, 0)
    collapsed = real[:1].repeat(50, 1) + 1e-6 * points(50, 3, 1)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1.0
    assert recall <= 0.04
    assert precision_recall(real, real) == (1.0, 1.0)


def test_what_cannot_be_compared_is_named():
    with pytest.raises(UserError, match="features"):
        frechet_distance(points(5, 3, 0), points(5, 4, 0))
    with pytest.raises(UserError, match="at least 4"):
        precision_recall(points(3, 3, 0), points(5, 3, 0))
