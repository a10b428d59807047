"""What the shipped tables' arms are: their identities, so that a change of a shared setting that changes a run is made knowingly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tutelage.config.compose import hydra_ready
from tutelage.config.planner import Planner
from tutelage.reporting.table_file import load
from tutelage.reporting.table_paths import PROGRAMMES

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").rglob("*.yaml"))
TABLES = [path for path in FILES if path.parent.name != PROGRAMMES]
KNOWN = Path(__file__).with_name("arms_of_tables.json")
QUICK = ("demo/demo", "guidance/digits", "transfer/digits")


def digest(path: Path, folder: Path) -> str:
    """Return a hash of the labels and identities of a table's arms; the data are a folder without a file."""
    table, plan = load(path), Planner()
    with hydra_ready():
        config = " ".join(" ".join(arm.command) for arm in table.arms)
        root = "chain.root" if "experiment=transfer" in config else "data.root"
        given = (
            [f"{root}={folder}"]
            if not any(name in config for name in ("demo/", "=digits", "copy_paste", "parity"))
            else []
        )
        plans = [(arm.label, plan([*arm.command, *given]).identity) for arm in table.arms]
    return hashlib.sha256(json.dumps(plans).encode()).hexdigest()[:16]


def name(path: Path) -> str:
    return path.relative_to(ROOT / "experiments").with_suffix("").as_posix()


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=name(p), marks=[] if name(p) in QUICK else [pytest.mark.slow]) for p in TABLES],
)
def test_the_arms_of_a_table_are_the_runs_they_were(path, tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.data.fingerprint.fingerprint", lambda *_: "some data")
    known = json.loads(KNOWN.read_text())
    assert digest(path, tmp_path) == known[name(path)], "made knowingly? Then note it in arms_of_tables.json"


def test_every_table_ships_with_the_package():
    listed = (ROOT / "pyproject.toml").read_text()
    assert [path for path in FILES if f'"experiments/{name(path)}.yaml"' not in listed] == []


def test_every_table_has_its_arms_noted():
    assert [*json.loads(KNOWN.read_text())] == sorted(map(name, TABLES))
