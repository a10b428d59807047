"""What augmentations take and refuse at their bounds, and what each pixel becomes, by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import betaincinv

from tutelage.data import augment_strong
from tutelage.data.augment_basic import HorizontalFlip, RandomCrop, RandomResizedCrop, _places
from tutelage.data.augment_colour import ColourJitter, RandomErasing, hue, inside
from tutelage.data.augment_strong import Cutout, RandAugment
from tutelage.data.corruption import flip_labels, missing_values
from tutelage.data.mixing import CutMix, Mixer, Mixup
from tutelage.errors import UserError


@pytest.mark.parametrize(("make", "taken", "refused"), [
    (lambda x: RandomCrop(x), [1, 2], [0, -1]), (lambda x: HorizontalFlip(x), [0, 0.5, 1], [-0.01, 1.01]),
    (lambda x: RandomResizedCrop(scale=x), [(0.5, 0.5), (0.01, 1)], [(0, 1), (0.5, 0.4), (0.5, 1.01)]),
    (lambda x: RandomResizedCrop(ratio=x), [(2, 2), (0.5, 3)], [(0, 1), (2, 1)]),
    (lambda x: ColourJitter(brightness=x), [0.1, 7], [0, -0.1]), (lambda x: ColourJitter(contrast=x), [0.1, 7], [0, -0.1]),
    (lambda x: ColourJitter(saturation=x), [0.1, 7], [0, -0.1]), (lambda x: ColourJitter(hue=x), [0.1, 0.5], [0, -0.1, 0.51]),
    (lambda x: ColourJitter(1, contrast=x, saturation=x, hue=x), [0], []),
    (lambda x: ColourJitter(1, probability=x), [0, 1], [-0.1, 1.1]), (lambda x: RandomErasing(probability=x), [0, 1], [-0.1, 1.1]),
    (lambda x: RandomErasing(value=x), [0, 1], [-0.1, 1.1]), (lambda x: RandAugment(x), [1, 3], [0]),
    (lambda x: Cutout(x), [0.01, 1], [0, 1.1]),
    (lambda x: Mixup(alpha=x), [0.1, 9], [0, -1, math.inf, math.nan]), (lambda x: CutMix(probability=x), [0, 1], [-0.1, 1.1]),
    (lambda x: Mixer([Mixup(probability=x), CutMix(probability=0.3)]), [0.7], [0.71]),
])  # fmt: skip
def test_what_an_augmentation_takes(make, taken, refused):
    for value in taken:
        make(value)
    for value in refused:
        with pytest.raises(UserError):
            make(value)


def test_what_changes_nothing_is_told_by_its_own_name():
    with pytest.raises(
        UserError, match=r"ColourJitter changes nothing .* give some, such as \{brightness: 0.4\}"
    ):
        ColourJitter()
    grey, noise = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.rand(2, 9)
    with pytest.raises(UserError, match="saturation and hue change nothing of grey images"):
        ColourJitter(saturation=0.4, hue=0.1)(grey, noise)
    ColourJitter(brightness=0.4, hue=0.1)(grey, noise)
    with pytest.raises(
        UserError, match=r"RandomErasing needs an ordered, positive scale range .* got 0.5, 0.1"
    ):
        RandomErasing(scale=(0.5, 0.1))


def test_shares_are_quantiles_of_their_distribution_also_between_the_entries_of_a_table():
    for alpha in (0.4, 1.0, 3.0):
        way = Mixup(alpha)
        noise = torch.tensor([0.0, 1 / 4096, 0.3 / 4096, 0.5, 0.7, 4095.5 / 4096, 1 - 2**-24, 1.0])
        table = betaincinv(alpha, alpha, np.arange(4097) / 4096)
        slow = [
            table[-1]
            if u >= 1
            else (1 - (u * 4096) % 1) * table[int(u * 4096)] + (u * 4096) % 1 * table[int(u * 4096) + 1]
            for u in noise.double().tolist()
        ]
        assert way.share(noise).tolist() == pytest.approx(slow, abs=1e-6)
        assert torch.equal(way.share(noise), way.share(noise))


def test_pixels_inside_boxes_by_a_loop():
    boxes = torch.tensor([[1, 2, 2, 3], [0, 0, 0, 4], [3, 5, 1, 1]])
    found = inside(boxes, 4, 6)
    for n, (top, left, h, w) in enumerate(boxes.tolist()):
        slow = [[top <= y < top + h and left <= x < left + w for x in range(6)] for y in range(4)]
        assert found[n, 0].tolist() == slow


@pytest.mark.parametrize(("value", "grey"), [(0.0, 0), (0.5, 128), (0.999, 255), (1.0, 255)])
@pytest.mark.parametrize("share", [0.0, 0.29, 0.3, 0.9])
def test_what_is_erased_is_of_the_grey_that_was_asked_for(value, grey, share):
    step = RandomErasing(probability=0.3, scale=(1, 1), ratio=(1, 1), value=value)
    noise = torch.tensor([[0.5, 0.5, 0.5, 0.5, share]])
    images = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    assert (step(images, noise) == (grey if share < 0.3 else 77)).all()
    assert torch.allclose(step(images.float(), noise), torch.tensor(value if share < 0.3 else 77.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_hues_by_the_standard_library(channels):
    import colorsys

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, channels, 6, 6), dtype=torch.uint8, generator=generator)
    images[0] = images[0, :1]  # grey
    images[1, :, 0, 0], images[1, :, 0, 1] = 0, 255
    if channels == 3:  # equal largest or least channels
        images[2, 0] = images[2, 1]
        images[3, 1] = images[3, 2]
    for shift in (-0.5, -0.2, 0.0, 0.3, 0.5):
        found = hue(images, torch.full((4,), shift))
        if channels == 1:
            assert torch.equal(found, images)
            continue
        for n, y, x in np.ndindex(4, 6, 6):
            h, s, v = colorsys.rgb_to_hsv(*(images[n, :, y, x].double() / 255).tolist())
            slow = [int(part * 255.999) for part in colorsys.hsv_to_rgb((h + shift) % 1, s, v)]
            assert max(abs(a - b) for a, b in zip(found[n, :, y, x].tolist(), slow, strict=True)) <= 1


def test_factors_of_a_jitter_and_whom_it_leaves_out(monkeypatch):
    seen, names = [], ["brightness", "contrast", "colour", "hue"]
    monkeypatch.setattr(
        "tutelage.data.augment_colour._OPERATIONS",
        [
            lambda images, factor, name=name: seen.append((name, factor.tolist())) or images + 1
            for name in names
        ],
    )
    jitter = ColourJitter(brightness=0.25, contrast=2.0, saturation=0.0, hue=0.125, probability=0.5)
    images = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    order = [0.1, 0.4, 0.2, 0.3]  # brightness, saturation, hue, contrast
    noise = torch.tensor([[0.5, 0.25, 0.5, 0.75, *order, on] for on in (0.0, 0.5, 0.49)])
    assert jitter(images, noise)[:, 0, 0, 0].tolist() == [3, 0, 3]
    assert seen == [("brightness", [1.0, 1.0]), ("hue", [0.0625, 0.0625]), ("contrast", [0.75, 0.75])]
    assert [jitter._magnitude(k, torch.tensor([0.0, 1.0])).tolist() for k in (0, 1, 3)] == [
        [0.75, 1.25],
        [0, 3],
        [-0.125, 0.125],
    ]


@pytest.mark.parametrize(("size", "noise", "rows", "columns"), [
    (0.5, (0.5, 0.5), (2, 6), (4, 8)), (0.5, (0.5625, 0.5), (2, 7), (4, 8)), (0.5, (0.0, 1.0), (0, 2), (10, 12)),
    (1.0, (0.5, 0.25), (0, 8), (0, 7)),
])  # fmt: skip
def test_a_square_reaches_half_its_side_from_its_centre(size, noise, rows, columns, monkeypatch):
    """A pixel whose centre lies just on the side is covered, as on the CPU's own way."""
    images = torch.zeros(1, 2, 8, 12)
    for large in (augment_strong.LARGE, 0):
        monkeypatch.setattr(augment_strong, "LARGE", large)
        covered = Cutout(size)(images, torch.tensor([noise])) == 0.5
        slow = torch.zeros(1, 2, 8, 12, dtype=torch.bool)
        slow[:, :, rows[0] : rows[1], columns[0] : columns[1]] = True
        assert torch.equal(covered, slow)
    assert int(Cutout(1.0)(images.byte(), torch.tensor([[0.5, 0.5]])).max()) == 127


