"""Run notebooks and keep their outputs: `make notebooks`, or `python notebooks/refresh.py <name> ...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HOME = Path(__file__).resolve().parent
os.environ["MPLBACKEND"] = (
    "module://matplotlib_inline.backend_inline"  # pictures into the notebook, whatever the shell says
)


def refresh(path: Path) -> None:
    """Run a notebook from its first cell to its last; write it with what its cells gave, without warnings and times."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(HOME)}}
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in HOME.glob("*.ipynb")):
        refresh(HOME / f"{name}.ipynb")
        print(f"refreshed: {name}", flush=True)
