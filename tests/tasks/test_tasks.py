"""Metrics of every task: what is recorded is the mean over all that counts, however the split is cut into batches."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tutelage.errors import UserError
from tutelage.tasks import Batch, Classification, Forecasting, MultiLabel, Regression, Task, Tokens

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


def losses_on_a_share(rank: int, world: int) -> list[tuple[Tensor, Tensor]]:
    """The mean over ranks of the hard and the soft loss, and of their gradients, of tasks that count unequal numbers of targets."""
    found = []
    for make in (tokens, with_holes):
        for soft in (False, True):
            task, output, batch, _ = make(torch.Generator().manual_seed(0))
            own = slice(0, 30) if rank == 0 else slice(30, None)
            own = own if world > 1 else slice(None)
            leaf = output.clone().requires_grad_()
            share, answers = part(batch, own), leaf[own]
            teacher = output[own].roll(1, -1)
            loss = task.soft_loss(answers, teacher, share, 2.0) if soft else task.loss(answers, share)
            loss.backward()
            assert leaf.grad is not None
            values = [loss.detach(), leaf.grad]
            if world > 1:
                for value in values:
                    dist.all_reduce(value)
                    value /= world
            found.append((values[0], values[1]))
    return found


def rank_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(losses_on_a_share(rank, 2), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_ranks_that_count_unequal_numbers_of_targets_have_the_loss_and_gradient_of_one(
    tmp_path: Path,
) -> None:
    """A mean of the ranks' own means would weigh a target by how few there are on its rank."""
    method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(rank_of_two, args=(str(tmp_path),), nprocs=2, start_method=method)
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for mine, expected in zip(got, losses_on_a_share(0, 1), strict=True):
            for a, b in zip(mine, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [tokens, with_holes])
def test_where_nothing_counts_both_losses_are_zero_with_a_gradient_of_zeros(make: Any) -> None:
    task, output, batch, _ = make(torch.Generator().manual_seed(0))
    nothing = torch.zeros_like(batch.targets, dtype=torch.bool)
    batch = batch._replace(target_mask=nothing)
    output = output.requires_grad_()
    loss = task.loss(output, batch) + task.soft_loss(output, output.detach() + 1, batch, 2.0)
    loss.backward()
    assert float(loss.detach()) == 0 and not output.grad.any()


def test_a_masked_class_counts_neither_in_the_loss_nor_in_the_metrics() -> None:
    task, output, batch, _ = classification(torch.Generator().manual_seed(0))
    mask = torch.zeros(len(output), dtype=torch.bool)
    mask[:2] = True
    masked = batch._replace(target_mask=mask)
    alone = batch._replace(inputs=batch.inputs[:2], targets=batch.targets[:2], index=batch.index[:2])
    torch.testing.assert_close(task.loss(output, masked), task.loss(output[:2], alone))
    teacher = output.flip(0)
    soft = task.soft_loss(output, teacher, masked, 2.0), task.soft_loss(output[:2], teacher[:2], alone, 2.0)
    torch.testing.assert_close(*soft)
    metrics, expected = task.metrics(), task.metrics()
    metrics.update(output, masked)
    expected.update(output[:2], alone)
    assert metrics.compute() == expected.compute()


@pytest.mark.parametrize(("task", "least"), [(Classification, 2), (MultiLabel, 1), (Regression, 1)])
def test_the_least_of_outputs_is_taken_and_less_is_refused(task: Any, least: int) -> None:
    assert task(least).output_size == least
    with pytest.raises(UserError, match=str(least)):
        task(least - 1)
