"""An installed wheel works from an empty folder: the configuration ships inside."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_trains_from_an_empty_folder(tmp_path):
    run = {"check": True, "capture_output": True, "text": True, "timeout": 300}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, **run
    )
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel], **run)
    # The dependencies of this environment, without its editable Tutelage: a path file is not read recursively.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **run
    ).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    words = [
        "train",
        "experiment=demo/guided-untrained",
        "fit.max_steps=2",
        "fit.validate_every_steps=1",
        "logger=none",
    ]
    done = subprocess.run([python.parent / "tutelage", *words], cwd=empty, env=environment, **run)
    assert ", test " in done.stdout
    assert len(list(empty.glob("runs/demo/guided-untrained/*/result.json"))) == 1
    where = subprocess.run(
        [python, "-c", "import tutelage; print(tutelage.__file__)"], cwd=empty, env=environment, **run
    )
    assert str(tmp_path) in where.stdout
