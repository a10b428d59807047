"""What objectives are made of, on small shapes: branches, projectors, grids, views, banks; each against a slow one or at its bounds."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tutelage.objectives
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.similarity import CKA
from tutelage.data.augment import build
from tutelage.errors import UserError
from tutelage.losses.distillation import soft_target
from tutelage.losses.logit_variants import adapted, correlation, self_taught
from tutelage.losses.views import nt_xent
from tutelage.models.convnet import ConvNet
from tutelage.models.fcn import FCN
from tutelage.models.frozen import FrozenNetwork
from tutelage.objectives import Alignment, Hint, Logits, SoftTargets
from tutelage.objectives.adamatch import AdaMatch
from tutelage.objectives.adversarial import Adversarial
from tutelage.objectives.base import Reading, Setup, Start, Step
from tutelage.objectives.branch import Branch, inner_layers
from tutelage.objectives.crd import CRD, classes, pooled
from tutelage.objectives.dimension import Dimension
from tutelage.objectives.dist import DIST
from tutelage.objectives.fixmatch import FixMatch
from tutelage.objectives.flexmatch import FlexMatch
from tutelage.objectives.freematch import FreeMatch
from tutelage.objectives.frozen_cache import Memory, _free_bytes
from tutelage.objectives.masked import MaskedPatches, MaskedTexts, MaskedTokens, _grid
from tutelage.objectives.mean_teacher import MeanTeacher
from tutelage.objectives.ofa import OFA
from tutelage.objectives.plain import as_batch, as_frozen, as_task
from tutelage.objectives.pretext import pooled as pretext_pooled
from tutelage.objectives.projector import Projector, positions, real_positions
from tutelage.objectives.pseudo_label import PseudoLabel
from tutelage.objectives.repa import REPA
from tutelage.objectives.review import ReviewKD
from tutelage.objectives.softmatch import SoftMatch
from tutelage.objectives.task import Task
from tutelage.objectives.total import Objectives
from tutelage.objectives.uda import UDA
from tutelage.objectives.unlabelled import (
    Unlabelled,
    UnlabelledTokens,
    Views,
    batch_norm_apart,
    byte_affine,
    has_batch_norm,
)
from tutelage.objectives.uskd import USKD
from tutelage.objectives.views import TwoViews
from tutelage.tasks import Batch, Binary, Classification, Forecasting, MultiLabel, Regression


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def setup(network, example, *, task=None, **more):
    return Setup(network, task=task, frozen=more.pop("frozen", {}), example=as_batch(example), **more)


# --- branches and inner layers


@pytest.mark.parametrize("width", [None, 6])
@pytest.mark.parametrize("shape", [(5, 3, 4), (3, 5), (5,)])
def test_a_branch_is_a_mean_over_positions_of_channels_widened_at_each(shape, width):
    branch, x = Branch(shape, 4, width), random(2, *shape)
    rows = x.flatten(2).transpose(1, 2) if len(shape) == 3 else x if len(shape) == 2 else x[:, None]
    slow = []
    for sample in rows:
        places = [place if width is None else branch.widen(place) for place in sample]
        slow.append(branch.to_logits(sum(places) / len(places)))
    torch.testing.assert_close(branch(x), torch.stack(slow))
    assert branch.to_logits.in_features == (width or 5)


def test_inner_layers_are_spread_evenly_and_end_with_the_last_before_the_output():
    network, x = FCN((3,), 2, depth=6, width=4), random(5, 3)

    def chosen(count):
        return [layer.name for layer in inner_layers(setup(network, x), "Own", count)]

    names = [f"layers.{place}.linear" for place in range(6)]
    assert [chosen(count) for count in (1, 2, 3)] == [
        [names[5]],
        [names[2], names[5]],
        [names[k] for k in (1, 3, 5)],
    ]
    assert chosen(4) == [names[k] for k in (0, 2, 3, 5)] and chosen(6) == chosen(9) == names
    for wrong, says in (
        (FCN((3,), 1, depth=2, width=4), r"at least 2 classes, got \(5, 1\)"),
        (nn.Linear(3, 2), "a layer before the output"),
    ):
        with pytest.raises(UserError, match=f"Own needs .*{says}"):
            inner_layers(setup(wrong, x), "Own", 1)
    with pytest.raises(UserError, match=r"got \(5, 3, 2\)"):
        inner_layers(setup(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), random(5, 3, 4)), "Own", 1)


# --- projectors


@pytest.mark.parametrize(
    ("student", "teacher", "needs", "kind", "bias"),
    [
        ((4, 8, 6), (4, 8, 6), "shape", nn.Identity, None),
        ((4, 8, 6), (5, 4, 9), "shape", nn.Conv2d, False),
        ((7, 4), (7, 5), "shape", nn.Linear, True),
        ((4,), (5,), "shape", nn.Linear, True),
        ((4,), (5, 3, 2), "shape", nn.Linear, True),
        ((7, 4), (5, 3, 2), "shape", nn.Linear, True),
        ((4, 8, 6), (5, 4, 9), "width", nn.Linear, True),
        ((4, 8, 6), (4, 4, 9), "width", nn.Identity, None),
        ((4, 8, 6), (5, 4, 9), "samples", nn.Identity, None),
    ],
)
def test_a_projector_brings_features_to_one_shape(student, teacher, needs, kind, bias):
    projector = Projector(student, teacher, needs)
    assert type(projector.map) is kind and (bias is None or (projector.map.bias is not None) is bias)
    mine, theirs = random(2, *student), random(2, *teacher, seed=1)
    found = projector(mine, theirs)

    def mean(x):
        return x.mean((2, 3)) if x.ndim == 4 else x.mean(1) if x.ndim == 3 else x

    if needs == "width" or (needs == "shape" and len(student) != len(teacher)):
        wanted = projector.map(mean(mine)), mean(theirs)
    elif needs == "shape" and len(student) == 3:
        size = min(student[1], teacher[1]), min(student[2], teacher[2])
        mine, theirs = (nn.functional.adaptive_avg_pool2d(x, size) for x in (mine, theirs))
        wanted = projector.map(mine), theirs
    else:
        wanted = projector.map(mine), theirs
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_padding_is_left_out_of_means_and_is_zero_elsewhere():
    real = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    x, other = random(3, 3, 4), random(3, 5, 4)
    slow = torch.stack([(x[0, 0] + x[0, 1]) / 2, x[1, 0], torch.zeros(4)])
    projector = Projector((3, 4), (3, 4), "width")
    found, theirs = projector(x, other, real)
    torch.testing.assert_close(found, slow)
    torch.testing.assert_close(theirs, other.mean(1))  # whose positions are others
    assert torch.equal(real_positions(x, real), x * real[..., None])
    for feature in (other, random(3, 3), random(3, 3, 3, 3)):
        assert real_positions(feature, real) is feature
    assert real_positions(x, None) is x
    assert positions([other, x], real) is real
    for features, mask in (([other], real), ([random(3, 3)], real), ([x], None)):
        assert positions(features, mask) is None
    mask = torch.tensor([[True, False, False]] * 3)
    assert torch.equal(pooled(x, mask), x[:, 0]) and torch.equal(pooled(other, mask), other.mean(1))
    torch.testing.assert_close(pooled(x, real), slow)
    assert torch.equal(pooled(random(3, 4), mask), random(3, 4))
    torch.testing.assert_close(pooled(random(3, 4, 2, 5), mask), random(3, 4, 2, 5).mean((2, 3)))


def test_a_loss_of_a_padded_sequence_is_a_mean_over_real_positions():
    mine, theirs = random(2, 3, 4), random(2, 3, 4, seed=1)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    pair = SimpleNamespace(network=SimpleNamespace(name="a"), guide=SimpleNamespace(name="b"))
    objective = Hint(network="teacher", pairing=Pairing(strategy="last", k=1))
    objective.pairs, objective.projectors = (
        [pair, pair],
        nn.ModuleList([Projector((3, 4), (3, 4), "shape")] * 2),
    )
    batch = Batch(torch.zeros(2, 3), torch.zeros(2), torch.arange(2), mask)
    step = Step(batch, activations={"a": mine}, frozen={"teacher": Reading(None, {"b": theirs})})
    slow = sum(float((mine[i, j] - theirs[i, j]).square().sum()) for i, j in ((0, 0), (0, 1), (1, 0))) / 12
    assert float(objective.loss(step)) == pytest.approx(2 * slow)
    assert objective.describe() == {"pairs": [["b", "a"]] * 2}
    objective.pairs = [SimpleNamespace(network=SimpleNamespace(name=name)) for name in "xyz"]
    assert objective.shared_layer() == "z"


# --- outputs that are compared


@pytest.mark.parametrize(
    ("task", "made", "says"),
    [
        (Classification(2), Logits, ""),
        (
            Forecasting(1, 2),
            Logits,
            "compares classes, which a forecast has not: choose soft_targets, the mean squared distance of",
        ),
        (
            Regression(2),
            Logits,
            "which a task of regression has not: choose soft_targets, the mean squared distance of",
        ),
        (
            MultiLabel(2),
            Logits,
            "which a task of multi-label classification has not: choose soft_targets, the divergence, label by label, of",
        ),
        (Regression(2), SoftTargets, ""),
        (MultiLabel(2), SoftTargets, ""),
        (Regression(2), lambda **k: SoftTargets(standardise=True, **k), "compares classes"),
        (
            Regression(2),
            lambda **k: SoftTargets(label_space="other", **k),
            "SoftTargets with label_space=other compares classes",
        ),
        (Classification(2), lambda **k: SoftTargets(standardise=True, **k), ""),
    ],
)
def test_which_tasks_outputs_can_be_compared(task, made, says):
    objective = made(network="teacher")
    frozen = {"teacher": FrozenNetwork(nn.Linear(3, 2))}
    given = setup(nn.Linear(3, 2), random(5, 3), task=task, frozen=frozen)
    if not says:
        objective.prepare(given)
        return
    with pytest.raises(UserError, match=says):
        objective.prepare(given)


def test_soft_targets_are_the_tasks_own_where_there_is_one():
    mine, theirs = random(4, 2), random(4, 2, seed=1)
    step = Step(
        Batch(random(4, 3), torch.zeros(4, 2), torch.arange(4)), mine, frozen={"teacher": Reading(theirs, {})}
    )
    objective = SoftTargets(network="teacher", temperature=3.0)
    for task, wanted in (
        (Regression(2), (mine - theirs).square().mean()),
        (MultiLabel(2), MultiLabel(2).soft_loss(mine, theirs, step.batch, 3.0)),
        (None, soft_target(mine, theirs, temperature=3.0).mean()),
    ):
        frozen = {"teacher": FrozenNetwork(nn.Linear(3, 2))}
        objective.prepare(setup(nn.Linear(3, 2), random(4, 3), task=task, frozen=frozen))
        torch.testing.assert_close(objective.loss(step), wanted)


def test_relations_of_a_batch_are_of_the_rows_that_count():
    mine, theirs, counts = random(4, 2), random(4, 2, seed=1), torch.tensor([True, False, True, True])
    options = {"temperature": 1.0, "between_classes": 1.0, "between_samples": 1.0}
    objective = DIST(network="teacher")
    frozen = {"teacher": FrozenNetwork(nn.Linear(3, 2))}
    batch = Batch(random(4, 3), torch.tensor([0, 1, 1, 0]), torch.arange(4))
    for task in (Classification(2), None):
        objective.prepare(setup(nn.Linear(3, 2), random(4, 3), task=task, frozen=frozen))
        for target_mask, rows in ((None, slice(None)), (counts, counts if task else slice(None))):
            step = Step(
                batch._replace(target_mask=target_mask), mine, frozen={"teacher": Reading(theirs, {})}
            )
            torch.testing.assert_close(objective.loss(step), correlation(mine[rows], theirs[rows], **options))
    objective.prepare(setup(nn.Linear(3, 2), random(4, 3), task=Classification(2), frozen=frozen))
    nothing = batch._replace(target_mask=torch.zeros(4, dtype=torch.bool))
    assert float(objective.loss(Step(nothing, mine, frozen={"teacher": Reading(theirs, {})}))) == 0


@pytest.mark.parametrize("shape", [(5,), (4, 5), (5, 2, 3), (5, 2, 3, 2)])
def test_pretext_features_are_means_over_positions(shape):
    x = random(2, *shape)
    axes = {1: None, 2: 1, 3: (2, 3), 4: (2, 3, 4)}[len(shape)]
    torch.testing.assert_close(pretext_pooled(x), x if axes is None else x.mean(axes))


def test_outputs_of_one_logit_and_of_other_shapes():
    frozen = {"teacher": FrozenNetwork(nn.Linear(3, 1))}
    given = setup(nn.Linear(3, 1), random(5, 3), task=Binary(), frozen=frozen)
    Logits(network="teacher").prepare(given)
    with pytest.raises(UserError, match="of one logit nothing would be left"):
        Logits(network="teacher", standardise=True).prepare(given)
    assert (
        Logits(network="teacher").compares_classes
        and not Logits(network="teacher", label_space="other").compares_classes
    )
    with pytest.raises(
        UserError, match=r"the teacher gives \(1,\) per sample, Linear \(2,\): they know different classes"
    ):
        Logits(network="teacher").prepare(
            setup(nn.Linear(3, 2), random(5, 3), task=Classification(2), frozen=frozen)
        )
    per_position = {"teacher": FrozenNetwork(nn.Linear(4, 5))}
    for network, teacher, example in (
        (FCN((3,), 2, depth=1, width=6), frozen, random(5, 3)),
        (FCN((3, 4), 2, depth=1, width=6), per_position, random(5, 3, 4)),
        (nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), per_position, random(5, 3, 4)),
    ):
        objective = Logits(network="teacher", label_space="other")
        given = setup(network, example, frozen=teacher)
        if example.ndim == 2:
            objective.prepare(given)
            assert objective.extra_head.linear.weight.shape == (1, 6)
            continue
        with pytest.raises(UserError, match="needs networks that end in one linear layer"):
            objective.prepare(given)
    two = {"a": FrozenNetwork(nn.Linear(3, 4)), "b": FrozenNetwork(nn.Linear(3, 5))}
    with pytest.raises(
        UserError, match=r"the teachers a, b give \[\(4,\), \(5,\)\] per sample, which have no mean"
    ):
        Logits(network=["a", "b"], label_space="other").prepare(setup(FCN((3,), 2), random(5, 3), frozen=two))


# --- the task itself


@pytest.mark.parametrize("counts", [None, [6, 0, 2], [1, 2, 3]])
def test_balanced_weights_are_samples_over_classes_times_their_own(counts):
    task = Classification(3)
    task.class_counts = counts
    objective = Task(class_weight="balanced")
    if counts is None:
        with pytest.raises(UserError, match="do not say how many training samples a class has"):
            objective.prepare(setup(nn.Linear(3, 3), random(2, 3), task=task))
        return
    objective.prepare(setup(nn.Linear(3, 3), random(2, 3), task=task))
    weights = [sum(counts) / (3 * count) if count else 0 for count in counts]
    assert objective.weights.tolist() == pytest.approx(weights)
    logits, targets = random(4, 3), torch.tensor([0, 2, 2, 1])
    step = Step(Batch(random(4, 3), targets, torch.arange(4)), logits)
    slow = (
        sum(-float(z.log_softmax(0)[t]) * weights[t] for z, t in zip(logits, targets.tolist(), strict=True))
        / 4
    )
    assert float(objective.loss(step)) == pytest.approx(slow)
    mixed = torch.tensor([[0.5, 0.25, 0.25]] * 4)
    mean = sum(w * m for w, m in zip(weights, (0.5, 0.25, 0.25), strict=True))
    slow = sum(-float(z.log_softmax(0) @ mixed[0]) * mean for z in logits) / 4
    assert float(objective.loss(Step(step.batch._replace(targets=mixed), logits))) == pytest.approx(slow)


@pytest.mark.parametrize(
    ("task", "weights", "fits"),
    [(Classification(3), [1, 0, 2], True), (Classification(3), [1, 2], False), (Classification(3), [1, -1e-9, 2], False),
     (Classification(3), [0, 0, 0], False), (Binary(), [1, 2], True), (Binary(), [1], False), (Regression(2), [1, 2], False)],
)  # fmt: skip
def test_weights_of_classes_are_one_for_each(task, weights, fits):
    objective, given = Task(class_weight=weights), setup(nn.Linear(3, 3), random(2, 3), task=task)
    if fits:
        objective.prepare(given)
        assert objective.weights.tolist() == weights
        return
    with pytest.raises(UserError, match="`class_weight` "):
        objective.prepare(given)


def test_label_smoothing_is_of_this_loss_alone():
    task = Classification(3)
    for value, wanted in ((0.2, 0.2), (0, 0), (None, 0)):
        objective = Task(label_smoothing=value)
        objective.prepare(setup(nn.Linear(3, 3), random(2, 3), task=task))
        assert objective.task.label_smoothing == wanted and task.label_smoothing == 0
    with pytest.raises(UserError, match="is of classes, which a task of regression has not"):
        Task(label_smoothing=0.1).prepare(setup(nn.Linear(3, 3), random(2, 3), task=Regression(3)))
    with pytest.raises(UserError, match="needs to know the task"):
        Task().prepare(setup(nn.Linear(3, 3), random(2, 3)))


# --- adversaries and guidance


@pytest.mark.parametrize(
    ("task", "it"),
    [(Forecasting(1, 2), "a forecast"), (Regression(2), "a task of another kind"), (None, "no known task")],
)
def test_what_has_no_wrong_class_is_not_attacked(task, it):
    with pytest.raises(UserError, match=f"an attack looks for a wrong class, which {it} has not"):
        Adversarial().prepare(setup(nn.Linear(3, 2), random(5, 3), task=task))


@pytest.mark.parametrize(
    ("patches", "size", "fits"), [(None, 3, True), (None, 2, False), (2, 1, True), (1, 2, False)]
)
def test_rows_for_a_similarity_are_samples_times_patches(patches, size, fits):
    options = {} if patches is None else {"compare": "patches", "patches": patches}
    pairing = Pairing(strategy="explicit", pairs=[["stem", "stem"]])
    objective = Alignment(network="guide", pairing=pairing, **options)
    guide, network = (ConvNet((1, 8, 8), 3, width=4, stages=1) for _ in range(2))
    given = setup(network, random(4, 1, 8, 8), frozen={"guide": FrozenNetwork(guide)}, batch_size=size)
    if fits:
        objective.prepare(given)
        return
    with pytest.raises(UserError, match="needs a batch of at least 3"):
        objective.prepare(given)


@pytest.mark.parametrize(
    ("rank", "accumulate", "said"), [(0, 1, ["pairs"]), (0, 2, ["pairs", "accumulate"]), (1, 2, [])]
)
def test_guidance_says_its_pairs_once_and_what_accumulation_does_not_do(caplog, rank, accumulate, said):
    objective = Alignment(network="guide")
    guide, network = (FCN((3,), 2, depth=2, width=4) for _ in range(2))
    objective.prepare(setup(network, random(4, 3), frozen={"guide": FrozenNetwork(guide)}, batch_size=4))
    with caplog.at_level(logging.INFO, logger="tutelage"):
        objective.start(Start(9, accumulate, rank, 2, torch.device("cpu"), 0))
    found = [
        "accumulate" if "fit.accumulate=2 enlarges" in r.getMessage() else "pairs" for r in caplog.records
    ]
    assert found == said
    assert objective.record() == {}
    objective._similarities += [torch.tensor([0.25, 0.5]), torch.tensor([0.75, 1.0])]
    objective.name = "alignment"
    assert objective.record() == {"similarity/01": 0.5, "similarity/02": 0.75} and objective.record() == {}
    objective._similarities, objective.name = [torch.tensor([1.0])], "early"
    assert objective.record() == {"similarity/early/01": 1.0}


@pytest.mark.parametrize(("rows", "block", "warned"), [
    (8, 4, False), (7, 4, True), (4, 4, True), (3, 9, True), (8, None, False), (None, 4, False),
])  # fmt: skip
def test_blocks_that_a_batch_does_not_fill_twice_are_said_to_do_nothing(caplog, rows, block, warned):
    objective = Alignment(network="guide", similarity=CKA(block=block))
    objective.name = "early"
    guide, network = (FCN((3,), 2, depth=2, width=4) for _ in range(2))
    objective.prepare(setup(network, random(4, 3), frozen={"guide": FrozenNetwork(guide)}, batch_size=rows))
    objective.start(Start(9, 1, 0, 1, torch.device("cpu"), 0))
    said = [one.split(" of a batch")[0] for one in caplog.messages if "no effect" in one]
    assert (
        said == [f"method.objectives.early.similarity.block={block} has no effect: the {rows} rows"] * warned
    )


# --- views and consistency


def test_the_views_that_an_objective_asks_for():
    weak, strong = {"horizontal_flip": {}}, {"cutout": {}}
    given = {"weak": {**weak, "random_crop": None}, "strong": strong}
    assert [one(**given)._views for one in (FixMatch, MeanTeacher, PseudoLabel)] == [
        (weak, strong),
        (weak, weak),
        (weak,),
    ]
    assert [one()._views for one in (FixMatch, MeanTeacher, PseudoLabel)] == [({}, {}), ({}, {}), ({},)]


def consistency(made, *, images=None, batch_size=3, network=None, task=None, **more):
    images = torch.arange(4 * 12).reshape(4, 3, 2, 2).to(torch.uint8) if images is None else images
    source = Unlabelled(images, np.arange(len(images)), torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1), {})
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    made.prepare(
        setup(
            network,
            random(2, 3, 2, 2),
            task=task or Classification(2),
            batch_size=batch_size,
            unlabelled=source,
            **more,
        )
    )
    return made


@pytest.mark.parametrize(("ratio", "size", "count"), [(1.0, 3, 3), (0.5, 3, 2), (0.1, 3, 1), (1.34, 3, 4)])
def test_a_step_takes_its_ratio_of_the_batch_and_at_least_one(ratio, size, count, caplog):
    assert consistency(FixMatch(ratio=ratio), batch_size=size).stream._count == count
    assert ("less than half an image; a step takes one" in caplog.text) == (ratio * size < 0.5)


@pytest.mark.parametrize("kind", [FixMatch, UDA, FlexMatch, PseudoLabel])
def test_what_would_leave_every_unlabelled_image_out_is_refused(kind):
    for threshold in (1.0, 1.5, -0.1):
        with pytest.raises(UserError, match=r"`threshold` is a confidence, from 0 .* to below 1, got"):
            kind(threshold=threshold)
    with pytest.raises(UserError, match=r"`ratio`.* must be above 0, got 0; for none, method=supervised"):
        kind(ratio=0)
    kind(threshold=0.0)


def test_a_negative_weight_is_said_but_where_it_has_a_meaning(caplog):
    network, example = (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Linear(9, 2)),
        torch.zeros(30, 3, 2, 2),
    )
    common = {"task": F.cross_entropy, "example": example}
    Objectives(network, {"task": Task(), "dimension": Dimension(weight=-0.1)}, **common)
    assert "negative" not in caplog.text and "to make this loss large" not in caplog.text
    Objectives(network, {"task": Task(weight=-1.0)}, **common)
    assert (
        "the weight of the objective 'task' is -1: the network is trained to make this loss large"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("made", "more", "says"),
    [
        (lambda: FixMatch(ratio=2.0), {}, "a step takes 6 unlabelled images, there are 4: lower `ratio`"),
        (FixMatch, {"batch_size": None}, "needs to know the batch size"),
        (FixMatch, {"task": Regression(2)}, "compares views of images with classes; texts, .* have none: got a task of regression"),
        (FixMatch, {"images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8)}, "have 1 channels, the labelled ones 3"),
        (lambda: FixMatch(weak_gradient=False), {"network": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2))},
         "Sequential has batch norms"),
        (lambda: FixMatch(distribution_alignment="labels"), {}, "needs to know how many training images each class has"),
    ],
)  # fmt: skip
def test_unlabelled_images_that_do_not_fit_are_told(made, more, says):
    with pytest.raises(UserError, match=says):
        consistency(made(), **more)


def test_batch_norms_are_no_hindrance_where_the_parts_are_apart_or_there_is_one_forward():
    for options in ({"weak_gradient": False, "batch_norm": "labelled"}, {}):
        consistency(
            FixMatch(**options), network=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2))
        )
    consistency(FixMatch(weak_gradient=False))
    sequences = FixMatch()
    with pytest.raises(UserError, match="compares views of images with classes"):
        sequences.prepare(setup(nn.Linear(3, 2), random(2, 5, 3), task=Classification(2), batch_size=2))


@pytest.mark.parametrize(
    ("kind", "counts", "wanted"),
    [("uniform", None, [0.5, 0.5]), ("labels", [3, 1], [0.75, 0.25]), ("predictions", None, None)],
)
def test_predictions_are_brought_to_what_is_wanted_and_the_first_batch_sets_what_is_unknown(
    kind, counts, wanted
):
    made = consistency(FixMatch(distribution_alignment=kind, momentum=0.75), class_counts=counts)
    assert made.mean_prediction.isnan().all()
    assert (
        made.wanted_prediction.isnan().all() if wanted is None else made.wanted_prediction.tolist() == wanted
    )
    made.labelled, logits = random(4, 2, seed=2), random(3, 2)
    mean, of_labels = (x.softmax(1).mean(0) for x in (logits, made.labelled))
    found = made.align(logits)
    torch.testing.assert_close(made.mean_prediction, mean)
    target = of_labels if wanted is None else torch.tensor(wanted)
    torch.testing.assert_close(found, logits + (target + 1e-6).log() - (mean + 1e-6).log())
    again = random(3, 2, seed=5)
    made.align(again)
    torch.testing.assert_close(made.mean_prediction, 0.75 * mean + 0.25 * again.softmax(1).mean(0))


def test_thresholds_are_passed_by_what_reaches_them_exactly():
    made = consistency(AdaMatch(threshold=1.0))
    made.labelled = made_of = torch.tensor([[1.0, -0.5]])
    target, output = torch.cat([made_of, made_of * 0.9]), random(2, 2)
    slow = nn.functional.cross_entropy(output[:1], torch.tensor([0])) / 2
    torch.testing.assert_close(made.compare(target, output), slow)
    assert made.record() == {"adamatch_used": 0.5} and made.record() == {}
    flex = consistency(FlexMatch(threshold=0.5))
    flex.stream.index = torch.tensor([2, 0])
    even = torch.zeros(2, 2)  # a confidence of 0.5: it counts as seen, of the first class
    flex.compare(even, output)
    assert flex.latest.tolist() == [0, -1, 0, -1]
    flex.stream.index = torch.tensor([1, 3])
    flex.record()
    # half are seen, all of the first class: its threshold is the whole one, which a confidence of 0.5 reaches
    flex.compare(torch.tensor([[0.0, 9.0], [0.0, -9.0]]), output)
    assert flex.latest.tolist() == [0, 1, 0, 0] and flex.record() == {"flexmatch_used": 1.0}
    flex.compare(even, output)
    assert flex.record() == {"flexmatch_used": 1.0}
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    three = consistency(FlexMatch(threshold=0.5), network=network, task=Classification(3))
    three.latest[:2] = 0
    three.stream.index = torch.tensor([2, 3])
    three.compare(torch.tensor([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]).log(), random(2, 3))
    assert three.record() == {
        "flexmatch_used": 0.5
    }  # of the second class none was sure yet: its threshold is 0


def test_the_spread_of_one_confidence_is_none():
    made = consistency(SoftMatch())
    made.compare(random(1, 2), random(1, 2))
    assert float(made.variance) == 1
    logits = random(3, 2)
    made.compare(logits, logits)
    confidence = logits.softmax(1).amax(1)
    torch.testing.assert_close(made.variance, 0.999 + 0.001 * confidence.var())
    assert float(made.mean) != 0.5


def test_bytes_become_what_the_network_takes():
    scale, shift = byte_affine([[0.5, 0.25], [0.5, 0.2]], 2)
    for byte, wanted in ((0, [-1, -1.25]), (255, [1, 3.75])):
        assert (byte * scale + shift).flatten().tolist() == pytest.approx(wanted, abs=1e-6)
    scale, shift = byte_affine(None, 3)
    assert (255 * scale).tolist() == torch.ones(1, 3, 1, 1).tolist() and not shift.any()
    for wrong in ("train", [[0.5, 0.5]], [[0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5]]):
        with pytest.raises(UserError, match=r"two lists of 2 \(means, deviations\)"):
            byte_affine(wrong, 2)


def test_views_are_one_after_another_each_with_its_own_draws():
    images = torch.arange(3 * 2 * 4).reshape(3, 1, 2, 4).to(torch.uint8)
    flip = build({"horizontal_flip": {}})
    views = Views(images, torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 1.0), (2, 4), (flip, flip))
    index, noise = torch.tensor([2, 0]), torch.tensor([[0.1, 0.9], [0.9, 0.1]])
    assert views.draws == 2 * flip.draws == 2
    batch = views.batch(index, noise)
    wanted = [flip(images[index], noise[:, k : k + 1]).float() * 2 + 1 for k in (0, 1)]
    assert torch.equal(batch.inputs, torch.cat(wanted)) and not torch.equal(wanted[0], wanted[1])
    smaller = Views(images, views.scale, views.shift, (1, 2), (flip,)).batch(index, noise[:, :1])
    assert smaller.inputs.shape == (2, 1, 1, 2)


@pytest.mark.parametrize("count", [0, 3])
def test_batch_norms_see_two_parts_apart_and_the_first_alone_leaves_a_trace(count):
    norm = nn.BatchNorm1d(2)
    network, x = nn.Sequential(norm), random(8, 2)
    network.train()
    with batch_norm_apart(network, count):
        found = network(x)
    parts = [part for part in (x[:count], x[count:]) if len(part)]
    torch.testing.assert_close(
        found,
        torch.cat([(p - p.mean(0)) / (p.var(0, unbiased=False) + 1e-5).sqrt() for p in parts]),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(norm.running_mean, 0.1 * x[:count].mean(0) if count else torch.zeros(2))
    assert "forward" not in vars(norm)
    with batch_norm_apart(network.eval(), count):
        torch.testing.assert_close(network(x), (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt())
    assert has_batch_norm(network) and not has_batch_norm(nn.Linear(2, 2))


# --- what is hidden


@pytest.mark.parametrize(
    ("shape", "image", "grid"),
    [
        ((64, 4, 2), (3, 8, 8), (4, 2)),
        ((64, 3, 4), (3, 8, 8), None),
        ((64, 4, 3), (3, 8, 8), None),
        ((64, 1, 1), (3, 8, 8), None),
        ((64, 1, 2), (3, 8, 8), (1, 2)),
        ((12, 5), (3, 8, 8), (2, 2)),  # no square cells before: 3 by 4 is none
        ((4, 5), (3, 8, 8), (2, 2)),
        ((16, 5), (3, 8, 8), (4, 4)),
        ((64, 5), (3, 8, 8), (8, 8)),
        ((8, 5), (3, 16, 8), (4, 2)),
        ((24, 5), (3, 8, 8), (4, 4)),  # after eight others at most
        ((25, 5), (3, 8, 8), None),
        ((3, 5), (3, 8, 8), None),
        ((5,), (3, 8, 8), None),
        ((1, 2, 3, 4), (3, 8, 8), None),
    ],
)
def test_a_grid_of_positions_divides_the_image_into_square_cells(shape, image, grid):
    assert _grid(shape, image) == grid


@pytest.mark.parametrize(("ratio", "hidden"), [(0.01, 1), (0.5, 3), (0.41, 2), (0.99, 5)])
def test_of_each_image_as_many_patches_are_hidden_but_never_none_or_all(ratio, hidden):
    images = torch.full((4, 1, 4, 6), 100, dtype=torch.uint8)
    views = Views(
        images, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), (4, 6), (lambda images, noise: images,)
    )
    views.augments[0].draws = 2
    store = MaskedPatches(views, ratio, 2)
    assert store.patches == (2, 3) and store.draws == 8
    noise = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    batch = store.batch(torch.tensor([3, 1]), noise)
    for row in range(2):
        first = sorted(range(6), key=lambda k: float(noise[row, 2 + k]))[:hidden]
        wanted = torch.zeros(4, 6, dtype=torch.bool)
        for patch in first:
            y, x = 2 * (patch // 3), 2 * (patch % 3)
            wanted[y : y + 2, x : x + 2] = True
        assert torch.equal(batch.target_mask[row, 0], wanted)
        assert (
            torch.equal(batch.inputs[row, 0], torch.where(wanted, 0.0, 100.0))
            and batch.targets[row].eq(100).all()
        )


def test_of_chosen_tokens_eight_of_ten_are_masked_one_is_another_and_one_stays():
    tokens = torch.tensor([[2, 3, 4, 5, 6, 7, 0, 1]])
    mask = torch.tensor([[True] * 7 + [False]])
    texts = SimpleNamespace(batch=lambda index, noise: Batch(tokens, tokens, index, mask))
    special = torch.tensor([True, True] + [False] * 8)
    store = MaskedTexts(texts, special, 1, 0.5, 8)
    assert store.draws == 8
    noise = torch.tensor([[0.0, 0.399, 0.401, 0.4499, 0.4501, 0.5, 0.1, 0.1]])
    batch = store.batch(torch.tensor([0]), noise)
    # 0.5 is no part of the half; padding and special ones never are
    assert batch.target_mask.tolist() == [[True] * 5 + [False] * 3]
    # 0.401 / 0.5 lies 2 % into the share of random ones, of ten; 0.4499 at its end
    assert batch.inputs.tolist() == [[1, 1, 0, 9, 6, 7, 0, 1]]
    ends = torch.tensor(
        [[0.4, 0.45, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]]
    )  # 8 of 10 are a random one's, 9 of 10 stay
    assert store.batch(torch.tensor([0]), ends).inputs.tolist() == [[0, 3, 4, 5, 6, 7, 0, 1]]
    assert torch.equal(batch.targets, tokens)


# --- other layers and thresholds


def test_the_dimension_is_of_all_weight_layers_but_the_last_or_of_those_named():
    given = setup(FCN((3,), 2, depth=3, width=4), random(9, 3))
    for layers, wanted in ((None, [0, 1, 2]), (["layers.1.linear"], [1])):
        one = Dimension(neighbours=2, layers=layers)
        one.prepare(given)
        assert one.network_layers == tuple(f"layers.{k}.linear" for k in wanted)
        assert one.shared_layer() == f"layers.{wanted[-1]}.linear"
    with pytest.raises(UserError, match="the network has no inner weight layer"):
        Dimension(neighbours=2).prepare(setup(nn.Sequential(nn.Linear(3, 2)), random(9, 3)))


def test_freematch_counts_what_reaches_its_threshold_exactly():
    made = consistency(FreeMatch(momentum=0.0, fairness=0.0))
    logits = torch.tensor([[1.0, -0.5]])  # alone: its own confidence is the threshold
    made.compare(logits, random(1, 2))
    assert made.record() == {"freematch_used": 1.0}


def test_positions_are_those_of_the_last_layer_that_fits_before_the_final_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.twice, self.b, self.head = (
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 6),
                nn.Linear(6, 6),
            )

        def forward(self, x):
            return self.head(self.b(self.twice(self.twice(self.a(x)))))

    given = setup(Net(), random(2, 5, 4))
    masked = MaskedTokens()
    assert masked.last_with_positions(given, lambda shape: True) == "b"
    assert (
        masked.last_with_positions(given, lambda shape: shape[1] == 4) == "a"
    )  # of a layer that runs twice nothing is known
    assert masked.last_with_positions(given, lambda shape: shape[1] == 3) is None
    flat = nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(20, 5), nn.Linear(5, 6))
    texts = UnlabelledTokens(None, np.arange(3), {}, 7, 1)
    given = setup(flat, random(2, 5, 4), unlabelled=texts, batch_size=2)
    assert masked.choose(given) == "0"  # (5,) of the third is no vector for each of 5 positions
    for without in (
        setup(flat, random(2, 5, 4), batch_size=2),
        setup(flat, random(2, 5, 4), unlabelled=texts),
    ):
        with pytest.raises(UserError, match="masked tokens need texts"):
            masked.choose(without)
    with pytest.raises(
        UserError, match="no layer before its final one with a vector for each of the 5 positions"
    ):
        masked.choose(
            setup(
                nn.Sequential(nn.Flatten(), nn.Linear(20, 6)), random(2, 5, 4), unlabelled=texts, batch_size=2
            )
        )


# --- what frozen networks gave before


def memory(samples, **more):
    def look(batch, keep):
        seen.append(len(batch.inputs))
        keep("out", 2 * batch.inputs.flatten(1))
        keep("map", batch.inputs.contiguous(memory_format=torch.channels_last))
        keep("plain", batch.inputs)

    seen = []
    return Memory(look, samples, FrozenNetwork(nn.Linear(1, 1)), name="teacher", **more), seen


def stored_samples(count=5):
    inputs = random(count, 2, 3, 4)
    index = torch.arange(count) * 3 + 2
    batches = [Batch(inputs[k : k + 2], index[k : k + 2], index[k : k + 2]) for k in range(0, count, 2)]
    samples = type("Samples", (), {"on": lambda self, device: batches, "__len__": lambda self: count})
    return samples(), inputs, index


def test_what_was_given_for_a_sample_is_found_by_its_index(caplog):
    samples, inputs, index = stored_samples()
    given, seen = memory(samples)
    order = torch.tensor([3, 0, 3])
    with caplog.at_level(logging.DEBUG, logger="tutelage"):
        found = given(Batch(inputs[order], order, index[order]))
    torch.testing.assert_close(found["out"], 2 * inputs[order].flatten(1))
    torch.testing.assert_close(found["map"], inputs[order].permute(0, 2, 3, 1))  # in the order of its memory
    torch.testing.assert_close(found["plain"], inputs[order])
    given(Batch(inputs, index, index))
    assert seen == [2, 2, 1] and given._row_of.tolist() == [
        -1,
        -1,
        0,
        -1,
        -1,
        1,
        -1,
        -1,
        2,
        -1,
        -1,
        3,
        -1,
        -1,
        4,
    ]
    assert caplog.messages == ["cache of teacher: 0 MiB of 5 samples"]
    given.forget()
    given(Batch(inputs, index, index))
    assert seen == [2, 2, 1] * 2


@pytest.mark.parametrize(
    ("free", "fits"),
    [(5 * 24 * 4 * 3, True), (5 * 24 * 4 * 3 - 1, False), (5 * 24 * 4 - 1, False), (None, True)],
)
def test_a_memory_that_would_not_fit_is_refused_before_it_is_filled(monkeypatch, free, fits):
    samples, inputs, index = stored_samples()
    given, _ = memory(samples)
    monkeypatch.setattr("tutelage.objectives.frozen_cache._free_bytes", lambda device: free)
    if fits:
        given(Batch(inputs, index, index))
        return
    with pytest.raises(
        UserError, match=r"method.cache=\[teacher\] would take .* for 5 samples, .* GiB are free on cpu"
    ):
        given(Batch(inputs, index, index))


def test_a_memory_says_how_much_it_would_take(monkeypatch):
    samples, _, _ = stored_samples()
    given, _ = memory(samples)
    monkeypatch.setattr("tutelage.objectives.frozen_cache._free_bytes", lambda device: 3 * 2**29)
    given._check_room(3 * 2**29, torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"would take 2\.5 GiB and more for 5 samples, 1\.5 GiB are free on cpu"
    ):
        given._check_room(5 * 2**29, torch.device("cpu"))


def test_free_memory_is_what_the_system_says(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemFree: 7 kB\nMemAvailable:    5 kB\n")
    monkeypatch.setattr("tutelage.objectives.frozen_cache.Path", lambda _: tmp_path / "meminfo")
    assert _free_bytes(torch.device("cpu")) == 5 * 1024 and _free_bytes(torch.device("meta")) is None
    (tmp_path / "meminfo").write_text("nothing\n")
    assert _free_bytes(torch.device("cpu")) is None
    (tmp_path / "meminfo").unlink()
    assert _free_bytes(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert _free_bytes(torch.device("cuda")) == 140


# --- banks


def bank(count=6, **options):
    torch.manual_seed(0)
    teacher = FCN((3,), 2, depth=1, width=5)
    crd = CRD(network="teacher", **{"dimensions": 8, "negatives": 3, **options})
    network = FCN((3,), 2, depth=2, width=4)
    index = torch.arange(count) * 2 + 1
    crd.prepare(
        setup(
            network,
            random(4, 3),
            task=Classification(2),
            frozen={"teacher": FrozenNetwork(teacher)},
            index=index,
        )
    )
    return crd


def test_a_bank_begins_with_rows_of_length_about_1_and_no_labels():
    crd = bank(400, dimensions=64)
    bound = math.sqrt(3 / 64)
    for rows in (crd.bank_mine, crd.bank_theirs):
        assert (
            rows.shape == (400, 64)
            and -bound <= float(rows.min()) < -0.99 * bound < 0.99 * bound < float(rows.max()) <= bound
        )
        assert float(rows.norm(dim=1).mean()) == pytest.approx(1, abs=0.02)
    assert crd.labels.tolist() == [-1] * 400 and crd.log_normalisers.isnan().all()
    assert bank(3).row_of.tolist() == [-1, 0, -1, 1, -1, 2]
    assert crd.shared_layer() == "layers.1.linear" and crd.k == 3 and bank(2).k == 1
    with pytest.raises(UserError, match="at least 2"):
        bank(1)


def test_where_all_samples_are_of_one_class_some_negative_is_drawn_all_the_same():
    crd, rows = bank(), torch.tensor([0, 4])
    crd.labels.zero_()
    drawn = crd._draw(rows, torch.zeros(2, dtype=torch.long))
    assert drawn.shape == (2, 3) and 0 <= int(drawn.min()) <= int(drawn.max()) < 6


def test_what_has_no_class_or_does_not_count_is_a_class_of_its_own():
    rows = torch.tensor([3, 0])
    batch = Batch(random(2, 3), torch.tensor([1, 0]), torch.arange(2))
    assert classes(batch, rows).tolist() == [1, 0]
    assert classes(batch._replace(target_mask=torch.tensor([False, True])), rows).tolist() == [-5, 0]
    for targets in (torch.zeros(2, 2, dtype=torch.long), torch.zeros(2)):
        assert classes(batch._replace(targets=targets), rows).tolist() == [-5, -2]


def test_the_package_gives_its_objectives_by_name():
    assert tutelage.objectives.Hint is Hint
    with pytest.raises(AttributeError, match="has no attribute 'Hnt'"):
        tutelage.objectives.Hnt


# --- losses with parts of their own


def widths(layers):
    return [
        (layer.in_features, layer.out_features, layer.bias is not None)
        for layer in layers
        if isinstance(layer, nn.Linear)
    ]


def test_the_projectors_of_views_and_of_repa_are_as_wide_as_asked():
    images = torch.arange(9 * 12).reshape(9, 3, 2, 2).to(torch.uint8)
    source = Unlabelled(
        images, np.arange(9), torch.full((1, 3, 1, 1), 0.01), torch.zeros(1, 3, 1, 1), {"of": "x"}
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 2))
    views = TwoViews(loss="byol", projector=[6, 5, 4], options={"decay": 0.5})
    views.prepare(setup(network, random(2, 3, 2, 2), batch_size=4, unlabelled=source))
    assert widths(views.projector) == [(7, 6, False), (6, 5, False), (5, 4, True)]
    assert [type(one).__name__ for one in views.projector] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + [
        "Linear"
    ]
    assert widths(views.predictor) == [(4, 6, False), (6, 4, True)]
    views.start(Start(9, 1, 0, 1, torch.device("cpu"), 0))
    batch = views.seen(0)
    assert torch.equal(batch.index, torch.cat([views.stream.index] * 2)) and [
        views.counted(batch),
        len(batch.inputs),
    ] == [4, 8]
    assert [views.counted(batch._replace(index=torch.arange(n))) for n in (2, 3, 4)] == [0, 0, 2]
    features = random(8, 7)
    theirs = random(8, 7, seed=9)
    views.features_of = lambda network, run, seen: (
        theirs if network is views.average.network[0] and seen is batch else None
    )
    wanted = views.average.network[1](theirs)
    first, second = views.predictor(views.projector(features)).chunk(2)
    slow = (
        sum(
            2 - 2 * torch.cosine_similarity(a, b, dim=0)
            for a, b in zip([*first, *second], [*wanted[4:], *wanted[:4]], strict=True)
        )
        / 8
    )
    torch.testing.assert_close(views.compare(features, batch), slow)
    torch.testing.assert_close(views.judge(features, batch), nt_xent(*views.projector(features).chunk(2)))
    repa = REPA(network="teacher", width=6).make_projector((4,), (5,))
    assert widths(repa.map) == [(4, 6, True), (6, 6, True), (6, 5, True)]
    assert [type(one).__name__ for one in repa.map] == ["Linear", "SiLU", "Linear", "SiLU", "Linear"]


def test_a_network_without_a_teacher_teaches_itself_from_half_of_its_depth():
    network, inputs = FCN((3,), 4, depth=4, width=6), random(5, 3)
    one = USKD(other_weight=0.3, weak_weight=0.2)
    one.prepare(setup(network, inputs, task=Classification(4)))
    assert one.describe() == {"layer": "layers.1.linear"} and one.branch.to_logits.out_features == 4
    output, feature, targets = random(5, 4, seed=1), random(5, 6, seed=2), torch.tensor([0, 3, 1, 1, 2])
    for counts in (None, torch.tensor([True, False, True, True, False])):
        batch = Batch(inputs, targets, torch.arange(5), target_mask=counts)
        found = one.loss(Step(batch, output, {"layers.1.linear": feature}))
        rows = range(5) if counts is None else counts.nonzero()[:, 0].tolist()
        square = sum(float(output[k].softmax(0)[targets[k]]) ** 2 for k in rows) / len(rows)
        weak, chosen = one.branch(feature), list(rows)
        slow = self_taught(
            output[chosen],
            weak[chosen],
            targets[chosen],
            mean_square=torch.tensor(square),
            other_weight=0.3,
            weak_weight=0.2,
        )
        torch.testing.assert_close(found, slow.mean())
    with pytest.raises(UserError, match="makes labels of classes, which a task of regression has not"):
        USKD().prepare(setup(network, inputs, task=Regression(4)))


def test_a_branch_of_each_inner_layer_is_taught_beside_the_output():
    network, inputs = FCN((3,), 4, widths=[6, 5, 7], depth=3), random(5, 3)
    one = OFA(network="teacher", branches=3, emphasis=1.5, temperature=2.0)
    frozen = {"teacher": FrozenNetwork(nn.Linear(3, 4))}
    one.prepare(setup(network, inputs, task=Classification(4), frozen=frozen))
    assert one.describe() == {"layers": ["layers.0.linear", "layers.1.linear", "layers.2.linear"]}
    assert [widths([*branch.widen, branch.to_logits]) for branch in one.branches] == [
        [(width, 7, True), (7, 4, True)] for width in (6, 5, 7)
    ]
    output, theirs, targets = random(5, 4), random(5, 4, seed=1), torch.tensor([0, 3, 1, 1, 2])
    activations = {f"layers.{k}.linear": random(5, width) for k, width in enumerate((6, 5, 7))}
    for task in (Classification(4), None):
        one.task = task
        found = one.loss(
            Step(
                Batch(inputs, targets, torch.arange(5)), output, activations, {"teacher": Reading(theirs, {})}
            )
        )
        each = [output, *(branch(x) for branch, x in zip(one.branches, activations.values(), strict=True))]
        slow = sum(adapted(x, theirs, targets, temperature=2.0, emphasis=1.5).mean() for x in each)
        torch.testing.assert_close(found, slow)


@pytest.mark.parametrize(("width", "middle"), [(3, 3), (5, 5), (512, 5)])
def test_reviewed_features_are_fused_in_the_deepest_ones_width_at_most(width, middle):
    shapes = [((4, 8, 8), (6, 8, 8)), ((7, 4, 4), (6, 4, 4)), ((5,), (9,))]
    one = ReviewKD(network="teacher", width=width)
    one.pairs = [
        SimpleNamespace(
            network=SimpleNamespace(name=f"n{k}", shape=a), guide=SimpleNamespace(name=f"g{k}", shape=b)
        )
        for k, (a, b) in enumerate(shapes)
    ]
    fusions = one.make_projectors()
    assert [(f.enter[0].in_channels, f.enter[0].out_channels, f.leave[0].out_channels) for f in fusions] == [
        (4, middle, 6), (7, middle, 6), (5, middle, 9),
    ]  # fmt: skip
    assert [f.attention is not None for f in fusions] == [True, True, False]


def test_views_of_weak_and_strong_images_are_the_target_and_the_output():
    one = consistency(FixMatch(threshold=0.0))
    weak, strong = random(3, 2), random(3, 2, seed=1)
    step = Step(
        Batch(random(2, 3, 2, 2), torch.zeros(2), torch.arange(2)),
        random(2, 2),
        extra={one.name: [weak, strong]},
    )
    torch.testing.assert_close(one.loss(step), nn.functional.cross_entropy(strong, weak.argmax(1)))
    one._target = -weak  # of an average
    torch.testing.assert_close(one.loss(step), nn.functional.cross_entropy(strong, weak.argmin(1)))


# --- plain tensors


def test_plain_things_become_what_objectives_work_on():
    x, y, mask = random(3, 2), torch.tensor([1, 0, 1]), torch.ones(3, 2, dtype=torch.bool)
    batch = as_batch((x, mask), y)
    assert (
        batch.inputs is x and batch.mask is mask and batch.targets is y and batch.index.tolist() == [0, 1, 2]
    )
    assert as_batch(x).targets.tolist() == [0, 1, 2] and as_batch(x).mask is None and as_batch(batch) is batch
    with pytest.raises(UserError, match=r"expected inputs as a tensor \(n, ...\), got str"):
        as_batch("x")
    assert as_task(None) is None
    task = as_task(nn.functional.mse_loss)
    assert as_task(task) is task and float(
        task.loss(x, batch._replace(targets=x + 2, mask=None))
    ) == pytest.approx(4)
    torch.testing.assert_close(task.soft_loss(x, -x, batch, 2.0), soft_target(x, -x, temperature=2.0).mean())
    with pytest.raises(UserError, match=r"a task is a .*, got int"):
        as_task(3)
    frozen = as_frozen("guide", nn.Linear(2, 2))
    assert as_frozen("guide", frozen) is frozen and not any(
        p.requires_grad for p in frozen.network.parameters()
    )
    with pytest.raises(UserError, match=r"the frozen network 'guide' must be a torch\.nn\.Module, got str"):
        as_frozen("guide", "resnet18")
