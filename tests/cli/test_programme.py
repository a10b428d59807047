"""`tutelage reproduce <programme>`: measured, ordered by worth per minute, stopped when the time is over, continued from copied runs."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import sys
import time
from pathlib import Path

import pytest

from tutelage.cli import programme as programme_command
from tutelage.cli.main import main
from tutelage.cli.speed import Speed
from tutelage.config.planner import plan_of
from tutelage.engine.checkpoints import latest_checkpoint
from tutelage.errors import UserError
from tutelage.reporting.programme_file import load, programme_path
from tutelage.reporting.table_paths import tables
from tutelage.runs.store import Store

TABLE = """
title: Two depths
metric: accuracy
seeds: 2
base: [data=digits, model=fcn, model.width=8, logger=none, hardware.threads=1, fit.max_steps=4, fit.validate_every_steps=2,
  fit.checkpoint_every_s=0]
arms:
  shallow: [model.depth=1]
  deep: [model.depth=2, fit.max_steps=6]
compare: shallow
"""
PROGRAMME = """
title: A programme
places: {photos: a folder of photographs}
stages:
  both:
    table: small/depths
    worth: 1
  said:
    command: [-c, "print('said')"]
    minutes: 0.01
    worth: 100
  first seed:
    table: small/depths
    decides: which depth
    seeds: [0]
    worth: 50
  with photos:
    table: small/depths
    words: ["data.root={photos}"]
  not there:
    table: small/nothing
  on a card:
    command: [-c, pass]
    gpu: true
