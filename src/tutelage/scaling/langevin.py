"""Langevin sampling of ensembles: full batch, all members at once, on CPU or as CUDA graphs, restartable.

The posterior is exp(-U / kappa) with U = sum over points (f - y)^2 / 2 + kappa theta^2 / (2 sigma^2). One
step moves every parameter in units of its prior deviation sigma,

    theta <- theta - eta (sigma^2 grad_loss + kappa theta) + sqrt(2 eta kappa) sigma xi,

which is the usual step with eta sigma^2 as the layer's step size: the same posterior, but one eta serves
all layers and sizes. A direction of curvature h (in these units, kappa included) has the stationary
variance sigma^2 kappa / (h (1 - eta h / 2)) instead of sigma^2 kappa / h: the discretisation's bias, and
divergence from eta h = 2 on. `largest_curvature` measures h.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.scaling.networks import Ensemble

# Elements of activations per chunk of members on CPU: the passes over a chunk then stay in the cache of one
# core.
_CPU_CHUNK_ELEMENTS = 400_000
_GRAPH_STEPS = 8
ExtraGradient = Callable[[Tensor, Tensor, slice], Tensor]


def stationary_variance(curvature: float, temperature: float, step_size: float) -> float:
    """Variance of theta <- theta - eta h theta + sqrt(2 eta kappa) xi: kappa / (h (1 - eta h / 2)).

    Raises:
        UserError: when eta h >= 2, where no stationary state exists.
    """
    if step_size * curvature >= 2:
        raise UserError(
            f"Step size {step_size:g} diverges at curvature {curvature:g}: it must stay below {2 / curvature:.3g}"
        )
    return temperature / (curvature * (1 - step_size * curvature / 2))


class Langevin:
    """An ensemble of `network` on data of its own per member.

    Args:
        network: the architecture and priors. inputs: (members, points, ...); targets: (members, points).
        temperature: kappa, the ridge and the noise's temperature; of order one in units of the target's
        variance. step_size: eta, in units of the prior deviations (see the module). seed: of the initial
        members and the noise. present: (members, points) of 0 and 1 where members have different numbers of
        points. extra: a further gradient of U, called as extra(flat parameters, inputs, members' slice)
        (guided variant). start: initial flat parameters (members, size); drawn from the prior if None.
        compiled: fuse forward and backward with torch.compile (pays on CUDA).

    Raises:
        UserError: for shapes or numbers that do not fit.
    """

    def __init__(
        self,
        network: Ensemble,
        inputs: Tensor,
        targets: Tensor,
        *,
        temperature: float,
        step_size: float,
        seed: int,
        present: Tensor | None = None,
        extra: ExtraGradient | None = None,
        start: Tensor | None = None,
        compiled: bool = False,
    ) -> None:
        if not (temperature > 0 and step_size > 0):
            raise UserError(f"temperature and step_size must be positive, got {temperature} and {step_size}")
        if inputs.shape[:2] != targets.shape:
            raise UserError(
                f"inputs (members, points, ...) and targets (members, points) differ: {tuple(inputs.shape)} and "
                f"{tuple(targets.shape)}"
            )
        self.network, self.inputs, self.targets, self.present, self.extra = (
            network,
            inputs,
            targets,
            present,
            extra,
        )
        self.temperature, self.step_size = temperature, step_size
        self.device = inputs.device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.step = 0
        self.flat = network.draw(len(inputs), self.generator) if start is None else start.clone()
        self._deviation = network.prior_deviation(self.device)
        self._noise = torch.empty_like(self.flat)
        self._gradient = (
            torch.compile(network.loss_gradient, dynamic=False) if compiled else network.loss_gradient
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        widest = max(part.numel() for part in network.forward(self.flat[:1], inputs[:1])[1])
        self._chunk = len(inputs) if inputs.is_cuda else max(1, _CPU_CHUNK_ELEMENTS // widest)

    def gradient(self, flat: Tensor, members: slice = slice(None)) -> Tensor:
        """Gradient of the loss and the extra term at given parameters of some members."""
        present = None if self.present is None else self.present[members]
        found = self._gradient(flat, self.inputs[members], self.targets[members], present)
        return found if self.extra is None else found + self.extra(flat, self.inputs[members], members)

    def _advance(self) -> None:
        eta, kappa = self.step_size, self.temperature
        self._noise.normal_(generator=self.generator)
        self._noise.mul_(self._deviation).mul_(math.sqrt(2 * eta * kappa))
        for first in range(0, len(self.flat), self._chunk):
            members = slice(first, first + self._chunk)
            flat = self.flat[members]
            pull = self.gradient(flat, members).mul_(self._deviation.square())
            flat.mul_(1 - eta * kappa).sub_(pull, alpha=eta).add_(self._noise[members])

    @torch.no_grad()
    def run(self, steps: int) -> None:
        """Take `steps` steps; the state stays in place and can be read, saved or continued.

        Raises:
            UserError: when a member diverged, with the step size that would do.
        """
        if self.device.type == "cuda":
            self._run_graph(steps)
        else:
            for _ in range(steps):
                self._advance()
        self.step += steps
        if not torch.isfinite(self.flat).all():
            raise UserError(self._divergence())

    def _run_graph(self, steps: int) -> None:
        # A step is tens of small kernels: replaying a captured graph spares their launches.
        if self._graph is None and steps >= 4 * _GRAPH_STEPS:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._advance()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph):
                for _ in range(_GRAPH_STEPS):
                    self._advance()
            self._graph = graph
            steps -= 3
        if self._graph is not None:
            for _ in range(steps // _GRAPH_STEPS):
                self._graph.replay()
            steps %= _GRAPH_STEPS
        for _ in range(steps):
            self._advance()

    def _divergence(self) -> str:
        lost = int((~torch.isfinite(self.flat).all(1)).sum())
        start = self.network.draw(len(self.flat), torch.Generator(self.device).manual_seed(0))
        limit = 2 / max(largest_curvature(self, start), self.temperature)
        advice = min(self.step_size / 4, limit / 4)
        return (
            f"Langevin dynamics diverged by step {self.step} in {lost} of {len(self.flat)} networks: step_size "
            f"{self.step_size:g} is too large for {self.targets.shape[1]} points. Choose step_size <= {advice:.2g} "
            f"(at a random start the limit is {limit:.2g}, and it falls as networks learn), or fewer points"
        )

    def save(self, path: Path) -> None:
        """Write parameters, generator and step to a safetensors file, atomically."""
        from safetensors.torch import save_file

        state = {
            "flat": self.flat.cpu(),
            "generator": self.generator.get_state().cpu(),
            "step": torch.tensor(self.step, dtype=torch.int64),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        save_file(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a file of `save`: the same steps follow as if there had been no interruption.

        Raises:
            UserError: when the file is missing, unreadable or of another ensemble.
        """
        from safetensors.torch import load_file

        state = {}
        with contextlib.suppress(Exception):
            state = load_file(path)
        if "flat" not in state or state["flat"].shape != self.flat.shape:
            came = (
                f"parameters of shape {tuple(state['flat'].shape)}"
                if "flat" in state
                else "no readable state"
            )
            raise UserError(
                f"Cannot continue from {path}: expected parameters of shape {tuple(self.flat.shape)}, found {came}. "
                "Remove the file to start again"
            )
        self.flat.copy_(state["flat"])
        self.generator.set_state(state["generator"])
        self.step = int(state["step"])


@torch.no_grad()
def largest_curvature(sampler: Langevin, flat: Tensor | None = None, iterations: int = 30) -> float:
    """Largest curvature of U over the members, in units of the prior deviations: eta must stay below 2 over it.

    By power iteration on finite differences of the gradient, at the sampler's parameters or at those given.
    """
    at = sampler.flat if flat is None else flat
    deviation = sampler.network.prior_deviation(at.device)
    step = 1e-3
    direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(0)).to(at)
    here = sampler.gradient(at)
    found = torch.zeros(len(at), device=at.device)
    for _ in range(iterations):
        direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-30)
        change = (sampler.gradient(at + step * deviation * direction) - here) * deviation / step
        found = (change * direction).sum(1)
        direction = change
    return float(found.max()) + sampler.temperature
