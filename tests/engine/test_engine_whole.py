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

from tutelage.engine import build, export, fit, inherited, mirror_kinds, outcome, pseudo_data
from tutelage.errors import UserError


def refused(function, *words, **more):
    with pytest.raises(UserError) as error:
        function(*words, **more)
    return str(error.value)


# --- fit


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
        stop_below=[[3, 0.5]],
    )  # fmt: skip
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
    assert recording._batches == 20 and recording.writer == (None if rank else "writer")
    assert (checkpoints.monitor, checkpoints.mode, checkpoints.every_s) == ("loss", "min", 60.0)
    assert checkpoints.folder == tmp_path / "0123/checkpoints" and checkpoints.keep_last
    assert checkpoints.keep_all and made["callbacks"][2].title == "n seed 2"
    if rank:
        assert told == [] and mirrors._live == []
        return
    assert mirrors == "mirrors of facts" and told == [(config, "0123", {}, "described")]
    run.attempts = [{"code": {"commit": "old"}}, {"code": {"commit": "new"}}]
    given.protocol, given.stop_below, given.keep_checkpoints = "", [], False
    _, _, checkpoints, _ = fit.assemble(config, run, built, 70)
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


# --- build


class Frozen:
    """A frozen network with so many norms to fold."""

    def __init__(self, count: int) -> None:
        self.count = count

    def fold_norms(self, inputs, mask):
        return self.count if (inputs, mask) == ("inputs", "mask") else None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "there is none"),
        ({"guide": 0, "other": 0}, "of these, guide, other, none has some"),
        ({"guide": 0, "other": 2}, ["guide: 0 batch norms", "frozen.other: 2 batch norms"]),
    ],
)
def test_norms_that_are_folded_are_counted(caplog, counts, said):
    caplog.set_level("INFO", "tutelage")
    networks: Any = {name: Frozen(count) for name, count in counts.items()}
    example: Any = SimpleNamespace(inputs="inputs", mask="mask")
    if isinstance(said, str):
        assert refused(build._fold_norms, networks, example) == (
            "hardware.fold_norms folds batch norms into the convolutions before them, of frozen networks that are read by their "
            f"outputs alone: {said}; say hardware.fold_norms=false"
        )
    else:
        build._fold_norms(networks, example)
        assert caplog.messages == [f"{one} are folded into convolutions" for one in said]


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "there"),
    [
        ("cpu", True, True, False),
        ("auto", True, False, True),
        ("gpu", False, True, True),
        ("auto", False, False, False),
    ],
)
def test_whether_a_run_is_on_an_accelerator(monkeypatch, name, cuda, mps, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert build._on_accelerator(name) is there


@pytest.mark.parametrize(("data", "objective", "warned"), [
    ({}, {}, True), ({"augment": {"flip": 1}}, {}, False), ({"mixer": 1}, {}, False), ({}, {"weight": 0.0}, False),
    ({}, {"weak": {}}, False),
    (None, {}, False), ({}, None, False),
])  # fmt: skip
def test_labelled_images_that_are_seen_as_they_are_beside_augmented_ones(
    monkeypatch, caplog, data, objective, warned
):
    class Images:
        def __init__(self, **given):
            self.__dict__.update({"augment": None, "mixer": None} | given)

    class Same(Images):
        def __init__(self, **given):
            super().__init__(**{"weight": 1.0, "weak": {"flip": {}, "crop": {}}} | given)

    monkeypatch.setattr(build, "ImageData", Images)
    monkeypatch.setattr(build, "Consistency", Same)
    given: Any = SimpleNamespace(augment=None, mixer=None) if data is None else Images(**data)
    objectives: Any = {
        "plain": Images(),
        "same": Images(weight=1.0, weak={}) if objective is None else Same(**objective),
    }
    build._warn_of_plain_labelled(given, objectives)
    assert [one.split(":")[0] for one in caplog.messages] == [
        "labelled images are seen as they are, unlabelled ones through method.objectives.same.weak (flip, crop)"
    ] * warned
    assert not warned or caplog.messages[0].endswith("such as +data.augment.flip={}")


# --- inherit


@pytest.mark.parametrize(("kind", "suffix", "metadata", "published", "expected", "noted"), [
    ("scratch", "", None, ([0.5], [1.0]), None, False), ("pretrained", "", None, ([0.5], [1.0]), ([0.5], [1.0]), False),
    ("path", ".pt", None, ([0.5], [1.0]), ([0.5], [1.0]), True), ("path", ".pt", None, None, None, False),
    ("path", ".safetensors", {"normalization": "[[0.25], [2.0]]"}, ([0.5], [1.0]), ([0.25], [2.0]), False),
    ("path", ".safetensors", {"normalization": "null"}, ([0.5], [1.0]), ([0.0], [1.0]), False),
    ("path", ".safetensors", {"other": "x"}, ([0.5], [1.0]), ([0.5], [1.0]), True),
    ("path", ".safetensors", None, None, None, False),
])  # fmt: skip
def test_the_inputs_that_weights_were_trained_with(
    tmp_path, caplog, kind, suffix, metadata, published, expected, noted
):
    from safetensors.torch import save_file

    caplog.set_level("INFO", "tutelage")
    file = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file({"w": torch.zeros(1)}, file, metadata=metadata)
    weights: Any = SimpleNamespace(kind=kind, where="guide", said="given", path=lambda: file)
    network: Any = SimpleNamespace(pretrained_normalization=published)
    found = inherited.expected_normalization(weights, network, given=([0.0], [1.0]))
    assert (found and [list(part) for part in found]) == (expected and [list(part) for part in expected])
    said = (
        "guide.weights=given does not say which inputs it was trained with: taken to be those of the published weights, "
        "mean [0.5], std [1.0]"
    )
    assert caplog.messages == [said] * noted


# --- export and pseudo data


@pytest.mark.parametrize(("masked", "heeds"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_network_is_measured_with_its_mask_where_it_heeds_one(monkeypatch, masked, heeds):
    written: list[Any] = []
    mask = torch.ones(2, 3) if masked else None
    served = SimpleNamespace(_call=SimpleNamespace(takes_mask=heeds), raw=lambda inputs: inputs + 1)
    served.eval = lambda: served
    monkeypatch.setattr(export, "in_floats", lambda network: f"{network} in floats")
    monkeypatch.setattr(
        export, "Served", lambda network, normalization: written.append((network, normalization)) or served
    )
    batch = SimpleNamespace(inputs=torch.zeros(2, 3), mask=mask)
    monkeypatch.setattr(export, "example_of", lambda data, count: batch if count == 64 else None)
    monkeypatch.setattr(export, "_onnx", lambda *words: written.append(words))
    data: Any = SimpleNamespace(normalization="n")
    assert export.onnx_of("network", data, "file") == (served, masked and heeds)
    first, (given, inputs, given_mask, file) = written
    assert first == ("network in floats", "n") and given is served and file == "file"
    assert torch.equal(inputs, torch.ones(2, 3)) and given_mask is (mask if heeds else None)


@pytest.mark.parametrize(
    ("kind", "quantised", "of", "copied"),
    [
        ("safetensors", "none", export.HUGGING_FACE, True),
        ("onnx", "none", export.HUGGING_FACE, False),
        ("safetensors", "none", "a.Own", False),
        ("onnx", "dynamic", "a.Own", False),
    ],
)
@pytest.mark.parametrize("masks", [(True, True), (True, False), (False, True)])
def test_the_facts_of_an_export(monkeypatch, tmp_path, kind, quantised, of, copied, masks):
    masked, heeds = masks
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / export.ARCHITECTURE).write_text("architecture")
    network = nn.Linear(3, 2)
    model = {"_target_": of, "name": "their/model"}
    data = SimpleNamespace(normalization=((0.5,), (0.25,)), input_shape=torch.Size((2, 3)))
    mask = torch.ones(2, 3) if masked else None
    monkeypatch.setattr(
        export, "example_of", lambda data, count: SimpleNamespace(inputs=torch.zeros(4, 2, 3), mask=mask)
    )
    monkeypatch.setattr(
        export.Served, "__init__", lambda self, network, normalization: nn.Module.__init__(self)
    )
    monkeypatch.setattr(export.Served, "raw", lambda self, inputs: inputs)
    monkeypatch.setattr(export.Served, "_call", SimpleNamespace(takes_mask=heeds), raising=False)
    monkeypatch.setattr(export, "answer_of", lambda data: {"names": ["a"]})
    monkeypatch.setattr(export, "encoding_of", lambda data: "encoded")
    monkeypatch.setattr(export, "sizes_of", lambda data: {"tables": 1, "output_size": 2, "class_names": 3})
    monkeypatch.setattr(export, "keep", lambda data, folder: None)
    monkeypatch.setattr(
        export,
        "model_folder",
        lambda name, revision: tmp_path / "theirs" if (name, revision) == ("their/model", None) else None,
    )
    written: list[Any] = []
    monkeypatch.setitem(
        export._WRITERS, kind, lambda served, inputs, mask, file: written.append((mask, file))
    )
    monkeypatch.setattr(export, "_verify", lambda *_: (0.125, 4))
    monkeypatch.setattr(export, "quantise", lambda how, file, served, data, masked: (how, file.name, masked))
    loaded: Any = SimpleNamespace(network=network, data=data, config={"model": model, "seed": 6})
    folder = tmp_path / "out"
    facts = export.export(loaded, folder, kind, key="a/1", normalise=quantised == "none", quantised=quantised)
    assert written == [(mask if heeds else None, folder / export.FILES[kind])]
    assert json.loads((folder / "export.json").read_text()) == json.loads(json.dumps(facts))
    assert (folder / export.ARCHITECTURE).is_file() is copied
    expected = {
        "format": kind, "run": "a/1", "input_shape": [2, 3], "inputs": "float32", "masked": masked and heeds,
        "normalise": quantised == "none", "normalization": [[0.5], [0.25]], "answer": {"names": ["a"]}, "encoding": "encoded",
        "largest_difference": 0.125, "compared": 4,
    }  # fmt: skip
    if kind == "safetensors":
        expected["config"] = {"model": model, "seed": 6, "hardware": {"accelerator": "cpu"}}
        expected["sizes"] = {"output_size": 2, "class_names": ["a"], "input_shape": [2, 3]}
    if quantised != "none":
        expected["quantised"] = (quantised, "network.onnx", masked and heeds)
    assert facts == expected
    monkeypatch.setattr(export, "_verify", lambda *_: (_ for _ in ()).throw(UserError("apart")))
    assert refused(export.export, loaded, tmp_path / "again", kind, key="a/1") == "apart"
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(("rank", "ranks", "conditions", "recorded", "brings"), [
    (0, 1, False, True, False), (0, 1, False, False, True), (0, 1, False, False, False), (0, 1, True, True, True),
    (0, 2, True, False, False),
    (1, 2, False, True, True),
])  # fmt: skip
def test_a_run_that_makes_a_set(monkeypatch, tmp_path, rank, ranks, conditions, recorded, brings):
    events: list[Any] = []
    made = {
        "labelling": "uniform", "count": 3, "classes": 2, "image_shape": [1, 2, 2], "generator": "g", "content_sha256": "c",
        "more": 1,
    }  # fmt: skip
    data = SimpleNamespace(summary=lambda: "its record", teardown=lambda: events.append("torn down"))
    source = SimpleNamespace(digest=lambda: "digest")
    source.to = lambda device: source
    opens = conditions or not (recorded or brings)
    asked: dict[str, Any] = {}
    for name, part in {
        "reads_of": lambda config: {"generator": "x"},
        "join_environment": lambda: (rank, ranks),
        "_device": lambda accelerator: torch.device("cpu"),
        "check_labelling": lambda labelling: labelling,
        "check_frozen": lambda config, own: events.append(own),
        "recorded_sizes": lambda where, config: {"output_size": 9} if recorded else {},
        "brings_sizes": lambda node: brings,
        "build_data": lambda config: data,
        "sizes_of": lambda given: "sizes of its data",
        "build_generator": lambda config, sizes: asked.update(sizes=sizes) or nn.Identity(),
        "build_frozen": lambda where, config, data: source,
        "construct": lambda where, node, **context: asked.update(context) or dict(made),
        "_targets": lambda data, device: "targets",
        "_origin": lambda config: "origin",
        "recorded_data": lambda where, config: {"classes": ["a", "b"]} if recorded else {},
        "_recognised": lambda *_: {"source_accuracy": 0.5},
        "write_grid": lambda images, labels, path, classes: events.append((images.max().item(), labels.tolist(), path.name, classes)),
    }.items():  # fmt: skip
        monkeypatch.setattr(pseudo_data, name, part)
    found = SimpleNamespace(images=torch.full((70, 1, 2, 2), 255), labels=torch.zeros(70))
    monkeypatch.setattr(pseudo_data.pseudo, "read", lambda folder: found)
    monkeypatch.setattr(pseudo_data.shards, "finish", lambda folder: dict(made, finished=folder.name))
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *words, name=name: events.append(name))
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(pseudo_data, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    results: list[Any] = []
    run: Any = SimpleNamespace(path=tmp_path, complete=results.append, result="result" if rank == 0 else None)
    config = {
        "hardware": {"accelerator": "cpu"}, "method": {"labelling": "source" if conditions else "uniform"}, "model": {}, "seed": 4,
    }  # fmt: skip
    assert pseudo_data._make(config, run) == ("result" if rank == 0 else {})
    assert asked["sizes"] == ({"output_size": 9} if recorded else "sizes of its data" if opens else {})
    assert (asked["rank"], asked["world_size"], asked["seed"], asked["origin"]) == (rank, ranks, 4, "origin")
    assert asked["classifier"] is (source if conditions else None)
    assert asked["targets"] == ("targets" if conditions else None)
    assert asked["folder"] == str(tmp_path / "shards")
    together = ["init_process_group", "barrier"], ["barrier", "destroy_process_group"]
    shown = [0.0] * pseudo_data.GRID_IMAGES
    grid = [(1.0, shown, "samples.png", ["a", "b"] if recorded else None)]
    expected = [["source"] if conditions else [], *(together[0] if ranks > 1 else [])]
    expected += grid if rank == 0 else []
    assert events == [*expected, *(together[1] if ranks > 1 else []), *(["torn down"] if opens else [])]
    if rank:
        assert results == [] and not (tmp_path / "setup.json").exists()
        return
    (result,) = results
    facts = {key: value for key, value in made.items() if key != "more"}
    assert result["metrics"] == ({"validation": {"source_accuracy": 0.5}} if conditions else {})
    assert result["pseudo"] == facts and result["cost"] == {"total_s": 2.5, "ranks": ranks}
    assert result["reads"] == {"generator": "x"} | ({} if opens else {"data": None})
    record = json.loads((tmp_path / "setup.json").read_text())
    assert record.pop("data", None) == ("its record" if conditions else None)
    assert record == {
        "pseudo": facts,
        "source_digest": "digest" if conditions else None,
        "reads": result["reads"],
    }


def test_ranks_meet_before_the_first_finishes_a_set(monkeypatch):
    events: list[Any] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", events.append)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: events.append("barrier"))
    manifest: Any = {"count": 3}
    monkeypatch.setattr(pseudo_data.shards, "finish", lambda folder: events.append(folder) or manifest)
    assert pseudo_data._gathered(Path("f"), 0) == {"count": 3} and events == ["gloo", "barrier", Path("f")]
    assert pseudo_data._gathered(Path("f"), 1) == {} and len(events) == 5
    manifest = None
    assert pseudo_data._gathered(Path("f"), 0) == {}


# --- mirrors


def test_what_mirrors_are_told_of_a_run(monkeypatch):
    config = {
        "name": "demo/a", "seed": 3, "method": {"_target_": "t.Guidance"}, "data": {"_target_": "d.Digits", "size": 8}, "guide": None,
        "model": {"_target_": "m.FCN"}, "teacher": {"_target_": "n.FCN"},
    }  # fmt: skip
    pairs = [{"guide": "a", "network": "b"}, "x", {"guide": "c"}, {"guide": "e", "network": "f", "more": 1}]
    described = {"objectives": {"alignment": {"pairs": pairs}, "hint": {"pairs": pairs[:1]}, "task": {}}}
    found = mirror_kinds.about(config, "0123", {"commit": "c"}, described)
    assert (found.name, found.group, found.identity, found.seed) == ("demo/a/seed3", "demo/a", "0123", 3)
    assert found.tags == ("Guidance", "Digits", "FCN") and found.commit == "c"
    assert found.layers == {
        "similarity/01": "a -> b", "similarity/04": "e -> f", "similarity/hint/01": "a -> b",
    }  # fmt: skip
    assert found.settings["data.size"] == 8
    plain = mirror_kinds.about(config, "0123", {"commit": None}, {"objectives": None})
    assert (plain.commit, plain.layers) == ("unknown", {})
    for said, mode in ((None, "offline"), ("online", "online")):
        monkeypatch.delenv("WANDB_MODE", raising=False)
        if said:
            monkeypatch.setenv("WANDB_MODE", said)
        mirror = mirror_kinds.WandbMirror(Path("r"), {"a": 1}, found, project="p", mode="offline")
        assert mirror.arguments == {
            "dir": "r", "project": "p", "mode": mode, "name": "demo/a/seed3", "group": "demo/a", "id": "0123", "resume": "allow",
            "config": {"a": 1, "commit": "c", "identity": "0123", "layers": found.layers}, "tags": list(found.tags),
            "reinit": "create_new",
        }  # fmt: skip


def test_where_mlflow_keeps_a_run(monkeypatch, tmp_path):
    about: Any = SimpleNamespace()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert mirror_kinds.MlflowMirror(Path("r"), about, project="p").where == f"file://{tmp_path}/r/.mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert mirror_kinds.MlflowMirror(Path("r"), about, project="p").where == "http://there"


@pytest.mark.parametrize("ended", [True, False])
def test_tensorboard_is_told_numbers_and_words_of_the_settings(monkeypatch, tmp_path, ended):
    events: list[Any] = []
    facts: Any = SimpleNamespace(
        name="n", identity="i", commit="c", tags=("A", "B"), layers={} if ended else {"similarity/01": "a -> b"},
        settings={"lr": 0.5, "deep": True, "list": [1, 2]},
    )  # fmt: skip

    class Writer:
        def __init__(self, folder):
            events.append(folder)
            self.file_writer = SimpleNamespace(add_summary=lambda part: None)

        def add_text(self, title, text):
            events.append((title, text))

        def add_scalar(self, *words):
            events.append(words)

        def add_image(self, name, pixels, dataformats):
            events.append((name, pixels.shape, dataformats))

        def close(self):
            events.append("closed")

    given: list[Any] = []
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", Writer)
    monkeypatch.setattr("torch.utils.tensorboard.summary.hparams", lambda *words: given.append(words) or [])
    mirror = mirror_kinds.TensorBoardMirror(tmp_path, facts)
    mirror.start()
    head = "| | |\n|---|---|\n"
    run = ("run", f"{head}| run | n |\n| identity | i |\n| commit | c |\n| tags | A, B |")
    settings = ("settings", f"{head}| lr | 0.5 |\n| deep | True |\n| list | [1, 2] |")
    layers = ("layers", f"{head}| similarity/01 | a -> b |")
    assert events == [str(tmp_path / "tensorboard"), *([run, settings] if ended else [run, layers, settings])]
    events.clear()
    mirror.log({"step": 3, "a": 0.5, "b": 2})
    assert events == [("a", 0.5, 3), ("b", 2, 3)]
    events.clear()
    from PIL import Image

    Image.new("L", (5, 4)).save(tmp_path / "p.png")
    mirror.finish({"m": 1, "kind": "x"}, lambda: {"p": tmp_path / "p.png"})
    assert events == [("m", 1.0), ("p", (4, 5, 3), "HWC"), "closed"]
    assert given == [({"lr": 0.5, "deep": True, "list": "[1, 2]"}, {"m": 0.0})]


@pytest.mark.parametrize(
    ("kinds", "opened"),
    [
        ("none", []),
        ("wandb", ["WandbMirror p offline"]),
        (["csv", "mlflow", "none", "tensorboard"], ["CsvMirror", "MlflowMirror r p", "TensorBoardMirror"]),
        (("csv",), ["CsvMirror"]),
    ],
)
def test_the_mirrors_that_a_configuration_asks_for(monkeypatch, kinds, opened):
    from tutelage.engine import mirrors

    def named(name):
        def made(*words, **more):
            runs_dir = ["r"] if words[0] == Path("r") else []
            return " ".join([name, *runs_dir, *more.values()])

        return made

    for name in ("WandbMirror", "MlflowMirror", "TensorBoardMirror", "CsvMirror"):
        monkeypatch.setattr(mirrors, name, named(name))
    monkeypatch.setattr(mirrors, "Mirrors", list)
    logger: Any = SimpleNamespace(kind=kinds, project="p", mode="offline")
    about: Any = "about"
    assert mirrors.open_mirrors(logger, Path("f"), {"runs_dir": "r"}, about) == opened


def test_layer_pairs_are_drawn_where_a_run_has_recorded_some(monkeypatch, tmp_path):
    from tutelage.engine import run_pictures

    drawn: list[Any] = []
    monkeypatch.setattr(run_pictures, "_draw", lambda *words: drawn.append(words))
    monkeypatch.setattr(run_pictures, "layer_pairs", lambda rows, method: {"hint": (len(rows), method)})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert run_pictures.pictures_in(tmp_path) == {} and drawn == []
    for text, method in (('{"method": {"a": 1}}', {"a": 1}), ('{"method": null}', {})):
        drawn.clear()
        (tmp_path / "setup.json").write_text(text)
        run_pictures.pictures_in(tmp_path)
        assert drawn == [((2, method), "hint", tmp_path / "hint-pairs.png")]


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


def test_a_damaged_set_is_known_by_its_manifest_and_its_shards(monkeypatch, tmp_path):
    run: Any = SimpleNamespace(path=tmp_path)
    monkeypatch.setattr(pseudo_data.pseudo, "read_manifest", lambda folder: {"of": folder})
    monkeypatch.setattr(pseudo_data.shards, "damaged", lambda folder, manifest: [folder, manifest])
    assert pseudo_data.damaged(run) == [tmp_path / "shards", {"of": tmp_path / "shards"}]
    monkeypatch.setattr(pseudo_data.pseudo, "read_manifest", lambda _: (_ for _ in ()).throw(UserError("no")))
    assert pseudo_data.damaged(run) == ["manifest.json"]


def test_final_layers_are_those_of_networks_that_answer_on_the_data(monkeypatch):
    from tutelage.alignment.guides import FeatureGuide
    from tutelage.models.forward_calls import UnknownCall
    from tutelage.models.frozen import FrozenNetwork

    class Rule(FeatureGuide):
        features = None

    Rule.__abstractmethods__ = frozenset()
    networks: Any = {"model": nn.Linear(3, 2), "teacher": nn.Linear(4, 2), "fails": nn.Linear(3, 5)}
    rule: Any = object.__new__(Rule)
    nn.Module.__init__(rule)
    frozen: Any = {name: object.__new__(FrozenNetwork) for name in ("teacher", "fails", "guide")}
    for name, one in frozen.items():
        nn.Module.__init__(one)
        one.network = networks.get(name, rule)
    asked: list[Any] = []

    def head_of(network, inputs, mask, run):
        asked.append((network, inputs, mask, run))
        if network is networks["fails"]:
            raise error
        return f"head of {network.in_features}"

    monkeypatch.setattr(build, "head_of", head_of)
    method: Any = SimpleNamespace(network=networks["model"], frozen=frozen)
    example: Any = SimpleNamespace(inputs="inputs", mask="mask")
    error: Exception = UserError("not for these")
    assert build._heads(method, example) == {"model": "head of 3", "teacher": "head of 4"}
    assert asked[:2] == [
        (networks["model"], "inputs", "mask", None),
        (networks["teacher"], "inputs", "mask", frozen["teacher"]),
    ]
    assert len(asked) == 3
    error = UnknownCall("which call")
    with pytest.raises(UnknownCall):
        build._heads(method, example)


@pytest.mark.parametrize("has_maps", [True, False])
def test_channels_last_is_tried_on_the_data(monkeypatch, has_maps):
    calls: list[Any] = []

    def channels_last(network, run):
        run()
        return has_maps

    monkeypatch.setattr(build, "channels_last", channels_last)
    monkeypatch.setattr(build.Call, "of", lambda network: lambda *words: calls.append(words))
    network = nn.Linear(2, 2)
    example: Any = SimpleNamespace(inputs="inputs", mask="mask")
    if has_maps:
        build._channels_last(network, example)
    else:
        assert refused(build._channels_last, network, example).startswith(
            "hardware.channels_last: Linear has no 2-d convolutions"
        )
    assert calls == [(network, "inputs", "mask")]


@pytest.mark.parametrize(("rank", "found"), [(3, 3), (0, 0), (None, 0)])
def test_the_rank_that_lightning_knows(monkeypatch, rank, found):
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", rank)
    assert fit._rank() == found


def test_a_file_of_onnx_has_one_name_for_the_batch_and_large_weights_beside(monkeypatch, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    shapes = {"inputs": ["s0", 3], "outputs": ["s0", "s1"]}
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["inputs"], ["outputs"])], "g", [ends["inputs"]], [ends["outputs"]]
        )
    )
    asked: list[Any] = []

    def write(program, given, file, **words):
        asked.append(words["external_data"])
        onnx.save(made, file)

    monkeypatch.setattr(export, "_program", lambda *words: "program")
    monkeypatch.setattr(torch.onnx, "export", write)
    served: Any = nn.Linear(3, 5)  # 20 numbers of 4 bytes
    names = {"large": ["s0", 3, "s0", "s1"], "small": ["batch", 3, "batch", "s1"]}
    for limit, large in ((79, True), (80, False)):
        monkeypatch.setattr(export, "_LARGE", limit)
        export._onnx(served, torch.zeros(1, 3), None, tmp_path / "n.onnx")
        graph = onnx.load(tmp_path / "n.onnx").graph
        sides = [side for end in (*graph.input, *graph.output) for side in end.type.tensor_type.shape.dim]
        assert [side.dim_param or side.dim_value for side in sides] == names["large" if large else "small"]
        assert asked.pop() is large
    for side in ends["inputs"].type.tensor_type.shape.dim:
        side.dim_value = 4  # a batch without a name is left as it is
    made.graph.input[0].CopyFrom(ends["inputs"])
    export._onnx(served, torch.zeros(1, 3), None, tmp_path / "n.onnx")
    assert onnx.load(tmp_path / "n.onnx").graph.output[0].type.tensor_type.shape.dim[0].dim_param == "s0"
