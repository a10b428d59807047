"""Grids of samples: enlarged by a whole number, sorted by class, every class named, nothing beyond black and white."""

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.generators.sample_grid import COLUMNS, LEAST_PX, write_grid


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
