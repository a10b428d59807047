"""CONTRIBUTING shows one of each as a diff; made in a folder outside the checkout, each works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tutelage.cli.main import main
from tutelage.runs.store import Store

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
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
    assert len(modules) == len(USES)
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
