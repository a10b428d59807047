"""A whole search by a stand-in for Optuna: what is proposed, run and told, its table and its lines, word by word."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from made_plans import plan, stored
from tutelage.errors import UserError
from tutelage.jobs import search
from tutelage.jobs.search import Search, Settings, Trial, pareto
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import write_json
from tutelage.runs.store import Store

SPACE = {
    "model.depth": {"low": 2, "high": 9, "step": None, "log": False, "whole": True},
    "optimizer.lr": {"low": 0.001, "high": 0.1, "step": None, "log": True, "whole": False},
    "model": {"choices": ["fcn", "convnet"]},
}


class Asked:
    """A proposal: the lowest depth and its number, the highest rate, and by turns one of the choices."""

    def __init__(self, number):
        self.number, self.reports, self.asked = number, [], []

    def suggest_int(self, key, low, high, *, step, log):
        self.asked.append((key, low, high, step, log))
        return low + self.number

    def suggest_float(self, key, low, high, *, step, log):
        self.asked.append((key, low, high, step, log))
        return high

    def suggest_categorical(self, key, choices):
        return choices[self.number % len(choices)]

    def report(self, value, step):
        self.reports.append((step, value))


class Study:
    """Records what it was made with and told."""

    def __init__(self):
        self.asked, self.told = [], []

    def ask(self):
        self.asked.append(Asked(len(self.asked)))
        return self.asked[-1]

    def tell(self, asked, values=None, state=None):
        self.told.append((asked.number, values if state is None else state))


@pytest.fixture
def searching(tmp_path, monkeypatch, caplog):
    """Give a function that searches: each trial's run has curves, and results or failures, that are given."""
    caplog.set_level(logging.INFO, "tutelage")
    study, given = Study(), SimpleNamespace(launched=[], settings={})

    def sampler(**more):
        given.sampler = more

    def create_study(*, sampler, directions):
        given.directions = directions
        return study

    fake = SimpleNamespace(samplers=SimpleNamespace(TPESampler=sampler), create_study=create_study)
    monkeypatch.setattr(search, "_optuna", lambda: fake)

    class Planner:
        def __call__(self, words):
            number = len(given.proposed)
            given.proposed.append(words)
            if ends[number] == "wrong":
                raise UserError("these words mean nothing")
            return plan(tmp_path, number)

        def compose(self, words):
            given.composed = words
            return {}

    def launch(commands, plans):
        given.launched.append(list(zip(commands, plans, strict=True)))
        for command, one in given.launched[-1]:
            if one is None:
                continue
            run = Store(tmp_path).at(one.key)
            curve, end = curves[int(one.identity)], ends[int(one.identity)]
            run.path.mkdir(parents=True, exist_ok=True)
            with MetricsWriter(run.path / "metrics.jsonl") as writer:
                for step, value in curve.items():
                    writer.write({"step": step, "validation/accuracy": value})
            if isinstance(end, float):
                stored(
                    run.path,
                    end,
                    step=3,
                    steps=4,
                    networks={"model": {"parameters": 10 * (1 + int(one.identity)), "operations": 7}},
                )
            else:
                asked = next(
                    (word.partition("=")[2] for word in command if word.startswith("fit.stop_below=")), "[]"
                )
                write_json(
                    run.path / "failed.json",
                    {
                        "error": end,
                        "value": 0.125,
                        "asked": [[float(x) for x in p.split(",")] for p in asked.strip("[]").split("],[")]
                        if asked != "[]"
                        else [],
                    },
                )

    def do(settings, the_curves, the_ends, mode="max", measure=None):
        nonlocal curves, ends
        curves, ends = the_curves, the_ends
        given.proposed = []
        monkeypatch.setattr(search, "objective", lambda config: ("accuracy", mode))
        one = Search(
            settings, ["name=x"], SPACE, folder=tmp_path, launch=launch, planner=Planner(), measure=measure
        )
        one.run()
        given.lines = [
            ("ERROR: " if record.levelno == logging.ERROR else "")
            + record.getMessage().replace(str(tmp_path), "<folder>")
            for record in caplog.records
        ]
        given.table = (tmp_path / "trials.csv").read_text().splitlines()
        return given, study

    curves = ends = []
    return do


