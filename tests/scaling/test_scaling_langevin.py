"""The sampler against closed forms, the hand-written gradients against autograd, restarts and refusals."""

import math

import pytest
import torch

from tutelage.errors import UserError
from tutelage.scaling import ensembles, langevin, state
from tutelage.scaling.ensembles import AttentionHead, Linear, PatchConvolution, ThreeLayer, TwoLayer
from tutelage.scaling.guided import Guide, centred, cka
from tutelage.scaling.langevin import Langevin, largest_curvature, stationary_variance
from tutelage.scaling.targets import AttentionTarget, HermiteTarget, PatchTarget, hermite
from tutelage.scaling.training import Training

CASES = [
    (Linear(inputs=4), HermiteTarget(inputs=4, mixture={1: 1.0})),
    (TwoLayer(inputs=4, width=6), HermiteTarget(inputs=4, mixture={3: 1.0})),
    (ThreeLayer(inputs=4, width1=6, width2=5), HermiteTarget(inputs=4, mixture={1: 1.0, 3: -0.3})),
    (
        PatchConvolution(patch_dim=3, patches=2, channels=5),
        PatchTarget(inputs=3, patches=2, mixture={3: 1.0}),
    ),
    (AttentionHead(inputs=4), AttentionTarget(inputs=4, context=3)),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_output(network, own, x):
    """One member, one point, written as the class's first line says."""
    if isinstance(network, Linear):
        return own["weight"] @ x
    if isinstance(network, TwoLayer):
        return own["readout"] @ torch.erf(own["weight"].T @ x)
    if isinstance(network, ThreeLayer):
        return own["readout"] @ torch.erf(own["middle"].T @ torch.erf(own["weight"].T @ x))
    if isinstance(network, PatchConvolution):
        readout = own["readout"].view(network.patches, network.channels)
        return sum(readout[i] @ torch.erf(own["weight"].T @ x[i]) for i in range(network.patches))
    weights = torch.softmax(torch.stack([x[0] @ own["attention"] @ token for token in x[1:]]), dim=0)
    return sum(
        (weight - 1 / len(weights)) * (own["value"] @ token)
        for weight, token in zip(weights, x[1:], strict=True)
    )


@pytest.mark.parametrize(("network", "target"), CASES, ids=lambda case: type(case).__name__)
def test_outputs_and_gradients_of_every_network_against_slow_references(network, target):
    flat = network.draw(3, generator()).double()
    inputs, values = (part.double() for part in target.draw(3, 7, generator(1)))
    outputs = network.outputs(flat, inputs)
    own = network.unpack(flat)
    for member in range(3):
        mine = {name: part[member] for name, part in own.items()}
        for point in range(7):
            expected = slow_output(network, mine, inputs[member, point])
            torch.testing.assert_close(outputs[member, point], expected)

    present = (torch.arange(7) < torch.tensor([[7], [5], [2]])).double()
    flat.requires_grad_()
    loss = ((network.outputs(flat, inputs) - values).square() * present).sum() / 2
    (expected,) = torch.autograd.grad(loss, flat)
    with torch.no_grad():
        torch.testing.assert_close(network.loss_gradient(flat, inputs, values, present), expected)


def test_priors_have_the_stated_variances():
    network = ThreeLayer(inputs=10, width1=20, width2=30, weight_variance=0.5, readout_variance=6.0)
    drawn = network.unpack(network.draw(400, generator()))
    assert drawn["weight"].var() == pytest.approx(0.05, rel=0.03)
    assert drawn["middle"].var() == pytest.approx(0.025, rel=0.03)
    assert drawn["readout"].var() == pytest.approx(0.2, rel=0.05)
    attention = AttentionHead(inputs=10, weight_variance=0.5, readout_variance=6.0)
    assert attention.variances == {"attention": 0.005, "value": 0.6}


@pytest.mark.parametrize(("eta", "friction"), [(0.12, None), (0.3, 0.8)])
def test_linear_network_reaches_the_closed_form_posterior_and_the_steps_own_bias(eta, friction):
    """Covariance kappa (X'X + kappa/sigma^2)^-1; the overdamped step inflates direction h by 1 / (1 - eta h / 2)."""
    dimensions, members, kappa = 3, 20_000, 0.3
    network = Linear(inputs=dimensions, weight_variance=3.0)  # sigma^2 = 1
    data, values = (
        torch.randn(1, 6, dimensions, generator=generator(1)),
        torch.randn(1, 6, generator=generator(2)),
    )
    sampler = Langevin(
        network,
        data.expand(members, -1, -1),
        values.expand(members, -1),
        temperature=kappa,
        step_size=eta,
        friction=friction,
        seed=3,
    )
    sampler.run(150)
    hessian = data[0].T @ data[0] + kappa * torch.eye(dimensions)
    mean = torch.linalg.solve(hessian, data[0].T @ values[0])
    torch.testing.assert_close(sampler.flat.mean(0), mean, atol=0.02, rtol=0)
    curvatures, axes = torch.linalg.eigh(hessian)
    measured = ((sampler.flat - mean) @ axes).var(0)
    for curvature, variance in zip(curvatures.tolist(), measured.tolist(), strict=True):
        assert variance == pytest.approx(stationary_variance(curvature, kappa, eta, friction), rel=0.04)
    inflation = stationary_variance(float(curvatures[-1]), kappa, eta, friction) / (
        kappa / float(curvatures[-1])
    )
    assert (inflation > 1.2) == (friction is None)  # the bias is large enough here for the test to see it
    assert largest_curvature(sampler) == pytest.approx(float(curvatures[-1]), rel=1e-2)


def test_without_data_the_sampler_keeps_the_prior():
    network = TwoLayer(inputs=5, width=8)
    sampler = Langevin(
        network, torch.zeros(500, 1, 5), torch.zeros(500, 1), temperature=1.0, step_size=0.05, seed=0
    )
    sampler.run(100)
    ratio = sampler.flat.var(0) / network.prior_deviation().square()
    assert ratio.mean() == pytest.approx(1 / (1 - 0.025), rel=0.03)


@pytest.mark.parametrize("guided", [False, True])
def test_padding_and_chunks_do_not_change_the_gradient(monkeypatch, guided):
    network, target = TwoLayer(inputs=4, width=6), HermiteTarget(inputs=4, mixture={3: 1.0})
    inputs, values = target.draw(5, 16, generator())
    points = torch.tensor([3, 4, 6, 10, 10])
    present = (torch.arange(16) < points.unsqueeze(1)).float()
    extra = None
    if guided:
        guide = PatchConvolution(patch_dim=2, patches=2, channels=3)
        extra = Guide(network, guide, inputs, strength=1.0, temperature=0.1, seed=1, present=present)
    monkeypatch.setattr(langevin, "_CPU_CHUNK_ELEMENTS", 80)
    sampler = Langevin(
        network, inputs, values, temperature=0.1, step_size=0.01, seed=5, present=present, extra=extra
    )
    assert [(c.start, c.stop, p) for c, p in sampler._chunks] == [
        (0, 2, 4),
        (2, 3, 6),
        (3, 4, 10),
        (4, 5, 10),
    ]
    found = torch.cat([sampler.gradient(sampler.flat[c], c, p) for c, p in sampler._chunks])
    torch.testing.assert_close(found, sampler.gradient(sampler.flat), atol=1e-5, rtol=1e-4)
    if not guided:
        for member, count in enumerate(points.tolist()):
            own = slice(member, member + 1)
            single = network.loss_gradient(sampler.flat[own], inputs[own, :count], values[own, :count])
            torch.testing.assert_close(found[own], single, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("friction", [None, 0.5])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, friction):
    network, target = TwoLayer(inputs=4, width=6), HermiteTarget(inputs=4, mixture={3: 1.0})
    inputs, values = target.draw(2, 10, generator())

    def fresh(seed):
        return Langevin(
            network, inputs, values, temperature=0.1, step_size=0.01, seed=seed, friction=friction
        )

    whole = fresh(1)
    whole.run(30)
    first = fresh(1)
    first.run(12)
    state.save(tmp_path / "state.safetensors", first.state())
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    second = fresh(99)
    second.restore(state.load(tmp_path / "state.safetensors", second.flat))
    assert second.step == 12
    second.run(18)
    assert torch.equal(second.flat, whole.flat)

    other = Langevin(TwoLayer(inputs=4, width=7), inputs, values, temperature=0.1, step_size=0.01, seed=0)
    with pytest.raises(
        UserError, match=r"expected parameters of shape \(2, 35\), found parameters of shape \(2, 30\)"
    ):
        state.load(tmp_path / "state.safetensors", other.flat)
    (tmp_path / "broken").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="no readable state"):
        state.load(tmp_path / "broken", other.flat)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_interrupted_training_continues_bit_for_bit(optimizer):
    network, target = TwoLayer(inputs=4, width=6), HermiteTarget(inputs=4, mixture={3: 1.0})
    inputs, values = target.draw(2, 30, generator())

    def fresh(seed):
        return Training(
            network,
            inputs,
            values,
            optimizer=optimizer,
            learning_rate=0.05,
            steps=30,
            batch_size=8,
            seed=seed,
        )

    whole, first, second = fresh(1), fresh(1), fresh(2)
    whole.run(30)
    first.run(11)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    second.run(19)
    assert torch.equal(second.flat, whole.flat)


