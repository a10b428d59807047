"""One process with 8 samples and two with 4 each: the same loss, and after DDP's averaging the same gradient."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from named_similarities import SIMILARITIES
from tutelage.alignment.alignment import Alignment
from tutelage.alignment.gather import gather
from tutelage.alignment.pairing import Pairing
from tutelage.objectives.balance import balance_named

CASES = [("cka", False), ("unbiased_cka", True), ("rsa", False), ("ridge", False)]


class Batch(NamedTuple):
    """As `tutelage.tasks.Batch`, without what its import costs every rank."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


def losses(rank: int, world: int, *, ddp: bool = False) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The losses of every case on this rank's share of 8 samples, the first layer's gradient over all ranks, and the balance by it."""
    results = []
    for name, per_token in CASES:
        torch.manual_seed(0)
        network, guide = Network(5), Network(7)
        x = torch.randn(8, 3, 6) if per_token else torch.randn(8, 6)
        mask = (torch.rand(8, 3) > 0.3) if per_token else None
        share = slice(rank * 8 // world, (rank + 1) * 8 // world)
        data = Batch(x[share], torch.zeros(8 // world), None if mask is None else mask[share])
        alignment = Alignment(
            network, guide, data, pairing=Pairing(), similarity=SIMILARITIES[name](), per_token=per_token
        )  # fmt: skip
        wrapped = DistributedDataParallel(network) if ddp else network
        alignment.guide(data)
        with alignment.recording():
            output = wrapped(data.inputs)
        aligned, task = alignment.loss(), output.square().mean()
        learned = balance_named("gradient_norm", 2)
        learned.see(torch.stack([task, aligned]), network.first.weight)
        learned.see(torch.stack([task, aligned]) / 2, network.first.weight)  # the first look sets the scale
        balance = learned.weights().clone()
        loss = aligned + task
        loss.backward()
        gradient = network.first.weight.grad
        assert gradient is not None
        if world > 1 and not ddp:
            dist.all_reduce(gradient)
            gradient /= world
        results.append((alignment_only(loss, output), gradient.clone(), balance))
    return results


def alignment_only(loss: Tensor, output: Tensor) -> Tensor:
    return (loss - output.square().mean()).detach()


def worker(rank: int, folder: str, ddp: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(losses(rank, 2, ddp=ddp), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "ddp", [False, pytest.param(True, marks=pytest.mark.slow)]
)  # DDP's import alone takes 8 s
def test_two_ranks_give_the_loss_and_gradient_of_one(tmp_path: Path, ddp: bool) -> None:
    expected = losses(0, 1)
    # Forked ranks need not import torch again, which takes ten times as long as the test.
    method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(worker, args=(str(tmp_path), ddp), nprocs=2, start_method=method)
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for (loss, gradient, balance), (all_loss, all_gradient, one_balance) in zip(
            got, expected, strict=True
        ):
            torch.testing.assert_close(balance, one_balance, rtol=1e-4, atol=1e-6)
            assert float((one_balance - 1).abs().max()) > 1e-3
            torch.testing.assert_close(loss, all_loss, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(gradient, all_gradient, rtol=1e-4, atol=1e-6)


def test_one_rank_gathers_nothing() -> None:
    x = torch.randn(3, 2)
    assert gather(x) is x


@pytest.mark.parametrize("rank", [0, 1])
def test_the_backward_takes_the_own_rows_times_the_ranks(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast variant: both ranks simulated by replacing the communication alone."""
    shares = [torch.randn(2, 3), torch.randn(2, 3)]
    module = "tutelage.alignment.gather."
    monkeypatch.setattr(module + "world_size", lambda: 2)
    monkeypatch.setattr(module + "_all_gather", lambda x: torch.cat(shares))
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    own = shares[rank].clone().requires_grad_()
    whole = gather(own)
    weight = torch.arange(12.0).view(4, 3)
    (whole * weight).sum().backward()
    torch.testing.assert_close(own.grad, 2 * weight[2 * rank : 2 * rank + 2])