def test_places_of_pixels_in_a_part_of_an_axis():
    found = _places(torch.tensor([2, 0]), torch.tensor([3, 6]), 6)
    for start, length, row in ((2, 3, found[0]), (0, 6, found[1])):
        slow = [min(max((k + 0.5) * length / 6 - 0.5, 0), length - 1) + start for k in range(6)]
        assert row.tolist() == pytest.approx([2 * place / 5 - 1 for place in slow], abs=1e-6)
    assert _places(torch.tensor([0]), torch.tensor([1]), 1).tolist() == [[-1.0]]


def test_boxes_by_a_loop():
    noise = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    for height, width, scale, ratio in ((9, 20, (0.2, 0.9), (0.5, 3.0)), (30, 7, (0.1, 1.0), (0.75, 4 / 3))):
        boxes = RandomResizedCrop(scale, ratio).boxes(height, width, noise)
        for (top, left, h, w), u in zip(boxes.tolist(), noise.double().tolist(), strict=True):
            area = height * width * (scale[0] + (scale[1] - scale[0]) * u[0])
            low = math.log(min(max(area / height**2, ratio[0]), ratio[1]))
            high = math.log(min(max(width**2 / area, ratio[0]), ratio[1]))
            shape = math.exp(low + max(high - low, 0) * u[1])
            assert (w, h) == (
                min(max(round(math.sqrt(area * shape)), 1), width),
                min(max(round(math.sqrt(area / shape)), 1), height),
            )
            assert (top, left) == (int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)))


