"""The notebooks run from their first cell to their last, and give what they are committed with: in kind, not in times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SHORT = ("lesson_perceptron",)
LONG = (
    "first_guided_network",
    "from_a_table_to_a_table",
    "from_texts_and_a_model_to_a_table",
    "from_the_demo_to_your_own",
    "lesson_gradients",
    "scaling",
)


def _kinds(cell: Any) -> list[str]:
    """What a cell gave: text, tables and pictures; warnings and how often it printed are left out."""
    kept = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]
    return sorted({kind for out in kept for kind in out.get("data", {out["output_type"]: ""})})


@pytest.fixture(autouse=True)
def _pictures_into_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


def _runs(name: str) -> None:
    committed = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    for before, after in zip(committed.cells, notebook.cells, strict=True):
        if before.cell_type == "code":
            assert _kinds(before) == _kinds(after), before.source


@pytest.mark.parametrize("name", SHORT)
def test_a_short_notebook_gives_what_it_is_committed_with(name):
    _runs(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_long_notebook_gives_what_it_is_committed_with(name):
    _runs(name)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_with_outputs_and_pictures_and_without_a_machine_s_paths(path):
    assert path.stem in (*SHORT, *LONG)
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    kinds = {kind for cell in cells for kind in _kinds(cell)}
    assert kinds & {"image/png", "text/html"}
    assert "error" not in kinds
    assert not any(word in text for word in ("/tmp/", "/home/", "/root/"))
    assert path.stat().st_size < 400_000
