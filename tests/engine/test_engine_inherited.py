"""What networks inherit from the runs of their weights: each refusal and warning as it stands."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from expected import refused
from tutelage.engine import inherited
from tutelage.engine.class_names import classes_apart, listed, names_in, same_set
from tutelage.runs.records import write_json, write_yaml


@pytest.mark.parametrize(("theirs", "ours", "apart"), [
    (None, ["a"], None), (["a"], None, None), ([], ["a"], None), (["a", "b"], ("a", "b"), None), (["a", "b"], ["b", "a"], "order"),
    (["a", "b"], ["a", "c"], "names"), (["a"], ["a", "b"], "names"),
])  # fmt: skip
def test_how_classes_differ(theirs, ours, apart):
    assert classes_apart(theirs, ours) == apart


@pytest.mark.parametrize(("count", "said_"), [(1, "0"), (8, "0, 1, 2, 3, 4, 5, 6, 7"), (9, "0, 1, 2, 3, 4, 5, 6, 7 and 1 more"),
                                              (11, "0, 1, 2, 3, 4, 5, 6, 7 and 3 more")])  # fmt: skip
def test_the_first_few_names(count, said_):
    assert listed([str(number) for number in range(count)]) == said_


SET = {"name": "Set", "fingerprint": "f", "pseudo": None, "absent": None, "classes": ["a", "b"]}


@pytest.mark.parametrize(("other", "same"), [
    ({}, True), ({"classes": ["b", "c"]}, True), ({"classes": ["c"]}, False), ({"classes": None}, False), ({"name": "T"}, False),
    ({"fingerprint": "g"}, False), ({"pseudo": "p"}, False), ({"absent": ["x"]}, False), ({"split_seed": 3}, True),
])  # fmt: skip
def test_two_records_are_of_one_set(other, same):
    assert same_set(SET, SET | other) == same_set(SET | other, SET) == same
    assert (
        names_in(SET) == ["a", "b"]
        and names_in(SET | {"name": "PseudoImages"}) is None
        and names_in({}) is None
    )


@pytest.fixture
def run(tmp_path):
    """Give a function that makes a run's folder with a record of its data, and the configuration of a network with its weights."""

    def make(where="teacher", config=None, train=None, **facts):
        folder = tmp_path / "runs" / "other"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"w": torch.ones(2)}, folder / "network.safetensors")
        record = {"input_shape": [3, 8, 6], "output_size": 5, "split_seed": 4, **SET, **facts}
        write_json(folder / "setup.json", {"data": record})
        if config is not None:
            write_yaml(folder / "config.yaml", config)
        if train is not None:
            np.savez(folder / "splits.npz", train=np.array(train))
        return {where: {"weights": str(folder / "network.safetensors")}, "runs_dir": str(tmp_path / "runs")}

    return make


def data(**more):
    facts = more.pop("facts", {})
    splits = {name: np.array(places) for name, places in more.pop("splits", {}).items()}
    return SimpleNamespace(facts=facts, splits=splits, split_seed=7, summary=lambda: SET | more)


def test_the_record_of_the_run_behind_weights(run, tmp_path):
    config = run()
    assert inherited.recorded_data("teacher", config)["output_size"] == 5
    assert inherited.recorded_sizes("teacher", config) == {
        "input_shape": (3, 8, 6),
        "output_size": 5,
        "num_classes": 5,
    }
    assert inherited.recorded_sizes("guide", config) == {}  # it has none
    other = tmp_path / "file.safetensors"
    save_file({"w": torch.ones(2)}, other)
    assert inherited.recorded_data("teacher", {"teacher": {"weights": str(other)}}) == {}


CONV = {"_target_": "tutelage.models.convnet.ConvNet", "width": 8}
FCN = {"_target_": "tutelage.models.fcn.FCN", "depth": 2}


