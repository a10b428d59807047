"""One Langevin step of an ensemble as batched tensors, over the same step of its networks one at a time."""

from __future__ import annotations

import statistics
from typing import Any

from tutelage.bench.timing import Row, in_turn, row, until_decided

NETWORKS, WIDTH, INPUTS, POINTS = 50, 200, 20, 200
TARGET = 5.0


class OneAtATime:
    """The usual way: a module, autograd and an optimiser per network, each on its own data; noise by hand."""

    def __init__(self, inputs: Any, targets: Any, *, temperature: float, step_size: float) -> None:
        import torch
        from torch import nn

        class TwoLayer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = nn.Linear(INPUTS, WIDTH, bias=False)
                self.readout = nn.Linear(WIDTH, 1, bias=False)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.readout(torch.erf(self.hidden(x))).squeeze(1)

        self.networks = [TwoLayer() for _ in range(NETWORKS)]
        decay = temperature * INPUTS
        self.optimizers = [
            torch.optim.SGD(network.parameters(), lr=step_size / INPUTS, weight_decay=decay)
            for network in self.networks
        ]
        self.inputs, self.targets = inputs, targets
        self.noise = (2 * step_size / INPUTS * temperature) ** 0.5

    def step(self) -> None:
        """Step every network once."""
        import torch

        for place, (network, optimizer) in enumerate(zip(self.networks, self.optimizers, strict=True)):
            optimizer.zero_grad()
            loss = (network(self.inputs[place]) - self.targets[place]).square().sum() / 2
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=self.noise)


def ratios(pairs: int = 15, steps: int = 10) -> list[float]:
    """Seconds of the networks one at a time over seconds of the ensemble, pair by pair (larger is better)."""
    import torch

    from tutelage.scaling.ensembles import TwoLayer
    from tutelage.scaling.langevin import Langevin
    from tutelage.scaling.targets import HermiteTarget

    target = HermiteTarget(inputs=INPUTS, mixture={3: 1.0})
    inputs, values = target.draw(NETWORKS, POINTS, torch.Generator().manual_seed(0))
    network, kappa, eta = TwoLayer(inputs=INPUTS, width=WIDTH), 0.1, 1e-4
    ensemble = Langevin(network, inputs, values, temperature=kappa, step_size=eta, seed=0)
    single = OneAtATime(inputs, values, temperature=kappa, step_size=eta)

    def one_at_a_time() -> None:
        for _ in range(steps):
            single.step()

    def measured(pairs: int) -> list[float]:
        timed = in_turn(lambda: ensemble.run(steps), one_at_a_time, pairs=pairs)
        return [theirs / ours for ours, theirs in timed]

    return until_decided(measured, TARGET, pairs=pairs)


def bench_ensemble_step() -> float:
    """The median ratio: how many times faster an ensemble step is than its networks one at a time."""
    return statistics.median(ratios())


def rows() -> list[Row]:
    """The bench as a table's row."""
    name = (
        f"ensemble step over one network at a time: {NETWORKS} x ({INPUTS}-{WIDTH}-1), {POINTS} points each"
    )
    return [
        row(name, ratios(), at_least=TARGET, note="module, autograd, SGD and noise per network as reference")
    ]
