"""Phase diagrams: which run of a cell is shown, what its means are, and the command on two small runs."""

import csv
import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest

from tutelage.analysis import phases
from tutelage.cli.analyse import run
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.runs.store import Store

X, Y = "model.width", "model.depth"


def made(width, depth, seed, lr, validation, test, *, mode="max", name="plain"):
    values = {"validation": {"m": validation}, "test": {"m": test}}
    return SimpleNamespace(
        key=f"{name}/{width}-{depth}-{seed}-{lr}",
        name=name,
        config={"model": {"width": width, "depth": depth}, "optimizer": {"lr": lr}, "seed": seed},
        result={"selection": {"monitor": "m", "mode": mode}, "best": values},
    )


@pytest.mark.parametrize(("mode", "best"), [("max", 0.1), ("min", 0.01)])
def test_of_each_cell_and_seed_the_rate_that_is_best_on_validation_is_shown(mode, best):
    runs = [made(8, 2, seed, 0.1, 0.9, 0.5 + 0.1 * seed, mode=mode) for seed in (1, 0)]
    runs += [made(8, 2, seed, 0.01, 0.7, 0.3, mode=mode) for seed in (0, 1)] + [
        made(4, 2, 0, 0.1, 0.2, 0.1, mode=mode)
    ]
    rows = phases.rows_of(runs, X, Y)
    assert [(row[X], row["seed"], row["lr"]) for row in rows] == [
        (4, 0, 0.1), (8, 0, 0.01), (8, 0, 0.1), (8, 1, 0.01), (8, 1, 0.1)
    ]  # fmt: skip
    assert {row["lr"] for row in rows if row["chosen"] and row[X] == 8} == {best}
    found = phases.means(rows, X, Y, "test", "plain")
    tests = [0.5, 0.6] if mode == "max" else [0.3, 0.3]
    mean, spread, count = found[8, 2]
    assert (mean, count) == (pytest.approx(np.mean(tests)), 2)
    assert spread == pytest.approx(statistics.stdev(tests))
    assert found[4, 2][0] == 0.1 and math.isnan(found[4, 2][1])
    assert phases.means(rows, X, Y, "test", "guided") == phases.means(rows, X, Y, "gradient_ratio") == {}
    with pytest.raises(UserError, match=r"no setting 'model\.widht'; did you mean 'model\.width'"):
        phases.rows_of(runs, "model.widht", Y)


def test_a_map_has_the_mean_of_each_cell_in_its_place(tmp_path, monkeypatch):
    runs = [made(width, depth, 0, 0.1, 0.5, 0.1 * width + depth) for width in (4, 8) for depth in (1, 2, 3)]
    drawn = []
    monkeypatch.setattr(
        phases, "_number", lambda axes, grid, form, middle: drawn.append((grid.tolist(), middle))
    )
    phases.draw(phases.rows_of(runs, X, Y), tmp_path / "p.png", x=X, y=Y)
    ((grid, middle),) = drawn
    assert grid == [[pytest.approx(0.1 * width + depth) for width in (4, 8)] for depth in (1, 2, 3)]
    assert middle == pytest.approx((1.4 + 3.8) / 2) and (tmp_path / "p.png").is_file()


def test_the_command_says_means_over_seeds_and_what_was_seen_before_training(tmp_path, capsys):
    words = ["logger=none", "hardware.threads=1", "fit.max_steps=4", "fit.validate_every_steps=2", "data.batch_size=32",
             "model=fcn", "model.depth=2", "model.width=8", "name=p", f"runs_dir={tmp_path}"]  # fmt: skip
    for seed in (0, 1):
        run_plan(plan_of([*words, f"seed={seed}"]))
    out = tmp_path / "out"
    asked = ["phases", "p", f"x={X}", f"y={Y}", f"runs_dir={tmp_path}", f"out={out}"]
    assert run(read("analyse", COMMANDS["analyse"], asked)) == 0
    tests = [one.result["best"]["test"]["accuracy"] for one in Store(tmp_path).runs()]
    assert f"p, {Y} 2, {X} 8: {np.mean(tests):.3f} (n 2)" in capsys.readouterr().out
    with (out / "phases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen"] for row in rows] == ["1", "1"]
    assert all(float(row["gradient_ratio"]) > 0 for row in rows)
    with pytest.raises(UserError, match="needs two settings"):
        run(read("analyse", COMMANDS["analyse"], [asked[0], asked[1], asked[2], asked[4]]))
