"""Grids of samples: enlarged by a whole number, sorted by class, every class named, nothing beyond black and white."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tutelage.generators.sample_grid import COLUMNS, LEAST_PX, _fitted, _name, write_grid


@pytest.mark.parametrize(("size", "times"), [(8, 8), (28, 3), (64, 1), (70, 1)])
def test_images_stand_by_class_and_enlarged(tmp_path, size, times):
    images = torch.linspace(-0.5, 1.5, 10).view(10, 1, 1, 1).expand(10, 1, size, size)
    labels = torch.tensor([1, 0] * 5)
    write_grid(images, labels, tmp_path / "new" / "grid.png", classes=["cat", "dog"])
    seen = np.asarray(Image.open(tmp_path / "new" / "grid.png").convert("L"))
    side = times * size
    assert side >= LEAST_PX and seen.shape[1] == COLUMNS * (side + 4) + 4
    shown = [
        seen[15 + side // 2 + (side + 19) * (i // 8), 4 + side // 2 + (side + 4) * (i % 8)] for i in range(10)
    ]
    wanted = (images[[1, 3, 5, 7, 9, 0, 2, 4, 6, 8], 0, 0, 0].clamp(0, 1) * 255).round()
    assert shown == wanted.tolist()
    captions = [
        bool((seen[:14, 4 + (side + 4) * i : 4 + (side + 4) * (i + 1)] < 128).any()) for i in range(8)
    ]
    assert captions == [i in (0, 5) for i in range(8)]  # where a row begins, and where a class does


def test_names_stay_within_their_column_and_a_class_without_a_name_has_its_number(tmp_path):
    names = ["a class whose name is longer than any column", "b"]
    images = torch.zeros(3, 2, 16, 16)  # two channels: their mean, in grey
    write_grid(images, torch.tensor([0, 1, 2]), tmp_path / "grid.png", classes=names)
    seen = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    gaps = [seen[:14, 68 * i : 68 * i + 3] for i in range(1, 4)]
    assert all((gap == 255).all() for gap in gaps)
    for column in range(3):
        assert (seen[:14, 4 + 68 * column : 68 * (column + 1)] < 128).any()


@pytest.mark.parametrize(("count", "rows"), [(3, 1), (8, 1), (10, 2)])
def test_the_whole_sheet_pixel_by_pixel(tmp_path, monkeypatch, count, rows):
    written = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda pen, corner, text, **more: written.append((corner, text, more["anchor"])),
    )
    images = torch.rand(count, 3, 12, 20, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    labels = torch.tensor([2, 0, 2, 1, 0, 2, 2, 1, 2, 2])[:count]
    write_grid(images, labels, tmp_path / "grid.png", classes=["a", "b"])
    order = [k for label in (0, 1, 2) for k in range(count) if labels[k] == label]
    columns = min(8, count)
    sheet = np.full(
        (rows * 67 + 4, columns * 84 + 4, 3), 255, np.uint8
    )  # four times 12 x 20, gaps of 4, captions of 15
    captions = []
    for place, k in enumerate(order):
        x, y = 84 * (place % 8) + 4, 67 * (place // 8) + 15
        tile = (images[k].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        sheet[y : y + 48, x : x + 80] = tile.repeat(4, 0).repeat(4, 1)
        name = ["a", "b", "class 2"][labels[k]]
        if place % 8 == 0 or captions[-1][3] != name:
            captions.append(((x, y - 2), name, "ls", name))
        else:
            captions[-1] = (*captions[-1][:3], name)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), sheet)
    assert written == [caption[:3] for caption in captions]


@pytest.mark.parametrize(
    ("text", "width", "wanted"),
    [("abc", 36, ("abc", 12)), ("abc", 35, ("abc", 11)), ("abcd", 40, ("abcd", 10)), ("abcd", 32, ("abcd", 8)),
     ("abcdef", 40, ("abcd…", 8)),
     ("abc", 1, ("a…", 8))],
)  # fmt: skip
def test_a_name_is_written_as_large_as_it_fits_and_cut_where_it_never_does(text, width, wanted):
    class Pen:
        def textlength(self, text, font):
            return len(text) * font.size

    found, font = _fitted(Pen(), text, width)
    assert (found, font.size) == wanted


def test_a_class_without_a_name_is_called_by_its_number():
    assert [_name(label, ["a", "b"]) for label in (0, 1, 2)] == ["a", "b", "class 2"]
    assert _name(0, None) == _name(0, []) == "class 0"
