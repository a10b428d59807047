"""The README does what it says: its network and its method, taken from the page itself, train in a folder of their own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import tutelage
from tutelage.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = ["logger=none", "hardware.threads=1", "fit.max_steps=3", "fit.validate_every_steps=3"]
NETWORK = """
import math
from torch import nn

class Mine(nn.Module):
    def __init__(self, input_shape, num_classes, width=64):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.ReLU(), nn.Linear(width, num_classes))

    def forward(self, inputs):
        return self.net(inputs)
"""


def block(first_line: str) -> str:
    found = [
        text for text in re.findall(r"```\w*\n(.*?)```", README, re.DOTALL) if text.startswith(first_line)
    ]
    assert len(found) == 1, first_line
    return found[0]


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for path, text in {
        "my_objectives.py": block("# my_objectives.py"),
        "conf/objective/norm_penalty.yaml": block("# conf/objective/norm_penalty.yaml"),
        "conf/method/restrained.yaml": block("# conf/method/restrained.yaml"),
        "my_guides.py": block("# my_guides.py"),
        "conf/experiment/mine/guided.yaml": block("# @package _global_"),
        "my_networks.py": NETWORK,
        "conf/model/mine.yaml": block("# conf/model/mine.yaml"),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    yield tmp_path
    for name in ("my_objectives", "my_networks", "my_guides"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("words", [["+objective@method.objectives.norm=norm_penalty"], ["method=restrained"]])
def test_own_objective_and_own_network_train_and_load_back(own_folder, words):
    assert main(["train", *words, "model=mine", *QUICK]) == 0
    (folder,) = (own_folder / "runs" / "adhoc").glob("[0-9a-f]*")
    run = tutelage.load_run(folder)
    assert type(run.network).__name__ == "Mine"
    assert not run.network.training
    assert run.network(torch.zeros(2, *run.data.input_shape)).shape == (2, 10)
    assert run.result["metrics"]["test"]["accuracy"] >= 0
    rows = [key for key in (folder / "metrics.jsonl").read_text().split('"') if key.startswith("train/")]
    assert "train/norm" in rows


def test_own_network_as_guide_and_under_a_guide(own_folder):
    assert (
        main(
            [
                "train",
                "method=guidance",
                "model=mine",
                "model@guide=residual_convnet",
                "guide.width=4",
                *QUICK,
            ]
        )
        == 0
    )
    assert main(["train", "method=guidance", "model=fcn", "model.width=16", "model@guide=mine", *QUICK]) == 0


def test_own_guide_and_own_experiment(own_folder):
    words = ["train", "method=guidance", "model=fcn", "model@guide=own", "guide._target_=my_guides.Strokes"]
    assert " ".join(["tutelage", *words]) in README
    assert main([*words, "model.width=16", *QUICK]) == 0
    assert main(["train", "experiment=mine/guided", "model.depth=3", "guide.width=4", *QUICK]) == 0


def test_an_experiment_whose_first_line_is_another_is_told_so(own_folder, capsys):
    path = own_folder / "conf/experiment/mine/guided.yaml"
    path.write_text("# a comment first\n" + path.read_text())
    assert main(["train", "experiment=mine/guided", *QUICK]) == 2
    assert (
        "experiment=mine/guided: its file must begin with the line '# @package _global_'"
        in capsys.readouterr().err
    )


def test_every_command_of_the_readme_exists():
    named = set(re.findall(r"(?:^|`)tutelage (\w+)", README, re.MULTILINE))
    assert named <= set(COMMANDS)


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets
