"""What analyses find of runs as metrics of a table: made by `reproduce`, kept beside the runs, read by `report`."""

import csv
import json
import re

import pytest

from tutelage.cli.main import main
from tutelage.errors import UserError
from tutelage.reporting import measured
from tutelage.reporting.table_file import load
from tutelage.runs.store import Store

TABLE = """
title: Small
metric: accuracy
beside: [robustness.corruptions_accuracy, robustness.pgd_accuracy, calibration.ece]
analyses:
  robustness: {attacks: pgd, corruptions: contrast, epsilon: 0.1, steps: 2, samples: 60}
  calibration: {}
percent: true
seeds: 2
base: [logger=none, hardware.threads=1, fit.max_steps=6, fit.validate_every_steps=6, model=fcn, model.depth=1, model.width=8]
arms:
  plain: []
  wide: [model.width=16]
compare: plain
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "experiments" / "small").mkdir(parents=True)
    (tmp_path / "experiments" / "small" / "one.yaml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_of(runs):
    return {path: path.read_bytes() for run in runs for path in sorted(run.path.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("command", ["report", "reproduce"])
@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("calibration: {}", "analyses: there is no 'analyse calibratoin'; did you mean 'calibration'?"),
        ("attacks: pgd", "got 'attaks=pgd'; did you mean 'attacks'?"),
    ],
)
def test_an_analysis_or_option_that_does_not_exist_is_said_before_any_run(
    folder, capsys, command, written, says
):
    misspelled = written.replace("calibration", "calibratoin").replace("attacks", "attaks")
    wrong = TABLE.replace(written, misspelled).replace("calibration.ece", "robustness.pgd_accuracy")
    (folder / "experiments/small/one.yaml").write_text(wrong)
    assert main([command, "small/one"]) == 2
    said = capsys.readouterr().err
    assert says in said and "one.yaml" in said and not (folder / "runs").exists()


def test_a_table_shows_what_analyses_find_and_no_run_changes(folder, capsys):
    assert main(["reproduce", "small/one"]) == 0
    results = folder / "experiments" / "small" / "results"
    page = (results / "one.md").read_text()
    for title in (
        "test robustness.pgd_accuracy",
        "test robustness.corruptions_accuracy",
        "test calibration.ece",
    ):
        assert f"## {title}" in page
    assert page.count("wide - plain") == 4 and "not analysed" not in page
    assert "robustness.pgd_accuracy" in (results / "one.html").read_text()
    with (results / "one-cells.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 4 and all(float(cell["test/robustness.pgd_accuracy"]) <= 1 for cell in cells)
    assert not any("contrast_1" in name for name in cells[0])
    store = Store("runs")
    runs = [store.at(cell["run"]) for cell in cells]
    rows = measured.recall(store.root, runs[0], "calibration", {})
    assert rows and float(cells[0]["test/calibration.ece"]) == pytest.approx(rows[0]["ece"])
    with (results / "one.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8

    before = files_of(runs)
    kept = {path: path.stat().st_mtime_ns for path in (store.root / "analysis" / "networks").rglob("*.json")}
    assert len(kept) == 8

    one = measured._path(
        store.root, runs[0], "robustness", load(folder / "experiments/small/one.yaml").analyses["robustness"]
    )
    one.write_text(one.read_text()[:100])  # cut short by a kill
    capsys.readouterr()
    assert main(["reproduce", "small/one", "--dry"]) == 0
    said = capsys.readouterr().out
    assert f"tutelage analyse robustness {runs[0].key} " in said and said.count("small/one/") == 1
    assert main(["report", "small/one"]) == 0
    assert "not analysed" in (results / "one.md").read_text()
    assert main(["reproduce", "small/one"]) == 0
    assert (results / "one.md").read_text() == page
    now = {path: path.stat().st_mtime_ns for path in kept}
    assert [path for path in kept if now[path] != kept[path]] == [one]
    assert files_of(runs) == before

    record = json.loads(one.read_text())
    (runs[0].path / "provenance.json").write_text('{"attempts": [{"finished": "later"}]}')
    assert measured.recall(store.root, runs[0], "robustness", record["asked"]) is None


def test_metrics_of_analyses_that_are_not_there_are_one_message(folder, capsys):
    path = folder / "experiments" / "small" / "one.yaml"
    path.write_text(TABLE.replace("  calibration: {}\n", ""))
    with pytest.raises(UserError, match=r"'calibration\.ece' is of the analysis 'calibration'"):
        load(path)
    small = TABLE.replace(
        "robustness.corruptions_accuracy, robustness.pgd_accuracy, calibration.ece", "calibration.nonsense"
    )
    small = (
        re.sub("  robustness: .*\n", "", small)
        .replace("seeds: 2", "seeds: 1")
        .replace("  wide: [model.width=16]\n", "")
    )
    path.write_text(small.replace("compare: plain\n", ""))
    assert main(["reproduce", "small/one"]) == 2
    assert "no run has the metric 'calibration.nonsense'" in capsys.readouterr().err
    path.write_text(TABLE.replace("calibration: {}", "calibration: 3"))
    with pytest.raises(UserError, match=r"analyses\.calibration must be a mapping or nothing"):
        load(path)
