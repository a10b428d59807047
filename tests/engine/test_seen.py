"""Samples that a network was trained on are found again, by their place in a set or by their bytes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tutelage.data.image_folder import ImageFolder
from tutelage.data.images import Digits
from tutelage.data.series import Series
from tutelage.engine import seen
from tutelage.engine.seen import seen_in_training


@pytest.fixture
def series(tmp_path):
    rows = np.random.default_rng(0).normal(size=200).cumsum()
    frame = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=200, freq="h"), "a": rows})
    frame.to_csv(tmp_path / "t.csv", index=False)

    def made(split):
        module = Series(root=tmp_path / "t.csv", batch_size=8, length=6, horizon=4, split=split)
        module.prepare()
        module.setup()
        return module

    return made


def digits(seed=0):
    module = Digits(batch_size=32, validation=0.15, test=0.2, split_seed=seed)
    module.prepare()
    module.setup()
    return module


def test_places_in_one_set(series):
    one, other = digits(0), digits(1)
    common = len(set(one.splits["train"].tolist()) & set(other.splits["test"].tolist()))
    assert common > 0 and seen_in_training(one, other, "test") == common
    assert seen_in_training(one, one, "test") == 0
    assert seen_in_training(one, one, "train") == len(one.splits["train"])
    assert seen_in_training(series([120, 40, 40]), series([120, 40, 40]), "test") == 0
    assert seen_in_training(series([120, 40, 40]), series([60, 20, 40]), "test") == 37  # of rows 74 to 110


def test_samples_seen_without_labels_were_seen():
    few = Digits(batch_size=32, validation=0.15, test=0.2, per_class=3)
    few.prepare()
    few.setup()
    assert seen_in_training(few, few, "train") == 30
    other = digits()
    whole = len(other.splits["train"])
    assert seen_in_training(few, other, "train") < whole == seen_in_training(few, other, "train", "train")
    assert (
        seen_in_training(few, other, "train", "rest") == whole
        and seen_in_training(few, other, "test", "all") == 0
    )


@pytest.mark.parametrize("size", [8, 4])
def test_images_of_a_folder_that_another_is_judged_on(tmp_path, monkeypatch, size):
    """Of one size they are known by their pixels, of two by their files, of which another of the same length is no copy."""
    rng = np.random.default_rng(0)

    def draw(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)

    root = tmp_path / "own"
    for part, count in (("train", 12), ("test", 4)):
        for name in ("a", "b"):
            for i in range(count):
                draw(root / part / name / f"{i}.bmp")
    draw(tmp_path / "other" / "9.bmp")
    copied = ["test/a/2.bmp", "test/b/0.bmp", "train/a/0.bmp"]
    for i, path in enumerate(copied):
        (tmp_path / "other" / f"{i}.bmp").write_bytes((root / path).read_bytes())
    own, other = (
        ImageFolder(root=folder, image_size=image_size, batch_size=2, validation=count)
        for folder, image_size, count in ((root, 8, 4), (tmp_path / "other", size, 1))
    )
    for module in (own, other):
        module.prepare()
        module.setup()
    judged = {own.files_read.layout.paths[i] for split in ("validation", "test") for i in own.splits[split]}
    expected = [path in judged for path in copied] + [False]
    assert expected[:2] == [True, True]
    assert seen.judged(other, np.arange(4), own).tolist() == expected
    monkeypatch.setattr(seen, "PART_BYTES", 200)  # of one image at a time, with 192 bytes
    assert seen.judged(other, np.arange(4)[::-1], own).tolist() == expected[::-1]


def test_images_of_another_set_are_known_by_their_bytes():
    """The same images in another order, under another name: nothing but the pixels tells."""
    its, given = digits(), digits()
    order = torch.randperm(len(its.store.images), generator=torch.Generator().manual_seed(0))
    given.store = type(given.store)(
        its.store.images[order], its.store.labels[order], its.store.scale, its.store.shift, its.store.augment
    )
    given.fingerprint = "another"
    trained = {its.store.images[i].numpy().tobytes() for i in its.splits["train"]}
    expected = sum(given.store.images[i].numpy().tobytes() in trained for i in given.splits["test"])
    assert expected > 100 and seen_in_training(its, given, "test") == expected


def test_of_what_is_no_image_or_too_large_to_compare_nothing_is_known(series, tmp_path, monkeypatch):
    one, other = series([120, 40, 40]), series([120, 40, 40])
    other.fingerprint = "another"
    assert seen_in_training(one, other, "test") == 0
    its, given = digits(0), digits(1)
    given.fingerprint = "another"
    assert seen_in_training(its, given, "test") > 0
    monkeypatch.setattr(seen, "LARGEST_BYTES", its.store.images.numel())
    assert seen_in_training(its, given, "test") > 0
    monkeypatch.setattr(seen, "LARGEST_BYTES", its.store.images.numel() - 1)
    assert seen_in_training(its, given, "test") == 0


class Made:
    """Data with a record and images that are made up."""

    def __init__(self, images=None, **record):
        self.store = SimpleNamespace(images=images)
        self.splits = {"train": np.array([0, 1, 2]), "test": np.array([2, 1, 3])}
        self.record = {"name": "set", "fingerprint": "f", "classes": None} | record

    def summary(self):
        return self.record


@pytest.mark.parametrize(("its", "given", "count"), [
    ({}, {}, 2), ({"fingerprint": None}, {"fingerprint": None}, 0), ({}, {"fingerprint": "g"}, 0), ({}, {"name": "other"}, 0),
    ({"classes": ["a"]}, {"classes": ["a"]}, 2), ({"classes": ["a"]}, {"classes": ["b"]}, 0),
    ({"classes": ["a"], "fingerprint": None}, {"classes": ["a"], "fingerprint": None}, 2),
])  # fmt: skip
def test_places_count_where_two_records_are_of_the_same_files(its, given, count):
    assert seen_in_training(Made(**its), Made(**given), "test") == count


def test_a_network_has_seen_its_own_data_and_images_of_one_kind_by_their_bytes(monkeypatch):
    own = Made(fingerprint=None)
    assert seen_in_training(own, own, "test") == 2
    images = torch.arange(16.0).reshape(4, 1, 2, 2)
    other = torch.flip(images, [0])  # its places 1 and 2 are those of 2 and 1, its 3 is 0
    its = Made(images)
    assert seen_in_training(its, Made(other, fingerprint="g"), "test") == 3
    for strange in (other.reshape(4, 1, 4, 1), other.double(), None):
        assert seen_in_training(its, Made(strange, fingerprint="g"), "test") == 0
    monkeypatch.setattr(seen, "LARGEST_BYTES", 64)  # of four bytes a number
    assert seen_in_training(its, Made(other, fingerprint="g"), "test") == 3
    monkeypatch.setattr(seen, "LARGEST_BYTES", 63)
    assert seen_in_training(its, Made(other, fingerprint="g"), "test") == 0
