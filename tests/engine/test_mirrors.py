"""Mirrors copy the record and can never change or stop a run."""

from __future__ import annotations

import csv
import json
import sys
import time

import pytest

from tutelage.engine import mirrors
from tutelage.engine.checkpoints import Checkpoints
from tutelage.engine.run_pictures import pictures_in


class Broken:
    def __init__(self, where):
        self.where, self.calls = where, []

    def _do(self, name):
        self.calls.append(name)
        if name == self.where:
            raise SystemExit("down")

    def start(self):
        self._do("start")

    def log(self, row):
        self._do("log")

    def finish(self, summary, pictures):
        self._do("finish")


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_a_mirror_that_raises_is_left_out_and_the_others_go_on(where):
    broken, whole = Broken(where), Broken(None)
    both = mirrors.Mirrors([broken, whole])
    both.log({"step": 1})
    both.log({"step": 2})
    both.finish({})
    mirrors.drain()
    assert whole.calls == ["start", "log", "log", "finish"]
    assert broken.calls[-1] == where
    assert broken.calls.count(where) == 1


def test_a_slow_mirror_holds_up_neither_a_row_nor_for_ever_the_end(monkeypatch):
    class Slow(Broken):
        def log(self, row):
            time.sleep(5)

    slow = mirrors.Mirrors([Slow(None)])
    started = time.monotonic()
    slow.log({"step": 1})
    assert time.monotonic() - started < 1
    mirrors._Worker.get().drain(timeout_s=0.2)
    assert time.monotonic() - started < 3
    mirrors._Worker._instance = None


class RaisingRun:
    """A W&B run of which one thing, or everything, raises."""

    def __init__(self, what):
        self.what, self.summary = what, self

    def _call(self, name):
        if self.what in (name, "all"):
            raise ConnectionError(name)

    def define_metric(self, *_, **__):
        self._call("define_metric")

    def log(self, *_):
        self._call("log")

    def update(self, *_):
        self._call("update")

    def finish(self):
        self._call("finish")


@pytest.fixture
def plain(command):
    run = command("fit.max_steps=8", "logger=none", folder="plain")
    return run.result["metrics"], [row["step"] for row in run.metrics.rows]


@pytest.mark.parametrize("what", ["absent", "init", "define_metric", "log", "update", "finish", "all"])
def test_a_wandb_that_fails_changes_neither_result_nor_record(command, monkeypatch, plain, what):
    import wandb

    def init(**_):
        if what == "init":
            raise RuntimeError("no server")
        return RaisingRun(what)

    monkeypatch.setattr(wandb, "init", init)
    if what == "absent":
        monkeypatch.setitem(sys.modules, "wandb", None)
    run = command("fit.max_steps=8", "logger=wandb")
    mirrors.drain()
    assert (run.result["metrics"], [row["step"] for row in run.metrics.rows]) == plain


def test_a_wandb_that_refuses_to_resume_changes_neither_result_nor_record(command, monkeypatch, plain):
    import wandb

    asked = []

    def init(**arguments):
        asked.append((arguments["id"], arguments["resume"]))
        if len(asked) > 1:
            raise wandb.errors.UsageError("this run cannot be resumed")
        return RaisingRun("nothing")

    monkeypatch.setattr(wandb, "init", init)
    save = Checkpoints.save
    with monkeypatch.context() as patch:

        def save_then_die(self, trainer):
            save(self, trainer)
            raise KeyboardInterrupt

        patch.setattr(Checkpoints, "save", save_then_die)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            command("fit.max_steps=8", "logger=wandb")
    run = command("fit.max_steps=8", "logger=wandb")
    mirrors.drain()
    assert asked == [(run.identity, "allow")] * 2  # the same W&B run is asked for
    assert run.result["cost"]["resumed_at_step"] == 4
    assert (run.result["metrics"], [row["step"] for row in run.metrics.rows]) == plain


def test_wandb_offline_keeps_a_run_of_the_same_identity(command):
    run = command("fit.max_steps=4", "logger=wandb")
    mirrors.drain()
    (offline,) = (run.path / "wandb").glob("offline-run-*")
    assert offline.name.endswith(run.identity)


