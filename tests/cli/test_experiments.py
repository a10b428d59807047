"""Shipped experiments are there to be extended, and doctor names the file that sets a value."""

from __future__ import annotations

import pytest

from tutelage.cli.main import main
from tutelage.config.compose import compose


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment" / "mine").mkdir(parents=True)
    return tmp_path / "conf" / "experiment" / "mine" / "deeper.yaml"


@pytest.mark.parametrize("arm", ["plain", "distilled", "guided-untrained", "guided-trained"])
def test_an_experiment_of_ones_own_extends_a_shipped_one(own, arm):
    own.write_text(
        f"# @package _global_\ndefaults:\n  - /experiment/demo/{arm}\n\nname: mine/deeper\nmodel: {{depth: 60}}\n"
    )
    mine, shipped = compose(["experiment=mine/deeper"]), compose([f"experiment=demo/{arm}"])
    assert mine["model"]["depth"] == 60
    assert mine["name"] == "mine/deeper"
    assert {**mine, "model": None, "name": None} == {**shipped, "model": None, "name": None}


def test_doctor_names_the_file_of_an_empty_mapping(own, capsys):
    own.write_text("# @package _global_\nname: mine/deeper\ndata: {augment: {}}\n")
    assert main(["doctor", "experiment=mine/deeper"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("  ", "* "))]
    lines = {line[2:].split()[0]: line for line in shown if line[2:].strip()}
    assert "conf/train.yaml" in lines["needs"]
    assert "conf/experiment/mine/deeper.yaml" in lines["data.augment"]
