"""Batched augmentation against torchvision's operations on single images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as tv

from tutelage.data import augment, augment_basic
from tutelage.errors import UserError


def images(
    n: int = 16, *, seed: int = 0, size: tuple[int, int] = (9, 7), dtype: torch.dtype = torch.uint8
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, *size), generator=generator)
    return pixels.to(dtype)


def noise(n: int, draws: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, draws, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=20)
@given(padding=st.integers(1, 5), seed=st.integers(0, 1000), floating=st.booleans())
def test_random_crop_equals_torchvision(padding: int, seed: int, floating: bool) -> None:
    x, u = images(dtype=torch.float32 if floating else torch.uint8), noise(16, 2, seed)
    result = augment_basic.RandomCrop(padding)(x, u)
    for image, row, got in zip(x, u, result, strict=True):
        top, left = (int(value * (2 * padding + 1)) for value in row)
        assert torch.equal(got, tv.crop(tv.pad(image, [padding] * 4), top, left, 9, 7))


def test_offsets_are_uniform_and_reach_both_ends() -> None:
    u = noise(20_000, 1)[:, 0]
    counts = torch.bincount(augment_basic.below(u, 9), minlength=9)
    assert counts.min() > 2000 and counts.max() < 2450
    assert augment_basic.below(torch.tensor([0.0, 1 - 2**-24]), 9).tolist() == [0, 8]
    assert augment_basic.below(torch.tensor([1 - 2**-24]), 3 * 10**7 + 1).max() <= 3 * 10**7
    for count in (9, torch.tensor([9])):  # what half precision rounds up
        assert augment_basic.below(torch.tensor([1.0]), count).tolist() == [8]


def test_horizontal_flip_equals_torchvision() -> None:
    x, u = images(64), noise(64, 1)
    result = augment_basic.HorizontalFlip(0.3)(x, u)
    for image, row, got in zip(x, u, result, strict=True):
        assert torch.equal(got, tv.hflip(image) if row < 0.3 else image)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), height=st.integers(5, 40), width=st.integers(5, 40))
def test_random_resized_crop_equals_torchvision(seed: int, height: int, width: int) -> None:
    crop, x, u = (
        augment_basic.RandomResizedCrop(),
        images(8, seed=seed, size=(height, width)),
        noise(8, 4, seed),
    )
    result = crop(x.float(), u)
    for image, box, got in zip(x.float(), crop.boxes(height, width, u).tolist(), result, strict=True):
        expected = tv.resized_crop(image, *box, [height, width], antialias=False)
        assert torch.allclose(got, expected, atol=2e-2)  # of 255
    assert crop(x, u).dtype == torch.uint8


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 1000), low=st.floats(0.05, 1)
)
def test_resized_crops_lie_inside_with_the_asked_area(height: int, width: int, seed: int, low: float) -> None:
    boxes = augment_basic.RandomResizedCrop((low, 1.0)).boxes(height, width, noise(50, 4, seed)).double()
    top, left, h, w = boxes.unbind(1)
    assert (h >= 1).all() and (w >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    if 3 / 4 <= width / height <= 4 / 3 and min(height, width) > 60:
        share = h * w / (height * width)
        assert share.min() > low - 0.04
        assert share.std() > 0.15 * (1 - low) - 0.01


def test_a_chain_gives_each_step_its_own_noise() -> None:
    steps = augment.build({"random_crop": {"padding": 2}, "horizontal_flip": {}})
    assert steps is not None and steps.draws == 3
    x, u = images(), noise(16, 3)
    expected = augment_basic.HorizontalFlip()(augment_basic.RandomCrop(2)(x, u[:, :2]), u[:, 2:])
    assert torch.equal(steps(x, u), expected)
    assert augment.build({"random_crop": None}) is None
    mine = augment_basic.HorizontalFlip(1.0)
    chain = augment.build({"mine": mine})
    assert chain is not None and chain.steps == (mine,)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"random_crp": {}}, "did you mean 'random_crop'"),
        ({"random_crop": {"pad": 3}}, "pad"),
        ({"random_crop": {"padding": 0}}, "at least 1"),
        ({"horizontal_flip": {"probability": 2}}, "0 to 1"),
        ({"random_resized_crop": {"scale": [0.5, 0.1]}}, "scale"),
        ({"random_resized_crop": {"scale": [0.5, 1.1]}}, "at most 1"),
        ({"random_resized_crop": {"scale": [0, 0.5]}}, "positive scale"),
        ({"random_resized_crop": {"ratio": [2, 1]}}, "ordered, positive ratio"),
    ],
)
def test_wrong_augmentations_are_explained(wanted: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        augment.build(wanted)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    for step in (
        augment_basic.RandomCrop(3),
        augment_basic.HorizontalFlip(),
        augment_basic.RandomResizedCrop(),
    ):
        x, u = images(), noise(16, step.draws)
        alone = torch.cat([step(x[i : i + 1], u[i : i + 1]) for i in range(16)])
        assert np.array_equal(step(x, u), alone)


def test_a_part_of_one_size_and_shape_alone_is_cut() -> None:
    crop = augment_basic.RandomResizedCrop(scale=(0.25, 0.25), ratio=(1, 1))
    boxes = crop.boxes(8, 8, noise(64, 4))
    assert (boxes[:, 2:] == 4).all() and set(boxes[:, 0].tolist()) == set(boxes[:, 1].tolist()) == set(
        range(5)
    )