@pytest.mark.parametrize(("theirs", "ours", "apart"), [
    ({"residual": False}, {}, "residual=False there, True here"), ({}, {"residual": True}, ""), ({"activation": "relu"}, {}, ""),
    ({"activation": "tanh", "residual": True}, {"residual": False}, "activation=tanh there, relu here, residual=True there, False here"),
    ({"weights": "need:a", "output_size": 3, "pruned": 0.5}, {"head": "x", "init_seed": 3}, ""),
    (FCN | {"dropout": 0.5}, FCN, ""), (FCN, {}, f"_target_={FCN['_target_']} there, {CONV['_target_']} here"),
])  # fmt: skip
def test_weights_of_a_network_that_computed_otherwise_are_said(run, said, theirs, ours, apart):
    config = run(config={"model": CONV | theirs})
    config["teacher"] |= CONV | ours
    inherited.check_architecture("teacher", config)
    assert [line.partition("were trained in another: ")[2] for line in said()] == [apart] * bool(apart)


def test_of_weights_without_a_record_nothing_is_known(run, said):
    for config in (None, {}, {"model": None}, {"model": {"width": 3}}):
        inherited.check_architecture("teacher", run(config=config))
    assert not said()


def test_a_vocabulary_must_be_the_same_unless_it_is_trained_on(run, said):
    theirs = {inherited.VOCABULARY: "one"}
    same, none, another = (data(facts=facts) for facts in (theirs, {}, {inherited.VOCABULARY: "two"}))
    config = run(**theirs)
    inherited.check_vocabulary("teacher", config, same)
    inherited.check_vocabulary("teacher", run(), another)
    for other in (none, another):
        message = refused(inherited.check_vocabulary, "teacher", run(**theirs), other)
        assert message.endswith(
            "was trained with another vocabulary than that of these data: each token would mean another word to it. Give both one "
            "vocabulary: the same data.tokenizer, or the same training file, data.level and data.min_count"
        )
    assert not said()
    inherited.check_vocabulary("model", run("model", **theirs), another)
    (line,) = said()
    assert line.startswith("model.weights=") and line.endswith(
        ": its embeddings and outputs belong to other words"
    )


@pytest.mark.parametrize(("train", "splits", "counts"), [
    ([1, 2, 3], {"validation": [4], "test": [5, 6]}, None), ([1, 2, 3], {"validation": [3], "test": [5]}, (1, 0)),
    ([1, 2, 3], {"validation": [4], "test": [1, 2, 7]}, (0, 2)), (None, {"validation": [1], "test": [1]}, None),
])  # fmt: skip
def test_weights_that_saw_what_is_to_test_are_refused(run, train, splits, counts):
    config = run(train=train)
    if counts is None:
        inherited.check_unseen("teacher", config, data(splits=splits))
        return
    message = refused(inherited.check_unseen, "teacher", config, data(splits=splits))
    assert message.partition(" was trained on ")[2] == (
        f"{counts[0]} of the validation and {counts[1]} of the test samples of this run, which would be no test of it. Both come from one "
        "set: give the run that made it the same data.split_seed (it has 4, this one 7), data.validation and data.test"
    )
    both = [
        {"data": {"split_seed": 4, "classes": kept, "batch_size": size}}
        for kept, size in ((None, 8), ([0], 9))
    ]
    message = refused(
        inherited.check_unseen, "teacher", run(train=train, config=both[0]) | both[1], data(splits=splits)
    )
    assert message.endswith("the same data.classes (it has None, this one [0])")
    inherited.check_unseen(
        "teacher", config, data(splits=splits, fingerprint="g")
    )  # of another set nothing is known


@pytest.mark.parametrize(
    ("theirs", "ours", "counts"),
    [(["a.png"], None, (1, 0)), (None, ["a.png", "b.png"], (0, 2)), (["a.png"], ["a.png"], None)],
)
def test_weights_from_before_images_went_missing_are_refused(run, theirs, ours, counts):
    config = run(absent=theirs)
    if counts is None:
        inherited.check_unseen("teacher", config, data(absent=ours))
        return
    message = refused(inherited.check_unseen, "teacher", config, data(absent=ours))
    assert (
        f"was trained while {counts[0]} images of its set were missing, {counts[1]} are missing here: "
        in message
    )


