"""Calibration against slow references, and as a command."""

import csv
import json
import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from tutelage.analysis import calibration as analysis
from tutelage.cli.analyse import run
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan


@pytest.fixture
def sample():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(400, 5)) * 3
    return logits, np.where(draw.random(400) < 0.6, logits.argmax(1), draw.integers(5, size=400))


def test_a_line_says_what_matters():
    found = analysis.Calibration(400, 0.7, 0.12, 0.1, 0.15, 1.5, 0.03, 1.0, 0.9, 0.11, 0.2)
    assert str(found) == (
        "ECE 0.120, 95 % over samples 0.100 to 0.150; at the temperature 1.500 learnt on validation 0.030; errors 0.300, "
        "of the surest 80 % 0.200"
    )


def test_the_expected_error_is_the_slow_one(sample):
    logits, targets = sample
    p = analysis.softmax(logits)
    confidence, right = p.max(1), (p.argmax(1) == targets).astype(float)
    slow = 0.0
    for k in range(15):
        inside = [i for i in range(400) if k / 15 < confidence[i] <= (k + 1) / 15]
        if inside:
            gap = abs(
                sum(right[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside)
            )
            slow += len(inside) / 400 * gap
    assert analysis.expected_error(confidence, right) == pytest.approx(slow, abs=1e-12)
    low, high = analysis.interval(confidence, right)
    assert low < slow < high and (low, high) == analysis.interval(confidence, right)
    order = np.random.default_rng(1).permutation(400)
    assert analysis.expected_error(confidence[order], right[order]) == pytest.approx(slow, abs=1e-12)
    assert analysis.expected_error(np.ones(4), np.ones(4)) == 0


def test_the_temperature_has_the_least_likelihood_of_a_grid_and_undoes_a_scale(sample):
    logits, targets = sample
    grid = np.exp(np.linspace(-2, 3, 2001))
    best = grid[np.argmin([analysis.nll(logits, targets, t) for t in grid])]
    found = analysis.temperature_of(logits, targets)
    assert found == pytest.approx(best, rel=0.01)
    assert analysis.temperature_of(2 * logits, targets) == pytest.approx(2 * found, rel=1e-3)
    slow = -sum(math.log(analysis.softmax(logits)[i, targets[i]]) for i in range(400)) / 400
    assert analysis.nll(logits, targets) == pytest.approx(slow)


def test_the_risk_is_that_of_the_most_confident(sample):
    confidence = np.array([0.9, 0.5, 0.7, 0.6])
    right = np.array([1.0, 0.0, 0.0, 1.0])
    assert analysis.risk_coverage(confidence, right).tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])


def test_the_command_writes_figure_table_and_record_and_refuses_other_tasks(tmp_path, capsys):
    small = [
        "logger=none",
        "hardware.threads=1",
        "fit.max_steps=6",
        "fit.validate_every_steps=3",
        f"runs_dir={tmp_path}",
    ]
    for seed in (0, 1):
        run_plan(
            plan_of([*small, "name=c/plain", f"seed={seed}", "model=fcn", "model.depth=1", "model.width=8"])
        )
    words = ["calibration", "c/plain", f"runs_dir={tmp_path}", f"out={tmp_path / 'out'}"]
    assert run(read("analyse", COMMANDS["analyse"], words)) == 0
    said = capsys.readouterr().out
    assert "learnt on validation" in said and "95 % over 2 runs" in said
    with (tmp_path / "out" / "calibration.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(float(r["low"]) <= float(r["high"]) and r["n"] == "359" for r in rows)
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["bins"] == 15
    assert (tmp_path / "out" / "calibration.png").stat().st_size > 5000
    assert run(read("analyse", COMMANDS["analyse"], [*words, "other=digits"])) == 0
    assert (
        "told from digits, area under the ROC curve: max_softmax 0.500, energy 0.500"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="other=copy_paste has inputs"):
        run(read("analyse", COMMANDS["analyse"], [*words, "other=copy_paste"]))
    other = plan_of(
        [
            *small,
            "name=c/t",
            "data=table",
            "data.dataset=diabetes",
            "model=fcn",
            "model.depth=1",
            "model.width=8",
        ]
    )
    run_plan(other)
    with pytest.raises(UserError, match="one class for each sample, got a task of regression"):
        run(read("analyse", COMMANDS["analyse"], ["calibration", "c/t", f"runs_dir={tmp_path}"]))


def test_the_area_under_the_curve_is_the_slow_one():
    draw = np.random.default_rng(0)
    inside, outside = draw.integers(6, size=40) + 1.0, draw.integers(6, size=30) * 1.0
    slow = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside])
    assert analysis.auroc(inside, outside) == pytest.approx(slow)
    logits = draw.normal(size=(3, 4))
    energy = [math.log(sum(math.exp(z) for z in row)) for row in logits]
    np.testing.assert_allclose(analysis.scores(logits)["energy"], energy)


def test_the_figure_has_a_panel_for_each_arm_and_one_legend_outside(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(analysis, "save", lambda figure, path: drawn.append(figure))
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.2, 1, (6, 50))
    run = [(0.1, one, (draw.uniform(size=50) < one).astype(float)) for one in confidence]
    analysis.draw({"first": run[:3], "second": run[3:5], "alone": run[5:]}, tmp_path / "calibration.png")
    (figure,) = drawn
    *panels, risk = figure.axes
    assert [panel.get_title() for panel in panels] == [
        "first\ncalibration error 0.100, n = 3", "second\ncalibration error 0.100, n = 2", "alone\ncalibration error 0.100",
    ]  # fmt: skip
    assert [text.get_text() for text in risk.get_legend().get_texts()] == ["first", "second", "alone"]
    assert "lower is better" in risk.get_ylabel()
    for panel in panels:  # bands stay within what is possible
        (bars,) = [one for one in panel.collections if isinstance(one, LineCollection)]
        ends = [y for one in bars.get_segments() if len(one) for y in one[:, 1]]
        assert all(0 <= y <= 1 for y in ends)
    alone = risk.lines[2]
    wrong = 1 - run[5][2][np.argsort(-run[5][1], kind="stable")]
    np.testing.assert_allclose(alone.get_ydata()[-1], wrong.mean())