def test_the_fast_erf_and_its_slope_against_torch():
    z = torch.cat(
        [torch.linspace(-7, 7, 20_001), torch.randn(20_000, generator=generator()) * 1e-4, torch.zeros(1)]
    )
    weight = torch.ones(1, 1, 1)
    before = ensembles._before_erf(z.view(1, -1, 1), weight).view(-1)
    torch.testing.assert_close(ensembles._erf(before), torch.erf(z), atol=1e-6, rtol=0)
    torch.testing.assert_close(ensembles._bell(before), torch.exp(-z.square()), atol=1e-6, rtol=1e-5)
    cancelled = ensembles._before_erf(
        torch.tensor([[[0.1, 0.1, 0.1]]]), torch.tensor([[[0.3], [-0.3], [0.0]]])
    )
    assert ensembles._erf(cancelled).tolist() == [[[0.0]]]
    double = ensembles._before_erf(z.double().view(1, -1, 1), weight.double()).view(-1)
    torch.testing.assert_close(ensembles._erf(double), torch.erf(z.double()), atol=1e-14, rtol=0)


def test_a_diverging_step_size_is_refused_with_one_that_works():
    network, target = TwoLayer(inputs=4, width=6), HermiteTarget(inputs=4, mixture={3: 1.0})
    inputs, values = target.draw(2, 200, generator())
    sampler = Langevin(network, inputs, values, temperature=0.1, step_size=3.0, seed=0)
    with pytest.raises(UserError, match=r"diverged by step 60 .*Choose step_size <= (\S+)") as refusal:
        sampler.run(60)
    advised = float(str(refusal.value).split("Choose step_size <= ")[1].split()[0])
    calm = Langevin(network, inputs, values, temperature=0.1, step_size=advised, seed=0)
    calm.run(300)
    with pytest.raises(UserError, match=r"must stay below 0\.2"):
        stationary_variance(curvature=10, temperature=1, step_size=0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "must be positive"),
        ({"step_size": -1.0}, "must be positive"),
        ({"friction": 0.0}, "must be positive"),
        ({"targets": torch.zeros(2, 9)}, r"differ: \(2, 10, 4\) and \(2, 9\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    arguments = {
        "inputs": torch.zeros(2, 10, 4),
        "targets": torch.zeros(2, 10),
        "temperature": 1.0,
        "step_size": 0.1,
        "seed": 0,
    }
    with pytest.raises(UserError, match=message):
        Langevin(TwoLayer(inputs=4, width=3), **(arguments | change))


