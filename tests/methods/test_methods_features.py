"""Feature distillation: which features meet, in which shape, and when."""

import math
import statistics

import pytest
import torch

from made_methods import made
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.taps import activations
from tutelage.errors import UserError
from tutelage.losses.feature import hint
from tutelage.losses.projected import log_distance, normalised_distance
from tutelage.losses.variational import gaussian
from tutelage.methods.feature_distillation import FeatureDistillation
from tutelage.methods.fitnets import FitNets
from tutelage.methods.optim import OptimizerSpec
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN
from tutelage.models.frozen import FrozenNetwork
from tutelage.models.recurrent import Recurrent
from tutelage.models.transformer import Transformer
from tutelage.objectives.attention import Attention
from tutelage.objectives.base import Step
from tutelage.objectives.cross_correlation import CrossCorrelation
from tutelage.objectives.hint import Hint
from tutelage.objectives.probabilistic_transfer import ProbabilisticTransfer
from tutelage.objectives.projector import Projector
from tutelage.objectives.relational import Relational
from tutelage.objectives.review import ReviewKD
from tutelage.objectives.similarity_preserving import SimilarityPreserving
from tutelage.objectives.soft_targets import SoftTargets
from tutelage.objectives.srd import SRD
from tutelage.objectives.task import Task
from tutelage.objectives.vid import VID
from tutelage.objectives.vkd import VkD
from tutelage.tasks import Batch, Classification

CLASSES = 3
FEATURE_LOSSES = {
    "hint": Hint,
    "attention": Attention,
    "relational": Relational,
    "similarity": SimilarityPreserving,
    "pkt": ProbabilisticTransfer,
    "cross_correlation": CrossCorrelation,
    "vid": VID,
    "review": ReviewKD,
    "srd": SRD,
    "vkd": VkD,
}


def images(n=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 1, 8, 8, generator=generator)
    return Batch(inputs, torch.randint(CLASSES, (n,), generator=generator), torch.arange(n))


def tokens(n=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(5, (n, 7), generator=generator)
    mask = torch.arange(7) < torch.arange(2, 2 + n)[:, None]
    return Batch(inputs, torch.randint(CLASSES, (n,), generator=generator), torch.arange(n), mask)


def conv(width, stages=2):
    return ConvNet((1, 8, 8), CLASSES, width=width, stages=stages)


def build(
    kind=FeatureDistillation,
    network=None,
    teacher=None,
    example=None,
    optimizer=None,
    loss="hint",
    loss_options=None,
    pairing="last",
    k=1,
    pairs=None,
    **options,
):
    torch.manual_seed(1)
    pairing = Pairing(strategy=pairing, k=k, pairs=pairs)
    feature = FEATURE_LOSSES[loss](network="teacher", pairing=pairing, **(loss_options or {}))
    soft = {"soft": SoftTargets(network="teacher", temperature=3.0)} if kind is FitNets else {}
    return made(
        kind,
        network or conv(4),
        {"task": Task(), **soft, "feature": feature},
        frozen={"teacher": FrozenNetwork(teacher or conv(6))},
        task=Classification(CLASSES),
        example=example or images(4),
        optimizer=optimizer,
        options=options,
    )


def projectors(method):
    return method.objectives["feature"].projectors


PAIRS = {
    "equal": (lambda: conv(4), lambda: conv(4), images),
    "channels and size differ": (lambda: conv(4, stages=1), lambda: conv(6, stages=2), images),
    "a vector and a map": (lambda: FCN((1, 8, 8), CLASSES, depth=2, width=5), lambda: conv(6), images),
    "sequences with padding": (
        lambda: Recurrent((7,), CLASSES, cell="gru", vocab_size=5, depth=2, width=6, per_position=False),
        lambda: Transformer(
            (7,), CLASSES, vocab_size=5, depth=1, width=8, heads=2, causal=False, per_position=False
        ),
        tokens,
    ),
}


@pytest.mark.parametrize("loss", FEATURE_LOSSES)
@pytest.mark.parametrize("case", PAIRS)
def test_every_loss_meets_every_pair_of_architectures(case, loss):
    network, teacher, data = PAIRS[case]
    options = {"pairing": "last", "k": 1}
    if case == "sequences with padding":
        options = {"pairing": "explicit", "k": None, "pairs": [["blocks.0", "layers.0"]]}
    if case == "a vector and a map" and loss == "attention":
        with pytest.raises(UserError, match="images"):  # at construction
            build(network=network(), teacher=teacher(), example=data(4), loss=loss, **options)
        return
    if case == "sequences with padding" and loss == "review":
        with pytest.raises(UserError, match=r"fuses maps .* got \(7, 6\) of 'layers.0'"):
            build(network=network(), teacher=teacher(), example=data(4), loss=loss, **options)
        return
    method = build(network=network(), teacher=teacher(), example=data(4), loss=loss, **options)
    term = method.losses(data())["feature"]
    assert term.ndim == 0 and term.isfinite()
    term.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.network.parameters())
    assert all(p.grad is not None for p in projectors(method).parameters())
    assert all(p.grad is None for p in method.frozen["teacher"].network.parameters())


