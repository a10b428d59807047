"""Sweeps as people write them: tables by their names, words that some jobs alone understand, networks that some methods alone read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tutelage.cli.main import main
from tutelage.cli.sweep_words import arms_of, table_of
from tutelage.cli.train import _show_table
from tutelage.config.compose import compose
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.frozen_words import fitting
from tutelage.reporting.table_file import load
from tutelage.reporting.table_paths import PROGRAMMES, tables
from tutelage.runs.run import State
from tutelage.runs.store import Store
from tutelage.runs.words import distinguishing, joined, one_length

ROOT = Path(__file__).parents[2]
QUICK = [
    "logger=none",
    "hardware.threads=1",
    "model.depth=2",
    "model.width=8",
    "fit.max_steps=2",
    "fit.validate_every_steps=1",
]
FROZEN = [
    "model@guide=residual_convnet",
    "guide.width=4",
    "model@teacher=residual_convnet",
    "teacher.width=4",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_words_of_two_lists_are_joined_by_their_keys():
    assert joined(["a=1", "+b=2", "c=3"], ["b=4", "d=5", "a=6"]) == ["a=6", "b=4", "c=3", "d=5"]
    assert distinguishing([["a=1", "b=2"], ["a=1", "b=3"]]) == [["b=2"], ["b=3"]]


def test_arms_are_called_by_the_words_that_differ():
    def labels(*words):
        return {label: len(commands) for label, commands in arms_of(None, words).items()}

    assert labels("method=supervised,guidance", "seed=0,1,2") == {
        "method=supervised": 3,
        "method=guidance": 3,
    }
    assert labels("experiment=demo/plain,demo/distilled", "seed=0,1") == {"plain": 2, "distilled": 2}
    assert labels("experiment=a/base,b/base") == {"a/base": 1, "b/base": 1}
    assert labels("model=fcn,mine", "optimizer.lr=1e-3,1e-2") == {
        f"model={model}, optimizer.lr={lr}": 1 for model in ("fcn", "mine") for lr in ("0.001", "0.01")
    }
    assert labels("experiment=demo/plain", "seed=0,1") == {"demo/plain": 2}
    with pytest.raises(UserError, match="an interval is for a search"):
        labels("optimizer.lr=interval(0,1)")


def test_a_table_is_a_sweep_and_further_words_multiply_it(here):
    table, words = table_of(["sweep=demo", "optimizer.lr=1e-3,1e-2", "fit.max_steps=3"])
    arms = arms_of(table, words)
    assert len(arms) == 8 and all(len(commands) == 3 for commands in arms.values())
    (command, *_) = arms["guided-untrained, optimizer.lr=0.01"]
    assert {"experiment=demo/guided-untrained", "fit.max_steps=3", "optimizer.lr=0.01", "seed=0"} <= set(
        command
    )
    assert "name=demo/guided-untrained" in command
    assert {len(commands) for commands in arms_of(table, ["seed=7"]).values()} == {1}
    with pytest.raises(UserError, match="no sweep 'demoo'; did you mean 'demo'"):
        table_of(["sweep=demoo"])


def test_arms_of_a_table_are_chosen_by_their_labels(here):
    table, words = table_of(["sweep=demo", "seed=0", "arms=plain,guided-untrained"])
    assert [arm.label for arm in table.arms] == ["plain", "guided-untrained"] and words == ["seed=0"]
    assert table.compare == (("guided-untrained", "plain"),)
    assert list(arms_of(table, words)) == ["plain", "guided-untrained"]
    own = here / "experiments/x/own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        "title: T\nmetric: accuracy\nseeds: 1\narms:\n  'depth 2, wide': [model.depth=2]\n  deep: [model.depth=9]\n"
    )
    assert [arm.label for arm in table_of(["sweep=x/own", "arms=depth 2, wide"])[0].arms] == ["depth 2, wide"]
    with pytest.raises(
        UserError, match="the table demo has no arm 'gided-untrained'; did you mean 'guided-untrained'"
    ):
        table_of(["sweep=demo", "arms=plain,gided-untrained"])
    with pytest.raises(UserError, match="add sweep=<table>"):
        table_of(["arms=plain", "seed=0"])


def test_a_table_of_ones_own_is_a_sweep_and_ends_with_its_table(here, capsys):
    (here / "experiments" / "mine").mkdir(parents=True)
    (here / "experiments" / "mine" / "depth.yaml").write_text(
        f"title: Depth\nmetric: accuracy\nseeds: 2\nprocesses: 1\nbase: [{', '.join(QUICK)}]\n"
        "arms: {shallow: [model.depth=1], deep: []}\ncompare: shallow\n"
    )
    assert main(["train", "-m", "sweep=mine/depth", "fit.max_steps=1"]) == 0
    told = capsys.readouterr().out
    assert "shallow" in told and "deep" in told and "written: runs/mine/depth/table.md" in told
    assert sorted({run.name for run in Store("runs").runs()}) == ["mine/depth/deep", "mine/depth/shallow"]
    before = {path: path.stat().st_mtime_ns for path in Path("runs/mine").rglob("*") if path.is_file()}
    assert main(["train", "sweep=mine/depth", "fit.max_steps=1"]) == 0
    assert before == {
        path: path.stat().st_mtime_ns for path in Path("runs/mine").rglob("*") if path.is_file()
    }


def test_a_frozen_network_is_left_out_where_a_method_has_no_place_for_it(caplog):
    given = [
        list(c)
        for arm in arms_of(None, ["method=supervised,guidance,distillation", *FROZEN]).values()
        for c in arm
    ]
    with caplog.at_level(logging.INFO, logger="tutelage"):
        plain, guided, distilled = fitting(given, compose)
    assert plain == ["method=supervised"]
    assert guided == ["method=guidance", *FROZEN[:2]] and distilled == ["method=distillation", *FROZEN[2:]]
    assert "method=supervised has no place for a guide: it is left out" in caplog.text
    assert "method=distillation has no place for a guide" in caplog.text
    useless = [["method=supervised", *FROZEN[:2]], ["method=distillation", *FROZEN[:2]]]
    assert fitting(useless, compose) == useless  # nobody reads it: the mistake is said


def test_a_sweep_over_methods_with_frozen_networks_runs(here, capsys):
    words = ["train", "-m", "method=supervised,guidance,distillation", *FROZEN, *QUICK]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "left out" in said.err
    assert all(f"method={method}" in said.out for method in ("supervised", "guidance", "distillation"))
    assert all(run.is_complete for run in Store("runs").runs())


def test_a_fold_that_was_not_begun_is_missed_in_the_table_of_its_sweep(here, capsys):
    words = ["data=table", "data.dataset=wine", "data.folds=3", "name=cv", *QUICK]
    assert main(["train", "-m", *words, "data.fold=0,1", "seed=0,1"]) == 0
    assert "2 of 3 folds: 2 not complete" in " ".join(capsys.readouterr().out.split())
    arms = {
        f"data.fold={fold}": [plan_of([*words, f"data.fold={fold}", f"seed={seed}"]) for seed in (0, 1)]
        for fold in range(3)
    }
    assert Store("runs").run("cv", arms["data.fold=2"][1].identity).state is State.MISSING
    _show_table(None, arms, "runs")
    shown = " ".join(capsys.readouterr().out.split())
    assert "all folds, seed 0, 1: 2 of 3 folds: 2 not complete" in shown


def test_words_that_some_jobs_alone_understand(here, capsys):
    (here / "x" / "train" / "a").mkdir(parents=True)
    said = main(
        ["train", "-m", "experiment=guidance/cifar10/base,guidance/cifar10/vit", "data.root=x/none", *QUICK]
    )
    assert said == 2
    assert "there is no setting 'data.root'" not in capsys.readouterr().err
    assert main(["train", "-m", "seed=0,1", "data.rot=x", *QUICK]) == 2
    assert capsys.readouterr().err.count("there is no setting 'data.rot'") == 1  # of all jobs: said once


def test_a_run_has_one_length(here):
    assert compose(["fit.epochs=2"])["fit"] | {} == compose(["fit.epochs=2", "fit.max_steps=null"])["fit"]
    long = compose(["experiment=guidance/paper/sequences/parity", "fit.max_steps=5"])["fit"]
    assert (long["max_steps"], long["epochs"]) == (5, None)
    assert one_length(["fit.epochs=2", "fit.max_steps=7", "fit.epochs=null"]) == [
        "fit.epochs=2",
        "fit.max_steps=7",
        "fit.epochs=null",
    ]
    with pytest.raises(UserError, match=r"fit\.max_steps=3 and fit\.epochs=2: .* give one"):
        compose(["fit.epochs=2", "fit.max_steps=3"])


def test_every_shipped_table_is_found_by_its_name_from_anywhere(here):
    names = {
        path.relative_to(ROOT / "experiments").with_suffix("").as_posix()
        for path in (ROOT / "experiments").rglob("*.yaml")
        if path.parent.name != PROGRAMMES
    }
    assert set(tables()) == names - {"demo/demo"} | {"demo"}
    assert all(load(path).name == name for name, path in tables().items())
