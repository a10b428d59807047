"""The shipped rule guides against slow, obvious versions of themselves."""

import itertools
import math

import numpy as np
import pytest
import torch

from named_similarities import SIMILARITIES
from tutelage.alignment import rules
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.rules import Calendar, ClassHierarchy, Distinct, Inputs, OrientedGradients
from tutelage.alignment.similarity import cka
from tutelage.errors import UserError
from tutelage.models.fcn import FCN
from tutelage.objectives import Alignment
from tutelage.objectives.total import Objectives
from tutelage.tasks import Batch


def batch(inputs, targets=None):
    n = len(inputs)
    return Batch(inputs, torch.zeros(n, dtype=torch.long) if targets is None else targets, torch.arange(n))


def slow_gradients(image, cell, bins, clip):
    """Pixel by pixel, float64: (edges, cells, blocks) of an image (C, H, W)."""
    channels, height, width = image.shape
    edges = np.zeros((bins, height, width))
    for y, x in itertools.product(range(height), range(width)):
        best = max(
            range(channels),
            key=lambda c: math.hypot(
                image[c, y, min(x + 1, width - 1)] - image[c, y, max(x - 1, 0)],
                image[c, min(y + 1, height - 1), x] - image[c, max(y - 1, 0), x],
            ),
        )
        right = image[best, y, min(x + 1, width - 1)] - image[best, y, max(x - 1, 0)]
        down = image[best, min(y + 1, height - 1), x] - image[best, max(y - 1, 0), x]
        place = (math.degrees(math.atan2(down, right)) % 180) / (180 / bins) - 0.5
        low = math.floor(place)
        edges[low % bins, y, x] += math.hypot(right, down) * (1 - (place - low))
        edges[(low + 1) % bins, y, x] += math.hypot(right, down) * (place - low)
    rows, columns = height // cell, width // cell
    cells = np.zeros((bins, rows, columns))
    for b, r, c in np.ndindex(bins, rows, columns):
        cells[b, r, c] = edges[b, r * cell : (r + 1) * cell, c * cell : (c + 1) * cell].mean()
    blocks = np.zeros((4 * bins, rows - 1, columns - 1))
    for r, c in np.ndindex(rows - 1, columns - 1):
        block = np.concatenate([cells[:, r + i, c + j] for i, j in itertools.product((0, 1), (0, 1))])
        block = np.minimum(block / np.linalg.norm(block), clip)
        blocks[:, r, c] = block / np.linalg.norm(block)
    return edges, cells, blocks


@pytest.mark.parametrize(("shape", "cell", "bins"), [((1, 8, 8), 2, 9), ((3, 11, 14), 3, 6)])
def test_oriented_gradients_are_those_of_the_slow_version(shape, cell, bins):
    torch.manual_seed(0)
    images = torch.randn(3, *shape)
    found = OrientedGradients(cell=cell, bins=bins)(batch(images))
    for number, image in enumerate(images):
        slow = slow_gradients(image.double().numpy(), cell, bins, 0.2)
        for name, expected in zip(("edges", "cells", "blocks"), slow, strict=True):
            np.testing.assert_allclose(found[name][number].numpy(), expected, atol=1e-5)


def test_oriented_gradients_turn_with_the_image_and_blocks_ignore_contrast_and_brightness():
    torch.manual_seed(1)
    images = torch.randn(2, 1, 8, 8)
    guide = OrientedGradients(cell=2, bins=6)
    blocks = guide(batch(images))["blocks"]
    torch.testing.assert_close(guide(batch(3 * images + 5))["blocks"], blocks)
    turned = guide(batch(images.rot90(2, (2, 3))))["cells"]  # half a turn leaves orientations as they are
    torch.testing.assert_close(turned, guide(batch(images))["cells"].rot90(2, (2, 3)))


def test_oriented_gradients_of_a_constant_image_are_zero_and_finite():
    found = OrientedGradients(cell=2)(batch(torch.full((2, 3, 8, 8), 0.7)))
    assert all((value == 0).all() for value in found.values())


@pytest.mark.parametrize("inputs", [torch.zeros(2, 8), torch.zeros(2, 1, 7, 8)])
def test_oriented_gradients_say_what_they_need(inputs):
    with pytest.raises(UserError, match="at least 8 pixels a side"):
        OrientedGradients(cell=4)(batch(inputs))


TREE = {"animal": {"pet": ["cat", "dog"], "wild": ["deer"]}, "ship": ["ship"], "car": "car"}
NAMES = ["car", "cat", "deer", "dog", "ship"]


def ancestors(name):
    return {
        "cat": ["animal", "pet", "cat"],
        "dog": ["animal", "pet", "dog"],
        "deer": ["animal", "wild", "deer"],
        "ship": ["ship", "ship", "ship"],
        "car": ["car", "car", "car"],
    }[name]


def test_classes_share_as_much_as_they_share_ancestors():
    guide = ClassHierarchy(tree=TREE, class_names=NAMES)
    found = guide(batch(torch.zeros(5, 3), torch.arange(5)))
    assert list(found) == ["level 1", "level 2", "level 3"]
    for level, rows in enumerate(found.values(), start=1):
        products = rows @ rows.T
        for i, j in itertools.product(range(5), range(5)):
            shared = sum(
                a == b for a, b in zip(ancestors(NAMES[i])[:level], ancestors(NAMES[j])[:level], strict=True)
            )
            assert products[i, j] == shared, (NAMES[i], NAMES[j], level)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": ["cat", "dog", "deer", "ship", "cra"]}, "no class 'cra'; did you mean"),
        ({"a": {"b": {"c": ["cat", "crow"]}}}, "no class 'crow'"),
        ({"a": ["cat", "dog"]}, "leaves out the data's classes car, deer, ship"),
        ({"a": ["cat", "dog", "deer", "ship", "car"], "b": ["cat"]}, "holds cat more than once"),
        (
            {"animal": {"pet": ["cat", "dog", "cat"], "other": ["deer"]}, "vehicle": ["ship", "car", "ship"]},
            "holds cat, ship more than once",
        ),
    ],
)
def test_a_wrong_tree_is_named(tree, message):
    with pytest.raises(UserError, match=message):
        ClassHierarchy(tree=tree, class_names=NAMES)


