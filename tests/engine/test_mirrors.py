"""Mirrors copy the record and can never change or stop a run."""

from __future__ import annotations

import csv
import time

import pytest

from tutelage.engine import mirrors


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

    def finish(self, summary):
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


def test_a_raising_wandb_changes_neither_result_nor_record(command, monkeypatch):
    import wandb

    plain = command("fit.max_steps=4", folder="plain")
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(RuntimeError("no server")))
    mirrored = command("fit.max_steps=4", "logger=wandb", folder="mirrored")
    mirrors.drain()
    assert mirrored.result["metrics"] == plain.result["metrics"]
    assert [r["step"] for r in mirrored.metrics.rows] == [r["step"] for r in plain.metrics.rows]


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
