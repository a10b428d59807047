"""Strong augmentation against torchvision's operations on single images."""

import math
from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import functional as tv

from tutelage.data import augment_strong
from tutelage.data.augment import build
from tutelage.data.augment_strong import OPERATIONS, Cutout, RandAugment
from tutelage.errors import UserError


def images(n: int = 12, channels: int = 3, size: tuple[int, int] = (14, 18)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(n, channels, 4, 5, generator=generator)
    pixels = torch.nn.functional.interpolate(smooth, size, mode="bilinear") * 200 + 20
    return (pixels + 30 * torch.rand(pixels.shape, generator=generator)).to(torch.uint8)


def shear(x: torch.Tensor, degrees_x: float, degrees_y: float) -> torch.Tensor:
    return tv.affine(x, angle=0, translate=[0, 0], scale=1, shear=[degrees_x, degrees_y])


REFERENCE: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "identity": lambda x, m: x,
    "autocontrast": lambda x, m: tv.autocontrast(x),
    "equalize": lambda x, m: tv.equalize(x),
    "brightness": tv.adjust_brightness,
    "colour": tv.adjust_saturation,
    "contrast": tv.adjust_contrast,
    "sharpness": tv.adjust_sharpness,
    "posterize": lambda x, m: tv.posterize(x, round(m)),
    "solarize": lambda x, m: tv.solarize(x, 255 * m),
    "rotate": lambda x, m: tv.rotate(x, m),
    "shear_x": lambda x, m: shear(x, math.degrees(math.atan(m)), 0),
    "shear_y": lambda x, m: shear(x, 0, math.degrees(math.atan(m))),
    "translate_x": lambda x, m: tv.affine(x, angle=0, translate=[round(m * 18), 0], scale=1, shear=[0, 0]),
    "translate_y": lambda x, m: tv.affine(x, angle=0, translate=[0, round(m * 14)], scale=1, shear=[0, 0]),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operation_equals_torchvision(name: str, channels: int) -> None:
    operation, low, high = OPERATIONS[name]
    x = images(channels=channels)
    magnitude = torch.linspace(low, high, len(x) + 2)[1:-1] if high > low else torch.zeros(len(x))
    result = operation(x, magnitude)
    assert result.dtype == torch.uint8 and result.shape == x.shape
    for image, m, got in zip(x, magnitude.tolist(), result, strict=True):
        expected = REFERENCE[name](image, m)
        wrong = (got.int() - expected.int()).abs()
        if name.startswith(("rotate", "shear")):  # a nearest pixel on the edge between two may fall to either
            assert (wrong > 0).float().mean() < 0.01
        else:
            assert wrong.max() <= 1 and (wrong > 0).float().mean() < 0.01


def test_flat_images_survive() -> None:
    for value in (0, 130, 255):
        x = torch.full((3, 3, 8, 8), value, dtype=torch.uint8)
        for operation, low, high in OPERATIONS.values():
            operation(x, torch.full((3,), (low + high) / 2))
        assert (OPERATIONS["equalize"][0](x, torch.zeros(3)) == value).all()


def test_rand_augment_composes_single_operations() -> None:
    augment, x = RandAugment(2), images(40)
    noise = torch.rand(40, augment.draws, generator=torch.Generator().manual_seed(1))
    result = augment(x, noise)
    names = list(OPERATIONS)
    for image, row, got in zip(x, noise, result, strict=True):
        for which, share in row.view(2, 2, 1):
            operation, low, high = OPERATIONS[names[int(which * len(names))]]
            image = operation(image[None], low + (high - low) * share)[0]
        assert torch.equal(image, got)
    assert (result != x).flatten(1).any(1).float().mean() > 0.8


def test_cutout_covers_one_square() -> None:
    x = torch.zeros(200, 3, 16, 16, dtype=torch.uint8)
    covered = Cutout(0.5)(x, torch.rand(200, 2, generator=torch.Generator().manual_seed(0))) == 127
    assert (covered.all(1) == covered.any(1)).all()
    rows, columns = covered[:, 0].any(2).sum(1), covered[:, 0].any(1).sum(1)
    assert torch.equal(covered[:, 0].sum((1, 2)), rows * columns)
    assert rows.max() == 8 and rows.min() >= 3 and (rows == 8).float().mean() > 0.4
    assert covered.float().mean(0)[0].min() > 0.02  # every place is covered at times


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandAugment(0), "count"),
        (lambda: Cutout(0), "size"),
        (lambda: Cutout(1.01), "size"),
    ],
)
def test_wrong_arguments_are_explained(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
    with pytest.raises(UserError, match="uint8"):
        RandAugment()(images().float(), torch.zeros(12, 4))


def test_a_square_may_be_as_high_as_the_image() -> None:
    covered = Cutout(1.0)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[0.5, 0.5]])) == 127
    assert covered.all()