def test_the_calendar_is_that_of_the_first_row_to_forecast():
    hours = np.arange(400)
    day, week = 2 * np.pi * (hours % 24) / 24, 2 * np.pi * ((hours / 24) % 7) / 7
    table = torch.from_numpy(np.stack([f(a) for a in (day, week) for f in (np.sin, np.cos)], 1)).float()
    guide = Calendar(tables={"calendar": table}, input_shape=(48, 2), harmonics=3)
    index = torch.tensor([0, 5, 100, 172])
    found = guide(Batch(torch.zeros(4, 48, 2), torch.zeros(4, 8, 2), index))
    for number, start in enumerate(index.tolist()):
        for name, angles in (("day", day), ("week", week)):
            angle = angles[start + 48]
            expected = [math.sin(k * angle) for k in (1, 2, 3)] + [math.cos(k * angle) for k in (1, 2, 3)]
            np.testing.assert_allclose(found[name][number].numpy(), expected, atol=1e-4)
    with pytest.raises(UserError, match="data have none"):
        Calendar(tables={}, input_shape=(48, 2))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda batch: batch.inputs, "must return a dictionary of named features, got Tensor"),
        (lambda batch: {}, "must return a dictionary"),
        (
            lambda batch: {"one": batch.inputs[:1]},
            r"the n = 4 samples of the batch, got 'one' of shape \(1, 3\)",
        ),
        (lambda batch: {"flat": batch.inputs.mean(1)}, r"got 'flat' of shape \(4,\)"),
    ],
)
def test_features_of_an_own_rule_are_checked(features, message):
    rule = type("Mine", (FeatureGuide,), {"features": lambda self, batch: features(batch)})()
    with pytest.raises(UserError, match=message):
        rule(batch(torch.randn(4, 3)))


def test_likeness_to_distinct_samples_is_the_root_of_the_participation_ratio():
    features = torch.randn(12, 30, generator=torch.Generator().manual_seed(0)).double() * torch.logspace(
        -2, 0, 30
    )
    guide = Distinct(layers=3)(batch(features))
    assert list(guide) == ["place 1", "place 2", "place 3"]
    variances = np.linalg.eigvalsh(np.cov(features.numpy().T))
    ratio = variances.sum() ** 2 / (variances**2).sum()
    expected = math.sqrt(ratio / 11)
    assert float(cka(features, guide["place 2"].double())) == pytest.approx(expected, abs=1e-6)


def test_distinct_samples_are_so_over_all_ranks(monkeypatch):
    monkeypatch.setattr(rules, "world_size", lambda: 3)
    shares = []
    for place in range(3):
        monkeypatch.setattr(rules, "rank", lambda place=place: place)
        shares.append(Distinct()(batch(torch.zeros(4, 2)))["place 1"])
    assert torch.equal(torch.cat(shares), torch.eye(12))


def test_inputs_guide_as_they_are_and_tokens_do_not():
    images = torch.randn(4, 3, 5, 5)
    found = Inputs(layers=2)(batch(images))
    assert len(found) == 2 and all(torch.equal(feature, images) for feature in found.values())
    with pytest.raises(UserError, match=r"rule/inputs needs inputs that are measured.*\(7,\)"):
        Inputs()(batch(torch.zeros(4, 7, dtype=torch.long)))
    with pytest.raises(UserError, match="layers must be a whole number of at least 1, got 0"):
        Inputs(layers=0)


@pytest.mark.parametrize("name", ["unbiased_cka", "rsa", "ridge"])
def test_distinct_samples_say_nothing_to_some_similarities(name):
    with pytest.raises(
        UserError, match=f"Distinct says nothing to .*similarity.*={name}, whose score and gradient"
    ):
        Objectives(
            FCN((1, 4, 4), 3, depth=3, width=8),
            {"alignment": Alignment(network="guide", similarity=SIMILARITIES[name]())},
            frozen={"guide": Distinct(layers=2)},
            example=batch(torch.randn(8, 1, 4, 4)),
        )


class Blank(FeatureGuide):
    """Features of which some are the same for every sample."""

    def __init__(self, *names):
        super().__init__()
        self.names = names

    def features(self, batch):
        return {name: batch.inputs * (name == "told") for name in self.names}


@pytest.mark.parametrize("similarity", ["cka", "unbiased_cka", "rsa"])
def test_a_guide_that_is_the_same_for_every_sample_is_told_at_the_first_batch(similarity, caplog):
    torch.manual_seed(0)
    data = batch(torch.randn(8, 1, 4, 4))

    def total(*names):
        return Objectives(
            FCN((1, 4, 4), 3, depth=3, width=8),
            {"alignment": Alignment(network="guide", similarity=SIMILARITIES[similarity]())},
            frozen={"guide": Blank(*names)},
            example=data,
        )

    with pytest.raises(UserError, match="all paired layers of the guide are the same for every sample"):
        total("a", "b")(data)
    total("told")(data)
    assert not caplog.messages
    half = total("blank", "told")
    for _ in range(2):
        half(data)
    assert [message.endswith("nothing can be aligned with them: blank") for message in caplog.messages] == [
        True
    ]