"""


CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "experiments/small").mkdir(parents=True)
    (tmp_path / "experiments/programmes").mkdir()
    (tmp_path / "experiments/small/depths.yaml").write_text(TABLE)
    (tmp_path / "experiments/programmes/own.yaml").write_text(PROGRAMME)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(runs: str) -> list[str]:
    return [run.key for run in Store(runs).runs() if run.is_complete]


def test_stages_run_in_the_order_of_worth_per_minute_and_a_copy_of_the_runs_goes_on(folder, capfd):
    assert main(["reproduce", "own", "minutes=5", "--dry"]) == 0
    shown = capfd.readouterr().out
    order = [shown.index(f" {label} ") for label in ("said", "first seed", "both")]
    assert order == sorted(order)
    assert "left out, with photos: give photos=<a folder of photographs>" in shown
    assert "left out, not there: the table small/nothing is not in this checkout" in shown
    assert "left out, on a card: needs a GPU" in shown
    assert not Path("runs").exists() or not finished("runs")
    assert main(["reproduce", "own", "minutes=5"]) == 0
    shown = capfd.readouterr().out
    assert "said" in shown and "the programme is complete" in shown and "which depth" in shown
    done = finished("runs")
    assert len(done) == 4 and (folder / "experiments/small/results/depths.csv").is_file()
    begun = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("result.json")}
    shutil.copytree("runs", "copied", symlinks=True)
    assert main(["reproduce", "own", "runs_dir=copied"]) == 0
    assert "the programme is complete" in capfd.readouterr().out
    assert finished("copied") == done
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("result.json")} == begun


def test_the_time_ends_a_run_in_order_and_the_same_command_ends_it(folder, monkeypatch, capfd):
    Path("experiments/programmes/long.yaml").write_text(
        "title: Long\nstages: {deep: {table: small/depths, arms: [deep], seeds: [0]}}\n"
    )
    more = ["fit.max_steps=100000", "fit.validate_every_steps=1", "fit.checkpoint_every_s=0"]
    monkeypatch.setattr(programme_command, "RESERVE_S", 0.0)
    monkeypatch.setattr(Speed, "seconds", lambda self, plan: 3600.0)
    assert main(["reproduce", "long", "minutes=0.1", *more]) == 0
    shown = capfd.readouterr().out
    assert "0 of 1" in shown and "the time is over" in shown and "deep (1)" in shown
    plan = plan_of(
        [*load(programme_path("long")).stages[0].read_table()[1].cells(*_only())[0].overrides, *more]
    )
    run = Store("runs").run(plan.name, plan.identity)
    assert (
        not run.is_complete and latest_checkpoint(run) is not None
    )  # the one before, amid the last one's writing
    assert len(run.metrics.rows) > 0


@pytest.mark.parametrize("lost", [False, True])
def test_the_reserve_is_taken_off_the_time(folder, capsys, monkeypatch, lost):
    """Nothing begins then, though the signal was lost in a callback."""
    if lost:
        monkeypatch.setattr(programme_command, "_alarm", lambda until: contextlib.nullcontext())
    Path("experiments/programmes/long.yaml").write_text(
        "title: Long\nstages: {deep: {table: small/depths, arms: [deep], seeds: [0]}}\n"
    )
    assert main(["reproduce", "long", "minutes=0.08"]) == 0  # 4.8 s of which 5 are kept
    assert "the time is over" in capsys.readouterr().out
    assert not list(Path("runs").rglob("metrics*"))


def test_a_time_that_is_over_is_said_again_where_it_was_lost_and_not_while_a_run_comes_to_its_end(
    monkeypatch,
):
    monkeypatch.setattr(programme_command, "AGAIN_S", 0.02)
    lost = []

    class Loses:
        def __del__(self):  # an exception is not raised out of it
            try:
                time.sleep(1)
            finally:
                lost.append(time.monotonic())

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with programme_command._alarm(time.monotonic() + 0.05):
        with pytest.raises(programme_command.TimeIsUp):
            Loses()
            time.sleep(1)
        assert len(lost) == 1
        try:
            time.sleep(1)
        except programme_command.TimeIsUp:
            time.sleep(0.1)  # while it is handled
    time.sleep(0.05)


def _only():
    arm = load(programme_path("long")).stages[0].read_table()[1].arms[0]
    return arm, arm.points[0]


def test_the_speed_of_a_kind_of_run_is_measured_once_and_corrected(folder, monkeypatch):
    from tutelage.cli import speed as module

    calls = []
    sizes = {"batch_size": 10, "steps_per_epoch": 7, "sizes": {"validation": 30, "test": 60}}
    monkeypatch.setattr(module, "_measured", lambda config: calls.append(1) or (0.01, 2.0, sizes))
    speed = Speed()
    words = ["data=digits", "model=fcn", "fit.max_steps=100", "fit.validate_every_steps=50", "logger=none"]
    # 2 s beside, 1,000 samples trained on, and two validations of 30 and a test of 60 at a third of the price
    assert speed.seconds(plan_of(words)) == pytest.approx(2 + 10 + (2 * 30 + 60) / 3 * 0.01)
    assert speed.seconds(plan_of([*words, "seed=3", "optimizer.lr=1e-2"])) == speed.seconds(plan_of(words))
    in_epochs = [*words[:2], "fit.epochs=2", "fit.validate_every_steps=null", "logger=none"]
    assert speed.seconds(plan_of(in_epochs)) == pytest.approx(2 + 1.4 + (2 * 30 + 60) / 3 * 0.01)
    assert len(calls) == 1
    speed.learn(plan_of(words), 2 * speed.seconds(plan_of(words)))
    assert speed.seconds(plan_of(words)) == pytest.approx(2 * (2 + 10 + 0.4))
    speed.seconds(plan_of([*words, "model.depth=9"]))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: a\nstages: {}\n", "must be a mapping"),
        ("title: a\nstages: {b: {}}\n", "must name a table or a command"),
        ("title: a\nstages: {b: {table: c, command: [d]}}\n", "must name a table or a command"),
        ("title: a\nstages: {b: {tabel: c}}\n", "did you mean 'table'"),
        ("title: a\nstages: {b: {table: c, worth: 0}}\n", "worth must be a number above 0, got 0"),
        ("title: a\nstages: {b: {table: c, arms: d}}\n", "arms must be a list of text, got 'd'"),
        (
            "title: a\nplaces: {photos: x}\nstages: {b: {table: c, words: ['data.root={foto}']}}\n",
            "did you mean 'photos'",
        ),
    ],
)
def test_what_is_wrong_in_a_programme_is_named(tmp_path, text, said):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        load(tmp_path / "wrong.yaml")


def test_words_that_do_not_belong_are_refused(folder, capfd):
    assert main(["reproduce", "own", "minutes=-1"]) == 2
    assert "minutes must be a number above 0" in capfd.readouterr().err
    assert main(["reproduce", "own", "processes=2"]) == 2
    assert main(["reproduce", "own", "photos=/nowhere"]) == 2
    assert "a folder of photographs" in capfd.readouterr().err
    assert main(["reproduce", "own", "photo=/tmp", "--dry"]) == 2
    assert (
        "there is no place 'photo' in this programme, and no setting; did you mean 'photos'?"
        in capfd.readouterr().err
    )
    Path("experiments/programmes/far.yaml").write_text(
        "title: Far\nstages: {card: {command: [-c, pass], gpu: true}}\n"
    )
    assert main(["reproduce", "far"]) == 2
    assert "nothing of the programme far can be done here" in capfd.readouterr().err
    assert main(["reproduce", "small/depths", "minutes=3"]) == 2
    assert "belongs to a programme" in capfd.readouterr().err
    assert main(["reproduce", "onw"]) == 2
    assert "did you mean 'own'" in capfd.readouterr().err


def test_the_shipped_programme_names_tables_and_arms_that_are_there():
    programme = load(programme_path("paper"))
    assert len(programme.stages) >= 8
    for stage in programme.stages:
        assert stage.tiny, f"{stage.label} has no rehearsal"
        if stage.table:
            stage.read_table()
    assert not any(name.startswith("programmes") for name in tables())


@pytest.mark.slow
def test_the_shipped_programme_is_rehearsed_to_its_end(tmp_path, monkeypatch, capfd):
    import numpy as np
    from PIL import Image

    for split, count in (("train", 8), ("test", 4)):
        for name in CLASSES:
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(hash((split, name, number)) % 2**32).integers(
                    0, 255, (32, 32, 3), dtype=np.uint8
                )
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    hundred = tmp_path / "hundred" / "cifar-100-python"
    hundred.mkdir(parents=True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    names = [f"class {number}" for number in range(100)]
    (hundred / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    for split, count in (("train", 200), ("test", 100)):
        pixels = np.random.default_rng(count).integers(0, 255, (count, 3072), dtype=np.uint8)
        labels = [number % 100 for number in range(count)]
        (hundred / split).write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}))
    text = tmp_path / "text"
    text.mkdir()
    for part in ("train", "valid", "test"):
        (text / f"wiki.{part}.tokens").write_text(" the cat sat on the mat and saw another one\n" * 40)
    runs = f"runs_dir={tmp_path / 'runs'}"
    places = [f"cifar10={tmp_path / 'photos'}", f"cifar100={hundred.parent}", f"wikitext={text}"]
    assert main(["reproduce", "paper", "--tiny", *places, runs]) == 0
    shown = capfd.readouterr().out
    assert "the programme is complete" in shown
    left_out = [line for line in shown.splitlines() if line.startswith("left out, ")]
    assert (
        len(left_out) == 1 and "P-SSL and its controls" in left_out[0]
    )  # its chain of needs cannot be small
    assert len(finished(str(tmp_path / "runs"))) > 20
