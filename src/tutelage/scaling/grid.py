"""One point of an experiment: an architecture and target at one size, over a grid of P and several data draws at once.

`Point` says what to run, `run_point` runs it to a plain dict (JSON-ready). All (P, draw) pairs are members
of one ensemble; members with fewer points than the largest P are padded and masked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import UserError, choices
from tutelage.scaling.guided import Guide
from tutelage.scaling.langevin import Langevin, largest_curvature
from tutelage.scaling.measure import (
    Posterior,
    fresh_alignment,
    kernel_spectrum,
    layer_overlaps,
    sample_posterior,
    train_error,
)
from tutelage.scaling.networks import Ensemble, PatchConvolution, TwoLayer
from tutelage.scaling.targets import Target
from tutelage.scaling.training import OPTIMIZERS, Training

METHODS = ("langevin", *OPTIMIZERS)
RECORDS = ("overlaps", "spectrum")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One grid point. Everything that can change a number is a field.

    Args:
        experiment: the experiment's name; name: the point's, unique within it (a file name). network,
        target: what learns what. samples: the P grid, increasing; draws: data draws (and networks) per P.
        sizes: the numbers the analysis groups by, e.g. {"d": 32, "N": 32}. method: "langevin", "sgd" or
        "adam". temperature, step_size, friction, steps: of Langevin (see there), or learning rate and steps
        of training. start: "prior", or "planted": some neurons begin on the hidden direction, to see
        whether the posterior was
            reached from both sides.
        guide_strength: None, or nats per point of alignment to an untrained convolution `guide` (two-layer
        only). record: any of "overlaps", "spectrum", at the largest P.
    """

    experiment: str
    name: str
    network: Ensemble
    target: Target
    samples: Sequence[int]
    sizes: dict[str, float] = field(default_factory=dict)
    draws: int = 8
    method: str = "langevin"
    temperature: float = 0.1
    step_size: float = 0.01
    friction: float | None = 0.5
    steps: int = 20_000
    measurements: int = 24
    test_points: int = 4096
    seed: int = 0
    start: str = "prior"
    guide: PatchConvolution | None = None
    guide_strength: float | None = None
    record: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"Unknown method '{self.method}': {choices(self.method, METHODS)}")
        unknown = [name for name in self.record if name not in RECORDS]
        if unknown:
            raise UserError(f"Unknown record '{unknown[0]}': {choices(unknown[0], RECORDS)}")
        if self.start not in ("prior", "planted"):
            raise UserError(f"start must be 'prior' or 'planted', got '{self.start}'")
        grid = list(self.samples)
        if not grid or grid != sorted(set(grid)) or grid[0] < 1:
            raise UserError(f"samples must be an increasing grid of whole numbers from 1 on, got {grid}")
        if self.guide is not None and not (isinstance(self.network, TwoLayer) and self.method == "langevin"):
            raise UserError("A guide needs a two-layer network and method 'langevin'")

    @property
    def members(self) -> int:
        """Networks in the ensemble."""
        return len(self.samples) * self.draws

    @property
    def elements(self) -> int:
        """Activations of one forward of the ensemble, a measure of a step's cost."""
        shapes = self.network.shapes
        units = sum(math.prod(shape) for name, shape in shapes.items() if name in ("readout", "value"))
        width1 = shapes["middle"][0] if "middle" in shapes else 0
        inputs = math.prod(self.target.input_shape)
        return self.members * max(self.samples) * (units + width1 + inputs)


def planted(network: Ensemble, flat: Tensor, units: int) -> Tensor:
    """Prior members whose first `units` neurons (or filters) start on the hidden direction, at overlaps 0.7 and 1.5.

    Two scales, because one erf cannot cancel its own linear part; an attention matrix gets its hidden entry
    set to 2.
    """
    flat = flat.clone()
    own = network.unpack(flat)
    if "attention" in own:
        own["attention"][:, 0, 0] = 2.0
    else:
        own["weight"][:, 0, :units:2] = 0.7
        own["weight"][:, 0, 1:units:2] = 1.5
    return flat


def build(point: Point, device: torch.device | str = "cpu") -> tuple[Any, Tensor]:
    """The sampler (or `Training`) of a point, its data drawn on the CPU so that every device sees the same.

    Returns:
        The sampler and the members' numbers of points.
    """
    generator = torch.Generator().manual_seed(point.seed)
    inputs, values = (
        part.to(device) for part in point.target.draw(point.members, max(point.samples), generator)
    )
    points = torch.tensor([size for size in point.samples for _ in range(point.draws)])
    present = (torch.arange(max(point.samples)) < points.unsqueeze(1)).float().to(device)
    start = point.network.draw(point.members, generator)
    if point.start == "planted":
        start = planted(point.network, start, units=4)
    start = start.to(device)
    if point.method != "langevin":
        sampler: Any = Training(
            point.network,
            inputs,
            values,
            optimizer=point.method,
            learning_rate=point.step_size,
            steps=point.steps,
            batch_size=64,
            points=points.to(device),
            seed=point.seed + 1,
            start=start,
        )
        sampler.present = present
        return sampler, points
    extra = None
    if point.guide is not None and point.guide_strength is not None and isinstance(point.network, TwoLayer):
        extra = Guide(
            point.network,
            point.guide,
            inputs,
            strength=point.guide_strength,
            temperature=point.temperature,
            seed=point.seed + 2,
            present=present,
        )
    sampler = Langevin(
        point.network,
        inputs,
        values,
        temperature=point.temperature,
        step_size=point.step_size,
        friction=point.friction,
        present=present,
        extra=extra,
        seed=point.seed + 1,
        start=start,
    )
    return sampler, points


