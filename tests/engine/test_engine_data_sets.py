"""What a run's data are built of: prepared under a lock, judged as others, asked for metrics; unlabelled samples, each refusal in full."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expected import refused
from tutelage.data.base import DataModule
from tutelage.data.image_pixels import Form
from tutelage.data.image_set import ImageData
from tutelage.data.splits import digest
from tutelage.engine import data_sets
from tutelage.tasks import NoTargets


class Made(DataModule):
    """Notes what is done with it."""

    def __init__(self):
        self.done, self.task = [], SimpleNamespace(ask=lambda *words: self.done.append(("ask", words)))

    def load(self):
        """Nothing."""

    def prepare(self):
        self.done.append("prepare")

    def judged_as(self, trained):
        self.done.append(("judged as", trained))

    def setup(self, stage=None):
        self.done.append("setup")


@pytest.mark.parametrize(("fit", "asked"), [
    ({"metrics": ["auroc"], "monitor": None}, [("ask", (["auroc"], None))]), ({"monitor": "loss"}, [("ask", ((), "loss"))]),
    ({"metrics": [], "monitor": None}, []), ({}, []), (None, []),
])  # fmt: skip
@pytest.mark.parametrize("trained", [None, "others"])
def test_data_are_prepared_set_up_and_asked_for_metrics(tmp_path, monkeypatch, fit, asked, trained):
    made = Made()
    monkeypatch.setattr(
        data_sets, "construct", lambda where, node: made if (where, node) == ("data", {"a": 1}) else None
    )
    config = {"data": {"a": 1}, "runs_dir": str(tmp_path), "fit": fit}
    assert data_sets.build_data(config, judged_as=trained) is made
    assert made.done == ["prepare", *([("judged as", "others")] if trained else []), "setup", *asked]
    assert (tmp_path / ".locks").is_dir()


def test_what_is_no_data_module(tmp_path, monkeypatch):
    monkeypatch.setattr(data_sets, "construct", lambda where, node: 3)
    said = refused(data_sets.build_data, {"data": {}, "runs_dir": str(tmp_path)})
    assert said.startswith(
        "data._target_ must be a tutelage.data.base.DataModule, with splits and a task, got int: "
    )


PIXELS = torch.arange(20, dtype=torch.uint8).view(5, 1, 2, 2)


class Images(ImageData):
    """Images that are made up; of another set, no targets where `bare`."""

    def __init__(self, bare=False):
        self.augment, self.mixer, self.task = (
            None,
            None,
            NoTargets() if bare else SimpleNamespace(kind="classes"),
        )
        self.splits = {"train": np.array([4, 1]), "validation": np.array([3]), "test": np.array([0])}
        self.normalization, self.input_shape = ((0.5,), (0.25,)), (1, 2, 2)
        self.store = None

    def source(self):
        """Nothing."""

    def unlabelled(self, which):
        return torch.zeros(9, 1, 2, 2), np.array([7, 8]), 1.0, 0.0

    def unlabelled_pixels(self):
        return PIXELS

    def summary(self):
        return {"name": "other"}

    def prepare(self):
        """Nothing."""

    def setup(self, stage=None):
        """Nothing."""


@pytest.fixture
def unlabelled(tmp_path, monkeypatch):
    """Give a function that returns what unlabelled samples would be made of."""
    monkeypatch.setattr(data_sets, "Unlabelled", lambda *words: words)

    def do(wanted, data, other=None):
        monkeypatch.setattr(data_sets, "construct", lambda where, node: other)
        config = {"method": {"unlabelled": wanted}, "data": {"_target_": "a"}, "runs_dir": str(tmp_path)}
        return data_sets.build_unlabelled(config, data)

    return do


def test_unlabelled_images_of_the_set_itself_or_of_another(unlabelled):
    assert unlabelled(None, Images()) is None
    _, index, scale, shift, facts = unlabelled("rest", Images())
    assert (index.tolist(), scale, shift) == ([7, 8], 1.0, 0.0)
    assert facts == {"of": "rest", "count": 2, "sha256": digest(np.array([7, 8]))}
    for bare, rows in ((False, [4, 1]), (True, [0, 1, 3, 4])):
        images, index, scale, shift, facts = unlabelled({"_target_": "b"}, Images(), Images(bare))
        assert (
            images is PIXELS
            and facts["left_out"] == 0
            and index.tolist() == rows
            and facts["count"] == len(rows)
            and facts["of"] == {"name": "other"}
        )
        assert torch.allclose(torch.full((1, 1, 1), 127.5) * scale + shift, torch.zeros(()), atol=1e-6)


@pytest.mark.parametrize(("wanted", "data", "other", "said"), [
    ("tran", Images(), None, "method.unlabelled=tran is not known; did you mean 'train'? Known: all, rest, train; another set is "
     "+data@method.unlabelled=<data>, a folder of images +data@method.unlabelled=image_folder method.unlabelled.root=<folder>"),
    ("train", Made(), None, "method.unlabelled needs images with classes, or texts, got data Made"),
    ({"_target_": "b"}, Images(), Made(), "method.unlabelled must be a set of images, got Made"),
])  # fmt: skip
def test_unlabelled_samples_that_are_none(unlabelled, wanted, data, other, said):
    assert refused(unlabelled, wanted, data, other) == said


def test_unlabelled_images_of_other_channels_are_noticed_before_they_are_read(unlabelled):
    other = Images()
    other.form = Form(2, 3, (255, 255, 255), None)
    other.prepare = other.setup = lambda: pytest.fail("read")
    assert refused(unlabelled, {"_target_": "b"}, Images(), other) == (
        "the unlabelled images have 3 channels, the labelled ones 1: say method.unlabelled.channels=1"
    )
    other.form = Form(2, 1, (255, 255, 255), None)
    other.prepare = other.setup = lambda: None
    assert unlabelled({"_target_": "b"}, Images(), other)[0] is PIXELS


def test_unlabelled_images_that_are_judged_on_are_left_out(unlabelled, lines):
    ours, other = Images(), Images(bare=True)
    ours.store = SimpleNamespace(
        images=PIXELS.flip(0)
    )  # its validation and test images, 3 and 0, are 1 and 4 of the others
    _, index, *_, facts = unlabelled({"_target_": "b"}, ours, other)
    assert index.tolist() == [0, 3] and facts["left_out"] == 2 and facts["count"] == 2
    assert (
        "method.unlabelled: 2 images that are validation or test images of data, too, are left out" in lines()
    )
    other = Images()  # of which 1 and 4 alone are its training images
    assert refused(unlabelled, {"_target_": "b"}, ours, other) == (
        "all images of method.unlabelled are validation or test images of data: another folder, or method.unlabelled=train or rest, has "
        "none of them"
    )
    ours.store = SimpleNamespace(
        images=torch.zeros(5, 1, 3, 3, dtype=torch.uint8)
    )  # of another size: nothing is known
    ours.files_read = other.files_read = None
    assert unlabelled({"_target_": "b"}, ours, other)[1].tolist() == [4, 1]
    assert "method.unlabelled: 2 of its 5 images, those of its training split" in lines()


def test_a_set_is_not_its_own_unlabelled_one(unlabelled, monkeypatch):
    monkeypatch.setattr(data_sets, "overlap", lambda wanted, own: True)
    assert refused(unlabelled, {"_target_": "a"}, Images(), Images()) == (
        "method.unlabelled is the set of data itself, whose validation and test images it must not hold: say method.unlabelled=train"
    )
