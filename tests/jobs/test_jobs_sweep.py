"""What a sweep says before, during and instead of its jobs, and which launcher its words mean."""

from __future__ import annotations

import functools
import logging
import time

import pytest

from made_plans import plan, stored
from tutelage.errors import UserError
from tutelage.jobs import cluster, outcomes, parallel, sweep
from tutelage.jobs.outcomes import Jobs


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG, "tutelage")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def test_what_a_sweep_will_do_is_said_before_it(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(sweep, "_GPU_DEVICES", ())
    complete, absent, other = (plan(tmp_path, seed) for seed in (7, 8, 9))
    stored(tmp_path / complete.key)
    stored(tmp_path / plan(tmp_path, 1).key)
    ones = [plan(tmp_path, seed) for seed in (0, 1)]
    needed = plan(tmp_path, 3, [absent])
    # of what is needed one is there, and one is of the sweep itself
    ones += [plan(tmp_path, 2, [complete, absent, needed]), needed]
    launch = functools.partial(sweep._run, processes=2)
    sweep.announce([*ones, None], launch)
    sweep.announce([ones[0]], launch)
    sweep.announce([ones[1], ones[1], ones[0]], launch)
    sweep.announce([plan(tmp_path, 0, [absent, other]), ones[2]], print)
    assert lines() == [
        "5 runs, 1 stored, and 1 run that they need, 2 at a time",
        "1 run, 0 stored",
        "3 runs, 2 stored",
        "2 runs, 0 stored, and 3 runs that they need",
    ]


@pytest.mark.parametrize(("processes", "jobs", "said"), [
    (1, 1, ""), (1, 2, ", 1 at a time"), (2, 1, ""), (2, 2, ", 2 at a time"), (4, 3, ", 3 at a time"),
    (None, 3, ", 3 at a time"), (None, 1, ""), (None, 7, ", 5 at a time"),
])  # fmt: skip
def test_how_many_at_a_time(monkeypatch, tmp_path, processes, jobs, said):
    monkeypatch.setattr(sweep, "_GPU_DEVICES", (str(tmp_path / "none"),))
    monkeypatch.setattr(parallel, "cores", lambda: 5)
    launch = functools.partial(sweep._run, processes=processes)
    assert sweep.at_a_time(launch, jobs) == said
    assert sweep.at_a_time(print, jobs) == ""
    assert sweep.at_a_time(functools.partial(sweep._submit, processes=processes), jobs) == ""
    monkeypatch.setattr(sweep, "_GPU_DEVICES", (str(tmp_path / "none"), str(tmp_path)))
    gpus = said and ", as many at a time as there are GPUs"
    assert sweep.at_a_time(launch, jobs) == (said if processes else gpus)


@pytest.mark.parametrize(("number", "said"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1234, "1,234 runs")])  # fmt: skip
def test_a_number_of_things(number, said):
    assert sweep.counted(number, "run") == said


def test_how_far_planning_is_is_said_now_and_then(monkeypatch, lines):
    clock = iter([0.0, 0.0, 10.0, 10.5, 10.5, 20.0, 20.6, 20.6])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    commands = [[str(number)] for number in range(5)]
    assert list(sweep.walked(commands, "planned")) == commands
    assert lines() == ["planned: 2 of 5 commands", "planned: 4 of 5 commands"]


def test_a_command_that_means_nothing_has_no_plan_and_its_mistake_is_kept():
    def plan_of(words):
        if words == ["b"]:
            raise UserError("no 'b'")
        return words

    assert sweep.plans_of([["a"], ["b"], ["c"]], plan_of) == ([["a"], None, ["c"]], ["no 'b'"])


def test_where_all_commands_have_one_mistake_it_is_the_sweeps(tmp_path):
    launched = []

    def plan_of(words):
        if words[0] == "ok":
            return plan(tmp_path)
        raise UserError(f"no 'x'; known: {words[0]}" if words[0] != "z" else "no 'z'")

    def launch(jobs, commands, plans):
        launched.append((commands, dict(plans)))

    with pytest.raises(UserError, match=r"^no 'x'; known: a$"):
        sweep.run_commands([["a"], ["b"]], launch, str(tmp_path), plan_of)
    assert not launched
    jobs, plans = sweep.run_commands([["a"], ["z"]], launch, str(tmp_path), plan_of)
    assert plans == [None, None] and launched.pop() == ([["a"], ["z"]], {})
    jobs, plans = sweep.run_commands([["ok"], ["a"], ["b"]], launch, str(tmp_path), plan_of)
    (commands, known) = launched.pop()
    assert commands == [["a"], ["b"], ["ok"]]  # what is wrong comes first: it is said at once
    assert plans == [known[("ok",)], None, None] and jobs.folder.is_relative_to(tmp_path)


