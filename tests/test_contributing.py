"""CONTRIBUTING shows one of each as a diff; made in a folder outside the checkout, each works."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tutelage.cli.main import main
from tutelage.runs.store import Store

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=4",
    "fit.validate_every_steps=4",
    "model.depth=2",
    "model.width=16",
]
GUIDE = ["method=guidance", "model@guide=residual_convnet", "guide.width=4", "guide.blocks=1"]
USES = {
    "an objective": ["+objective@method.objectives.entropy=entropy"],
    "a similarity": [*GUIDE, "similarity@method.objectives.alignment.similarity=profile"],
    "a method": ["method=resting"],
    "a data set": ["data=rings", "+objective@method.objectives.entropy=entropy"],
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder with everything that the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules = []
    for text in re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL):
        for path, body in re.findall(r"^\+\+\+ b/(\S+)\n((?:\+(?!\+\+).*\n)*)", text, re.MULTILINE):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text("".join(line[1:] + "\n" for line in body.splitlines()))
            modules += [path.removesuffix(".py")] if path.endswith(".py") else []
    assert len(modules) == len(USES) + 1  # and the command
    points = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["entry-points"]
    installed = tmp_path / "census-1.dist-info"  # what an installer makes of it
    installed.mkdir()
    (installed / "METADATA").write_text("Name: census\nVersion: 1\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in points.items()
    ]
    (installed / "entry_points.txt").write_text("".join(lines))
    yield tmp_path
    for name in modules:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("what", USES)
def test_one_of_each_made_outside_the_checkout_as_the_page_shows_it_trains(outside, what):
    assert f"# {what}:" in PAGE
    assert main(["train", *USES[what], *QUICK]) == 0
    (run,) = Store("runs").runs()
    assert run.is_complete
    recorded = {key for row in run.metrics.rows for key in row}
    assert ("train/alignment" if what == "a similarity" else "train/entropy") in recorded


def test_a_command_of_an_installed_package_is_one_of_tutelages(outside, capsys, monkeypatch):
    assert main(["train", *QUICK]) == 0
    capsys.readouterr()
    assert main(["census"]) == 0
    assert capsys.readouterr().out == "1 complete\n"
    assert main(["census", "--help"]) == main(["--help"]) == 0
    assert "Count the runs in each state" in (said := capsys.readouterr().out)
    assert "Of installed packages: census" in said
    assert main(["census", "rnus_dir=x"]) == 2
    assert "census takes runs_dir=" in capsys.readouterr().err
    assert main(["cencus"]) == 2
    assert "did you mean 'census'" in capsys.readouterr().err
    for value, said in (("my_census:run", "must be a Command"), ("my_cencus:COMMAND", "No module named")):
        (outside / "census-1.dist-info" / "entry_points.txt").write_text(
            f"[tutelage.commands]\ncensus = {value}\n"
        )
        assert main(["census"]) == 2
        assert said in capsys.readouterr().err


SAME_THING = {
    "__init__.py", "__main__.py", "base.py",  # what every package may have
    # the function or the loop of one's own, and the objective
    "alignment.py", "attention_maps.py", "consistency.py", "dimension.py", "views.py",
    "distillation.py", "inversion.py",  # the losses, and the method
    "export.py",  # what the command does, and the command
    "huggingface.py",  # `data=huggingface` and `model=huggingface`: `_target_`s, so part of what runs are
}  # fmt: skip


def test_files_of_one_name_are_of_the_same_thing():
    times = Counter(path.name for path in (ROOT / "src" / "tutelage").rglob("*.py"))
    assert {name for name, count in times.items() if count > 1} == SAME_THING
