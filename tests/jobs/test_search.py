"""hydra/sweeper=optuna: the task says what is judged and which way; failed, NaN and hopeless trials survive; a killed search goes on."""

from __future__ import annotations

import csv
import itertools
import math
import random
import re
from types import SimpleNamespace

import pytest

from tutelage.cli.main import main
from tutelage.config.planner import Planner
from tutelage.jobs.search import Search, Settings, Trial, pareto
from tutelage.runs.run import State
from tutelage.runs.store import Store

pytest.importorskip("optuna")
QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=12",
    "fit.validate_every_steps=4",
    "model.depth=1",
]
SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.random_trials=2", "model.width=range(4,40,4)",
          "optimizer.lr=tag(log,interval(1e-4,1e-1))", "model.activation=relu,tanh"]  # fmt: skip


def search(root, *words):
    return main(["train", "-m", *QUICK, *SEARCH, f"runs_dir={root}", *words])


def trials(root):
    newest = max(root.glob(".sweeps/*/trials.csv"), key=lambda path: path.stat().st_mtime_ns)
    with newest.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    assert search(root, "hydra.sweeper.trials=6") == 0
    return root


def test_trials_are_runs_chosen_by_the_tasks_metric(searched):
    rows = trials(searched)
    assert [row["trial"] for row in rows] == [str(number) for number in range(6)]
    complete = [row for row in rows if row["state"] == "complete"]
    for row in complete:
        run = Store(searched).at(row["run"])
        assert float(row["validation/accuracy"]) == run.result["best"]["validation"]["accuracy"]
        assert str(run.config["model"]["width"]) == row["model.width"]
        assert run.config["optimizer"]["lr"] == float(row["optimizer.lr"])
    assert len(complete) >= 2
    assert {row["state"] for row in rows} <= {"complete", "stopped"}


def test_the_same_command_walks_over_stored_results_and_more_trials_go_on(searched, capsys):
    before = trials(searched)
    stamps = {run.key: [a["started"] for a in run.attempts] for run in Store(searched).runs()}
    assert search(searched, "hydra.sweeper.trials=7") == 0
    after = trials(searched)
    assert after[:6] == before
    assert len(after) == 7
    again = {run.key: [a["started"] for a in run.attempts] for run in Store(searched).runs()}
    assert {key: again[key] for key in stamps} == stamps
    assert "best on validation" in capsys.readouterr().err


def test_a_search_beside_itself_gives_the_trials_of_one_after_the_other_for_each_batch(tmp_path):
    words = ["hydra.sweeper.trials=4", "hydra.sweeper.at_a_time=2", "hydra.sweeper.stop=never"]
    assert search(tmp_path / "here", *words) == 0
    assert search(tmp_path / "forked", *words, "hydra/launcher=local", "hydra.launcher.processes=2") == 0
    assert trials(tmp_path / "here") == trials(tmp_path / "forked")


def test_failing_and_diverging_trials_are_listed_and_the_search_goes_on(tmp_path, capsys):
    words = [
        "optimizer=sgd",
        "optimizer.lr=1e-2,1e30",
        "model.batch_norm=false",
        "model.activation=relu,rulu",
        "model.depth=3",
    ]
    assert search(tmp_path, *words, "hydra.sweeper.trials=8", "hydra.sweeper.random_trials=8") in (1, 2)
    rows = trials(tmp_path)
    assert len(rows) == 8
    for row in rows:
        bad = float(row["optimizer.lr"]) > 1 or row["model.activation"] == "rulu"
        assert (row["state"] == "failed") == bad
    error = capsys.readouterr().err
    assert "best on validation" in error
    assert "jobs failed" in error


def test_the_direction_is_the_tasks(tmp_path, capsys):
    """A series is judged by an error, of which less is better."""
    words = ["train", "-m", "logger=none", "hardware.threads=1", "fit.max_steps=6", "fit.validate_every_steps=3", "data=synthetic",
             "model.depth=1", "hydra/sweeper=optuna", "model.width=2,16", "hydra.sweeper.trials=3", f"runs_dir={tmp_path}"]  # fmt: skip
    assert main(words) == 0
    rows = [row for row in trials(tmp_path) if row["state"] == "complete"]
    column = next(name for name in rows[0] if name.startswith("validation/"))
    run = Store(tmp_path).at(rows[0]["run"])
    choose = max if run.result["selection"]["mode"] == "max" else min
    best = choose(rows, key=lambda row: float(row[column]))
    assert f"{best['run']}: val. accuracy" in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "best"), [("max", [0.5, 0.5, 0.7]), ("min", [0.5, 0.3, 0.3])])
def test_the_curve_of_a_run_is_the_best_number_so_far(mode, best):
    values = {2: 0.5, 3: None, 4: 0.3, 5: math.nan, 6: 0.7}
    rows = [{"step": step, "validation/m": value} for step, value in values.items()] + [{"step": 7}]
    search = SimpleNamespace(mode=mode, monitor="m")
    found = Search._curve(search, SimpleNamespace(metrics=SimpleNamespace(rows=rows)))
    assert found == dict(zip((2, 4, 6), best, strict=True))


def test_a_hopeless_run_is_stopped_is_no_failure_and_can_be_finished(tmp_path, capsys):
    words = [*QUICK, "model.width=8", f"runs_dir={tmp_path}"]
    assert main(["train", "-m", *words, "fit.stop_below=[[4,2.0]]", "seed=0"]) == 0
    (run,) = Store(tmp_path).runs()
    assert run.state is State.FAILED
    assert (run.failure["error"], run.failure["step"], run.failure["asked"]) == (
        "StoppedBelow",
        4,
        [[4, 2.0]],
    )
    assert main(["train", *words, "fit.stop_below=[[4,2.0]]"]) == 1
    assert "stopped at step" in capsys.readouterr().err
    assert main(["train", *words, "seed=0"]) == 0
    assert run.state is State.COMPLETE


