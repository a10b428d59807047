"""A run from its configuration to its result, with parts that are made up: what is asked of each part, in which order, and when."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch import nn

from expected import refused
from tutelage.engine import fit, outcome


class Course:
    """All that `_fit` is made of, each part noting that it was asked."""

    def __init__(
        self,
        monkeypatch,
        tmp_path,
        *,
        resumed=False,
        first=True,
        patience=None,
        steps=8,
        reads=None,
        keep=False,
    ):
        self.events: list[Any] = []
        note = self.events.append
        self.data = SimpleNamespace(
            summary=lambda: {"name": "set"}, splits={"train": np.arange(5), "test": np.arange(2)},
            teardown=lambda: note("torn down"),
        )  # fmt: skip
        method = SimpleNamespace(describe=lambda: {"kind": "m"}, release=lambda: note("released"))
        self.built = SimpleNamespace(data=self.data, method=method, heads={"model": "head"})
        strategy = SimpleNamespace(barrier=lambda name: note(f"barrier {name}"))
        self.trainer = SimpleNamespace(callbacks=[], is_global_zero=first, strategy=strategy)
        writer = SimpleNamespace(
            truncate_after=lambda step: note(f"rows up to {step}"), close=lambda: note("closed")
        )
        self.recording = SimpleNamespace(writer=writer if first else None)
        self.checkpoints = SimpleNamespace(monitor="accuracy", mode="max", last={"step": steps})
        self.mirrors = SimpleNamespace(
            finish=lambda summary, pictures: note(("mirrors", summary, pictures()))
        )
        self.run = SimpleNamespace(
            path=tmp_path, complete=lambda result: note("complete"), drop_checkpoints=lambda: note("dropped")
        )
        checkpoint = (tmp_path / "last.ckpt", 3) if resumed else None
        self.settings = SimpleNamespace(patience=patience, keep_checkpoints=keep)
        self.trained: dict[str, Any] = {}
        for name, part in {
            "quiet_lightning": lambda: None,
            "check_machine": lambda hardware: note("machine"),
            "reads_of": lambda config: reads or {},
            "build": lambda config: self.built,
            "plan_steps": lambda settings, built: (8, 4),
            "latest_checkpoint": lambda run: checkpoint,
            "assemble": lambda config, run, built, steps: (
                self.trainer, self.recording, self.checkpoints, self.mirrors,
            ),
            "EndEarly": lambda patience, every, checkpoints: f"early {patience} x {every}",
            "train": lambda trainer, built, **words: self.trained.update(words),
            "evaluate_and_save": lambda *_: {"best": {"step": 4, "test": {"m": 0.5}}},
            "networks": lambda built: "their sizes",
            "cost": lambda trainer, recording, built, steps, first, started: {"steps": steps, "from": first},
            "pictures_in": lambda folder: f"pictures of {folder.name}",
        }.items():  # fmt: skip
            monkeypatch.setattr(fit, name, part)

    def go(self):
        hardware = SimpleNamespace(matmul_precision="highest")
        return fit._fit({"x": 1}, self.run, self.settings, hardware)


def test_a_run_in_its_order(monkeypatch, tmp_path):
    course = Course(monkeypatch, tmp_path)
    expected = {
        "best": {"step": 4, "test": {"m": 0.5}}, "networks": "their sizes", "cost": {"steps": 8, "from": 0},
    }  # fmt: skip
    assert course.go() == expected
    summary = {"test/m": 0.5, "best_step": 4, "cost/steps": 8, "cost/from": 0}
    assert course.events == [
        "machine", "rows up to 0", "complete", "dropped", "barrier result", "closed",
        ("mirrors", summary, f"pictures of {tmp_path.name}"), "released", "torn down",
    ]  # fmt: skip
    assert course.trainer.callbacks == []
    assert course.trained == {
        "every": 4, "max_steps": 8, "checkpoint": None, "config": {"x": 1}, "early": None,
    }  # fmt: skip
    assert json.loads((tmp_path / "setup.json").read_text()) == {
        "data": {"name": "set"}, "method": {"kind": "m"}, "heads": {"model": "head"}, "steps": 8,
        "selection": {"monitor": "accuracy", "mode": "max", "split": "validation"},
    }  # fmt: skip
    with np.load(tmp_path / "splits.npz") as splits:
        assert splits["train"].tolist() == [0, 1, 2, 3, 4] and splits["test"].tolist() == [0, 1]


@pytest.mark.parametrize(("optimizer", "said"), [
    ({"schedule": "plateau", "patience": 2}, True), ({"schedule": "plateau"}, True), ({"schedule": "plateau", "patience": 1}, False),
    ({"schedule": "cosine", "patience": 2}, False),
])  # fmt: skip
def test_a_rate_that_has_too_few_validations_to_fall_is_said(monkeypatch, tmp_path, caplog, optimizer, said):
    course = Course(monkeypatch, tmp_path)
    fit._fit(
        {"optimizer": optimizer}, course.run, course.settings, SimpleNamespace(matmul_precision="highest")
    )
    assert (
        caplog.messages
        == [
            "optimizer.schedule=plateau never lowers the rate of this training, which has 2 validations: lower optimizer.patience, or "
            "validate more often"
        ]
        * said
    )


def test_a_run_that_is_resumed_ends_early_and_keeps_its_states(monkeypatch, tmp_path):
    reads = {"other": "digest"}
    course = Course(monkeypatch, tmp_path, resumed=True, patience=2, steps=7, reads=reads, keep=True)
    result = course.go()
    assert result["cost"] == {"steps": 7, "from": 3} and result["reads"] == reads
    assert result["ended_early"] == {"step": 7, "of": 8, "patience": 2}
    assert "rows up to 3" in course.events and "dropped" not in course.events
    assert course.trainer.callbacks == ["early 2 x 4"] == [course.trained["early"]]
    assert course.trained["checkpoint"] == tmp_path / "last.ckpt"
    assert json.loads((tmp_path / "setup.json").read_text())["reads"] == reads


def test_ranks_but_the_first_write_nothing_of_a_run(monkeypatch, tmp_path):
    course = Course(monkeypatch, tmp_path, first=False)
    assert course.go()["networks"] == "their sizes" and list(tmp_path.iterdir()) == []
    assert [one for one in course.events if isinstance(one, str)] == [
        "machine", "barrier result", "released", "torn down",
    ]  # fmt: skip


def test_what_a_failed_run_had_opened_is_closed(monkeypatch, tmp_path):
    course = Course(monkeypatch, tmp_path)
    monkeypatch.setattr(fit, "train", lambda *_, **words: (_ for _ in ()).throw(KeyboardInterrupt("now")))
    with pytest.raises(KeyboardInterrupt, match="now"):
        course.go()
    mirrors = ("mirrors", {}, f"pictures of {tmp_path.name}")
    assert course.events[-4:] == ["closed", mirrors, "released", "torn down"]
    assert "complete" not in course.events


def trained(monkeypatch, *, raised=None, step=8, early=None, compiled=False, checkpoint=None):
    """Train with a trainer that is made up; return what it was given."""
    seen: dict[str, Any] = {}

    def fit_(method, intervals, batches, **words):
        seen.update(words, batches=batches, intervals=intervals)
        if raised is not None:
            raise raised

    compiles: list[str] = []
    trainer = SimpleNamespace(
        fit=fit_, world_size=2, global_rank=1, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    method = SimpleNamespace(
        step=step, accumulate=3, network=SimpleNamespace(compile=lambda: compiles.append("network"))
    )
    data = SimpleNamespace(
        train_stream=lambda **words: ("train", words), batches=lambda split, **words: (split, words)
    )
    monkeypatch.setattr(fit, "check_ranks", lambda trainer: None)
    monkeypatch.setattr(fit, "check_samples", lambda data, ranks, method: seen.update(ranks=ranks))
    monkeypatch.setattr(fit, "interrupts_first", nullcontext)
    monkeypatch.setattr(fit, "ValidationIntervals", lambda stream, step, **words: (stream, step(), words))
    monkeypatch.setattr(torch.compiler, "reset", lambda: compiles.append("reset"))
    built = SimpleNamespace(method=method, data=data)
    config = {"seed": 9, "hardware": {"compile": compiled}}
    try:
        fit.train(trainer, built, every=4, max_steps=8, checkpoint=checkpoint, config=config, early=early)
    finally:
        seen["compiled"] = compiles
    return seen


def test_what_a_trainer_is_given(monkeypatch):
    share = {"rank": 1, "world_size": 2, "device": torch.device("cpu")}
    found = trained(monkeypatch)
    assert found.pop("intervals") == (
        ("train", {"seed": 9, **share}), 8, {"every": 4, "max_steps": 8, "accumulate": 3},
    )  # fmt: skip
    assert found == {
        "ranks": 2, "batches": ("validation", share), "ckpt_path": None, "weights_only": True, "compiled": [],
    }  # fmt: skip
    found = trained(monkeypatch, compiled=True, checkpoint=Path("a/last.ckpt"))
    assert (found["ckpt_path"], found["compiled"]) == ("a/last.ckpt", ["reset", "network"])


@pytest.mark.parametrize(
    ("step", "early", "stopped"),
    [
        (8, None, False),
        (9, None, False),
        (7, None, True),
        (7, True, False),
        (7, False, True),
        (8, False, False),
    ],
)
def test_a_training_that_was_left_is_an_interrupt_unless_its_patience_ran_out(
    monkeypatch, step, early, stopped
):
    over = None if early is None else SimpleNamespace(over=early)
    if stopped:
        with pytest.raises(KeyboardInterrupt, match=r"^stopped at step 7 of 8$"):
            trained(monkeypatch, step=step, early=over)
    else:
        trained(monkeypatch, step=step, early=over)


def test_what_lightning_raises_of_a_users_mistake_is_one_message(monkeypatch):
    wrong = pl.utilities.exceptions.MisconfigurationException("no such pair")
    said = "Lightning cannot run this combination of method and settings: no such pair"
    assert refused(trained, monkeypatch, raised=wrong) == said
    unused = RuntimeError("parameters that were not used in producing the loss")
    assert refused(trained, monkeypatch, raised=unused, step=5).startswith(
        "at step 5 some trained parameters had no gradient, which DDP does not expect as it is configured: where"
    )
    with pytest.raises(RuntimeError, match=r"^another$"):
        trained(monkeypatch, raised=RuntimeError("another"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_callbacks_of_a_run(monkeypatch, tmp_path, rank, by_hand):
    made: dict[str, Any] = {}
    told: list[Any] = []

    def make_trainer(config, folder, callbacks, max_steps, **words):
        made.update(words, callbacks=callbacks, folder=folder, max_steps=max_steps)
        return "trainer"

    monkeypatch.setattr(fit, "_rank", lambda: rank)
    monkeypatch.setattr(fit, "make_trainer", make_trainer)
    monkeypatch.setattr(fit, "about", lambda *words: told.append(words) or "facts")
    monkeypatch.setattr(fit, "open_mirrors", lambda logger, folder, config, facts: f"mirrors of {facts}")
    monkeypatch.setattr(fit, "read", lambda kind, node, key: node)
    given = SimpleNamespace(
        accumulate=4, log_every_steps=5, checkpoint_every_s=60.0, protocol="best_on_test", keep_checkpoints=True,
        stop_below=[[3, 0.5]], watch_layers=False,
    )  # fmt: skip
    monkeypatch.setattr(fit, "LayerWatch", lambda *words: words)
    method = SimpleNamespace(
        automatic_optimization=not by_hand, all_parameters_get_gradients=by_hand, describe=lambda: "described"
    )
    task = SimpleNamespace(monitor="loss", mode="min")
    built = SimpleNamespace(method=method, data=SimpleNamespace(task=task, steps_per_epoch=10))
    run = SimpleNamespace(path=tmp_path / "0123", attempts=[], writer=lambda: "writer")
    config = {"fit": given, "logger": {}, "name": "n", "seed": 2, "hardware": {"threads": 3}}
    trainer, recording, checkpoints, mirrors = fit.assemble(config, run, built, 70)
    assert trainer == "trainer" and made["max_steps"] == 70 and made["folder"] == tmp_path / "0123"
    assert (made["by_hand"], made["all_parameters_get_gradients"]) == (by_hand, by_hand)
    assert [type(one).__name__ for one in made["callbacks"]] == [
        "Recording", "Checkpoints", "Progress", "StopBelow",
    ]  # fmt: skip
    assert (recording.steps_per_epoch, recording.log_every, recording.threads) == (2.5, 5, 3)
    assert (
        recording.watch is None
        and recording._batches == 20
        and recording.writer == (None if rank else "writer")
    )
    assert (checkpoints.monitor, checkpoints.mode, checkpoints.every_s) == ("loss", "min", 60.0)
    assert checkpoints.folder == tmp_path / "0123/checkpoints" and checkpoints.keep_last
    assert checkpoints.keep_all and made["callbacks"][2].title == "n seed 2"
    if rank:
        assert told == [] and mirrors._live == []
        return
    assert mirrors == "mirrors of facts" and told == [(config, "0123", {}, "described")]
    run.attempts = [{"code": {"commit": "old"}}, {"code": {"commit": "new"}}]
    given.protocol, given.stop_below, given.keep_checkpoints, given.watch_layers = "", [], False, True
    _, recording, checkpoints, _ = fit.assemble(config, run, built, 70)
    assert recording.watch == (method, built.data, 2)
    assert told[1][2] == {"commit": "new"} and len(made["callbacks"]) == 3
    assert not checkpoints.keep_all and not checkpoints.keep_last
    run.attempts = [{"code": None}]
    fit.assemble(config, run, built, 70)
    assert told[2][2] == {}


@pytest.mark.parametrize(("best", "first", "keep_all", "arrays"), [
    (6, True, False, {}), (4, True, False, {"a": 1}), (4, False, True, {}),
])  # fmt: skip
def test_the_selected_weights_are_tested_and_stored(monkeypatch, tmp_path, best, first, keep_all, arrays):
    events: list[Any] = []
    state = {"network.w": torch.arange(3.0), "metric.x": torch.zeros(1)}
    tested = iter([{"m": 0.25}, {"m": 0.75}])
    method = SimpleNamespace(
        network=nn.Linear(1, 1), load_state_dict=lambda given: events.append("best loaded"),
        metrics_of={"test": SimpleNamespace(arrays=lambda: arrays)},
    )  # fmt: skip
    task = SimpleNamespace(directions=lambda: {"m": "max"}, class_names=["x", "y"])
    data = SimpleNamespace(
        open_test=lambda: events.append("opened"), batches=lambda split, **words: (split, words), task=task,
        normalization=([0.5], [0.25]),
    )  # fmt: skip
    checkpoints = SimpleNamespace(
        last={"step": 6, "validation": {"m": 0.5}}, best={"step": best, "validation": {"m": 0.625}},
        load_best=lambda: state, monitor="m", mode="max", keep_all=keep_all,
    )  # fmt: skip
    device = torch.device("cpu")
    trainer = SimpleNamespace(
        global_rank=1, world_size=2, is_global_zero=first, strategy=SimpleNamespace(root_device=device)
    )
    batches = ("test", {"rank": 1, "world_size": 2, "device": device})
    monkeypatch.setattr(outcome, "_test", lambda trainer, method, given: given == batches and next(tested))
    monkeypatch.setattr(outcome, "_best_on_test", lambda *_: "of all")
    built = SimpleNamespace(method=method, data=data)
    found = outcome.evaluate_and_save(trainer, built, checkpoints, SimpleNamespace(path=tmp_path))
    selected = {"m": 0.25} if best == 6 else {"m": 0.75}
    assert events == ["opened"] + ["best loaded"] * (best == 4)
    assert found.pop("last") == {"step": 6, "validation": {"m": 0.5}, "test": {"m": 0.25}}
    assert found.pop("best") == {"step": best, "validation": {"m": 0.625}, "test": selected}
    assert found.pop("metrics") == {"validation": {"m": 0.625}, "test": selected}
    assert found.pop("selection") == {
        "monitor": "m", "mode": "max", "split": "validation", "directions": {"m": "max"},
    }  # fmt: skip
    expected = {"arrays": {"test": arrays, "classes": ["x", "y"]}} if arrays else {}
    assert found == expected | ({"best_on_test": "of all"} if keep_all else {})
    file = tmp_path / "network.safetensors"
    assert file.is_file() is first
    if first:
        assert {name: value.tolist() for name, value in load_file(file).items()} == {"w": [0.0, 1.0, 2.0]}
        assert b'"normalization":"[[0.5], [0.25]]"' in file.read_bytes()


def test_lightning_writes_on_no_screen_and_asks_packages_once(monkeypatch):
    import logging
    from io import StringIO

    from tutelage.engine import trainer

    asked: list[str] = []
    monkeypatch.setattr(trainer.registry, "entry_points", lambda group: asked.append(group) or group)
    logger = logging.getLogger("lightning_fabric")
    before = list(logger.handlers)

    class Kept(logging.StreamHandler):
        pass

    kept, gone = Kept(StringIO()), logging.StreamHandler(StringIO())
    try:
        logger.handlers = [kept, gone]
        for _ in range(2):
            trainer.quiet_lightning()
            assert logger.handlers == [kept] and logger.level == logging.WARNING
            assert trainer.registry.entry_points("a") == "a" and asked == ["a"]
    finally:
        logger.handlers = before


@pytest.mark.parametrize(("rank", "found"), [(3, 3), (0, 0), (None, 0)])
def test_the_rank_that_lightning_knows(monkeypatch, rank, found):
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", rank)
    assert fit._rank() == found
