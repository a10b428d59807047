"""The same sample in two splits, through the real command: equal bytes are counted, said and recorded; an equal index is refused."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tutelage.cli.main import main
from tutelage.data import cache
from tutelage.data.splits import digest
from tutelage.runs.store import Store

QUICK = ["logger=none", "hardware.threads=1", "model=fcn", "model.depth=1", "model.width=8", "fit.max_steps=2",
         "fit.validate_every_steps=2", "data.batch_size=8"]  # fmt: skip
LEAKY = """
import numpy as np
from tutelage.data.images import Digits

class Leaky(Digits):
    def load(self):
        super().load()
        self.splits["test"] = np.append(self.splits["test"], self.splits["train"][:2])
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    cache.forget()


def draw(folder, seed, count=12):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.mark.parametrize("storage", ["resident", "stream"])
@pytest.mark.parametrize("copies", [0, 3])
def test_equal_images_in_train_and_test_are_counted_said_and_recorded(tmp_path, capsys, copies, storage):
    for seed, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        draw(tmp_path / "set" / place, seed)
    for number in range(copies):  # under another name, and of another class
        shutil.copy(tmp_path / f"set/train/cat/{number}.png", tmp_path / f"set/test/dog/again-{number}.png")
    words = [
        "data=image_folder",
        "data.root=set",
        "data.validation=4",
        f"data.storage={storage}",
        "data.num_workers=0",
    ]
    assert main(["train", *QUICK, *words]) == 0
    (run,) = Store("runs").runs()
    recorded = json.loads((run.path / "setup.json").read_text())["data"]["repeated_samples"]
    said = "identical content lie in two splits"
    if copies:
        # Validation is a part of train/, so a copy may be of a sample that went there.
        assert sum(recorded.values()) == copies and set(recorded) <= {"test in train", "test in validation"}
        assert said in capsys.readouterr().err
        assert said in run.log.read_text()
    else:
        assert recorded == {}
        assert said not in capsys.readouterr().err


def test_the_indices_of_the_splits_are_stored_under_their_recorded_hashes():
    assert main(["train", *QUICK]) == 0
    (run,) = Store("runs").runs()
    recorded = json.loads((run.path / "setup.json").read_text())["data"]
    with np.load(run.path / "splits.npz") as stored:
        indices = dict(stored)
    assert {name: digest(part) for name, part in indices.items()} == recorded["split_sha256"]
    assert {name: len(part) for name, part in indices.items()} == recorded["sizes"]
    assert len(np.unique(np.concatenate(list(indices.values())))) == sum(recorded["sizes"].values())


def test_a_data_set_with_an_index_in_two_splits_is_refused(tmp_path, capsys):
    (tmp_path / "leaky.py").write_text(LEAKY)
    assert main(["train", *QUICK, "data._target_=leaky.Leaky"]) == 2
    error = capsys.readouterr().err
    assert "2 samples lie in both train and test" in error
    assert "Traceback" not in error
    assert not list(Store("runs").runs())  # a mistake found before the first step leaves no run