def test_damaged_splits_are_one_message(run, tmp_path):
    config = run()
    (tmp_path / "runs" / "other" / "splits.npz").write_bytes(b"torn")
    assert "is damaged" in refused(inherited.check_unseen, "teacher", config, data(splits={}))


def test_a_generator_and_a_network_without_labels_give_no_answers():
    inherited.check_answers("x", {"method": {"_target_": "tutelage.methods.supervised.Supervised"}})
    inherited.check_answers("x", {"method": None})
    assert "trained without labels" in refused(
        inherited.check_answers, "x", {"method": {"_target_": inherited._SELF_SUPERVISED}}
    )
    assert "trained a generator" in refused(inherited.check_reads, "x", {"method": {"_makes_": "generator"}})


@pytest.mark.parametrize(("theirs", "same_classes", "advice"), [
    (["a", "b"], True, None), (["b", "a"], True, "give data.classes=[b,a]"), (["b", "a"], False, None), (None, True, None),
    (["a", "c"], True, "set label_space=other in the objective that compares outputs, or choose data or a teacher with the same classes"),
])  # fmt: skip
def test_the_classes_of_a_teacher_are_those_of_the_data(run, theirs, same_classes, advice):
    config = run(classes=theirs, config={"method": {}})
    if advice is None:
        inherited.check_teacher("teacher", config, data(), same_classes=same_classes)
        return
    assert refused(inherited.check_teacher, "teacher", config, data(), same_classes=same_classes) == (
        f"the classes of the teacher are {', '.join(theirs)}, those of these data a, b, number by number: {advice}"
    )


def test_a_teacher_that_knows_nothing_is_told(said):
    inherited.check_teacher("teacher", {"teacher": {}}, data(), same_classes=True)
    inherited.check_teacher("frozen.second", {}, data(), same_classes=True)
    rest = "is at its random initialisation: {}.weights=scratch. It has nothing to teach but noise"
    assert said() == [
        f"the teacher {rest.format('teacher')}",
        f"the frozen network 'second' {rest.format('frozen.second')}",
    ]


def test_a_teacher_that_was_trained_without_labels_is_refused_where_its_run_says_so(run, tmp_path):
    unlabelled = {"method": {"_target_": inherited._SELF_SUPERVISED}}
    config = run(config=unlabelled)
    message = refused(inherited.check_teacher, "teacher", config, data(), same_classes=True)
    assert message.startswith("teacher.weights=") and "was trained without labels" in message
    (tmp_path / "runs/other/config.yaml").unlink()  # nothing says how
    inherited.check_teacher("teacher", config, data(), same_classes=True)
    file = tmp_path / "file.safetensors"  # of no run
    save_file({"w": torch.ones(2)}, file)
    inherited.check_teacher("teacher", {"teacher": {"weights": str(file)}}, data(), same_classes=True)


@pytest.mark.parametrize(
    ("changed", "stored", "warned"),
    [(["mine.py", "more.py"], True, True), ([], True, False), (["mine.py"], False, False)],
)
def test_code_that_is_not_what_it_was_where_weights_were_made_is_said(
    run, said, monkeypatch, tmp_path, changed, stored, warned
):
    asked = []
    monkeypatch.setattr(inherited, "Run", lambda folder: SimpleNamespace(attempts=folder.name))
    monkeypatch.setattr(inherited, "changed_files", lambda *words: asked.append(words) or changed)
    config = run() if stored else {"teacher": {}}
    inherited.check_code("teacher", config)
    assert asked == ([("other", config["teacher"])] if stored else [])
    assert [one.partition(" are of")[2] for one in said()] == [
        " a run with another mine.py, more.py than the one here"
    ] * warned
