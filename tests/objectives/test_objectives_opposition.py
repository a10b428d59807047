"""An objective that ends where its gradient opposes the others': cosines by hand, one end for all ranks, what is refused."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tutelage.errors import UserError
from tutelage.objectives.base import Objective
from tutelage.objectives.schedule import Schedule
from tutelage.objectives.total import Objectives


class Pull(Objective):
    """The squared distance of the outputs from a point."""

    def __init__(self, point, **common):
        super().__init__(**common)
        self.point = torch.tensor(point)

    def loss(self, step):
        return (step.output - self.point).pow(2).mean()


def pulled(steps=2, weight=1.0):
    """A network whose task pulls it to 1 and whose guide, which may end, to 0.25: they agree at first and oppose near the end."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 1, bias=False))
    nn.init.zeros_(network[0].weight)
    terms = {
        "task": Pull(1.0),
        "guide": Pull(0.25, weight=weight, schedule=Schedule(name="until_opposed", steps=steps)),
    }
    return network, Objectives(network, terms, example=torch.ones(4, 3))


def train(network, total, inputs, updates, lr=0.02, steps=2):
    """Return at each update the guide's factor, and its cosine by hand where it is looked at."""
    optimizer, seen = torch.optim.SGD(network.parameters(), lr=lr), []
    for _ in range(updates):
        factor = total.factors(total.step, updates)["guide"]
        output = inputs @ network[0].weight.T
        g = [(2 * (output - point) * inputs).mean(0) for point in (1.0, 0.25)]
        cosine = float(g[0] @ g[1] / (g[0].norm() * g[1].norm()))
        seen.append((factor, cosine))
        optimizer.zero_grad()
        total(inputs).backward()
        optimizer.step()
    return seen


@pytest.mark.parametrize("steps", [1, 3])
def test_it_ends_after_the_first_window_whose_mean_cosine_is_below_0_and_never_comes_back(steps):
    network, total = pulled(steps)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).abs()
    seen = train(network, total, inputs, 60)
    cosines = [cosine for _, cosine in seen]
    looks = range(0, 60, steps)  # a window shorter than ten updates is looked at in each of them
    every = steps
    ends = next(
        start + steps
        for start in looks
        if math.fsum(cosines[start : start + steps : every]) / len(cosines[start : start + steps : every]) < 0
    )
    assert 0 < ends < 60
    assert [factor for factor, _ in seen] == [1.0] * ends + [0.0] * (60 - ends)
    assert total.record()["cosine/guide"] < 0


def test_what_is_remembered_is_in_the_state():
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).abs()
    network, total = pulled(30)
    whole = train(network, total, inputs, 120)
    network, total = pulled(30)
    first = train(network, total, inputs, 17)  # amid a window
    other_network, other = pulled(30)
    other_network.load_state_dict(network.state_dict())
    other.load_state_dict(total.state_dict())
    other.step = total.step
    assert first + train(other_network, other, inputs, 103) == whole
    assert 0.0 in [factor for factor, _ in whole]


def ended(rank, world):
    network, total = pulled(3)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).abs()
    inputs = inputs[rank * 8 // world : (rank + 1) * 8 // world]
    optimizer, factors = torch.optim.SGD(network.parameters(), lr=0.02), []
    for _ in range(60):
        factors.append(total.factors(total.step, 60)["guide"])
        optimizer.zero_grad()
        total(inputs).backward()
        if world > 1:
            dist.all_reduce(network[0].weight.grad)
            network[0].weight.grad /= world
        optimizer.step()
    return factors


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(ended(rank, 2), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks, which CUDA does not survive")
def test_two_ranks_end_it_at_one_update_that_of_one_rank(tmp_path):
    torch.multiprocessing.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    alone = ended(0, 1)
    assert torch.load(tmp_path / "0.pt") == torch.load(tmp_path / "1.pt") == alone
    assert 0.0 in alone


def test_what_opposes_nothing_is_refused():
    network, ending = nn.Sequential(nn.Linear(3, 1)), Schedule(name="until_opposed", steps=2)
    with pytest.raises(UserError, match=r"'guide' ends where .* there is none"):
        Objectives(network, {"guide": Pull(0.0, schedule=ending)}, example=torch.ones(4, 3))
    with pytest.raises(UserError, match="needs `steps`"):
        Schedule(name="until_opposed")
