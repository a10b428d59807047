"""Langevin sampling of ensembles: full batch, all members at once, on CPU or as CUDA graphs, restartable.

The posterior is exp(-U / kappa) with U = sum over points (f - y)^2 / 2 + kappa theta^2 / (2 sigma^2). Every
parameter moves in units of its prior deviation sigma, u = theta / sigma, so that one step size serves all
layers and sizes. Two dynamics sample it:

- overdamped (`friction=None`): u <- u - eta grad_u U + sqrt(2 eta kappa) xi. A direction of curvature h of
U has the
  stationary variance kappa / (h (1 - eta h / 2)) instead of kappa / h, and diverges from eta h = 2 on.
- kinetic (`friction=gamma`): positions and velocities, split as half drift, friction and noise, half drift,
kick with
  a full gradient (BAOAB; Leimkuhler and Matthews, Appl. Math. Res. Express 2013). Stable for dt^2 h < 4,
  and the variance of a quadratic direction is kappa / h at every stable dt. Slow directions (curvature
  kappa) relax in about 1 / (dt sqrt(kappa)) steps where the overdamped dynamics needs 1 / (eta kappa) with
  eta < 2 / h.

`largest_curvature` measures h.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.scaling.ensembles import Ensemble

# Elements of activations per chunk of members on CPU: the passes over a chunk then stay in the cache of one
# core.
_CPU_CHUNK_ELEMENTS = 400_000
_GRAPH_STEPS = 8
ExtraGradient = Callable[[Tensor, Tensor, slice], Tensor]


def stationary_variance(
    curvature: float, temperature: float, step_size: float, friction: float | None = None
) -> float:
    """Variance of one quadratic direction under the discrete dynamics (see the module).

    Raises:
        UserError: for a step size beyond stability, where no stationary state exists.
    """
    limit = stability_limit(curvature, friction)
    if step_size >= limit:
        raise UserError(
            f"step size {step_size:g} diverges at curvature {curvature:g}: it must stay below {limit:.3g}"
        )
    if friction is not None:
        return temperature / curvature
    return temperature / (curvature * (1 - step_size * curvature / 2))


def stability_limit(curvature: float, friction: float | None) -> float:
    """The step size from which a direction of this curvature diverges: 2 / h overdamped, 2 / sqrt(h) kinetic."""
    return 2 / curvature if friction is None else 2 / math.sqrt(curvature)


class Langevin:
    """An ensemble of `network` on data of its own per member.

    Args:
        network: the architecture and priors. inputs: (members, points, ...); targets: (members, points).
        temperature: kappa, the ridge and the noise's temperature; of order one in units of the target's
        variance. step_size: eta, in units of the prior deviations (see the module). seed: of the initial
        members and the noise. present: (members, points) of 0 and 1 where members have different numbers of
        points. extra: a further gradient of U, called as extra(flat parameters, inputs, members' slice)
        (guided variant). start: initial flat parameters (members, size); drawn from the prior if None.

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
        friction: float | None = None,
        present: Tensor | None = None,
        extra: ExtraGradient | None = None,
        start: Tensor | None = None,
    ) -> None:
        if not (temperature > 0 and step_size > 0 and (friction is None or friction > 0)):
            raise UserError(
                f"temperature, step_size and friction must be positive, got {temperature}, {step_size} and {friction}"
            )
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
        self.temperature, self.step_size, self.friction = temperature, step_size, friction
        self.device = inputs.device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.step = 0
        self.flat = network.draw(len(inputs), self.generator) if start is None else start.clone()
        self._velocity = torch.zeros_like(self.flat)
        if friction is not None:
            self._velocity.normal_(generator=self.generator).mul_(math.sqrt(temperature))
        self._deviation = network.prior_deviation(self.device)
        self._noise, self._pull = torch.empty_like(self.flat), torch.empty_like(self.flat)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._graphs = True
        self._chunks = [(slice(0, len(inputs)), inputs.shape[1])] if inputs.is_cuda else self._cut()

    def _cut(self) -> list[tuple[slice, int]]:
        # Chunks of members that fit the cache, each with the points its members have: what is padded at the end is not computed.
        # Grids of P vary tenfold within an ensemble, so this is most of the work.
        members, points = self.targets.shape
        per_point = (
            max(part.numel() for part in self.network.forward(self.flat[:1], self.inputs[:1])[1]) / points
        )
        reach = [points] * members
        if self.present is not None:
            reach = ((self.present != 0) * torch.arange(1, points + 1)).amax(1).clamp_min(1).tolist()
        chunks, first, most = [], 0, 0
        for last in range(members):
            wider = max(most, reach[last])
            full = (last + 1 - first) * wider * per_point > _CPU_CHUNK_ELEMENTS
            if last > first and (full or wider > 1.6 * reach[first]):
                chunks.append((slice(first, last), most))
                first, wider = last, reach[last]
            most = wider
        return [*chunks, (slice(first, members), most)]

    def gradient(self, flat: Tensor, members: slice = slice(None), points: int | None = None) -> Tensor:
        """Gradient of the loss and the extra term at given parameters of some members, by their first `points` points."""
        present = None if self.present is None else self.present[members, :points]
        inputs = self.inputs[members, :points]
        found = self.network.loss_gradient(flat, inputs, self.targets[members, :points], present)
        return found if self.extra is None else found + self.extra(flat, inputs, members)

    def _advance(self) -> None:
        kappa, step = self.temperature, self.step_size
        self._noise.normal_(generator=self.generator)
        for members, points in self._chunks:
            self._pull[members] = self.gradient(self.flat[members], members, points)
        if self.friction is None:
            self.flat.mul_(1 - step * kappa).addcmul_(self._pull, self._deviation.square(), value=-step)
            self.flat.addcmul_(self._noise, self._deviation, value=math.sqrt(2 * step * kappa))
            return
        keep = math.exp(-self.friction * step)
        self._velocity.addcmul_(self._pull, self._deviation, value=-step)
        self._velocity.addcdiv_(self.flat, self._deviation, value=-step * kappa)
        self.flat.addcmul_(self._velocity, self._deviation, value=step / 2)
        self._velocity.mul_(keep).add_(self._noise, alpha=math.sqrt(kappa * (1 - keep**2)))
        self.flat.addcmul_(self._velocity, self._deviation, value=step / 2)

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
        if self._graph is None and self._graphs and steps >= 4 * _GRAPH_STEPS:
            steps -= self._capture()
        if self._graph is not None:
            for _ in range(steps // _GRAPH_STEPS):
                self._graph.replay()
            steps %= _GRAPH_STEPS
        for _ in range(steps):
            self._advance()

    def _capture(self) -> int:
        """Capture `_GRAPH_STEPS` steps; returns how many steps the warm-up took."""
        warmup = 3
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                self._advance()
        torch.cuda.current_stream().wait_stream(side)
        try:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph):
                for _ in range(_GRAPH_STEPS):
                    self._advance()
            self._graph = graph
        except RuntimeError as failure:
            warnings.warn(f"no CUDA graph, steps are launched one by one: {failure}", stacklevel=2)
            self._graphs = False
        return warmup

    def _divergence(self) -> str:
        lost = int((~torch.isfinite(self.flat).all(1)).sum())
        start = self.network.draw(len(self.flat), torch.Generator(self.device).manual_seed(0))
        limit = stability_limit(max(largest_curvature(self, start), self.temperature), self.friction)
        advice = min(self.step_size, limit) / (4 if self.friction is None else 2)
        return (
            f"Langevin dynamics diverged by step {self.step} in {lost} of {len(self.flat)} networks: step_size "
            f"{self.step_size:g} is too large for {self.targets.shape[1]} points. Choose step_size <= {advice:.2g} "
            f"(at a random start the limit is {limit:.2g}, and it falls as networks learn), or fewer points"
        )

    def state(self) -> dict[str, Tensor]:
        """Everything the next steps depend on beside the arguments; the same tensors are changed by further steps."""
        return {
            "flat": self.flat,
            "velocity": self._velocity,
            "generator": self.generator.get_state(),
            "step": torch.tensor(self.step, dtype=torch.int64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state`: the same steps follow as if there had been no interruption."""
        self.flat.copy_(state["flat"])
        self._velocity.copy_(state["velocity"])
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])


@torch.no_grad()
def largest_curvature(sampler: Langevin, flat: Tensor | None = None, iterations: int = 30) -> float:
    """Largest curvature of U over the members, in units of the prior deviations (see `stability_limit`).

    By power iteration on finite differences of the gradient, at the sampler's parameters or at those given.
    """
    at = sampler.flat if flat is None else flat
    deviation = sampler.network.prior_deviation(at.device)
    step = 1e-3
    direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(0)).to(at)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # shortened mantissas would drown the differences
    try:
        here = sampler.gradient(at)
        found = torch.zeros(len(at), device=at.device)
        for _ in range(iterations):
            direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-30)
            change = (sampler.gradient(at + step * deviation * direction) - here) * deviation / step
            found = (change * direction).sum(1)
            direction = change
    finally:
        torch.set_float32_matmul_precision(precision)
    return float(found.max()) + sampler.temperature
