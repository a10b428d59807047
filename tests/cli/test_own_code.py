"""The user's own files: found by every command, and told when they are no longer what a run was made with."""

from __future__ import annotations

import pytest

from tutelage.cli.main import main
from tutelage.runs import provenance
from tutelage.runs.store import Store

NETWORK = """
from torch import nn

class Mine(nn.Sequential):
    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.{activation}(), nn.Linear(8, num_classes))
"""
WORDS = ["train", "model=own", "model._target_=own_network_of_a_test.Mine", "data=digits", "fit.max_steps=2", "fit.validate_every_steps=2",
         "logger=none", "hardware.threads=1", "name=own"]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_network_of_a_test.py").write_text(NETWORK.format(activation="Tanh"))
    assert main(WORDS) == 0
    return tmp_path


def test_a_run_of_an_own_network_is_evaluated_and_analysed_in_a_process_that_composed_nothing(
    folder, monkeypatch
):
    import sys

    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    monkeypatch.delitem(sys.modules, "own_network_of_a_test")
    assert main(["evaluate", "own"]) == 0


def test_changed_code_is_said_wherever_its_old_numbers_or_weights_are_used(folder, capsys, caplog):
    (run,) = Store("runs").runs()
    assert list(run.attempts[-1]["own_code"]) == ["own_network_of_a_test.py"]
    assert not provenance.changed_files(run.attempts, run.config)
    kept = run.path / "own_code" / "own_network_of_a_test.py"
    assert kept.read_bytes() == (folder / "own_network_of_a_test.py").read_bytes()
    (folder / "own_network_of_a_test.py").write_text(NETWORK.format(activation="GELU"))
    for words, says in (
        (WORDS, "rerun=true makes it anew"),
        (["evaluate", "own"], "its weights now run through other code"),
    ):
        caplog.clear()
        assert main(words) == 0
        assert "another own_network_of_a_test.py" in caplog.text and says in caplog.text
    for where, words in {"model": [], "guide": ["method=guidance", "model@guide=own",
                                                "guide._target_=own_network_of_a_test.Mine"]}.items():  # fmt: skip
        caplog.clear()
        assert main([*WORDS, *words, f"{where}.weights={run.path}", "name=after"]) == 0
        assert f"{where}.weights={run.path} are of a run with another own_network_of_a_test.py" in caplog.text
    capsys.readouterr()
    assert main(["doctor", *WORDS[1:]]) == 0
    assert "the code of own_network_of_a_test.py" in " ".join(capsys.readouterr().out.split())


def test_runs_of_different_own_code_in_one_arm_are_told_apart(folder, capsys):
    (folder / "own_network_of_a_test.py").write_text(NETWORK.format(activation="GELU"))
    assert main([*WORDS, "seed=1"]) == 0
    assert main(["report", "own"]) == 0
    cells = (folder / "runs" / "own" / "cells.csv").read_text()
    assert cells.count("own_network_of_a_test.py:") == 2
    assert "The runs come from different code" in (folder / "runs" / "own" / "table.md").read_text()


def test_an_interrupted_run_that_goes_on_with_other_code_says_so(folder, caplog):
    (run,) = Store("runs").runs()
    (run.path / "result.json").unlink()
    (folder / "own_network_of_a_test.py").write_text(NETWORK.format(activation="GELU"))
    assert main(WORDS) == 0
    assert "was begun with another own_network_of_a_test.py, and goes on with this one" in caplog.text
    assert "GELU" in (run.path / "own_code" / "own_network_of_a_test.py").read_text()


def test_samples_that_the_network_was_trained_on_are_counted_when_it_is_judged_on_them(folder, caplog):
    assert main(["evaluate", "own", "data=digits"]) == 0
    assert "was trained on" not in caplog.text
    assert main(["evaluate", "own", "data=digits", "data.split_seed=3"]) == 0
    assert "of the 359 samples judged here: this is no test of it" in caplog.text
    caplog.clear()
    assert main(["evaluate", "own", "split=train"]) == 0
    assert "was trained on 1222 of the 1222 samples judged here" in caplog.text
    caplog.clear()
    assert main(["evaluate", "own", "split=validation"]) == 0
    assert "was selected on this split" in caplog.text and "was trained on" not in caplog.text


def test_a_package_is_all_of_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts" / "deep").mkdir(parents=True)
    for name in ("__init__", "deep/layer"):
        (tmp_path / "parts" / f"{name}.py").write_text("x = 1")
    config = {"model": {"_target_": "parts.deep.layer.Net"}, "data": {"steps": [{"_target_": "parts.Step"}]}}
    before = provenance.own_code(config)
    assert list(before) == ["parts"]
    provenance.keep_own_code(config, tmp_path / "kept")
    assert (tmp_path / "kept/parts/deep/layer.py").read_text() == "x = 1"
    assert sum(path.is_file() for path in (tmp_path / "kept").rglob("*")) == 2
    with (
        monkeypatch.context() as elsewhere
    ):  # resumed where the modules are found by another way: the copy stays
        (tmp_path / "bare").mkdir()
        elsewhere.chdir(tmp_path / "bare")
        provenance.keep_own_code(config, tmp_path / "kept")
    assert (tmp_path / "kept/parts/deep/layer.py").is_file()
    monkeypatch.setattr(provenance, "OWN_CODE_LIMIT_BYTES", 5)
    provenance.keep_own_code(config, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    (tmp_path / "parts" / "deep" / "layer.py").write_text("x = 2")
    assert provenance.own_code(config) != before
    assert provenance.own_code({"model": {"_target_": "tutelage.models.fcn.FCN"}}) == {}
