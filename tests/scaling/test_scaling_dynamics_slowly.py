"""The dynamics of scale analysis against slow ones: slopes by autograd, steps written out, chunks, curvatures from the whole Hessian."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tutelage.errors import UserError
from tutelage.scaling import langevin
from tutelage.scaling.ensembles import Linear, PatchConvolution, TwoLayer
from tutelage.scaling.guided import Guide, centred, cka
from tutelage.scaling.langevin import Langevin, largest_curvature, stability_limit, stationary_variance
from tutelage.scaling.training import Training

NETWORK = TwoLayer(inputs=3, width=4, weight_variance=1.3, readout_variance=2.0)
PRESENT = torch.tensor([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def deviation():
    return torch.cat([torch.full((12,), math.sqrt(1.3 / 3)), torch.full((4,), math.sqrt(2.0 / 4))])


def output(flat, inputs):
    """One member's outputs, in plain torch."""
    weight, readout = flat[:12].view(3, 4), flat[12:]
    return torch.erf(inputs @ weight) @ readout


def slope(flat, inputs, targets, present=None, *, divide=1.0):
    """The gradient of half the squared errors, member by member."""
    found = []
    for k in range(len(flat)):
        own = flat[k].clone().requires_grad_()
        errors = (output(own, inputs[k]) - targets[k]).square() / 2
        errors = errors if present is None else errors * present[k]
        found.append(torch.autograd.grad(errors.sum() / divide, own)[0])
    return torch.stack(found)


@pytest.mark.parametrize("friction", [None, 0.8])
@pytest.mark.parametrize("present", [None, PRESENT])
def test_a_step_of_langevin_dynamics_is_that_written_out(friction, present):
    inputs, targets, kappa, dt = random(2, 5, 3), random(2, 5, seed=1), 0.3, 0.02
    sampler = Langevin(
        NETWORK,
        inputs,
        targets,
        temperature=kappa,
        step_size=dt,
        friction=friction,
        seed=7,
        present=present,
        start=random(2, 16, seed=2),
    )
    generator, s = torch.Generator().manual_seed(7), deviation()
    theta, velocity = random(2, 16, seed=2), torch.zeros(2, 16)
    if friction is not None:
        velocity = math.sqrt(kappa) * torch.empty(2, 16).normal_(generator=generator)
    torch.testing.assert_close(sampler._velocity, velocity)
    for _ in range(3):
        noise = torch.empty(2, 16).normal_(generator=generator)
        pull = slope(theta, inputs, targets, present)
        if (
            friction is None
        ):  # in units of the prior's deviations: d theta = -(s^2 grad + kappa theta) dt + s sqrt(2 kappa dt) noise
            theta = theta - dt * (s**2 * pull + kappa * theta) + math.sqrt(2 * dt * kappa) * s * noise
            continue
        keep = math.exp(-friction * dt)
        velocity = velocity - dt * (s * pull + kappa * theta / s)
        theta = theta + dt / 2 * s * velocity
        velocity = keep * velocity + math.sqrt(kappa * (1 - keep**2)) * noise
        theta = theta + dt / 2 * s * velocity
    sampler.run(3)
    torch.testing.assert_close(sampler.flat, theta, rtol=1e-4, atol=1e-5)
    assert sampler.step == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_of_training_is_that_written_out(optimizer):
    inputs, targets, rate, steps = random(2, 5, 3), random(2, 5, seed=1), 0.05, 4
    points = torch.tensor([5, 3])
    trained = Training(
        NETWORK,
        inputs,
        targets,
        optimizer=optimizer,
        learning_rate=rate,
        steps=steps,
        seed=7,
        batch_size=6,
        points=points,
        start=random(2, 16, seed=2),
    )
    generator, s, theta = torch.Generator().manual_seed(7), deviation(), random(2, 16, seed=2)
    first = second = torch.zeros(2, 16)
    for step in range(6):
        chosen = (torch.rand(2, 6, generator=generator) * points[:, None]).long()
        assert int(chosen[1].max()) < 3
        rows = torch.arange(2)[:, None]
        gradient = s * slope(theta, inputs[rows, chosen], targets[rows, chosen], divide=6.0)
        if optimizer == "adam":
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            gradient = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        falls = 0.5 * (
            1 + math.cos(math.pi * min(1.0, step / steps))
        )  # to 0 at the last step, and no further
        theta = theta - rate * falls * s * gradient
    trained.run(6)
    torch.testing.assert_close(trained.flat, theta, rtol=1e-4, atol=1e-5)
    assert trained.step == 6 and trained._points is points
    whole = Training(NETWORK, inputs, targets, optimizer=optimizer, learning_rate=rate, steps=steps, seed=7)
    assert whole._points.tolist() == [5, 5] and whole.batch_size == 32
    with pytest.raises(UserError, match="unknown optimizer 'adm'; did you mean 'adam'"):
        Training(NETWORK, inputs, targets, optimizer="adm", learning_rate=rate, steps=steps, seed=7)
    lost = Training(NETWORK, inputs, targets, optimizer="sgd", learning_rate=1e30, steps=9, seed=7)
    with pytest.raises(
        UserError, match=r"sgd diverged by step 9: learning_rate 1e\+30 is too large, try 2\.5e\+29"
    ):
        lost.run(9)