def test_the_feature_term_is_the_loss_on_the_projected_activations_summed_over_pairs():
    pairs = [["blocks.0", "stem"], ["blocks.1.conv2", "blocks.1"]]
    method = build(network=conv(4), teacher=conv(6), pairing="explicit", k=None, pairs=pairs).eval()
    assert method.describe()["objectives"]["feature"]["pairs"] == pairs
    batch = images()
    mine = activations(method.network, [p[1] for p in pairs], batch.inputs)
    theirs = activations(method.frozen["teacher"].network, [p[0] for p in pairs], batch.inputs)
    expected = sum(
        hint(projector.map(mine[b]), theirs[a])
        for (a, b), projector in zip(pairs, projectors(method), strict=True)
    )
    torch.testing.assert_close(method.losses(batch)["feature"], expected)


def test_variational_information_is_the_likelihood_written_by_hand():
    torch.manual_seed(0)
    predicted, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    raw = torch.tensor([-1.0, 0.5, 3.0])
    total = 0.0
    for place, value in enumerate(raw.tolist()):
        variance = math.log(1 + math.exp(value)) + 0.01
        for mean, x in zip(
            predicted[:, place].flatten().tolist(), teacher[:, place].flatten().tolist(), strict=True
        ):
            density = math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
            total -= math.log(density) + math.log(2 * math.pi) / 2
    torch.testing.assert_close(
        float(gaussian(predicted, teacher, raw, floor=0.01)), total / 24, rtol=1e-5, atol=0
    )


def normalised(values, eps):
    mean, variance = statistics.mean(values), statistics.pvariance(values)
    return [(value - mean) / math.sqrt(variance + eps) for value in values]