RUN, SUBMIT = sweep._run, sweep._submit


@pytest.mark.parametrize(("words", "processes", "launch", "left"), [
    (["seed=0"], None, (RUN, {"processes": None, "gpu_memory_gb": None}), ["seed=0"]),
    (["seed=0"], 3, (RUN, {"processes": 3, "gpu_memory_gb": None}), ["seed=0"]),
    (["processes=2", "seed=0"], 3, (RUN, {"processes": 2, "gpu_memory_gb": None}), ["seed=0"]),
    (["processes=1"], 3, (RUN, {"processes": 1, "gpu_memory_gb": None}), []),
    (["hydra/launcher=local"], 3, (RUN, {"processes": None, "gpu_memory_gb": None}), []),
    (["hydra/launcher=basic", "a=1"], 3, (RUN, {"processes": 1, "gpu_memory_gb": None}), ["a=1"]),
    (["hydra.launcher.processes=4"], 3, (RUN, {"processes": 4, "gpu_memory_gb": None}), []),
    (["processes=2", "hydra.launcher.gpu_memory_gb=5"], 3, (RUN, {"processes": 2, "gpu_memory_gb": 5}), []),
])  # fmt: skip
def test_the_words_of_a_launcher(words, processes, launch, left):
    found, rest = sweep.launcher_of(words, processes)
    assert (found.func, found.keywords) == launch and rest == left


def test_the_words_of_a_cluster():
    found, rest = sweep.launcher_of(["seed=0", "hydra/launcher=slurm", "hydra.launcher.nodes=2"], 3)
    assert found.func is SUBMIT and found.keywords["module"] == "tutelage.jobs.cluster"
    assert found.keywords["options"]["nodes"] == 2 and rest == ["seed=0"]


@pytest.mark.parametrize(("words", "said"), [
    (["hydra.sweeper.trials=3"], r"^hydra.sweeper.trials=3: of Hydra's own a sweep takes hydra/launcher and hydra.launcher.<setting>$"),
    (["hydra/sweeper=x"], "^hydra/sweeper=x: of Hydra's own"),
    (["processes=2", "hydra/launcher=local"], "^processes=2 and hydra/launcher=local are two launchers: give one of them$"),
    *(([f"processes={wrong}"], f"^processes must be a whole number of at least 1, got '{wrong}'$") for wrong in ("0", "-1", "many", "1.5")),
    (["hydra.launcher.processes=0"], "^hydra.launcher.processes must be a whole number of at least 1, got 0$"),
])  # fmt: skip
def test_words_that_are_no_launcher_are_one_message(words, said):
    with pytest.raises(UserError, match=said):
        sweep.launcher_of(words, None)


@pytest.mark.parametrize(("number", "named"), [(sweep.NAMED, True), (sweep.NAMED + 1, False)])
def test_of_many_stored_runs_the_number_is_said(tmp_path, monkeypatch, lines, number, named):
    jobs, left = Jobs(tmp_path), []
    monkeypatch.setattr(outcomes, "is_stored", lambda one: one is not None)
    monkeypatch.setattr(jobs, "do", lambda make, words, here, say: say("%s is stored", words[0]) or 0.0)
    monkeypatch.setattr(
        jobs, "run_all", lambda missing, processes, *, plans: left.append((missing, processes))
    )
    commands = [[str(place)] for place in range(number)]
    plans = {(str(place),): plan(tmp_path, place) for place in range(2, number)}
    sweep._run(jobs, commands, plans, processes=3, gpu_memory_gb=2.5)
    assert left == [([["0"], ["1"]], 3)] and jobs.gpu_memory_gb == 2.5
    stored = [f"{place} is stored" for place in range(2, number)]
    assert lines() == (stored if named else [f"{number - 2} of {number} runs are complete: their stored results are used"])  # fmt: skip
    sweep._run(jobs, commands, {}, processes=3)
    assert len(left[-1][0]) == number and len(lines()) == (
        number - 2 if named else 1
    )  # none, nothing is said


def test_a_cluster_is_given_words_plans_and_what_is_stored(tmp_path, monkeypatch):
    submitted = []
    monkeypatch.setattr(cluster, "submit", lambda *words: submitted.append(words))
    known = plan(tmp_path, 1)
    stored(tmp_path / known.key)
    jobs = Jobs(tmp_path)
    sweep._submit(jobs, [("a",), ("b",)], {("a",): known}, module="tutelage.jobs.cluster", options={"x": 1})
    assert submitted == [(jobs, [(["a"], known, True), (["b"], None, False)], {"x": 1})]