def words(number, *more):
    choice = ("fcn", "convnet")[number % 2]
    return ["name=x", f"model.depth={2 + number}", "optimizer.lr=0.1", f"model={choice}", *more]


def test_a_search_from_the_first_proposal_to_the_table(searching, tmp_path):
    curves = [{1: 0.25, 2: 0.5, 3: 0.625, 4: 0.5}, {1: 0.5, 2: 0.75, 4: 0.7}, {}, {1: 0.1}, {1: 0.2}, {}]
    ends = [0.625, 0.75, "OSError", "StoppedBelow", "StoppedBelow", "wrong"]
    given, study = searching(Settings(6, 1, 5, 2), curves, ends)
    assert given.sampler == {"seed": 5, "n_startup_trials": 2, "constant_liar": False}
    assert given.directions == ["maximize"]
    assert given.composed == ["name=x", "model.depth=2", "optimizer.lr=0.001", "model=fcn"]
    assert [[command for command, _ in batch] for batch in given.launched] == [
        [words(0)],
        [words(1)],
        # the median of the best so far at the steps that both have, but for the last
        *([words(number, "fit.stop_below=[[1,0.375],[2,0.625]]")] for number in (2, 3, 4, 5)),
    ]
    assert [one.asked for one in study.asked[:2]] == [
        [("model.depth", 2, 9, 1, False), ("optimizer.lr", 0.001, 0.1, None, True)]
    ] * 2
    assert [one.reports for one in study.asked] == [
        [(1, 0.25), (2, 0.5), (3, 0.625), (4, 0.625)],
        [(1, 0.5), (2, 0.75), (4, 0.75)],
        [],
        [(1, 0.1)],
        [(1, 0.2)],
        [],
    ]
    assert study.told == [
        (0, [0.625]),
        (1, [0.75]),
        (2, TrialState.FAIL),
        (3, TrialState.PRUNED),
        (4, TrialState.PRUNED),
        (5, TrialState.FAIL),
    ]
    assert given.table == [
        "trial,model.depth,optimizer.lr,model,state,validation/accuracy,test/accuracy,run",
        "0,2,0.1,fcn,complete,0.625,0.625,x/000000000000",
        "1,3,0.1,convnet,complete,0.75,0.75,x/000000000001",
        "2,4,0.1,fcn,failed,nan,nan,x/000000000002",
        "3,5,0.1,convnet,stopped,0.125,nan,x/000000000003",
        "4,6,0.1,fcn,stopped,0.125,nan,x/000000000004",
        "5,7,0.1,convnet,failed,nan,nan,",
    ]
    assert given.lines == [
        "trial 0: model.depth=2, optimizer.lr=0.1, model=fcn: accuracy 0.625 on validation (complete)",
        "trial 1: model.depth=3, optimizer.lr=0.1, model=convnet: accuracy 0.75 on validation (complete)",
        "trial 2: model.depth=4, optimizer.lr=0.1, model=fcn: accuracy nan on validation (failed)",
        "trial 3: model.depth=5, optimizer.lr=0.1, model=convnet: accuracy 0.125 on validation (stopped)",
        "trial 4: model.depth=6, optimizer.lr=0.1, model=fcn: accuracy 0.125 on validation (stopped)",
        "trial 5: model.depth=7, optimizer.lr=0.1, model=convnet: accuracy nan on validation (failed)",
        "6 trials, 2 complete; written: <folder>/trials.csv",
        "best on validation: trial 1, x/000000000001: val. accuracy 0.75, test 0.75, at step 3 of 4\n"
        "  model.depth=3 optimizer.lr=0.1 model=convnet",
    ]