def front_by_hand(rows, costs):
    """The trials that no other matches in everything and beats in something."""
    judged = {
        r["trial"]: (-float(r["validation/accuracy"]), *(float(r[cost]) for cost in costs))
        for r in rows
        if r["state"] == "complete"
    }
    return {
        trial
        for trial, ours in judged.items()
        if not any(theirs != ours and all(t <= o for t, o in zip(theirs, ours, strict=True)) for theirs in judged.values())
    }  # fmt: skip


def test_a_search_with_costs_gives_the_front_of_what_is_good_and_cheap(tmp_path, capsys):
    words = ["hydra.sweeper.cost=[flops,latency]", "hydra.sweeper.random_trials=3"]
    assert search(tmp_path, *words, "hydra.sweeper.trials=5") == 0
    rows = trials(tmp_path)
    assert {row["state"] for row in rows} == {"complete"}  # no small one is given up
    assert {row["trial"] for row in rows if row["pareto"] == "yes"} == front_by_hand(
        rows, ["flops", "latency"]
    )
    for row in rows:
        counted = Store(tmp_path).at(row["run"]).result["networks"]["model"]
        assert float(row["flops"]) == counted["operations"] and float(row["latency"]) > 0
    assert list(tmp_path.glob(".sweeps/*/pareto.png"))
    said = capsys.readouterr().err.split("without being worse in another")[1]
    listed = re.findall(r"^ +trial (\d+): ", said, re.MULTILINE)
    of = {row["trial"]: row["run"] for row in rows}
    front = {row["run"] for row in rows if row["pareto"] == "yes"}
    assert sorted(of[trial] for trial in listed) == sorted(
        front
    )  # a run that was proposed twice is listed once
    assert search(tmp_path, *words, "hydra.sweeper.trials=6") == 0
    assert trials(tmp_path)[:5] == [
        {**row, "pareto": now["pareto"]} for row, now in zip(rows, trials(tmp_path), strict=False)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_front_is_that_of_the_slow_version(seed):
    points = [
        tuple(one) for one in random.Random(seed).choices(list(itertools.product(range(4), repeat=3)), k=12)
    ]
    slow = [
        not any(o != p and all(a <= b for a, b in zip(o, p, strict=True)) for o in points) for p in points
    ]
    assert pareto(points) == slow
    assert pareto([*points, (0, float("nan"), 0)]) == [*slow, False]


def test_of_each_rung_the_best_third_goes_on(tmp_path):
    one = Search(
        Settings(9, 1, 0, 1, "halving", 3), [], {"a": {}}, folder=tmp_path, launch=print, planner=Planner()
    )
    one.mode = "max"
    for number, best in enumerate((0.9, 0.2, 0.5, 0.4)):
        curve = {step: best * step / 90 for step in range(10, 100, 10)}
        one.done.append(
            Trial(number, {}, None, [], state="complete" if number < 2 else "stopped", curve=curve)
        )
    one.done[3].curve = {10: 0.4 / 9}  # given up at the first rung
    # whole runs have 90 steps: rungs at 30 and 10; of 3 at step 30 the best goes on, of 4 at step 10 two
    assert one._thresholds() == [[10, pytest.approx(0.5 / 9)], [30, pytest.approx(0.3)]]
    one.mode = "min"
    assert one._thresholds() == [[10, pytest.approx(0.4 / 9)], [30, pytest.approx(0.2 / 3)]]


def test_halving_stops_the_hopeless_early(tmp_path):
    words = [
        "hydra.sweeper.stop=halving",
        "hydra.sweeper.reduction=2",
        "hydra.sweeper.random_trials=8",
        "hydra.sweeper.trials=8",
    ]
    assert search(tmp_path, *words, "fit.max_steps=16") == 0
    rows = trials(tmp_path)
    states = [row["state"] for row in rows]
    assert states[0] == "complete" and "stopped" in states
    worst = min(float(row["validation/accuracy"]) for row in rows if row["state"] == "complete")
    assert any(float(row["validation/accuracy"]) <= worst for row in rows if row["state"] == "stopped")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hydra.sweeper.cost=[speed]"], "hydra.sweeper.cost has no 'speed'"),
        (["hydra.sweeper.stop=median", "hydra.sweeper.cost=[flops]"], "would give up the small networks"),
        (["hydra.sweeper.stop=halve"], "did you mean 'halving'"),
        (["hydra.sweeper.reduction=1"], "at least 2, got 1"),
    ],
)
def test_wrong_goals_of_a_search_are_one_message(tmp_path, capsys, words, says):
    assert search(tmp_path, *words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("word", ["hydra.sweeper.trials=0", "hydra.sweeper.trials=many", "hydra.sweeper.nope=1", "model.width=interval(1",
                                  "fit.stop_below=[[1]]", "fit.stop_below=[3]"])  # fmt: skip
def test_a_wrong_search_is_one_message(tmp_path, capsys, word):
    assert search(tmp_path, word) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_search_over_nothing_is_one_message(tmp_path, capsys):
    assert main(["train", "-m", *QUICK, "hydra/sweeper=optuna", f"runs_dir={tmp_path}"]) == 2
    assert "something to search" in capsys.readouterr().err
