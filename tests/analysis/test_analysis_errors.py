"""Error consistency against scikit-learn's kappa, against a numerical delta method, and at its edges."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import nn

from tutelage.analysis.errors_consistency import Answers, all_pairs, answers, draw, error_consistency
from tutelage.errors import UserError
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch, Classification, Forecasting, Tokens

RNG = np.random.default_rng(0)


def rights(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of rights from the counts of both right, first alone, second alone, both wrong."""
    first = np.repeat([True, True, False, False], counts)
    second = np.repeat([True, False, True, False], counts)
    return first, second


@pytest.mark.parametrize("counts", [(50, 20, 10, 20), (5, 40, 45, 10), (900, 30, 40, 30), (1, 1, 1, 1)])
def test_kappa_is_that_of_scikit_learn(counts):
    first, second = rights(*counts)
    found = error_consistency(first, second)
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert found.observed == pytest.approx((counts[0] + counts[3]) / sum(counts))
    assert found.accuracies == (first.mean(), second.mean())
    swapped = error_consistency(second, first)
    assert swapped.kappa == pytest.approx(found.kappa)
    assert swapped.standard_error == pytest.approx(found.standard_error)


def kappa_of(shares: np.ndarray) -> float:
    one, two = shares[0] + shares[1], shares[0] + shares[2]
    expected = one * two + (1 - one) * (1 - two)
    return (shares[0] + shares[3] - expected) / (1 - expected)


@pytest.mark.parametrize("counts", [(50, 20, 10, 20), (5, 40, 45, 10), (900, 30, 40, 30)])
def test_the_standard_error_is_that_of_the_delta_method(counts):
    shares = np.array(counts) / sum(counts)
    step = 1e-6
    slope = np.array(
        [(kappa_of(shares + step * e) - kappa_of(shares - step * e)) / (2 * step) for e in np.eye(4)]
    )
    variance = (np.diag(shares) - np.outer(shares, shares)) / sum(counts)
    found = error_consistency(*rights(*counts))
    assert found.standard_error == pytest.approx(math.sqrt(slope @ variance @ slope), rel=1e-5)
    spread = (found.bootstrap[1] - found.bootstrap[0]) / (found.analytic[1] - found.analytic[0])
    assert spread == pytest.approx(1, abs=0.1)


def test_the_same_errors_independent_errors_and_errors_that_avoid_each_other():
    same = RNG.random(400) < 0.7
    assert error_consistency(same, same).kappa == pytest.approx(1)
    independent = [
        error_consistency(RNG.random(2000) < 0.7, RNG.random(2000) < 0.4, resamples=200) for _ in range(100)
    ]
    assert np.mean([found.kappa for found in independent]) == pytest.approx(0, abs=0.01)
    covered = np.mean([found.bootstrap[0] <= 0 <= found.bootstrap[1] for found in independent])
    assert covered >= 0.88
    assert error_consistency(*rights(0, 50, 50, 0)).kappa == pytest.approx(-1)


def test_a_network_that_is_always_right_has_no_kappa_with_its_like():
    found = error_consistency(np.ones(20, bool), np.ones(20, bool))
    assert math.isnan(found.kappa) and math.isnan(found.standard_error) and found.observed == 1
    mixed = error_consistency(np.ones(20, bool), np.arange(20) < 10)
    assert mixed.kappa == 0


def test_runs_on_different_samples_are_refused():
    ours = Answers(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([4, 5, 6]))
    theirs = Answers(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([4, 5, 7]))
    with pytest.raises(UserError, match="same samples"):
        all_pairs({"a": ours, "b": theirs})
    with pytest.raises(UserError, match="at least two runs"):
        all_pairs({"a": ours})
    with pytest.raises(UserError, match="equal length"):
        error_consistency(np.ones(3, bool), np.ones(4, bool))


class Table(nn.Module):
    """Returns the row of logits that each input names."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs):
        return self.logits[inputs.long()]


def test_answers_of_images_and_of_counted_tokens(tmp_path):
    network = FrozenNetwork(Table(torch.eye(3)))
    images = [
        Batch(torch.tensor([0.0, 1.0]), torch.tensor([0, 2]), torch.tensor([7, 9])),
        Batch(torch.tensor([2.0]), torch.tensor([2]), torch.tensor([3])),
    ]
    found = answers(network, Classification(3), images)
    assert found.correct.tolist() == [True, False, True] and found.index.tolist() == [7, 9, 3]
    counted = torch.tensor([[True, False], [True, True]])
    tokens = Batch(
        torch.tensor([[0, 1], [2, 0]]),
        torch.tensor([[0, 0], [1, 0]]),
        torch.tensor([5, 8]),
        target_mask=counted,
    )
    found = answers(network, Tokens(3), [tokens])
    assert found.correct.tolist() == [True, False, True] and found.index.tolist() == [5, 8, 8]
    pairs = all_pairs({"a": found, "b": Answers(np.array([1, 2, 0]), found.targets, found.index)})
    assert pairs["a", "b"].observed == pytest.approx(2 / 3)
    draw(pairs, tmp_path / "errors.png")
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    series = Batch(torch.tensor([[0.0]]), torch.zeros(1, 1, 3), torch.tensor([0]))
    with pytest.raises(UserError, match="right or wrong"):
        answers(network, Forecasting(1, 3), [series])
