"""One point of an experiment: an architecture and target at one size, over a grid of P and several data draws at once.

`Point` says what to run, `run_point` runs it to a plain dict (JSON-ready). All (P, draw) pairs are members
of one ensemble; members with fewer points than the largest P are padded and masked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.errors import UserError, choices
from tutelage.scaling.ensembles import Ensemble, PatchConvolution, TwoLayer
from tutelage.scaling.guided import Guide
from tutelage.scaling.langevin import Langevin, largest_curvature
from tutelage.scaling.measure import (
    kernel_spectrum,
    layer_overlaps,
    sample_posterior,
)
from tutelage.scaling.targets import Target
from tutelage.scaling.training import OPTIMIZERS, Training

METHODS = ("langevin", *OPTIMIZERS)
RECORDS = ("overlaps", "spectrum")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One grid point. Everything that can change a number is a field; the values of an experiment are in `conf/scale`.

    Args:
        experiment: the experiment's name; name: the point's, unique within it.
        network, target: what learns what.
        samples: the P grid, increasing; draws: data draws (and networks) per P.
        sizes: the numbers the analysis groups by, e.g. {"d": 32, "N": 32}.
        method: "langevin", "sgd" or "adam".
        temperature, step_size, friction, steps: of Langevin (see there); of training, `step_size` is the learning
        rate and `batch_size` the points of a step.
        measurements: of alignment, at equal intervals, each on `test_points` fresh points.
        start: "prior", or "planted": some neurons begin on the hidden direction, to see whether the posterior was
        reached from both sides.
        guide, guide_strength: an untrained convolution and the nats per point of alignment to it (two-layer only).
        record: any of "overlaps", "spectrum", at the largest P.
        predicted: the exponent of P* in d that the points were planned with, where a case has no verdicts of its own.
    """

    experiment: str
    name: str
    network: Ensemble
    target: Target
    samples: Sequence[int]
    sizes: Mapping[str, float]
    draws: int
    temperature: float
    step_size: float
    friction: float | None
    steps: int
    measurements: int
    test_points: int
    method: str = "langevin"
    batch_size: int = 64
    seed: int = 0
    start: str = "prior"
    guide: PatchConvolution | None = None
    guide_strength: float | None = None
    record: Sequence[str] = ()
    predicted: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"unknown method '{self.method}'; {choices(self.method, METHODS)}")
        unknown = [name for name in self.record if name not in RECORDS]
        if unknown:
            raise UserError(f"unknown record '{unknown[0]}'; {choices(unknown[0], RECORDS)}")
        if self.start not in ("prior", "planted"):
            raise UserError(f"start must be 'prior' or 'planted', got '{self.start}'")
        for name in ("draws", "temperature", "step_size", "steps", "test_points", "batch_size"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        if not 4 <= self.measurements <= self.steps:
            raise UserError(
                f"measurements must be between 4 and steps ({self.steps}), got {self.measurements}"
            )
        grid = list(self.samples)
        if not grid or grid != sorted(set(grid)) or grid[0] < 1:
            raise UserError(f"samples must be an increasing grid of whole numbers from 1 on, got {grid}")
        if self.guide is not None and not (isinstance(self.network, TwoLayer) and self.method == "langevin"):
            raise UserError("a guide needs a two-layer network and method 'langevin'")

    @property
    def members(self) -> int:
        """Networks in the ensemble."""
        return len(self.samples) * self.draws


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
            batch_size=point.batch_size,
            points=points.to(device),
            present=present,
            seed=point.seed + 1,
            start=start,
        )
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
    progress: Callable[[int, list[float]], None] | None = None,
) -> dict[str, Any]:
    """Run one point and return its result: sizes, settings, alignments (P, draws) and what was recorded.

    With a `checkpoint` file an interrupted point continues, with the numbers of an undisturbed one. `progress` is
    called with the step and the mean alignment at each P after every measurement.

    Raises:
        UserError: when the dynamics diverges.
    """
    began = time.monotonic()
    sampler, _ = build(point, device)
    top = slice(-point.draws, None)  # the members at the largest P
    overlaps: dict[str, Tensor] = {}
    prior = kernel_at(point, sampler, top) if "spectrum" in point.record else {}
    late = 4 if point.method == "langevin" else 1

    def watch(sample: int, alignments: Tensor) -> None:
        # Overlaps of a few late samples, pooled for the histogram.
        if "overlaps" in point.record and sample >= point.measurements - late:
            generator = torch.Generator(sampler.flat.device).manual_seed(point.seed + sample)
            found = layer_overlaps(point.network, sampler.flat[top], points=2048, generator=generator)
            # Copies: some are views of the parameters, which the next steps change in place.
            overlaps.update({f"{name}.{sample}": part.clone() for name, part in found.items()})
        if progress is not None:
            progress(sampler.step, alignments.view(len(point.samples), -1).mean(1).tolist())

    found = sample_posterior(
        sampler,
        point.target,
        steps=point.steps,
        samples=point.measurements,
        test_points=point.test_points,
        seed=point.seed + 3,
        average=None if point.method == "langevin" else 1,  # a trained network is its last state
        checkpoint=checkpoint,
        records=overlaps,
        watch=watch,
    )
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
    if overlaps:
        snapshots: dict[str, list[float]] = {}
        for key in sorted(overlaps, key=lambda key: int(key.rpartition(".")[2])):
            snapshots.setdefault(key.rpartition(".")[0], []).extend(overlaps[key].flatten().tolist())
        result["overlaps"] = {name: [round(v, 3) for v in values] for name, values in snapshots.items()}
        result["overlap_networks"] = min(late, point.measurements) * point.draws
    if prior:
        result["spectrum"] = {"prior": prior, "posterior": kernel_at(point, sampler, top)}
    result["seconds"] = round(time.monotonic() - began, 2)
    return result


def settings(point: Point) -> dict[str, Any]:
    """What was run, as plain values: network, target and guide by class and arguments, and the dynamics."""
    plain: dict[str, Any] = {}
    for part in fields(point):
        value = getattr(point, part.name)
        if part.name in ("network", "target", "guide"):
            value = value and {"class": type(value).__name__, **vars(value)}
        if part.name not in ("experiment", "name", "sizes", "samples"):
            plain[part.name] = value
    return plain


def kernel_at(point: Point, sampler: Any, members: slice, leading: int = 12) -> dict[str, list[float]]:
    """Mean over members of the leading eigenvalues and of the target's share in each."""
    generator = torch.Generator(sampler.flat.device).manual_seed(point.seed + 4)
    found = kernel_spectrum(
        point.network, sampler.flat[members], point.target, points=4096, generator=generator
    )
    return {name: [round(v, 6) for v in part[:, :leading].mean(0).tolist()] for name, part in found.items()}