def test_a_search_with_costs_in_batches(searching, tmp_path):
    settings = Settings(5, 2, 0, 1, cost=["parameters", "latency"])
    latency = {0: 3.0, 1: 4.0, 2: 3.0, 3: math.nan, 4: 5.0}
    given, study = searching(
        settings, [{}] * 5, [0.5, 0.75, 0.5, 0.875, 0.625], measure=lambda run: latency[int(run.identity)]
    )
    assert given.sampler["constant_liar"] is True
    assert given.directions == ["maximize", "minimize", "minimize"]
    assert [len(batch) for batch in given.launched] == [2, 2, 1]
    assert not any(one.reports for one in study.asked)  # Optuna takes none where there are several goals
    assert study.told == [
        (0, [0.5, 10.0, 3.0]),
        (1, [0.75, 20.0, 4.0]),
        (2, [0.5, 30.0, 3.0]),
        (3, TrialState.FAIL),
        (4, [0.625, 50.0, 5.0]),
    ]
    assert given.table == [
        "trial,model.depth,optimizer.lr,model,state,validation/accuracy,test/accuracy,run,parameters,latency,pareto",
        "0,2,0.1,fcn,complete,0.5,0.5,x/000000000000,10,3,yes",
        "1,3,0.1,convnet,complete,0.75,0.75,x/000000000001,20,4,yes",
        "2,4,0.1,fcn,complete,0.5,0.5,x/000000000002,30,3,no",
        "3,5,0.1,convnet,complete,0.875,0.875,x/000000000003,40,nan,no",
        "4,6,0.1,fcn,complete,0.625,0.625,x/000000000004,50,5,no",
    ]
    assert given.lines[0] == (
        "trial 0: model.depth=2, optimizer.lr=0.1, model=fcn: accuracy 0.5 on validation, parameters 10, latency 3 ms (complete)"
    )
    assert given.lines[-4:] == [
        "5 trials, 5 complete; written: <folder>/trials.csv",
        "no trial is better than these in one thing without being worse in another (validation):",
        "  trial 0: accuracy 0.5, parameters 10, latency 3 ms: model.depth=2 optimizer.lr=0.1 model=fcn",
        "  trial 1: accuracy 0.75, parameters 20, latency 4 ms: model.depth=3 optimizer.lr=0.1 model=convnet",
    ]


@pytest.mark.parametrize(("mode", "best", "direction"), [("max", 1, "maximize"), ("min", 0, "minimize")])
def test_the_best_is_that_of_the_tasks_direction(searching, mode, best, direction):
    given, _ = searching(Settings(2, 1, 0, 1), [{}, {}], [0.25, 0.75], mode)
    assert given.directions == [direction]
    assert given.lines[-1].startswith(f"best on validation: trial {best}, x/{best:012}: ")


def test_a_search_of_which_nothing_is_complete_says_so(searching):
    given, _ = searching(Settings(1, 1, 0, 1), [{}], ["OSError"])
    assert given.lines[-2:] == [
        "1 trial, 0 complete; written: <folder>/trials.csv",
        "ERROR: no trial is complete, so there is no best one",
    ]


def test_what_is_known_of_a_trial_is_not_run_again(searching, tmp_path):
    stored(tmp_path / "x/000000000000", 0.5)
    other = tmp_path / "x/000000000001"
    other.mkdir(parents=True)
    write_json(other / "failed.json", {"error": "StoppedBelow", "value": 0.1, "asked": []})
    third = tmp_path / "x/000000000002"
    third.mkdir(parents=True)
    write_json(third / "failed.json", {"error": "StoppedBelow", "value": 0.1, "asked": [[1, 0.5]]})
    given, study = searching(Settings(3, 1, 0, 3, "never"), [{}] * 3, [0.5, 0.5, 0.25])
    assert [[one.key for _, one in batch] for batch in given.launched] == [["x/000000000002"]]
    assert study.told == [(0, [0.5]), (1, TrialState.PRUNED), (2, [0.25])]


@pytest.mark.parametrize(
    ("name", "least"), [("trials", 1), ("at_a_time", 1), ("seed", 0), ("random_trials", 1), ("reduction", 2)]
)
def test_the_least_of_each_number_of_a_search(name, least):
    given = {"trials": 3, "at_a_time": 3, "seed": 3, "random_trials": 3, "reduction": 3}
    assert getattr(Settings(**given | {name: least}), name) == least
    for wrong, kind in (
        (least - 1, ""),
        (least + 0.5, r" \(float\)"),
        (True, r" \(bool\)"),
        ("3", r" \(str\)"),
    ):
        with pytest.raises(
            UserError,
            match=rf"^hydra.sweeper.{name} must be a whole number of at least {least}, got {wrong!r}{kind}$",
        ):
            Settings(**given | {name: wrong})


