"""The README and the pages of docs/ do what they say: their network, objective and loop, taken from the page itself, run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import tutelage
from tutelage.cli.commands import COMMANDS
from tutelage.cli.main import main
from tutelage.config.planner import plan_of
from tutelage.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
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
        "conf/experiment/mine/guided.yaml": block("# @package _global_\n# conf/experiment/"),
        "conf/chain/mine.yaml": block("# @package _global_\n# conf/chain/"),
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
    assert " ".join(["tutelage", *words]) in README.replace("\\\n  ", "")
    assert main([*words, "model.width=16", *QUICK]) == 0
    assert main(["train", "experiment=mine/guided", "model.depth=3", "guide.width=4", *QUICK]) == 0


def test_own_chain_is_another_with_parts_of_its_own(own_folder):
    plan = plan_of(["experiment=transfer/pp-p-ssl", "chain=mine"])
    assert plan.config["model"]["_target_"].endswith("FCN") and plan.name.startswith("transfer/mine/")
    with pytest.raises(
        UserError, match=r"chain\.parts\.network=fcn: .* conf/chain/mine\.yaml for chain=mine"
    ):
        plan_of(["experiment=transfer/pp-p-ssl", "chain=digits", "chain.parts.network=fcn"])


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


def test_code_on_the_pages_fits_a_screen():
    blocks = [
        text for page in PAGES for text in re.findall(r"```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]
    assert not [line for text in blocks for line in text.splitlines() if len(line) > 90]


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("first_line", ["# guided loop", "# summed loop"])
def test_a_loop_of_ones_own_runs_on_plain_modules_and_tensors_as_the_readme_says(first_line):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
    )
    guide = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(108, 4)
    )
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    names = {
        "network": network, "guide": guide.eval(), "teacher": guide.eval(), "x": x, "batches": [(x, y)] * 8,
        "cross_entropy": torch.nn.functional.cross_entropy, "Adam": torch.optim.Adam,
        "optimizer": torch.optim.Adam(network.parameters(), 0.01),
    }  # fmt: skip
    before, teacher = network[1].weight.detach().clone(), [p.detach().clone() for p in guide.parameters()]
    exec(block(first_line), names)
    first = float(names["loss"].detach())
    exec(block(first_line).partition("for x, y")[1] + block(first_line).partition("for x, y")[2], names)
    assert float(names["loss"].detach()) < first
    assert not torch.equal(network[1].weight, before)
    assert all(torch.equal(a, b) for a, b in zip(teacher, guide.parameters(), strict=True))
    if first_line == "# summed loop":
        assert len(list(names["total"].parameters())) == 2  # the projector's


def test_objectives_work_in_a_trainer_of_ones_own():
    from tutelage import objectives

    class Mine(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
            guide = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
            terms = {
                "task": objectives.Task(label_smoothing=None),
                "alignment": objectives.Alignment(
                    network="guide", schedule=objectives.Schedule(name="until", steps=2)
                ),
            }
            self.total = objectives.Objectives(
                self.network,
                terms,
                frozen={"guide": guide},
                task=torch.nn.functional.cross_entropy,
                example=torch.randn(4, 6),
            )

        def training_step(self, batch, place):
            return self.total(*batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    mine = Mine()
    data = torch.utils.data.TensorDataset(torch.randn(32, 6), torch.arange(32) % 3)
    pl.Trainer(
        max_steps=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(mine, torch.utils.data.DataLoader(data, batch_size=8))
    assert mine.total.step == 4
    assert not any(name.startswith("total.terms.alignment") for name, _ in mine.named_parameters())


def test_the_names_of_the_library_come_from_the_top_and_import_nothing_before_they_are_asked_for():
    code = "import sys, tutelage; assert 'torch' not in sys.modules; print(sorted(dir(tutelage)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("Alignment", "Taps", "losses", "similarity", "objectives", "load_run"):
        assert name in said and getattr(tutelage, name) is not None
    assert float(tutelage.similarity.cka(torch.eye(5), torch.eye(5))) == pytest.approx(1)
    assert float(tutelage.losses.feature.hint(torch.ones(3, 2), torch.ones(3, 2))) == 0
    with pytest.raises(AttributeError, match="no attribute 'aligment'"):
        tutelage.aligment
    from tutelage import objectives

    assert all(
        getattr(objectives, name).__module__.startswith("tutelage.objectives.") for name in objectives.__all__
    )