def test_the_guides_slope_is_that_of_its_alignment():
    network, guide = TwoLayer(inputs=6, width=4), PatchConvolution(patch_dim=2, patches=3, channels=5)
    inputs, present = random(2, 7, 6), torch.tensor([[1.0] * 7, [1.0] * 4 + [0] * 3])
    for mask in (None, present):
        made = Guide(network, guide, inputs, strength=2.0, temperature=0.3, seed=5, present=mask)
        flat = random(2, network.size, seed=3).requires_grad_()
        weight = flat[:, :24].view(2, 6, 4)
        hidden = centred(torch.erf(inputs @ weight), mask)
        loss = -(made.weight * cka(hidden, made.features)).sum()
        (wanted,) = torch.autograd.grad(loss, flat)
        torch.testing.assert_close(made(flat.detach(), inputs, slice(None)), wanted, rtol=1e-3, atol=1e-5)
        one = made(flat.detach()[1:], inputs[1:, :4], slice(1, 2)) if mask is not None else None
        if one is not None:  # by the points that the member has
            torch.testing.assert_close(one, wanted[1:], rtol=1e-3, atol=1e-5)


def test_the_largest_curvature_is_that_of_the_whole_hessian():
    inputs, targets, flat, s = random(2, 5, 3), random(2, 5, seed=1), 0.5 * random(2, 16, seed=2), deviation()
    sampler = Langevin(NETWORK, inputs, targets, temperature=0.3, step_size=0.01, seed=0, start=flat)
    most = []
    for k in range(2):
        hessian = torch.autograd.functional.hessian(
            lambda v, k=k: (output(v, inputs[k]) - targets[k]).square().sum() / 2, flat[k]
        )
        most.append(float(torch.linalg.eigvalsh(s[:, None] * hessian * s).abs().max()))
    assert largest_curvature(sampler, iterations=200) == pytest.approx(max(most) + 0.3, rel=0.02)
    assert largest_curvature(sampler, flat, iterations=200) == pytest.approx(max(most) + 0.3, rel=0.02)
    # of a line, w -> x.w with variance 1 / inputs of each weight: the Hessian is x x^T
    line = Linear(inputs=3, weight_variance=2.0)
    of_line = Langevin(line, inputs, targets, temperature=0.1, step_size=0.01, seed=0)
    wanted = max(float(torch.linalg.eigvalsh(x.T @ x).max()) for x in inputs) * 2 / 3 + 0.1
    assert largest_curvature(of_line, iterations=300) == pytest.approx(wanted, rel=0.01)