@pytest.mark.parametrize(("stop", "cost", "does"), [
    (None, (), "median"), (None, ["flops"], "never"), ("never", ["flops"], "never"), ("halving", (), "halving"),
])  # fmt: skip
def test_what_is_done_with_hopeless_trials(stop, cost, does):
    assert Settings(1, 1, 0, 1, stop, cost=cost).stops == does


@pytest.mark.parametrize(
    ("mode", "best"),
    [("max", {2: 0.5, 4: 0.5, 6: 0.75, 9: 0.75}), ("min", {2: 0.5, 4: 0.25, 6: 0.25, 9: 0.125})],
)
def test_a_curve_is_of_the_best_so_far_where_there_is_a_value(tmp_path, mode, best):
    one = Search(
        Settings(9, 1, 0, 2), [], {"a": {}}, folder=tmp_path, launch=print, planner=lambda words: None
    )
    one.mode, one.monitor = mode, "m"
    values = {1: None, 2: 0.5, 3: math.nan, 4: 0.25, 6: 0.75, 7: None, 9: 0.125}
    rows = [
        {"step": step} | ({} if value is None else {"validation/m": value}) for step, value in values.items()
    ]
    assert one._curve(SimpleNamespace(metrics=SimpleNamespace(rows=rows))) == best


@pytest.mark.parametrize(("complete", "found"), [
    (1, []),  # fewer than are drawn at random
    (2, [[2, 0.3], [4, 0.45]]),
    (3, [[2, 0.4], [4, 0.5]]),
])  # fmt: skip
def test_the_median_of_the_complete_at_the_steps_that_all_have(tmp_path, complete, found):
    one = Search(
        Settings(9, 1, 0, 2), [], {"a": {}}, folder=tmp_path, launch=print, planner=lambda words: None
    )
    one.mode = "max"
    curves = [{2: 0.2, 3: 0.9, 4: 0.4, 6: 0.6}, {2: 0.4, 4: 0.5, 6: 0.5}, {2: 0.9, 4: 0.9, 6: 0.9, 8: 1.0}]
    one.done = [
        Trial(number, {}, None, [], state="complete" if number < complete else "failed", curve=curve)
        for number, curve in enumerate(curves)
    ]
    assert one._thresholds() == [[step, pytest.approx(value)] for step, value in found]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 2), (2, 1), (2, 2)], [True, True, False]),
        ([(1, 2), (1, 2)], [True, True]),  # equal ones do not beat each other
        ([(1, 2), (1, 3)], [True, False]),
        ([(math.nan, 0), (1, 1), (-math.inf, 0)], [False, True, False]),
    ],
)
def test_the_front_of_a_few_points(points, front):
    assert pareto(points) == front


def test_one_step_of_a_dimension_is_one_unless_it_says_more():
    asked = Asked(0)
    search.suggest(asked, "a", {"low": 1, "high": 9, "step": 3, "log": False, "whole": True})
    search.suggest(asked, "b", {"low": 1, "high": 9, "step": 0.5, "log": False, "whole": False})
    assert asked.asked == [("a", 1, 9, 3, False), ("b", 1, 9, 0.5, False)]


def test_the_rungs_are_those_of_the_trials_that_have_curves(tmp_path):
    one = Search(
        Settings(9, 1, 0, 1, "halving", 2), [], {"a": {}}, folder=tmp_path, launch=print, planner=lambda words: None
    )  # fmt: skip
    one.mode = "max"
    curves = [{2: 0.5, 4: 0.6, 8: 0.7}, {2: 0.4, 4: 0.5, 8: 0.6}, {2: 0.1}, None, {}]
    one.done = [
        Trial(number, {}, None, [], state="complete" if number < 2 else "failed", curve=curve)
        for number, curve in enumerate(curves)
    ]
    assert one._thresholds() == [[2, 0.4], [4, 0.6]]  # of three the best two go on, of two the better one
    one.mode = "min"
    assert one._thresholds() == [[2, 0.4], [4, 0.5]]
