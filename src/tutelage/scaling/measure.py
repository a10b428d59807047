"""What is measured on sampled networks: alignment, specialised neurons, kernel spectra.

Definitions are ours where the paper leaves them open (its reviewers asked): see each function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import UserError
from tutelage.scaling import state
from tutelage.scaling.ensembles import Ensemble
from tutelage.scaling.targets import Target, hermite


def alignment(outputs: Tensor, values: Tensor) -> Tensor:
    """A_f = <f, y> / <y, y> over points (the last axis): 1 where the target is learned, 0 where it is not.

    <y, y> is taken on the same points, so that f = y gives exactly 1.
    """
    return (outputs * values).mean(-1) / values.square().mean(-1)


@torch.no_grad()
def fresh_alignment(
    network: Ensemble, flat: Tensor, target: Target, *, points: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Alignment and mean squared error of every member on fresh points, the same points for all members.

    Returns:
        A_f and test error, each (members,).
    """
    inputs, values = target.draw(1, points, generator)
    outputs = network.outputs(flat, inputs.expand(len(flat), *inputs.shape[1:]))
    return alignment(outputs, values), (outputs - values).square().mean(1)


@dataclass(frozen=True)
class Posterior:
    """Averages over a Langevin run, per member, and the way there.

    `alignment` and `test_error` average the late samples; `train_error` is of the last sample;
    `trajectory` (samples, members) holds every sample's alignment from the start, at the steps
    `trajectory_steps`.
    """

    alignment: Tensor
    test_error: Tensor
    train_error: Tensor
    trajectory: Tensor
    trajectory_steps: list[int]

    @property
    def drift(self) -> Tensor:
        """Second half of the averaging window less the first, per member: far from 0 where equilibrium was not reached."""
        kept = self.trajectory[len(self.trajectory) // 2 :]
        half = len(kept) // 2
        return kept[half:].mean(0) - kept[:half].mean(0)


class Sampler(Protocol):
    """What is measured over time: `langevin.Langevin` and `training.Training`."""

    network: Ensemble
    flat: Tensor
    inputs: Tensor
    targets: Tensor
    present: Tensor | None
    device: torch.device
    step: int

    def run(self, steps: int) -> None:
        """Take steps."""

    def state(self) -> dict[str, Tensor]:
        """Everything the next steps depend on."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state."""


def sample_posterior(
    sampler: Sampler,
    target: Target,
    *,
    steps: int,
    samples: int,
    test_points: int,
    seed: int,
    average: int | None = None,
    checkpoint: Path | None = None,
    records: dict[str, Tensor] | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Posterior:
    """Run `steps` steps, measuring alignment on fresh points at `samples` equal intervals.

    The last `average` samples are averaged (half of them if None; the rest is burn-in). A_f is linear in f, so its
    average over time and members is the alignment of the posterior-mean network.

    Args:
        checkpoint: a file that holds the state after every sample: with it the run continues where it was
        interrupted, and it is removed at the end. watch: called after each sample with its number and the members'
        alignments, before the state is saved. records: what `watch` adds to is kept with the state.

    Raises:
        UserError: when samples is below 4 or above steps, or the dynamics diverges.
    """
    if not 4 <= samples <= steps:
        raise UserError(f"samples must be between 4 and steps ({steps}), got {samples}")
    rows = torch.zeros(2, samples, len(sampler.flat), device=sampler.device)
    records = {} if records is None else records
    if checkpoint is not None and checkpoint.exists():
        stored = state.load(checkpoint, sampler.flat)
        sampler.restore(stored)
        rows.copy_(stored["rows"])
        records |= {
            name.removeprefix("record."): t for name, t in stored.items() if name.startswith("record.")
        }
    ends = [steps * (sample + 1) // samples for sample in range(samples)]
    for sample, end in enumerate(ends):
        if end <= sampler.step:
            continue
        sampler.run(end - sampler.step)
        generator = torch.Generator(sampler.device).manual_seed(seed * 100_003 + sample)
        rows[:, sample] = torch.stack(
            fresh_alignment(sampler.network, sampler.flat, target, points=test_points, generator=generator)
        )
        if watch is not None:
            watch(sample, rows[0, sample])
        if checkpoint is not None:
            kept = {f"record.{name}": tensor for name, tensor in records.items()}
            state.save(checkpoint, {**sampler.state(), "rows": rows, **kept})
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    late = rows[:, -(average or samples - samples // 2) :].mean(1)
    return Posterior(late[0], late[1], train_error(sampler), rows[0], ends)


@torch.no_grad()
def train_error(sampler: Sampler) -> Tensor:
    """Mean squared error of every member on its own data (padded points left out); a sampler or a `Training`."""
    wrong = (sampler.network.outputs(sampler.flat, sampler.inputs) - sampler.targets).square()
    present = sampler.present
    return wrong.mean(1) if present is None else (wrong * present).sum(1) / present.sum(1)


@dataclass(frozen=True)
class Specialisation:
    """Neurons counted as specialised, per network, and how the count moves with the threshold.

    `threshold` is in units of the overlap; NaN with count 0 where the histogram has a single mode.
    `sensitivity` maps a factor on the threshold to the count there.
    """

    count: float
    threshold: float
    sensitivity: dict[float, float]


def specialised_neurons(
    overlaps: Sequence[float] | np.ndarray,
    networks: int,
    *,
    bins: int = 60,
    factors: Sequence[float] = (0.7, 0.85, 1.0, 1.15, 1.3),
) -> Specialisation:
    """Count the neurons in the outer mode of the histogram of |w.w*|, pooled over networks of one setting.

    The pooled histogram of absolute overlaps is smoothed (Gaussian, one and a half bins). Its main mode is
    the lazy bulk at zero. The threshold is the lowest point between the bulk and the highest later mode, if
    the density there is at most half of that mode's and the mode stands out of counting noise; otherwise no
    neuron counts.

    Raises:
        UserError: for an empty list or a count of networks below 1.
    """
    found = np.abs(np.asarray(overlaps, dtype=float).ravel())
    if found.size == 0 or networks < 1:
        raise UserError(
            f"specialised_neurons needs overlaps of at least one network, got {found.size} of {networks}"
        )
    top = float(found.max()) * 1.02 + 1e-12
    counts, edges = np.histogram(found, bins=bins, range=(0, top))
    # Reflected at zero, where the density of absolute values is not small.
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    padded = np.concatenate([counts[4::-1], counts, np.zeros(5)])
    smooth = np.convolve(padded, window / window.sum(), mode="valid")
    bulk = int(smooth[: bins // 2].argmax())
    valley: int | None = None
    best = 0.0
    for mode in range(bulk + 2, bins - 1):
        if smooth[mode] >= smooth[mode - 1] and smooth[mode] >= smooth[mode + 1]:
            low = bulk + 1 + int(smooth[bulk + 1 : mode + 1].argmin())
            # The smoothing averages about 5.3 bins: a mode must stand three standard deviations above its
            # valley.
            stands_out = smooth[mode] - smooth[low] > 3 * np.sqrt((smooth[mode] + smooth[low]) / 5.3)
            if stands_out and smooth[low] <= smooth[mode] / 2 and smooth[mode] > best:
                valley, best = low, float(smooth[mode])
    if valley is None:
        return Specialisation(0.0, float("nan"), {})
    threshold = float(edges[valley] + edges[valley + 1]) / 2
    sensitivity = {factor: float((found > factor * threshold).sum()) / networks for factor in factors}
    return Specialisation(float((found > threshold).sum()) / networks, threshold, sensitivity)


@torch.no_grad()
def kernel_spectrum(
    network: Ensemble, flat: Tensor, target: Target, *, points: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Spectrum of the last hidden layer's kernel on fresh points, and where the target lies in it.

    Returns:
        `eigenvalues` (members, units) of the kernel operator, largest first (features over sqrt(units),
        mean over points); `target_share` (members, units), the squared cosine of each eigenfunction with y:
        the sum over the outliers is the part of the target that the spike carries.
    """
    inputs, values = target.draw(1, points, generator)
    features = network.hidden(flat, inputs.expand(len(flat), *inputs.shape[1:]))
    second = torch.bmm(features.transpose(1, 2), features).double() / points
    eigenvalues, vectors = torch.linalg.eigh(second)
    overlap = torch.matmul(features.transpose(1, 2).double(), values[0].double()) / points
    along = torch.matmul(vectors.transpose(1, 2), overlap.unsqueeze(2)).squeeze(2)
    share = along.square() / eigenvalues.clamp_min(1e-12) / values.square().mean().double()
    return {"eigenvalues": eigenvalues.flip(1), "target_share": share.flip(1)}


@torch.no_grad()
def layer_overlaps(
    network: Ensemble, flat: Tensor, *, points: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Overlap of each neuron's pre-activation with the hidden feature z, layer by layer (members, units).

    First layer (`weight`): the weight's entry w.w*. Second layer of three (`middle`): the coefficients of the
    pre-activation along z and along He_3(z)/sqrt(6), on fresh points, as `middle_1` and `middle_3`.
    """
    own = network.unpack(flat)
    found = {"weight": own["weight"][:, 0]} if "weight" in own and own["weight"].ndim == 3 else {}
    if "middle" in own:
        inputs = torch.randn(1, points, own["weight"].shape[1], generator=generator, device=flat.device)
        pre2 = network.forward(flat, inputs.expand(len(flat), -1, -1))[1][2] / math.sqrt(2)
        for degree in (1, 3):
            feature = hermite(degree, inputs[0, :, 0])
            found[f"middle_{degree}"] = torch.einsum("mpu,p->mu", pre2, feature) / points
    return found
