"""Objectives over the batch on two ranks: the loss of one on the global batch, and one memory."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tutelage.models.fcn import FCN
from tutelage.objectives.crd import CRD
from tutelage.objectives.dist import DIST
from tutelage.objectives.mlkd import MLKD
from tutelage.objectives.ofa import OFA
from tutelage.objectives.total import Objectives
from tutelage.objectives.uskd import USKD
from tutelage.tasks import Batch, Classification

N = 6


def results(rank: int, world: int) -> list:
    torch.manual_seed(0)
    inputs = torch.randn(N, 1, 4, 4)
    counts = torch.tensor([True, True, True, False, True, False])  # 3 on one rank, 1 on the other
    whole = Batch(inputs, torch.arange(N) % 3, torch.arange(N), None, counts)
    batch = Batch(
        *(None if part is None else part[rank * N // world : (rank + 1) * N // world] for part in whole)
    )
    network, teacher = (FCN((1, 4, 4), 3, depth=2, width=w) for w in (5, 7))
    terms = {
        "dist": DIST(network="teacher"),
        "mlkd": MLKD(network="teacher"),
        "crd": CRD(network="teacher", dimensions=4),
        "ofa": OFA(network="teacher"),
        "uskd": USKD(),
    }
    total = Objectives(
        network.eval(),
        terms,
        frozen={"teacher": teacher},
        task=Classification(3),
        example=whole,
        index=torch.arange(N),
    )
    found = total.losses(total.take(batch, lambda x, mask: network(x)))
    (found["dist"] + found["mlkd"] + found["ofa"] + found["uskd"]).backward(retain_graph=True)
    gradient = network.head.weight.grad.clone()
    means = torch.stack([found["ofa"], found["uskd"]]).detach()  # over ranks, of what each counts
    if world > 1:
        for shared in (gradient, means):
            dist.all_reduce(shared)
            shared /= world
    state = total["crd"].state_dict()
    memory = [state[name].clone() for name in ("bank_mine", "bank_theirs", "labels")]
    return [
        found["dist"].detach(),
        found["mlkd"].detach(),
        gradient,
        means,
        *memory,
        state["log_normalisers"].clone(),
    ]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(results(rank, 2), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks, which CUDA does not survive")
def test_two_ranks_give_the_loss_and_gradient_of_one_and_remember_the_same(tmp_path: Path) -> None:
    expected = results(0, 1)
    torch.multiprocessing.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for got in (first, second):
        torch.testing.assert_close(got[:7], expected[:7])  # the constants come of other draws
    torch.testing.assert_close(first[7], second[7])