def sorted_equalize(images: torch.Tensor) -> torch.Tensor:
    """Equalising by sorting all values, as it was."""
    values = images.flatten(2).long()
    ordered = values.sort(dim=2).values
    levels = torch.arange(256).expand(*values.shape[:2], 256).contiguous()
    under = torch.searchsorted(ordered, levels)
    step = under.gather(2, ordered[:, :, -1:]) // 255
    table = ((under + step // 2) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step == 0, values, table.gather(2, values)).to(torch.uint8).view_as(images)


def sampled_affine(images: torch.Tensor, rows: list[torch.Tensor]) -> torch.Tensor:
    """An affine map by PyTorch's grid_sample, as it was."""
    n, _, height, width = images.shape
    matrix = torch.stack([row.expand(n) for row in rows], 1).view(n, 2, 3)
    y, x = (torch.arange(s) - (s - 1) / 2 for s in (height, width))
    places = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)], dim=-1)
    across, down = (places.view(1, -1, 3) @ matrix.transpose(1, 2)).unbind(2)
    grid = torch.stack([across / (width / 2), down / (height / 2)], dim=2).view(n, height, width, 2)
    sampled = torch.nn.functional.grid_sample(images.float(), grid, mode="nearest", align_corners=False)
    return sampled.to(torch.uint8)


@pytest.mark.parametrize("size", [(8, 8), (33, 20), (32, 32), (96, 96)])
def test_faster_ways_give_the_same_pixels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (24, 3, *size), dtype=torch.uint8, generator=generator)
    x[0], x[1, 0] = 7, 255
    assert torch.equal(OPERATIONS["equalize"][0](x, x[:, 0, 0, 0]), sorted_equalize(x))
    for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        operation, low, high = OPERATIONS[name]
        magnitude = low + (high - low) * torch.rand(24, generator=generator)
        magnitude[:3] = torch.tensor([0.0, low, high])
        found = operation(x, magnitude)
        with monkeypatch.context() as patch:
            patch.setattr(augment_strong, "_affine", sampled_affine)
            assert torch.equal(found, operation(x, magnitude)), name


def test_how_many_images_are_worked_on_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, noise = images(n=40), torch.rand(40, 4, generator=torch.Generator().manual_seed(1))
    found = RandAugment()(x, noise)
    monkeypatch.setattr(augment_strong, "_CACHED_PIXELS", 1)
    assert torch.equal(found, RandAugment()(x, noise))


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_changed_as_small_ones_pixel_by_pixel(channels, monkeypatch):
    """What is cut, mirrored, covered and moved by slices on a CPU is what an index for each pixel gives."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12, channels, 70, 66), dtype=torch.uint8, generator=generator)
    chain = build({"random_crop": {"padding": 4}, "horizontal_flip": {}, "cutout": {"size": 0.5}})
    noise = torch.rand(12, chain.draws, generator=generator)
    by_slices = chain(images, noise)
    for module in ("augment_basic", "augment_strong"):
        monkeypatch.setattr(f"tutelage.data.{module}.LARGE", 1 << 30)
    assert torch.equal(by_slices, chain(images, noise))
    share = torch.rand(12, generator=generator)
    for name, (operation, low, high) in OPERATIONS.items():
        magnitude = low + (high - low) * share
        together = operation(images, magnitude)
        apart = [operation(images[i : i + 1], magnitude[i : i + 1]) for i in range(12)]
        assert torch.equal(together, torch.cat(apart)), name


@pytest.mark.parametrize(("name", "axis"), [("translate_x", 3), ("translate_y", 2)])
@pytest.mark.parametrize("share", [-1.5, -1.0, -0.4, 0.0, 0.25, 1.0, 1.3])
def test_a_translation_reads_each_pixel_from_so_many_further_on_and_zeros_outside(name, axis, share):
    images = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    moved = OPERATIONS[name][0](images, torch.full((2,), share))
    side = images.shape[axis]
    by = round(share * side)
    for place in range(side):
        found, source = moved.select(axis, place), place - by
        expected = images.select(axis, source) if 0 <= source < side else torch.zeros_like(found)
        assert torch.equal(found, expected)


def test_the_images_given_stay_and_those_whose_operation_is_none_come_back_as_they_are():
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)
    before, noise = images.clone(), torch.rand(40, 4)
    noise[:5, ::2] = 0.0  # the first operation is to do nothing
    out = RandAugment(2)(images, noise)
    assert torch.equal(images, before) and torch.equal(out[:5], before[:5]) and not torch.equal(out, before)
