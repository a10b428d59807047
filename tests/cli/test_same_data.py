"""A network meets data that are not its own: normalised as it was trained, classes in its order, or a word about it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tutelage.cli.main import main
from tutelage.config.planner import plan_of
from tutelage.data import cache
from tutelage.engine.build import build
from tutelage.engine.class_names import classes_apart, names_in
from tutelage.engine.inherited import expected_normalization
from tutelage.engine.load import load_run
from tutelage.models.fcn import FCN
from tutelage.models.pretrained import torchvision_model
from tutelage.runs.store import Store
from tutelage.runs.weights import Weights

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


def test_another_root_is_other_data_though_nothing_else_is_said(trained, capsys):
    """The fingerprint of the run's own data would have the caches hand out those."""
    root, runs, run = trained
    words = ["evaluate", str(run.path), f"runs_dir={runs}"]
    assert main([*words, *FOLDER, f"data.root={root}/dark", "data.validation=4", "data.batch_size=8"]) == 0
    assert main([*words, f"data.root={root}/dark"]) == 0
    assert main(words) == 0
    dark, also_dark, bright = evaluations(run)[-3:]
    assert dark["metrics"] == also_dark["metrics"] != bright["metrics"]
    assert dark["data"]["fingerprint"] == also_dark["data"]["fingerprint"] != bright["data"]["fingerprint"]


def test_a_run_whose_images_were_changed_since_is_not_judged_on_what_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    draw(tmp_path / "set")
    assert main(["train", *QUICK, *FOLDER, f"data.root={tmp_path}/set", f"runs_dir={tmp_path}/runs"]) == 0
    (run,) = Store(tmp_path / "runs").runs()
    (tmp_path / "set" / "test" / "cat" / "notes.txt").write_text("no image")
    for number in (1, 2):
        cache.forget()
        code = 0 if number == 1 else 2
        assert main(["evaluate", str(run.path), f"runs_dir={tmp_path}/runs"]) == code
        (tmp_path / "set" / "train" / "cat" / "3.png").unlink(missing_ok=True)
    told = capsys.readouterr().err
    assert "are not those of data.fingerprint=" in told and "Let data.root name the folder as it was" in told
    cache.forget()
    (tmp_path / "set").rename(tmp_path / "moved")
    draw(tmp_path / "set" / "again")
    assert (
        load_run(run.path, root=str(tmp_path / "set" / "again")).data.fingerprint
        == run.config["data"]["fingerprint"]
    )


def test_classes_in_another_order_are_matched_by_name_and_other_classes_are_said(trained, capsys):
    root, runs, run = trained
    words = [str(run.path), f"runs_dir={runs}"]
    assert main(["evaluate", *words]) == 0
    as_trained = capsys.readouterr().out
    assert main(["evaluate", *words, "data.classes=[dog,cat]"]) == 0
    told = capsys.readouterr()
    assert told.out == as_trained
    assert "classes are matched by their names: 2 of the 2 that the network knows" in told.err
    assert main(["evaluate", *words, *FOLDER, f"data.root={root}/others", "data.validation=4"]) == 0
    assert "was trained on the classes cat, dog and is judged on ship, truck" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["data.classes=[dog,cat]"], 2, "give data.classes=[cat,dog]"),
        (["data.root={root}/others"], 2, "set label_space=other"),
        (["data.root={root}/others", "method.objectives.soft.label_space=other"], 0, ""),
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


TEACHER = ["method=distillation", "model@teacher=fcn", "teacher.depth=1", "teacher.width=8"]


@pytest.mark.parametrize("role", ["teacher", "model"])
def test_weights_that_were_trained_on_what_is_to_select_or_test_are_refused(capsys, tmp_path, role):
    words = ["train", *QUICK, "data=digits", f"runs_dir={tmp_path}"]
    assert main(words) == 0
    (run,) = Store(tmp_path).runs()
    given = [*(TEACHER if role == "teacher" else ["model.dropout=0.1"]), f"{role}.weights={run.path}"]
    assert main([*words, *given]) == 0
    capsys.readouterr()
    assert main([*words, *given, "data.split_seed=1"]) == 2
    told = capsys.readouterr().err
    assert (
        f"{role}.weights={run.path} was trained on" in told
        and "data.split_seed (it has 0, this one 1)" in told
    )


def test_a_need_is_made_on_the_same_split(tmp_path):
    """The guide of every experiment that trains one follows the run's own split."""
    parity = "guidance/sequences/parity method=guidance model@guide=relu_rnn guide.weights=need:guide"
    for name in ("demo/guided-trained", "demo/distilled", parity):
        plan = plan_of([*f"experiment={name}".split(), "data.split_seed=3"])
        (need,) = plan.needs.values()
        assert need.config["data"]["split_seed"] == 3


