"""Estimators on functions, histograms and curves whose answer is known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tutelage.errors import UserError
from tutelage.scaling import critical_samples
from tutelage.scaling.ensembles import ThreeLayer, TwoLayer
from tutelage.scaling.langevin import Langevin
from tutelage.scaling.measure import (
    alignment,
    fresh_alignment,
    kernel_spectrum,
    layer_overlaps,
    sample_posterior,
    specialised_neurons,
    train_error,
)
from tutelage.scaling.targets import HermiteTarget

CUBIC = HermiteTarget(inputs=4, mixture={3: 1.0})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def exact_cubic_alignment(network, flat):
    """<f, He_3(x_1)/sqrt 6> in closed form: E[He_3(x_1) g(w.x)] = w_1^3 E[g'''], and for erf with s = |w|^2,
    E[erf'''] = -(4 / sqrt pi) (1 + 2 s)^(-3/2)."""
    own = network.unpack(flat)
    weight, readout = own["weight"], own["readout"]
    third = -(4 / math.sqrt(math.pi)) * (1 + 2 * weight.square().sum(1)) ** -1.5
    return (readout * weight[:, 0] ** 3 * third).sum(1) / math.sqrt(6)


def test_alignment_is_unbiased_on_a_function_whose_overlap_is_known():
    network = TwoLayer(inputs=4, width=5, weight_variance=4.0)
    flat = network.draw(6, generator())
    exact = exact_cubic_alignment(network, flat)
    found = torch.stack(
        [
            fresh_alignment(network, flat, CUBIC, points=20_000, generator=generator(seed))[0]
            for seed in range(40)
        ]
    )
    error = found.std(0) / math.sqrt(len(found))
    assert exact.abs().max() > 0.1
    assert ((found.mean(0) - exact).abs() < 3.5 * error + 2e-3).all()
    values = torch.randn(3, 50, generator=generator())
    torch.testing.assert_close(alignment(values, values), torch.ones(3))
    torch.testing.assert_close(alignment(0 * values, values), torch.zeros(3))


def test_posterior_averages_leave_the_burn_in_out_and_learn_with_many_points():
    network, target = TwoLayer(inputs=4, width=8), HermiteTarget(inputs=4, mixture={1: 1.0})
    inputs, values = target.draw(3, 200, generator())
    sampler = Langevin(network, inputs, values, temperature=0.1, step_size=0.0005, seed=0)
    found = sample_posterior(sampler, target, steps=1600, samples=20, test_points=500, seed=1)
    assert found.trajectory.shape == (20, 3)
    assert found.trajectory_steps[-1] == sampler.step == 1600
    torch.testing.assert_close(found.alignment, found.trajectory[10:].mean(0))
    assert (found.alignment > 0.8).all()
    assert (found.drift.abs() < 0.2).all()
    assert (found.train_error < 0.3).all()
    with pytest.raises(UserError, match="samples must be between 4 and steps"):
        sample_posterior(sampler, target, steps=10, samples=3, test_points=5, seed=0)


def test_specialised_neurons_are_the_outer_mode():
    rng = np.random.default_rng(0)
    bulk, outer = rng.normal(0, 0.1, 2000), rng.choice([-1, 1], 100) * rng.normal(1.0, 0.08, 100)
    found = specialised_neurons(np.concatenate([bulk, outer]), networks=50)
    assert found.count == pytest.approx(2.0, abs=0.05)
    assert 0.3 < found.threshold < 0.85
    assert set(found.sensitivity) == {0.7, 0.85, 1.0, 1.15, 1.3}
    assert max(found.sensitivity.values()) - min(found.sensitivity.values()) < 0.2
    lazy = specialised_neurons(bulk, networks=50)
    assert lazy.count == 0
    assert math.isnan(lazy.threshold)
    for overlaps, networks in (([], 0), ([], 1), ([1.0], 0)):
        with pytest.raises(UserError, match="at least one network"):
            specialised_neurons(overlaps, networks=networks)


def slowly_specialised(values, networks, bins):
    """The count and threshold, bin by bin."""
    values = [abs(value) for value in values]
    width = (max(values) * 1.02 + 1e-12) / bins
    counts = [0] * bins
    for value in values:
        counts[min(int(value / width), bins - 1)] += 1
    weights = {shift: math.exp(-0.5 * (shift / 1.5) ** 2) for shift in range(-5, 6)}
    whole = sum(weights.values())
    smooth = []
    for k in range(bins):
        near = {shift: k + shift for shift in weights}
        near = {
            shift: -1 - place if place < 0 else place for shift, place in near.items()
        }  # mirrored at zero
        smooth.append(
            sum(weights[s] * (counts[place] if place < bins else 0) for s, place in near.items()) / whole
        )
    bulk = max(range(bins // 2), key=lambda k: smooth[k])
    modes = []
    for mode in range(bulk + 2, bins - 1):
        low = min(range(bulk + 1, mode + 1), key=lambda k: smooth[k])
        peak = smooth[mode] >= max(smooth[mode - 1], smooth[mode + 1])
        noise = 3 * math.sqrt((smooth[mode] + smooth[low]) / 5.3)
        if peak and smooth[mode] - smooth[low] > noise and smooth[low] <= smooth[mode] / 2:
            modes.append((smooth[mode], -mode, low))
    if not modes:
        return 0.0, None
    threshold = (max(modes)[2] + 0.5) * width
    return sum(value > threshold for value in values) / networks, threshold


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("outer", [0, 12, 40, 300])
@pytest.mark.parametrize("bins", [21, 60])
def test_specialised_neurons_by_a_loop(seed, outer, bins):
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(0, 0.15, 400),
        rng.normal(1.0, 0.1 + 0.02 * seed, outer),
        rng.normal(2.0, 0.1, outer // 2),
    ]
    if seed == 5:  # all of one overlap, in the last of few bins, which is no mode
        parts[1:] = [np.ones(outer)]
    values = np.concatenate(parts)
    found = specialised_neurons(values, networks=7, bins=bins, factors=(0.5, 1.5))
    count, threshold = slowly_specialised(values.tolist(), 7, bins)
    assert found.count == pytest.approx(count)
    if threshold is None:
        assert math.isnan(found.threshold) and found.sensitivity == {}
    else:
        assert found.threshold == pytest.approx(threshold)
        assert found.sensitivity == {
            f: pytest.approx((np.abs(values) > f * threshold).sum() / 7) for f in (0.5, 1.5)
        }
    assert specialised_neurons([0.0] * 9, networks=1).count == 0


def test_kernel_spectrum_shows_the_spike_that_carries_the_target():
    network = TwoLayer(inputs=4, width=200)
    flat = network.draw(2, generator())
    lazy = kernel_spectrum(network, flat, CUBIC, points=4000, generator=generator(1))
    own = network.unpack(flat)
    own["weight"][:, :, :60] = 0.0
    own["weight"][:, 0, :30] = 1.5  # the views write into `flat`: 60 neurons locked to the hidden direction
    own["weight"][:, 0, 30:60] = 0.7
    locked = kernel_spectrum(network, flat, CUBIC, points=4000, generator=generator(1))
    assert lazy["eigenvalues"].shape == (2, 200)
    assert (locked["target_share"][:, :8].sum(1) > lazy["target_share"][:, :8].sum(1) + 0.3).all()
    assert (locked["eigenvalues"].diff(dim=1) <= 1e-9).all()
    features = network.hidden(flat, torch.randn(1, 500, 4, generator=generator(2)).expand(2, -1, -1))
    gram = torch.bmm(features, features.transpose(1, 2)) / 500
    torch.testing.assert_close(gram.diagonal(dim1=1, dim2=2).mean(1) * 500, features.square().sum(2).mean(1))


def test_layer_overlaps_read_the_hidden_direction_layer_by_layer():
    network = ThreeLayer(inputs=4, width1=6, width2=5)
    flat = network.draw(2, generator())
    own = network.unpack(flat)
    own["weight"].zero_()
    own["weight"][:, 0, 0] = 0.1  # erf is nearly linear there: 2/sqrt(pi) * 0.1 z
    found = layer_overlaps(network, flat, points=20_000, generator=generator(1))
    torch.testing.assert_close(found["weight"], own["weight"][:, 0])
    expected = own["middle"][:, 0] * (2 / math.sqrt(math.pi)) * 0.1
    torch.testing.assert_close(found["middle_1"], expected, atol=5e-3, rtol=0.05)
    assert found["middle_3"].abs().max() < 0.01


def sigmoid_curves(alpha, sizes=(10, 20, 40), noise=0.0, draws=8):
    rng = np.random.default_rng(0)
    curves = {}
    for size in sizes:
        grid = 5 * size**alpha * np.geomspace(0.2, 5, 9)
        clean = 1 / (1 + (5 * size**alpha / grid) ** 2)
        curves[size] = (grid, clean[:, None] + noise * rng.normal(size=(9, draws)))
    return curves


@pytest.mark.parametrize("alpha", [0.75, 1.0, 1.5])
def test_exponent_and_collapse_of_synthetic_curves(alpha):
    curves = sigmoid_curves(alpha, noise=0.03)
    estimates = [
        critical_samples.critical_samples(grid, values, resamples=200) for grid, values in curves.values()
    ]
    for size, estimate in zip(curves, estimates, strict=True):
        assert estimate.value == pytest.approx(5 * size**alpha, rel=0.1)
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low > 4 * size**alpha
    slope = critical_samples.exponent(list(curves), estimates)
    assert slope.value == pytest.approx(alpha, abs=0.1)
    assert slope.low - 0.05 < alpha < slope.high + 0.05
    assert 0.01 < slope.high - slope.low < 0.3
    means = {size: (grid, values.mean(1)) for size, (grid, values) in curves.items()}
    right = critical_samples.collapse_score(means, {size: size**alpha for size in means})
    wrong = critical_samples.collapse_score(means, {size: size ** (alpha + 0.6) for size in means})
    assert right < 0.02
    assert wrong > 5 * right
    best, score = critical_samples.best_collapse(means, np.arange(0.2, 2.5, 0.05))
    assert best == pytest.approx(alpha, abs=0.1)
    assert score <= right + 1e-9


def test_isotonic_fit_and_crossings():
    assert critical_samples.isotonic(np.array([0.0, 0.4, 0.2, 0.9])).tolist() == pytest.approx(
        [0, 0.3, 0.3, 0.9]
    )
    assert critical_samples.crossing(np.array([10.0, 40.0]), np.array([0.25, 0.75])) == pytest.approx(20)
    assert critical_samples.crossing(np.array([10.0, 40.0]), np.array([0.6, 0.7])) == -np.inf


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    grid = 10 * np.geomspace(0.3, 3, 7)
    clean = 1 / (1 + 10 / grid)
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(60):
        noisy = clean[:, None] + 0.1 * rng.normal(size=(7, 10))
        estimate = critical_samples.critical_samples(grid, noisy, resamples=200, seed=trial)
        covered += estimate.low <= 10 <= estimate.high
    assert covered >= 48


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full((3, 2), 0.2),
            r"never crosses A_f = 0.5: the alignment stays below.*Add larger P \(beyond 80\)",
        ),
        (np.full((3, 2), 0.9), r"stays above.*smaller P \(under 5\)"),
        (np.full((2, 2), 0.9), "increasing P grid"),
    ],
)
def test_a_grid_without_crossing_says_where_to_extend_it(values, message):
    with pytest.raises(UserError, match=message):
        critical_samples.critical_samples([10, 20, 40], values)


def test_too_little_for_an_exponent_or_a_collapse_is_refused():
    one = critical_samples.Estimate.of(3.0, np.array([2.9, 3.1]))
    with pytest.raises(UserError, match="two values or more of each"):
        critical_samples.exponent([10], [one])
    curves = {
        10: (np.array([1.0, 2.0]), np.array([0.0, 1.0])),
        20: (np.array([100.0, 200.0]), np.array([0.0, 1.0])),
    }
    with pytest.raises(UserError, match="do not overlap"):
        critical_samples.collapse_score(curves, {10: 10, 20: 20})
    with pytest.raises(UserError, match="at least two curves"):
        critical_samples.collapse_score({10: curves[10]}, {10: 10})


def test_the_error_of_a_member_is_the_mean_over_its_own_points():
    outputs, targets = torch.randn(3, 5), torch.randn(3, 5)
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    sampler = SimpleNamespace(network=SimpleNamespace(outputs=lambda *_: outputs), flat=None, inputs=None)
    sampler.targets, sampler.present = targets, present
    expected = [(outputs[i, :n] - targets[i, :n]).square().mean() for i, n in enumerate((5, 2, 1))]
    torch.testing.assert_close(train_error(sampler), torch.stack(expected))
    sampler.present = None
    torch.testing.assert_close(train_error(sampler), (outputs - targets).square().mean(1))


class Steps:
    """A sampler whose only state is how many steps it took."""

    device = torch.device("cpu")

    def __init__(self):
        self.flat, self.step, self.network = torch.zeros(2, 3), 0, None

    def run(self, steps):
        self.step += steps

    def state(self):
        return {"flat": self.flat, "step": torch.tensor(self.step)}

    def restore(self, state):
        self.step = int(state["step"])


@pytest.mark.parametrize("average", [None, 2])
def test_an_interrupted_sampler_is_measured_at_its_intervals_once(monkeypatch, tmp_path, average):
    def at(network, flat, target, *, points, generator):
        seed = generator.initial_seed() - 7 * 100_003
        return torch.tensor([seed, 2.0 * seed]), torch.tensor([1.0, seed])

    monkeypatch.setattr("tutelage.scaling.measure.fresh_alignment", at)
    monkeypatch.setattr(
        "tutelage.scaling.measure.train_error", lambda sampler: torch.tensor(float(sampler.step))
    )
    seen, file = [], tmp_path / "state"

    def stops(sample, values):
        seen.append((sample, values.tolist()))
        if sample == 2 and len(seen) == 3:
            raise KeyboardInterrupt

    def measured(sampler, **more):
        asked = {"steps": 11, "samples": 5, "test_points": 3, "seed": 7, "average": average, "watch": stops}
        return sample_posterior(sampler, None, **asked, **more)

    with pytest.raises(KeyboardInterrupt):
        measured(Steps(), checkpoint=file)
    assert file.exists()
    sampler = Steps()
    found = measured(sampler, checkpoint=file)
    assert [sample for sample, _ in seen] == [0, 1, 2, 2, 3, 4] and seen[-1] == (4, [4.0, 8.0])
    assert sampler.step == 11 and not file.exists() and found.trajectory_steps == [2, 4, 6, 8, 11]
    late = [3, 4] if average else [2, 3, 4]
    assert found.alignment.tolist() == [sum(late) / len(late), 2 * sum(late) / len(late)]
    assert found.trajectory[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert found.drift.tolist() == [1.5, 3.0]  # of 2, 3, 4: the second half less the first
    for samples, steps in ((3, 9), (10, 9)):
        with pytest.raises(UserError, match=rf"between 4 and steps \({steps}\), got {samples}"):
            sample_posterior(Steps(), None, steps=steps, samples=samples, test_points=3, seed=7)
    sample_posterior(Steps(), None, steps=4, samples=4, test_points=3, seed=7)
