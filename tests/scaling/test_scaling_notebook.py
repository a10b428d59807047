"""The notebook runs from the integral to the collapse of the committed results."""

import json
from pathlib import Path

import matplotlib as mpl


def test_the_notebook_runs(monkeypatch):
    mpl.use("Agg")
    path = Path(__file__).parents[2] / "notebooks" / "scaling.ipynb"
    monkeypatch.chdir(path.parent)
    names: dict[str, object] = {"display": print}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), names)
    assert len(names["table"]) >= 2
