"""What mirrors are told, which norms are folded, which layers are final, and what weights expect: each rule alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from expected import refused
from small_runs import METHODS, SMALL
from tutelage.config.planner import plan_of
from tutelage.engine import build, conflicts, inherited, mirror_kinds
from tutelage.errors import UserError


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
            self.__dict__.update({"augment": None, "mixer": None, "sampling": None} | given)

    class Same(Images):
        def __init__(self, **given):
            super().__init__(**{"weight": 1.0, "weak": {"flip": {}, "crop": {}}} | given)

    monkeypatch.setattr(conflicts, "ImageData", Images)
    monkeypatch.setattr(conflicts, "Consistency", Same)
    given: Any = SimpleNamespace(augment=None, mixer=None, sampling=None) if data is None else Images(**data)
    objectives: Any = {
        "plain": Images(),
        "same": Images(weight=1.0, weak={}) if objective is None else Same(**objective),
    }
    conflicts.warn_of_conflicts(given, objectives)
    assert [one.split(":")[0] for one in caplog.messages] == [
        "labelled images are seen as they are, unlabelled ones through method.objectives.same.weak (flip, crop)"
    ] * warned
    assert not warned or caplog.messages[0].endswith("such as +data.augment.flip={}")


@pytest.mark.parametrize("method", ["self_supervised", "masked_images", "supervised"])
def test_what_a_method_without_labels_does_not_read_of_the_data_is_said(method, tmp_path, caplog):
    words = [*SMALL, f"method={method}", *METHODS[method], f"runs_dir={tmp_path}"]
    words += ["data.sampling=balanced", "+data.augment.mixup.alpha=0.2"]
    build.build(plan_of(words).config)
    said = [one.split(" has no effect")[0] for one in caplog.messages if "has no effect" in one]
    assert said == ([] if method == "supervised" else ["data.sampling", "data.augment's mixing"])


@pytest.mark.parametrize(("words", "twice"), [
    (["data.sampling=balanced", "task.class_weight=balanced"], True), (["data.sampling=balanced"], False),
    (["task.class_weight=balanced"], False),
    (["data.sampling=balanced", "task.class_weight=[1,1,1,1,1,1,1,1,1,2]"], False),
])  # fmt: skip
def test_rare_classes_that_are_made_up_for_twice_are_said(words, twice, tmp_path, caplog):
    build.build(plan_of([*SMALL, "method=supervised", f"runs_dir={tmp_path}", *words]).config)
    assert [
        "data.sampling=balanced and method.objectives.task.class_weight=balanced make up for rare classes twice: give one of them"
    ] * twice == [one for one in caplog.messages if "rare classes" in one]


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


def test_inputs_of_the_launcher_are_looked_for_only_where_it_was_imported(monkeypatch):
    class Run:
        looks = 0

        def _detect_and_apply_job_inputs(self):
            self.looks += 1

    for _ in range(2):
        mirror_kinds._launch_inputs_on_demand(Run)
    run, modules = Run(), {}
    monkeypatch.setattr(mirror_kinds, "sys", SimpleNamespace(modules=modules))
    run._detect_and_apply_job_inputs()
    assert run.looks == 0
    modules["wandb.sdk.launch"] = None
    run._detect_and_apply_job_inputs()
    assert run.looks == 1
    mirror_kinds._launch_inputs_on_demand(object)  # a version that looks for none


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
