"""A run that stopped at an image it could not read goes on when that was replaced or removed, and says what its data were and are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tutelage.cli.main import main
from tutelage.data import cache
from tutelage.data.image_folder import ImageFolder
from tutelage.engine.load import load_run
from tutelage.runs.records import read_json
from tutelage.runs.store import Store

QUICK = ["logger=none", "hardware.threads=1", "model=fcn", "model.depth=1", "model.width=8", "fit.max_steps=6",
         "fit.validate_every_steps=1", "fit.checkpoint_every_s=0", "data=image_folder", "data.root=set",
         "data.storage=stream", "data.num_workers=0", "data.image_size=6",
         "data.batch_size=8", "data.validation=4", "data.normalization=[[0.5,0.5,0.5],[0.5,0.5,0.5]]"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    cache.forget()
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "set" / name).mkdir(parents=True)
        random = np.random.default_rng(label)
        for number in range(30):
            pixels = random.integers(80 * label, 150 + 80 * label, (6, 6, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number:02d}.png")


def late_image(step: int) -> str:
    """The path of an image that the training meets first at a step."""
    data = ImageFolder(root="set", image_size=6, batch_size=8, validation=4, storage="stream", num_workers=0)
    data.prepare()
    data.setup()
    stream = data.train_stream(seed=0, device="cpu")
    stream.seek(step, step + 1)
    return data.source().images.layout.paths[int(next(iter(stream)).index[0])]


def new_command(*words: str) -> int:
    """Train as another process would."""
    cache.forget()
    return main(["train", *QUICK, *words])


@pytest.mark.parametrize("mending", ["replaced", "removed"])
def test_a_run_goes_on_when_a_damaged_image_was(mending, capsys, tmp_path):
    path = tmp_path / "set" / late_image(4)
    name, whole = path.relative_to(tmp_path / "set").as_posix(), path.read_bytes()
    path.write_bytes(whole[:90])
    assert new_command("data.check_files=false") == 2
    assert f"cannot read the image set/{name}" in capsys.readouterr().err
    (stopped,) = Store("runs").runs()
    assert stopped.failure["damaged"] == [name] and stopped.checkpoint("last").is_file()
    before, splits = stopped.metrics.rows, dict(np.load(stopped.path / "splits.npz"))
    assert max(row["step"] for row in before) == 4
    if mending == "replaced":
        path.write_bytes(whole)
    else:
        path.unlink()
    assert new_command() == 0
    (run,) = Store("runs").runs()
    assert run.is_complete and run.identity != stopped.identity and not stopped.path.exists()
    said = f"{run.key} goes on where {stopped.key} stopped at images that it could not read: "
    said += "1 were replaced, 0 removed" if mending == "replaced" else "0 were replaced, 1 removed"
    assert said in capsys.readouterr().err
    assert [row for row in run.metrics.rows if row["step"] <= 4][: len(before)] == before
    attempts = read_json(run.path / "provenance.json")["attempts"]
    marks = attempts[1]["continues"]["fingerprints"]
    assert len(attempts) == 2 and marks[0] != marks[1] == run.config["data"]["fingerprint"]
    assert attempts[1]["continues"]["run"] == stopped.key
    assert attempts[1]["continues"][f"{mending}_images"] == [name]
    data = load_run(run.path).data
    labels = data.source().images.layout.paths
    for split, places in np.load(run.path / "splits.npz").items():
        gone = set() if mending == "replaced" else {labels.index(name)}
        assert (
            places.tolist()
            == data.splits[split].tolist()
            == [i for i in splits[split].tolist() if i not in gone]
        )
    assert new_command() == 0 and "its stored result is used" in capsys.readouterr().err


def test_other_data_are_another_run(tmp_path, capsys):
    path = tmp_path / "set" / "cat" / "03.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:90])
    assert new_command() == 2
    assert not list((tmp_path / "runs").rglob("metrics.jsonl"))
    path.write_bytes(whole)
    (tmp_path / "set" / "dog" / "04.png").unlink()  # another one, which was whole
    assert new_command() == 0
    assert "goes on where" not in capsys.readouterr().err and len(list(Store("runs").runs())) == 2


def test_a_run_that_needs_one_with_missing_images_has_its_splits(tmp_path, capsys):
    path = tmp_path / "set" / late_image(4)
    path.write_bytes(path.read_bytes()[:90])
    need = json.dumps([*QUICK, "name=teacher"]).replace('"', "'").replace(" ", "")
    words = [
        "method=distillation", "model@teacher=fcn", "teacher.depth=1", "teacher.width=8", "teacher.weights=need:t", f"+needs.t={need}",
    ]  # fmt: skip
    assert new_command(*words, "data.check_files=false") == 2
    path.unlink()
    assert new_command(*words) == 0
    runs = {run.name: run for run in Store("runs").runs()}
    names = [path.relative_to(tmp_path / "set").as_posix()]
    splits = []
    for run in runs.values():
        assert run.config["data"]["absent"] == names
        splits.append(dict(np.load(run.path / "splits.npz")))
    teacher, student = splits
    assert all(teacher[split].tolist() == student[split].tolist() for split in teacher)
    other = ["seed=1", "name=other", *words[:-2], f"teacher.weights={runs['teacher'].path}"]
    capsys.readouterr()
    assert new_command(*other) == 2  # a run of its own, which knows nothing of missing images
    assert "was trained while 1 images of its set were missing, 0 are missing here" in capsys.readouterr().err


def test_a_run_that_had_not_trained_has_the_splits_of_the_images_there_are(tmp_path, capsys):
    path = tmp_path / "set" / "cat" / "03.png"
    path.write_bytes(path.read_bytes()[:90])
    assert new_command() == 2
    path.unlink()
    assert new_command() == 0
    (run,) = Store("runs").runs()
    assert "absent" not in run.config["data"] and "1 removed since" in capsys.readouterr().err
    assert sum(map(len, np.load(run.path / "splits.npz").values())) == 59