def test_networks_and_targets_refuse_impossible_sizes():
    with pytest.raises(UserError, match="TwoLayer: width must be positive, got 0"):
        TwoLayer(inputs=4, width=0)
    with pytest.raises(UserError, match="mixture of degrees"):
        HermiteTarget(inputs=4, mixture={})
    with pytest.raises(UserError, match="inputs >= 2 and context >= 2"):
        AttentionTarget(inputs=3, context=1)


def test_targets_are_normalised_orthogonal_polynomials_and_have_class_variants():
    z = torch.randn(400_000, generator=generator()).double()
    stack = torch.stack([hermite(degree, z) for degree in range(5)])
    torch.testing.assert_close(stack @ stack.T / len(z), torch.eye(5).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(hermite(3, z), (z**3 - 3 * z) / math.sqrt(6))
    for target in [
        HermiteTarget(inputs=3, mixture={1: 2.0, 3: -1.0}),
        PatchTarget(inputs=3, patches=4, mixture={3: 1.0}),
        AttentionTarget(inputs=3, context=5),
    ]:
        _, values = target.draw(1, 100_000, generator(1))
        assert values.var() == pytest.approx(1, abs=0.08)
    signs = HermiteTarget(inputs=3, mixture={3: 1.0}, classify=True).draw(1, 50, generator())[1]
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    patches = PatchTarget(inputs=3, patches=4, mixture={3: 1.0})
    inputs, values = patches.draw(1, 10, generator(2))
    flat = PatchTarget(inputs=3, patches=4, mixture={3: 1.0}, flat=True)
    torch.testing.assert_close(flat.values(inputs.flatten(2)), values)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 0.01)])