def test_csv_and_tensorboard_by_one_word(command):
    run = command("fit.max_steps=4", "logger=csv")
    mirrors.drain()
    with (run.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [row["step"] for row in run.metrics.rows]
    run = command("fit.max_steps=4", "logger=tensorboard", folder="board")
    mirrors.drain()
    assert list((run.path / "tensorboard").glob("events*"))


GUIDED = ["method=guidance", "model@guide=convnet", "fit.max_steps=4"]


@pytest.fixture
def with_samples(monkeypatch):
    """Give every run a grid of samples, as a generator has."""
    from PIL import Image

    def pictures(folder):
        (folder / "samples").mkdir(exist_ok=True)
        for step in (1, 2):
            Image.new("RGB", (3, 2)).save(folder / "samples" / f"step-{step}.png")
        return pictures_in(folder)

    monkeypatch.setattr("tutelage.engine.fit.pictures_in", pictures)


def records_of(path):
    """Yield the records of a file of W&B's: blocks of 32 KiB, in these parts with a header each (checksum, length, kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, held = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        held += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(held)
            yield record
            held = b""


def test_wandb_offline_has_all_that_is_known_of_a_run(command, with_samples):
    run = command(*GUIDED, "logger=wandb")
    mirrors.drain()
    (path,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
    records = list(records_of(path))
    (begun,) = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    config = {one.key: json.loads(one.value_json) for one in begun.config.update}
    assert (begun.run_id, begun.run_group, list(begun.tags)[:2]) == (run.identity, "adhoc", ["Guidance", "Digits"])  # fmt: skip
    assert config["fit"]["max_steps"] == 4 and config["commit"] == run.attempts[-1]["code"]["commit"]
    pair = run_pairs(run)[0]
    assert config["layers"]["similarity/01"] == f"{pair['guide']} -> {pair['network']}"
    history, summary = {}, {}
    for one in records:
        for item in one.history.item:
            history.setdefault("/".join(item.nested_key) or item.key, []).append(json.loads(item.value_json))
        summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in one.summary.update}
    rows = run.metrics.rows
    assert history["train/loss"] == pytest.approx([row["train/loss"] for row in rows if "train/loss" in row])
    assert summary["test/accuracy"] == run.result["best"]["test"]["accuracy"]
    assert summary["best_step"] == run.result["best"]["step"]
    pictures = {picture.name.split("_")[0] for picture in path.parent.rglob("media/images/*.png")}
    assert pictures == {"alignment-pairs", "samples"}


def test_tensorboard_has_test_values_hyperparameters_layers_commit_and_pictures(command, with_samples):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = command(*GUIDED, "logger=tensorboard", folder="board")
    mirrors.drain()
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(run.result["best"]["test"]["accuracy"])
    recorded = [(row["step"], row["train/loss"]) for row in run.metrics.rows if "train/loss" in row]
    assert {one.step: one.value for one in events.Scalars("train/loss")} == pytest.approx(dict(recorded))
    assert "step" not in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["alignment-pairs", "samples"]
    assert events.Images("alignment-pairs")[0].width == 880
    text = {t: events.Tensors(t)[0].tensor_proto.string_val[0].decode() for t in events.Tags()["tensors"]}
    pair = run_pairs(run)[0]
    assert f"similarity/01 | {pair['guide']} -> {pair['network']}" in text["layers/text_summary"]
    assert run.attempts[-1]["code"]["commit"] in text["run/text_summary"]
    assert "fit.max_steps | 4 |" in text["settings/text_summary"] and "Guidance" in text["run/text_summary"]
    assert "_hparams_/experiment" in events.summary_metadata


def run_pairs(run):
    from tutelage.runs.records import read_json

    return read_json(run.path / "setup.json")["method"]["objectives"]["alignment"]["pairs"]


def test_mlflow_and_csv_at_once_and_a_resumed_run_is_the_same_there(command, monkeypatch, with_samples):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = [
        *GUIDED,
        "fit.validate_every_steps=2",
        "fit.checkpoint_every_s=0",
        "logger=mlflow",
        "logger.kind=[mlflow,csv]",
    ]
    save = Checkpoints.save

    def stop(self, trainer):
        save(self, trainer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            command(*words)
    run = command(*words)
    mirrors.drain()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run.path / run.config["runs_dir"] / ".mlflow").absolute().as_uri())
    experiment = client.get_experiment_by_name("tutelage")
    (there,) = client.search_runs([experiment.experiment_id])
    assert there.info.status == "FINISHED" and there.data.tags["tutelage.identity"] == run.identity
    assert there.data.metrics["test/accuracy"] == run.result["best"]["test"]["accuracy"]
    assert there.data.params["fit.max_steps"] == "4" and "layers.similarity.01" in there.data.tags
    history = client.get_metric_history(there.info.run_id, "validation/accuracy")
    assert {2, 4} <= {point.step for point in history}
    tags = there.data.tags
    assert (
        tags["Guidance"] == "true" and tags["mlflow.source.git.commit"] == run.attempts[-1]["code"]["commit"]
    )
    pictures = {one.path for one in client.list_artifacts(there.info.run_id, "pictures")}
    assert pictures == {"pictures/alignment-pairs.png", "pictures/step-2.png"}
    assert (run.path / "metrics.csv").is_file()


def test_csv_after_a_resume_holds_the_rows_before_it_too(command, monkeypatch):
    words = ["fit.max_steps=6", "fit.validate_every_steps=2", "fit.checkpoint_every_s=0", "logger=csv"]
    save = Checkpoints.save

    def stop(self, trainer):
        save(self, trainer)
        if trainer.lightning_module.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        command(*words)
    monkeypatch.setattr(Checkpoints, "save", save)
    run = command(*words)
    mirrors.drain()
    with (run.path / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [row["step"] for row in run.metrics.rows] and min(steps) <= 2
