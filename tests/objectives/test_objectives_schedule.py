"""Schedules: the fixed courses by hand, and the learned balances against their papers' equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tutelage.errors import UserError
from tutelage.objectives.balance import GradientBalance, UncertaintyWeights, balance_named
from tutelage.objectives.schedule import Schedule


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        ("always", None, [1, 1, 1, 1, 1]),
        ("until", 2, [1, 1, 0, 0, 0]),
        ("from", 2, [0, 0, 1, 1, 1]),
        ("alone_first", 2, [1, 1, 0, 0, 0]),
        ("warm_up", 4, [0.25, 0.5, 0.75, 1, 1]),
        ("ramp_up", 4, [*(math.exp(-5 * (1 - i / 4) ** 2) for i in range(4)), 1]),
        ("linear", 2, [1, 0.5, 0, 0, 0]),
        ("linear", None, [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", None, [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(5)]),
    ],
)
def test_fixed_courses(name: str, steps: int | None, expected: list[float]) -> None:
    schedule = Schedule(name=name, steps=steps)
    assert [schedule.factor(step, 4) for step in range(5)] == pytest.approx(expected)
    assert schedule.never_off == (0 not in expected)
    assert [schedule.keeps_others_off(step) for step in range(3)] == [name == "alone_first"] * 2 + [False]


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("allways", None, "always"),
        ("until", None, "needs"),
        ("linear", 0, "least 1"),
        ("always", 5, "means nothing"),
    ],
)
def test_wrong_schedules_are_told(name: str, steps: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule(name=name, steps=steps)


def test_uncertainty_weights_reach_the_minimum_of_the_papers_objective() -> None:
    learned = UncertaintyWeights(2)
    losses = torch.tensor([0.5, 8.0])
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.1)
    for _ in range(600):
        optimizer.zero_grad()
        reported = learned.see(losses, None)
        torch.testing.assert_close(reported.detach(), losses)
        (learned.weights() * reported).sum().backward()
        optimizer.step()
    # exp(-s) L + s / 2 is least at exp(s) = 2 L.
    torch.testing.assert_close(learned.log_variances.exp().detach(), 2 * losses, rtol=1e-3, atol=0)


def test_gradient_balance_moves_as_the_papers_algorithm_step_by_step() -> None:
    balance = GradientBalance(3, asymmetry=0.5, lr=0.3)
    weights, first = [1.0, 1.0, 1.0], [4.0, 0.5, 2.0]
    for losses, norms in (
        ([4.0, 0.5, 2.0], [1.0, 3.0, 2.0]),  # of which one is where it should be
        ([3.0, 0.1, 2.5], [2.0, 0.4, 5.0]),
        ([0.2, 0.6, 1.0], [0.1, 9.0, 2.0]),  # of which one weight falls to its floor
        ([0.3, 0.4, 0.9], [0.1, 9.0, 2.0]),
    ):
        rates = [now / then for now, then in zip(losses, first, strict=True)]
        rates = [rate / (sum(rates) / 3) for rate in rates]
        mean = sum(w * g for w, g in zip(weights, norms, strict=True)) / 3
        moved = []
        for w, g, rate in zip(weights, norms, rates, strict=True):
            apart = w * g - mean * rate**0.5  # the mean counts as a constant
            slope = g * ((apart > 1e-6) - (apart < -1e-6))  # of |apart|
            moved.append(max(w - 0.3 * slope / (sum(norms) / 3), 1e-3))
        weights = [w * 3 / sum(moved) for w in moved]
        balance.update(torch.tensor(losses), torch.tensor(norms))
        assert balance.weights().tolist() == pytest.approx(weights, rel=1e-4)
        assert balance.first_losses.tolist() == first


def test_gradient_balance_sees_the_gradients_lengths_on_the_shared_parameter() -> None:
    shared = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    seen, by_hand = GradientBalance(2), GradientBalance(2)
    seen.see(torch.stack([3 * shared.sum(), shared.square().sum()]), shared)
    # 3 in each of four places; twice the parameter
    by_hand.update(torch.tensor([7.5, 14.25]), torch.tensor([6.0, 2 * math.sqrt(14.25)]))
    torch.testing.assert_close(seen.weights(), by_hand.weights())
    assert seen.first_losses.tolist() == [7.5, 14.25]


def test_on_ranks_a_balance_sees_the_gradient_and_losses_of_the_global_batch(monkeypatch) -> None:
    shared, alone = nn.Parameter(torch.tensor([1.0, -2.0])), GradientBalance(2)
    losses = torch.stack([3 * shared.sum(), shared.square().sum()])
    alone.see(losses, shared)
    monkeypatch.setattr("tutelage.objectives.balance.world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda values: values.mul_(2)
    )  # the other rank has the same
    ranks = GradientBalance(2)
    ranks.see(losses, shared)
    assert torch.equal(ranks.weights(), alone.weights()) and torch.equal(
        ranks.first_losses, alone.first_losses
    )


def test_a_balance_that_there_is_not_is_told() -> None:
    with pytest.raises(UserError, match=r"no balance of objectives is named 'uncertainy'.*'uncertainty'"):
        balance_named("uncertainy", 2)


def test_gradient_balance_evens_the_weighted_norms_and_keeps_the_sum() -> None:
    balance = GradientBalance(2)
    losses, norms = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 4.0])
    for _ in range(400):
        balance.update(losses, norms)
    weighted = balance.weights() * norms
    assert float(balance.weights().sum()) == pytest.approx(2)
    assert float(weighted[0] / weighted[1]) == pytest.approx(1, abs=0.1)


def test_gradient_balance_favours_the_loss_that_falls_slowly() -> None:
    balance = GradientBalance(2)
    balance.update(torch.tensor([1.0, 1.0]), torch.ones(2))
    for _ in range(200):
        balance.update(torch.tensor([1.0, 0.1]), torch.ones(2))
    assert balance.weights()[0] > balance.weights()[1]


def test_a_balance_measures_gradients_on_the_shared_parameter_and_checkpoints_its_state() -> None:
    shared = nn.Parameter(torch.tensor([3.0, 4.0]))
    balance = balance_named("gradient_norm", 2)
    losses = torch.stack([shared.sum(), 100 * shared.square().sum()])
    torch.testing.assert_close(balance.see(losses, shared), losses)
    weights = balance.weights()
    assert float(weights[0]) > 1 > float(weights[1])
    restored = balance_named("gradient_norm", 2)
    restored.load_state_dict(balance.state_dict())
    assert torch.equal(restored.weights(), weights)
    losses.sum().backward()  # the graph is still there for training
    assert shared.grad is not None