def run_point(
    point: Point,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    deadline: float = math.inf,
) -> dict[str, Any]:
    """Run one point and return its result: sizes, settings, alignments (P, draws) and what was recorded.

    Raises:
        UserError: when the dynamics diverges.
        OutOfTime: when the deadline passes first.
    """
    began = time.monotonic()
    sampler, _ = build(point, device)
    top = slice(-point.draws, None)  # the members at the largest P
    snapshots: list[dict[str, Tensor]] = []
    prior = kernel_at(point, sampler, top) if "spectrum" in point.record else {}

    def watch(sample: int) -> None:
        # Overlaps of a few late samples, pooled for the histogram.
        if "overlaps" in point.record and sample >= point.measurements - 4:
            generator = torch.Generator(sampler.flat.device).manual_seed(point.seed + sample)
            snapshots.append(
                layer_overlaps(point.network, sampler.flat[top], points=2048, generator=generator)
            )

    if point.method == "langevin":
        found = sample_posterior(
            sampler,
            point.target,
            steps=point.steps,
            samples=point.measurements,
            test_points=point.test_points,
            seed=point.seed + 3,
            checkpoint=checkpoint,
            deadline=deadline,
            watch=watch,
        )
    else:
        found = _train(point, sampler)
        watch(point.measurements)
    shape = (len(point.samples), point.draws)

    def grid(values: Tensor) -> list[list[float]]:
        return [[round(v, 5) for v in row] for row in values.double().view(shape).tolist()]

    result: dict[str, Any] = {
        "experiment": point.experiment,
        "name": point.name,
        "sizes": point.sizes,
        "samples": list(point.samples),
        "settings": settings(point),
        "alignment": grid(found.alignment),
        "drift": grid(found.drift),
        "test_error": grid(found.test_error),
        "train_error": grid(found.train_error),
        "trajectory": [
            [round(v, 4) for v in row] for row in found.trajectory.double().view(-1, *shape).mean(2).tolist()
        ],
        "trajectory_steps": found.trajectory_steps,
        "device": str(sampler.flat.device.type),
    }
    if isinstance(sampler, Langevin):
        if sampler.extra is not None:
            result["guide_alignment"] = grid(sampler.extra.alignment(sampler.flat, sampler.inputs))  # type: ignore[attr-defined]
        result["largest_curvature"] = round(largest_curvature(sampler), 2)
    if snapshots:
        result["overlaps"] = {
            name: [round(v, 3) for s in snapshots for v in s[name].flatten().tolist()]
            for name in snapshots[0]
        }
        result["overlap_networks"] = len(snapshots) * point.draws
    if prior:
        result["spectrum"] = {"prior": prior, "posterior": kernel_at(point, sampler, top)}
    result["seconds"] = round(time.monotonic() - began, 2)
    return result


def settings(point: Point) -> dict[str, Any]:
    """What was run, as plain values: network and target by class and arguments, and the dynamics."""
    plain = {
        name: getattr(point, name)
        for name in (
            "draws",
            "method",
            "temperature",
            "step_size",
            "friction",
            "steps",
            "measurements",
            "test_points",
            "seed",
            "start",
            "guide_strength",
        )
    }
    for name in ("network", "target", "guide"):
        part = getattr(point, name)
        if part is not None:
            plain[name] = {"class": type(part).__name__, **vars(part)}
    return plain


def kernel_at(point: Point, sampler: Any, members: slice, leading: int = 12) -> dict[str, list[float]]:
    """Mean over members of the leading eigenvalues and of the target's share in each."""
    generator = torch.Generator(sampler.flat.device).manual_seed(point.seed + 4)
    found = kernel_spectrum(
        point.network, sampler.flat[members], point.target, points=4096, generator=generator
    )
    return {name: [round(v, 6) for v in part[:, :leading].mean(0).tolist()] for name, part in found.items()}


def _train(point: Point, training: Training) -> Posterior:
    rows, ends = [], [point.steps * (part + 1) // 8 for part in range(8)]
    for part, end in enumerate(ends):
        training.run(end - training.step)
        generator = torch.Generator(training.flat.device).manual_seed(point.seed * 100_003 + part)
        rows.append(
            torch.stack(
                fresh_alignment(
                    point.network, training.flat, point.target, points=point.test_points, generator=generator
                )
            )
        )
    # The trained network is the last state, not an average.
    trajectory = torch.stack([row[0] for row in rows])
    return Posterior(rows[-1][0], rows[-1][1], train_error(training), trajectory, ends)