def test_ordinary_training_fits_its_data_and_refuses_what_it_does_not_know(optimizer, rate):
    network, target = TwoLayer(inputs=4, width=64), HermiteTarget(inputs=4, mixture={1: 1.0})
    inputs, values = target.draw(2, 40, generator())
    training = Training(
        network, inputs, values, optimizer=optimizer, learning_rate=rate, steps=600, seed=0, batch_size=20
    )
    before = (network.outputs(training.flat, inputs) - values).square().mean(1)
    training.run(600)
    after = (network.outputs(training.flat, inputs) - values).square().mean(1)
    assert (after < 0.05 * before).all()
    with pytest.raises(UserError, match="did you mean 'adam'"):
        Training(network, inputs, values, optimizer="adm", learning_rate=rate, steps=1, seed=0)


def test_adam_takes_the_steps_of_torch_adam():
    network = Linear(inputs=3, weight_variance=3.0)  # unit prior deviation
    inputs, values = torch.randn(1, 1, 3, generator=generator()), torch.ones(1, 1)
    start = torch.zeros(1, 3)
    training = Training(
        network,
        inputs,
        values,
        optimizer="adam",
        learning_rate=0.1,
        steps=10**9,
        seed=0,
        batch_size=4,
        start=start,
    )
    training.run(25)
    weight = torch.zeros(3, requires_grad=True)
    reference = torch.optim.Adam([weight], lr=0.1)
    for _ in range(25):
        reference.zero_grad()
        ((inputs[0, 0] @ weight - 1) ** 2 / 2).backward()
        reference.step()
    torch.testing.assert_close(training.flat[0], weight.detach(), atol=1e-5, rtol=1e-4)


def test_the_guides_gradient_and_cka():
    network, guide = TwoLayer(inputs=6, width=5), PatchConvolution(patch_dim=3, patches=2, channels=4)
    inputs = torch.randn(3, 9, 6, generator=generator()).double()
    present = (torch.arange(9) < torch.tensor([[9], [7], [6]])).double()
    pull = Guide(
        network, guide, inputs.float(), strength=0.2, temperature=0.5, seed=1, present=present.float()
    )
    pull.features, pull.present, pull.weight = pull.features.double(), present, pull.weight.double()
    flat = network.draw(3, generator(2)).double().requires_grad_()
    potential = -(pull.weight * pull.alignment(flat, inputs)).sum()
    (expected,) = torch.autograd.grad(potential, flat)
    with torch.no_grad():
        torch.testing.assert_close(pull(flat, inputs, slice(None)), expected, atol=1e-6, rtol=1e-5)
    assert pull.weight.tolist() == pytest.approx([0.9, 0.7, 0.6])

    features = centred(torch.randn(1, 9, 5, generator=generator(3)))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator(4)))[0]
    torch.testing.assert_close(cka(features, 3 * features @ rotation), torch.ones(1))
    first, second = features[0], centred(torch.randn(1, 9, 4, generator=generator(5)))[0]
    grams = [first @ first.T, second @ second.T]
    slow = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    torch.testing.assert_close(cka(first[None], second[None])[0], slow)
    with pytest.raises(UserError, match="2 patches of 3, 6 inputs"):
        Guide(TwoLayer(inputs=7, width=5), guide, inputs, strength=1.0, temperature=1.0, seed=0)


def test_guidance_raises_the_alignment_with_the_guide():
    network, guide = TwoLayer(inputs=6, width=10), PatchConvolution(patch_dim=2, patches=3, channels=8)
    target = PatchTarget(inputs=2, patches=3, mixture={3: 1.0}, flat=True)
    inputs, values = target.draw(4, 60, generator())
    reached = []
    for strength in (0.0, 2.0):
        pull = Guide(network, guide, inputs, strength=strength, temperature=0.1, seed=1)
        sampler = Langevin(network, inputs, values, temperature=0.1, step_size=0.002, seed=2, extra=pull)
        sampler.run(600)
        reached.append(pull.alignment(sampler.flat, inputs).mean())
    assert reached[1] > reached[0] + 0.1