def test_projected_distances_are_the_sums_written_by_hand():
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(5, 3) + 1, 3 * torch.randn(5, 3) - 2
    columns = [[normalised(column, 1e-4) for column in x.T.tolist()] for x in (student, teacher)]
    for power in (2.0, 4.0):
        total = sum(
            abs(a - b) ** power
            for mine, theirs in zip(*columns, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )
        assert float(log_distance(student, teacher, power=power)) == pytest.approx(math.log(total), rel=1e-5)
    bends = []
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        gaps = [abs(a - b) for a, b in zip(mine, normalised(theirs, 1e-5), strict=True)]
        bends += [gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps]
    assert float(normalised_distance(student, teacher)) == pytest.approx(statistics.mean(bends), rel=1e-5)
    assert torch.isfinite(log_distance(teacher, teacher))
    for loss in (log_distance, normalised_distance):
        with pytest.raises(UserError, match="must be \\(n, width\\) alike"):
            loss(student, teacher[:, :2])


@pytest.mark.parametrize(("mine", "theirs"), [(4, 6), (6, 4), (4, 4)])
def test_an_orthogonal_projector_stays_orthogonal(mine, theirs):
    method = build(network=conv(mine), teacher=conv(theirs), loss="vkd")
    moved(method, 3)
    weight = projectors(method)[0].map.weight.detach()
    small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    torch.testing.assert_close(small, torch.eye(len(small)), atol=1e-5, rtol=0)


def test_a_trained_variance_starts_where_it_is_told_and_a_regressor_stands_between_equal_shapes_too():
    method = build(network=conv(4), teacher=conv(4), loss="vid", loss_options={"variance": 3.0, "floor": 0.5})
    (projector,) = projectors(method)
    started = torch.nn.functional.softplus(projector.raw_variance) + 0.5
    torch.testing.assert_close(started, torch.full_like(started, 3.0))
    assert sum(isinstance(m, torch.nn.Conv2d) for m in projector.map) == 3
    with pytest.raises(UserError, match="`variance` must be above `floor`"):
        build(loss="vid", loss_options={"variance": 0.1, "floor": 0.5})


def test_padded_positions_do_not_count():
    network, teacher, data = PAIRS["sequences with padding"]
    options = {"pairing": "explicit", "k": None, "pairs": [["blocks.0", "layers.0"]], "loss": "similarity"}
    method = build(network=network(), teacher=teacher(), example=data(4), **options).eval()
    batch = data()
    other = batch._replace(inputs=torch.where(batch.mask, batch.inputs, (batch.inputs + 1) % 5))
    torch.testing.assert_close(method.losses(batch)["feature"], method.losses(other)["feature"])


@pytest.mark.parametrize("loss", [name for name in FEATURE_LOSSES if name != "review"])
def test_more_padding_changes_no_feature_loss(loss):
    network, teacher = (
        Recurrent((12,), CLASSES, vocab_size=5, depth=1, width=width, per_position=True) for width in (8, 6)
    )
    torch.manual_seed(0)
    real = torch.randint(5, (6, 4))
    found = []
    for padded in (0, 2, 8):
        inputs = torch.nn.functional.pad(real, (0, padded), value=1)
        mask = torch.arange(4 + padded).expand(6, -1) < 4
        batch = Batch(inputs, torch.zeros_like(inputs), torch.arange(6), mask)
        options = {"pairing": "explicit", "k": None, "pairs": [["layers.0", "layers.0"]], "loss": loss}
        torch.manual_seed(1)
        method = build(network=network, teacher=teacher, example=batch, **options).eval()
        with method.objectives._taps.recording():
            method.network(batch.inputs, batch.mask)
        mine = method.objectives._taps.collect()
        _, theirs = method.objectives._readers[0](batch, list(method.objectives)[1:])
        found.append(
            method.objectives["feature"].loss(Step(batch, mine["layers.0"], mine, {"teacher": theirs}))
        )
    torch.testing.assert_close(found[1:], [found[0], found[0]])


def test_a_projector_is_there_only_where_shapes_differ():
    def maps(student, teacher, needs):
        return type(Projector(student, teacher, needs).map).__name__

    assert maps((4, 8, 8), (4, 8, 8), "shape") == "Identity"
    assert maps((4, 8, 8), (6, 4, 4), "shape") == "Conv2d"
    assert maps((7, 4), (7, 6), "shape") == "Linear"
    assert maps((4,), (6, 4, 4), "shape") == "Linear"
    assert maps((4, 8, 8), (6, 4, 4), "samples") == "Identity"
    assert maps((4, 8, 8), (6, 4, 4), "width") == "Linear"


def moved(method, steps):
    """Names of the parameters that some updates at the present stage change."""
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    optimizer = method.configure_optimizers()
    for _ in range(steps):
        optimizer.zero_grad()
        method.training_step(images(), 0).backward()
        optimizer.step()
    return {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}


def test_fitnets_first_stage_moves_what_lies_below_the_hint_and_the_second_all_but_the_projector(monkeypatch):
    decaying = OptimizerSpec(name="adamw", lr=0.01, weight_decay=0.5)
    method = build(
        FitNets,
        hint_steps=3,
        optimizer=decaying,
        pairing="explicit",
        k=None,
        pairs=[["blocks.0", "blocks.0.conv2"]],
    )
    names = {name for name, _ in method.named_parameters()}
    below = {
        n
        for n in names
        if n.startswith(("network.stem", "network.blocks.0.conv", "network.blocks.0.norm1", "objectives."))
    }
    assert moved(method, 3) == below
    assert method.term_weights() == {"task": 0.0, "soft": 0.0, "feature": 1.0}
    monkeypatch.setattr(FitNets, "step", 3)
    assert moved(method, 3) == {name for name in names if name.startswith("network")}
    assert method.term_weights() == {"task": 1.0, "soft": 1.0, "feature": 0.0}


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"no layer 'blocks.9'.*blocks.1"):
        build(pairing="explicit", k=None, pairs=[["blocks.9", "stem"]])
    with pytest.raises(UserError, match="hint_steps"):
        build(FitNets, hint_steps=-1)
    with pytest.raises(UserError, match="they know different classes"):
        build(FitNets, hint_steps=1, teacher=ConvNet((1, 8, 8), CLASSES + 1, width=6, stages=2))