def test_a_network_trained_on_unnormalised_images_is_shown_such(tmp_path, capsys):
    words = ["train", *QUICK, "data=digits", f"runs_dir={tmp_path}"]
    assert main([*words, "name=raw", "data.normalization=null"]) == 0
    (run,) = Store(tmp_path).runs("raw")
    for more in ([], ["data=digits"], ["data.normalization=[[0.5],[0.2]]"]):
        assert main(["evaluate", str(run.path), *more, f"runs_dir={tmp_path}"]) == 0
    given, *others = (row["metrics"]["loss"] for row in evaluations(run))
    assert others == pytest.approx([given] * 2, rel=1e-4)
    config = plan_of([*words[1:], *TEACHER, f"teacher.weights={run.path}"]).config
    built = build(config)
    teacher, raw = built.method.frozen["teacher"], load_run(run.path)
    ours, theirs = (next(iter(data.batches("validation", device="cpu"))) for data in (built.data, raw.data))
    assert torch.equal(ours.index, theirs.index)
    torch.testing.assert_close(teacher(ours.inputs), raw.network(theirs.inputs), rtol=1e-3, atol=1e-4)


def test_a_file_of_published_weights_is_shown_what_these_were_trained_on(tmp_path, caplog):
    network = torchvision_model("resnet18", output_size=10, input_shape=(3, 32, 32))
    for file in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        state = network.state_dict()
        torch.save(state, file) if file.suffix == ".pth" else save_file(state, file)
        weights = Weights.of({"teacher": {"weights": str(file)}, "runs_dir": str(tmp_path)}, "teacher")
        with caplog.at_level("INFO", logger="tutelage"):
            found = expected_normalization(weights, network, given=None)
        assert found == network.pretrained_normalization is not None
        assert "taken to be those of the published weights" in caplog.text


def test_other_words_of_the_same_number_are_no_test_and_no_lesson(tmp_path, capsys):
    for name, letters in (("a", "abcdefgh"), ("b", "ijklmnop")):
        (tmp_path / f"{name}.txt").write_text(letters * 60)
    words = ["logger=none", "hardware.threads=1", "fit.max_steps=2", "fit.validate_every_steps=2", "data=text", "data.level=character",
             "data.length=8", "data.batch_size=4", "model=rnn", "model.depth=1", "model.width=8", f"runs_dir={tmp_path}/runs"]  # fmt: skip
    assert main(["train", *words, f"data.root={tmp_path}/a.txt"]) == 0
    (run,) = Store(tmp_path / "runs").runs()
    other = f"data.root={tmp_path}/b.txt"
    assert main(["evaluate", str(run.path), other, f"runs_dir={tmp_path}/runs"]) == 2
    assert "trained with another vocabulary" in capsys.readouterr().err
    teacher = [
        "method=distillation",
        "model@teacher=rnn",
        "teacher.depth=1",
        "teacher.width=8",
        f"teacher.weights={run.path}",
    ]
    assert main(["train", *words, other, *teacher]) == 2
    assert "trained with another vocabulary" in capsys.readouterr().err
    assert main(["train", *words, f"data.root={tmp_path}/a.txt", *teacher]) == 0


def test_a_number_names_the_class_where_all_classes_are_numbers(tmp_path):
    draw(tmp_path / "set", classes=("1", "2", "10", "20"))
    words = ["train", *QUICK, *FOLDER, f"data.root={tmp_path}/set", f"runs_dir={tmp_path}/runs"]
    assert main([*words, "data.classes=[1,2]"]) == 0
    (run,) = Store(tmp_path / "runs").runs()
    assert json.loads((run.path / "setup.json").read_text())["data"]["classes"] == ["1", "2"]


def test_a_setting_of_the_data_is_read_as_everywhere(trained, capsys):
    _, runs, run = trained
    assert main(["evaluate", str(run.path), "data.augment=[", f"runs_dir={runs}"]) == 2
    assert "expected key=value" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "data.missing=1e-1", f"runs_dir={runs}"]) == 0


def test_a_complete_run_without_its_network_says_how_to_make_it_anew(tmp_path, capsys):
    assert main(["train", *QUICK, "data=digits", f"runs_dir={tmp_path}"]) == 0
    (run,) = Store(tmp_path).runs()
    (run.path / "network.safetensors").write_bytes(b"half")
    assert main(["evaluate", str(run.path), f"runs_dir={tmp_path}"]) == 2
    assert "with rerun=true makes it anew" in capsys.readouterr().err
