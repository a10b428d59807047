"""A list for a group: several loggers, and for every other group a message, since the last would win without a word."""

from __future__ import annotations

import pytest

from tutelage.cli.main import main
from tutelage.config.compose import compose
from tutelage.config.group_lists import without_lists
from tutelage.config.origins import origins
from tutelage.errors import UserError


def test_several_loggers_are_kept_at_once(tmp_path):
    assert compose(["logger=[wandb,csv]"])["logger"]["kind"] == ["wandb", "csv"]
    assert compose(["logger=[csv]"])["logger"]["kind"] == "csv"
    words = ["train", "logger=[tensorboard,csv]", "fit.max_steps=2", "fit.validate_every_steps=2", "model.depth=2", "model.width=16",
             "hardware.threads=1", f"runs_dir={tmp_path}"]  # fmt: skip
    assert main(words) == 0
    assert list(tmp_path.rglob("metrics.csv")) and list(tmp_path.rglob("events.out*"))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("data=[digits,synthetic]", "Write data=digits, or for a run of each: -m data=digits,synthetic"),
        ("model@teacher=[convnet,fcn]", "Write model@teacher=convnet"),
        (
            "model@teacher=[convnet,fcn]",
            "-m model@teacher=convnet,fcn; for both at once: +model@frozen.second=fcn, and",
        ),
        ("experiment=[demo/plain,demo/cnn]", "this group takes one choice"),
        ("+model@frozen.second=[convnet,fcn]", "Write +model@frozen.second=convnet"),
        ("+objective@method.objectives.hint=[hint,logits]", "this group takes one choice"),
        ("hydra/launcher=[local,slurm]", "Write hydra/launcher=local"),
        ("logger=[wandb,none]", "expected loggers of different kinds"),
        ("logger=[csv,csv]", "expected loggers of different kinds"),
        ("logger=[csv,wanbd]", "did you mean 'wandb'"),
    ],
)
def test_any_other_list_is_refused(word, says):
    with pytest.raises(UserError) as error:
        compose([word])
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("override /data: [digits, synthetic]", "the group data a list"),
        ("override /model@teacher: [convnet, fcn]", "the group model@teacher a list"),
        (
            "/objective@method.objectives.hint: [hint, logits]",
            "the group objective@method.objectives.hint a list",
        ),
        ("override /logger: [csv, tensorboard]", "Several loggers are `logger: {kind:"),
        ("[mine/a, mine/b]", "where each entry is the name of one file"),
    ],
)
def test_a_list_in_a_file_of_the_users_is_refused(tmp_path, monkeypatch, capsys, entry, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/two.yaml").write_text(f"# @package _global_\ndefaults:\n  - {entry}\n")
    with pytest.raises(UserError) as error:
        compose(["experiment=two"])
    assert says in str(error.value)
    assert main(["train", "-m", "experiment=two", "seed=0,1", f"runs_dir={tmp_path}/runs"]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))
    assert compose([])["name"] == "adhoc"  # which does not choose that file


def test_several_loggers_in_a_file_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/two.yaml").write_text(
        "# @package _global_\nlogger: {kind: [csv, tensorboard]}\n"
    )
    assert compose(["experiment=two"])["logger"]["kind"] == ["csv", "tensorboard"]


def test_the_values_of_a_dictionary_come_from_its_word():
    word = "optimizer={lr: 0.1, betas: [0.8, 0.9]}"
    found = origins(["optimizer=adam", word])
    assert found["optimizer.lr"] == found["optimizer.betas"] == f"command: {word}"
    assert found["optimizer.schedule"] == "conf/shared/schedule.yaml"


@pytest.mark.parametrize(
    "word", ["logger=csv", "logger=[csv", "logger=csv]", "fit.steps=[1,2]", "no_group=[a,b]"]
)
def test_what_is_no_list_of_a_group_stays_as_it_is(word):
    assert without_lists([word]) == [word]