def test_wrong_labels_of_a_map_and_of_the_last_class():
    labels, rows = np.tile(np.arange(4), 30), np.arange(10, 110)
    noisy, share = flip_labels(labels, rows, rate=0.5, classes=4, seed=1, kind="asymmetric")
    assert share == 0.5 and set(zip(labels[labels != noisy], noisy[labels != noisy], strict=True)) == {
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 0),
    }
    noisy, share = flip_labels(labels, rows, rate=0.99, classes=4, seed=1, kind="symmetric")
    wrong = noisy[rows] != labels[rows]
    assert share == 0.99 and {
        (a, b) for a, b in zip(labels[rows][wrong], noisy[rows][wrong], strict=True)
    } == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert flip_labels(labels, rows[:0], rate=0.5, classes=4, seed=1)[1] == 0.0
    for wrong_map in ({4: 0}, {0: 4}, {-1: 0}, {0: -1}):
        with pytest.raises(UserError, match="leaves the classes 0 to 3"):
            flip_labels(labels, rows, rate=0.5, classes=4, seed=1, kind="asymmetric", mapping=wrong_map)
    kept, _ = flip_labels(labels, rows, rate=0.99, classes=4, seed=1, kind="asymmetric", mapping={0: 3, 3: 0})
    assert set(labels[kept != labels]) == {0, 3}
    for values in (1, 4, 5, 9):
        assert missing_values(0, 50, values, rate=0.999, seed=0).shape == (50, values)
        assert missing_values(0, 50, values, rate=1.0, seed=0).all()