def test_members_are_cut_where_their_points_or_the_cache_end(monkeypatch):
    def chunks(counts, most):
        monkeypatch.setattr(langevin, "_CPU_CHUNK_ELEMENTS", most)
        points = max(counts)
        present = (torch.arange(points) < torch.tensor(counts)[:, None]).float()
        made = Langevin(
            NETWORK,
            random(len(counts), points, 3),
            random(len(counts), points),
            temperature=0.1,
            step_size=0.01,
            seed=0,
            present=present,
        )
        return [(part.start, part.stop, reach) for part, reach in made._chunks]

    assert chunks([4, 4, 6, 7, 10, 10], 10**9) == [
        (0, 3, 6),
        (3, 6, 10),
    ]  # 7 > 1.6 x 4; 10 is not beyond 1.6 x 7
    assert chunks([5, 8, 9], 10**9) == [(0, 2, 8), (2, 3, 9)]  # 8 = 1.6 x 5 still fits
    assert chunks([5, 5, 5, 5], 2 * 5 * 4) == [(0, 2, 5), (2, 4, 5)]  # of four hidden features a point
    assert chunks([5, 5, 5, 5], 2 * 5 * 4 - 1) == [(k, k + 1, 5) for k in range(4)]
    assert chunks([5, 5], 5 * 4 - 1) == [(0, 1, 5), (1, 2, 5)]  # one at least
    assert chunks([9, 2], 10**9) == [(0, 2, 9)]
    whole = Langevin(NETWORK, random(2, 5, 3), random(2, 5), temperature=0.1, step_size=0.01, seed=0)
    assert [(part.start, part.stop, reach) for part, reach in whole._chunks] == [(0, 2, 5)]


@pytest.mark.parametrize(
    ("steps", "graphs", "wanted"),
    [
        (31, True, "s" * 31),
        (32, True, "w" + "r" * 3 + "s" * 5),
        (35, True, "w" + "r" * 4),
        (40, False, "s" * 40),
    ],
)
def test_steps_on_a_device_are_replayed_eight_at_a_time(monkeypatch, steps, graphs, wanted):
    sampler = Langevin(NETWORK, random(2, 5, 3), random(2, 5), temperature=0.1, step_size=0.01, seed=0)
    done = []

    def capture():
        done.append("w")  # three steps to warm up
        sampler._graph = SimpleNamespace(replay=lambda: done.append("r"))
        return 3

    monkeypatch.setattr(sampler, "_capture", capture)
    monkeypatch.setattr(sampler, "_advance", lambda: done.append("s"))
    sampler._graphs = graphs
    sampler._run_graph(steps)
    assert "".join(done) == wanted
    done.clear()
    sampler._run_graph(11)  # captured once
    assert "".join(done) == ("rsss" if "w" in wanted else "s" * 11)


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"friction": 1e-9}, True),
        ({"temperature": 0}, False),
        ({"step_size": 0}, False),
        ({"friction": 0}, False),
        ({"friction": -1}, False),
    ],
)
def test_what_dynamics_need(changes, fits):
    options = {"temperature": 0.1, "step_size": 0.01, "seed": 0, **changes}
    if fits:
        Langevin(NETWORK, random(2, 5, 3), random(2, 5), **options)
        return
    with pytest.raises(UserError, match="temperature, step_size and friction must be positive"):
        Langevin(NETWORK, random(2, 5, 3), random(2, 5), **options)


@pytest.mark.parametrize("friction", [None, 0.5])
def test_a_divergence_says_the_step_that_would_do(friction):
    sampler = Langevin(
        NETWORK, 9 * random(2, 5, 3), random(2, 5), temperature=0.1, step_size=1e4, friction=friction, seed=0
    )
    with pytest.raises(UserError) as error:
        sampler.run(200)
    start = NETWORK.draw(2, torch.Generator().manual_seed(0))
    limit = stability_limit(largest_curvature(sampler, start), friction)
    advice = limit / (4 if friction is None else 2)
    assert (
        f"diverged by step 200 in 2 of 2 networks: step_size 10000 is too large for 5 points. Choose step_size <= {advice:.2g} "
        in str(error.value)
    )
    assert f"(at a random start the limit is {limit:.2g}" in str(error.value)
    with pytest.raises(UserError, match="differ"):
        Langevin(NETWORK, random(2, 5, 3), random(2, 4), temperature=0.1, step_size=0.01, seed=0)


def test_a_step_size_diverges_from_two_over_the_curvature_or_its_root():
    assert stability_limit(16.0, None) == 0.125 and stability_limit(16.0, 0.3) == 0.5
    for friction, limit in ((None, 0.125), (0.3, 0.5)):
        assert stationary_variance(16.0, 2.0, limit * 0.999, friction) > 0
        with pytest.raises(UserError, match="it must stay below"):
            stationary_variance(16.0, 2.0, limit, friction)
    assert (
        stationary_variance(16.0, 2.0, 0.0625) == 0.25
        and stationary_variance(16.0, 2.0, 0.0625, 0.3) == 0.125
    )
