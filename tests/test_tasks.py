"""Metrics of every task: what is recorded is the mean over all that counts, however the split is cut into batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.tasks import Batch, Classification, Forecasting, Task, Tokens

COUNT = 33


def classification(generator: torch.Generator) -> tuple[Task, Tensor, Batch, Tensor]:
    output = torch.randn(COUNT, 4, generator=generator)
    output[-1] *= 30  # one hard sample in a last batch of its own
    targets = torch.randint(4, (COUNT,), generator=generator)
    points = F.cross_entropy(output.double(), targets, reduction="none")
    return Classification(4), output, Batch(output, targets, torch.arange(COUNT)), points


def tokens(generator: torch.Generator) -> tuple[Task, Tensor, Batch, Tensor]:
    output = torch.randn(COUNT, 5, 6, generator=generator)
    output[-1] *= 30
    targets = torch.randint(6, (COUNT, 5), generator=generator)
    mask = torch.arange(5) < torch.randint(1, 6, (COUNT, 1), generator=generator)
    points = F.cross_entropy(output.double().transpose(1, 2), targets, reduction="none")[mask]
    return Tokens(6), output, Batch(output, targets, torch.arange(COUNT), mask), points


def forecasting(generator: torch.Generator, *, holes: bool = False) -> tuple[Task, Tensor, Batch, Tensor]:
    output, targets = torch.randn(2, COUNT, 3, 2, generator=generator)
    output[-1] *= 30
    counted = torch.rand(COUNT, 3, 2, generator=generator) > 0.5 if holes else None
    squares = (output - targets).double().square()
    return (
        Forecasting(3, 2), output, Batch(output, targets, torch.arange(COUNT), None, counted),
        squares.flatten() if counted is None else squares[counted],
    )  # fmt: skip


def with_holes(generator: torch.Generator) -> tuple[Task, Tensor, Batch, Tensor]:
    return forecasting(generator, holes=True)


def part(batch: Batch, rows: slice) -> Batch:
    parts: Any = [None if each is None else each[rows] for each in batch]
    return Batch(*parts)


@pytest.mark.parametrize("size", [COUNT, 32, 16, 5, 1])
@pytest.mark.parametrize("make", [classification, tokens, forecasting, with_holes])
def test_the_loss_is_the_mean_over_all_that_counts_for_any_batch_size(make: Any, size: int) -> None:
    task, output, batch, points = make(torch.Generator().manual_seed(0))
    metrics = task.metrics()
    for first in range(0, COUNT, size):
        rows = slice(first, first + size)
        metrics.update(output[rows], part(batch, rows))
    values = metrics.compute()
    assert values["loss"] == pytest.approx(float(points.mean()), rel=1e-5)
    if isinstance(task, Forecasting):
        assert values["mse"] == pytest.approx(float(points.mean()), rel=1e-5)
        assert values["mae"] == pytest.approx(float(points.sqrt().mean()), rel=1e-5)
    if isinstance(task, Tokens):
        assert values["perplexity"] == pytest.approx(float(points.mean().exp()), rel=1e-4)
    assert float(task.loss(output, batch)) == pytest.approx(float(points.mean()), rel=1e-5)


def test_a_batch_in_which_nothing_counts_costs_nothing() -> None:
    task, output, batch, _ = with_holes(torch.Generator().manual_seed(0))
    output = output.requires_grad_()
    nothing = batch._replace(target_mask=torch.zeros(COUNT, 3, 2, dtype=torch.bool))
    loss = task.loss(output, nothing)
    loss.backward()
    assert float(loss.detach()) == 0.0 and output.grad is not None and not output.grad.any()
    assert float(task.soft_loss(output.detach(), -output.detach(), nothing, 2.0)) == 0.0


def test_a_teachers_forecast_is_met_where_targets_count() -> None:
    task, output, batch, _ = with_holes(torch.Generator().manual_seed(0))
    teacher = torch.randn(COUNT, 6, generator=torch.Generator().manual_seed(1))
    assert batch.target_mask is not None
    expected = (output.flatten(1) - teacher).square()[batch.target_mask.flatten(1)].mean()
    torch.testing.assert_close(task.soft_loss(output, teacher, batch, 2.0), expected)
