"""A network meets data that are not its own: normalised as it was trained, classes in its order, or a word about it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tutelage.cli.compose import plan_of
from tutelage.cli.main import main
from tutelage.data import cache
from tutelage.engine.classes import classes_apart, names_in
from tutelage.engine.load import load_run
from tutelage.models.fcn import FCN
from tutelage.runs.store import Store

QUICK = ["logger=none", "hardware.threads=1", "model=fcn", "model.depth=1", "model.width=8", "fit.max_steps=4",
         "fit.validate_every_steps=2", "data.batch_size=8", "data.validation=4"]  # fmt: skip
FOLDER = ["data=image_folder", "data.augment=null"]


def draw(root, brightness=1.0, classes=("cat", "dog"), parts=("train", "test")):
    for number, name in enumerate(classes):
        for part in parts:
            folder = root / part / name
            folder.mkdir(parents=True)
            random = np.random.default_rng([number, part == "test"])
            for i in range(16):
                pixels = random.integers(40 * number, 200 + 40 * number, (6, 6, 3)) * brightness
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    draw(root / "bright")
    draw(root / "dark", brightness=0.3)
    draw(root / "others", classes=("ship", "truck"))
    draw(root / "half", classes=("cat", "dog"), parts=("train",))
    draw(root / "half", classes=("cat",), parts=("test",))
    runs = root / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(root / "cache"))
        assert main(["train", *QUICK, *FOLDER, f"data.root={root}/bright", f"runs_dir={runs}"]) == 0
        (run,) = Store(runs).runs()
        yield root, runs, run
    cache.forget()


def evaluations(run):
    return [json.loads(line) for line in (run.path / "evaluations.jsonl").read_text().splitlines()]


def test_other_data_are_normalised_as_the_network_was_trained(trained, capsys):
    root, runs, run = trained
    for split in (
        "data.split_seed=0",
        "data.split_seed=3",
        "data.normalization=[[0.5,0.5,0.5],[0.2,0.2,0.2]]",
    ):
        words = [*FOLDER, f"data.root={root}/dark", "data.validation=4", split]
        assert main(["evaluate", str(run.path), *words, f"runs_dir={runs}"]) == 0
    found = [record["metrics"] for record in evaluations(run)[-3:]]
    last = evaluations(run)[-1]  # a number says by which code, when and on what it was made
    assert last["code"] != "unknown" and last["at"].endswith("+00:00") and last["device"] == "cpu"
    loaded = load_run(run.path)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in loaded.data.normalization)
    images, labels = [], []
    for label, name in enumerate(("cat", "dog")):
        for path in (root / "dark/test" / name).iterdir():
            pixels = torch.from_numpy(np.asarray(Image.open(path))).permute(2, 0, 1).float() / 255
            images.append((pixels - mean) / std)
            labels.append(label)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(loaded.network(torch.stack(images)), torch.tensor(labels))
    assert [row["loss"] for row in found] == pytest.approx([float(loss)] * 3, abs=1e-4)


def test_classes_in_another_order_are_refused_and_other_classes_are_said(trained, capsys):
    root, runs, run = trained
    words = [str(run.path), f"runs_dir={runs}"]
    assert main(["evaluate", *words, "data.classes=[dog,cat]"]) == 2
    assert "give data.classes=[cat,dog]" in capsys.readouterr().err
    assert main(["evaluate", *words, *FOLDER, f"data.root={root}/others", "data.validation=4"]) == 0
    assert "was trained on the classes cat, dog and is judged on ship, truck" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["data.classes=[dog,cat]"], 2, "give data.classes=[cat,dog]"),
        (["data.root={root}/others"], 2, "set method.label_space=other"),
        (["data.root={root}/others", "method.label_space=other", "method.loss=soft"], 0, ""),
        (["teacher.weights=scratch"], 0, "the teacher is at its random initialisation"),
        ([], 0, ""),
    ],
)
def test_a_teacher_of_other_classes(trained, capsys, tmp_path, words, code, says):
    root, _, run = trained
    teacher = [
        "method=distillation",
        "model@teacher=fcn",
        "teacher.depth=1",
        "teacher.width=8",
        f"teacher.weights={run.path}",
    ]
    given = [word.format(root=root) for word in words]
    assert (
        main(["train", *QUICK, *FOLDER, f"data.root={root}/bright", *teacher, *given, f"runs_dir={tmp_path}"])
        == code
    )
    assert says in capsys.readouterr().err


def test_a_class_without_samples_is_named(trained, capsys, tmp_path):
    root, _, _ = trained
    assert main(["train", *QUICK, *FOLDER, f"data.root={root}/half", f"runs_dir={tmp_path}"]) == 0
    assert "no test sample of 1 of 2 classes: dog" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("theirs", "ours", "apart"),
    [
        (["a", "b"], ["a", "b"], None),
        (["a", "b"], ["b", "a"], "order"),
        (["a", "b"], ["a", "c"], "names"),
        (["0", "1"], ["1", "0"], "order"),
        (["0", "1"], ["a", "b"], "names"),
        (None, ["a"], None),
    ],
)
def test_how_classes_differ(theirs, ours, apart):
    assert classes_apart(theirs, ours) == apart


def test_a_pseudo_data_set_has_numbers_for_names():
    assert names_in({"name": "PseudoImages", "classes": ["0", "1"]}) is None
    assert names_in({"name": "Digits", "classes": ["0", "1"]}) == ["0", "1"]
    assert names_in({}) is None


def test_other_weights_under_the_same_name_are_another_run(tmp_path):
    words = ["data=synthetic", "model=fcn", "model.depth=2", "model.width=8", "model.weights=w.safetensors"]
    folder = tmp_path / "here"
    folder.mkdir()
    network = FCN((1, 8, 8), 4, depth=2, width=8)
    keys = []
    for value in (0.0, 1.0):
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, value)
        save_file(network.state_dict(), folder / "w.safetensors")
        keys.append(plan_of([*words[:-1], f"model.weights={folder}/w.safetensors"]).key)
    (tmp_path / "there").mkdir()
    moved = (folder / "w.safetensors").rename(tmp_path / "there" / "v.safetensors")
    keys.append(plan_of([*words[:-1], f"model.weights={moved}"]).key)
    assert keys[0] != keys[1] == keys[2]
