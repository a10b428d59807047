"""How searches hand over their trials, ranks do their run, and damaged pseudo sets are mended."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from made_plans import plan, stored
from tutelage.engine import pseudo_data
from tutelage.errors import UserError
from tutelage.jobs import launch, rank_main, search, sweep
from tutelage.jobs.outcomes import Jobs
from tutelage.runs.records import write_json, write_yaml
from tutelage.runs.store import Store


@pytest.mark.parametrize(
    ("cost", "given"), [("flops,latency", ["flops", "latency"]), (["flops"], ["flops"]), ([], [])]
)
def test_trials_are_launched_with_the_plans_that_are_known(tmp_path, monkeypatch, cost, given):
    launched, finished, made = [], [], {}

    class Search:
        def __init__(self, settings, words, space, *, folder, launch, planner, measure):
            made.update(settings=settings, words=words, space=space, folder=folder, measure=measure)
            self.launch = launch

        def run(self):
            self.launch([["a=1"], ["a=2"]], ["the plan", None])

    monkeypatch.setattr(search, "Search", Search)
    monkeypatch.setattr(Jobs, "finish_busy", lambda self: finished.append(len(launched)))
    composed = []
    planner = SimpleNamespace(compose=lambda words: composed.append(words) or {"runs_dir": str(tmp_path)})
    settings = {
        "trials": 3,
        "at_a_time": 1,
        "seed": 0,
        "random_trials": 2,
        "stop": None,
        "reduction": 3,
        "cost": cost,
    }
    words = ["model=fcn", f"runs_dir={tmp_path}", "model.depth=range(2,5)", "sweep=none"]
    jobs = sweep.run_search(words, settings, lambda *words: launched.append(words), planner, measure="clock")
    assert launched == [(jobs, [["a=1"], ["a=2"]], {("a=1",): "the plan"})] and finished == [1]
    assert composed == [[f"runs_dir={tmp_path}", "sweep=none"]] and made["folder"] == jobs.folder
    assert (list(made["settings"].cost), made["settings"].trials, made["measure"]) == (given, 3, "clock")
    assert list(made["space"]) == ["model.depth"] and "model=fcn" in made["words"]


@pytest.mark.parametrize(("raised", "code"), [(None, 0), (UserError("no"), 2), (OSError("no"), 1)])
@pytest.mark.parametrize("group", [True, False])
def test_a_rank_does_the_run_of_its_folder(tmp_path, monkeypatch, raised, code, group):
    run = Store(tmp_path).at("x/000000000001")
    run.path.mkdir(parents=True)
    write_yaml(run.path / "config.yaml", {"name": "x", "seed": 3})
    did = []

    def attempt(config, run):
        did.append((config, run.path))
        if raised is not None:
            raise raised

    monkeypatch.setattr(rank_main, "die_with_parent", lambda: did.append("dies with its parent"))
    monkeypatch.setattr(rank_main, "attempt", attempt)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: group)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: did.append("group ended"))
    level = logging.getLogger().handlers[0].level
    try:
        assert rank_main.main(str(run.path)) == code
    finally:
        logging.getLogger().handlers[0].setLevel(level)
    ended = ["group ended"] if group and raised is None else []
    assert did == ["dies with its parent", ({"name": "x", "seed": 3}, run.path), *ended]
    assert (run.path / "log.txt").is_file()


@pytest.mark.parametrize(("broken", "line"), [
    ([], "{} is complete, and every shard is what its manifest says"),
    (["shard-1", "manifest.json"], "{}: shard-1, manifest.json missing or damaged, made again"),
])  # fmt: skip
def test_a_damaged_set_is_made_again(tmp_path, monkeypatch, broken, line):
    one, said, made = plan(tmp_path, 1, [plan(tmp_path, 2)]), [], []
    assert launch.mend(one, say=said.append) is None and not said
    stored(tmp_path / one.key)
    monkeypatch.setattr(pseudo_data, "damaged", lambda run: broken)
    monkeypatch.setattr(pseudo_data, "make", lambda config, run: made.append((config, run.key)))
    monkeypatch.setattr(launch.needs, "ensure", lambda plan, store, execute, say: made.append("needs"))
    result = launch.mend(one, say=said.append)
    assert result["best"]["step"] == 1 and said == [line.format(one.key)]
    assert made == (["needs", (one.config, one.key)] if broken else [])


@pytest.mark.parametrize(("attempts", "said"), [
    ([{"own_code": {"mine.py": "old"}}], ["{} was begun with another mine.py, and goes on with this one"]),
    ([{"own_code": {"mine.py": "new"}}], []),
    ([], []),
])  # fmt: skip
def test_a_run_that_goes_on_with_other_code_says_so(tmp_path, monkeypatch, caplog, attempts, said):
    from dataclasses import replace

    from tutelage.runs.identity import identify

    one = plan(tmp_path, 1)
    one = replace(one, identity=identify(one.config), words=("model=fcn", "seed=1"))
    run = Store(tmp_path).at(one.key)
    run.path.mkdir(parents=True)
    write_json(run.path / "provenance.json", {"attempts": attempts})
    monkeypatch.setattr(launch.provenance, "own_code", lambda config: {"mine.py": "new"})
    monkeypatch.setattr(launch.provenance, "keep_own_code", lambda config, folder: None)
    launch.execute(one, run, lambda config, run: stored(run.path))
    assert [record.getMessage() for record in caplog.records if "begun" in record.getMessage()] == [
        line.format(one.key) for line in said
    ]
    assert run.attempts[-1]["words"] == ["model=fcn", "seed=1"] and run.attempts[-1]["own_code"] == {
        "mine.py": "new"
    }
    launch.execute(one, run, lambda config, run: pytest.fail("it is complete"))
    caplog.clear()
    monkeypatch.setattr(launch.provenance, "own_code", lambda config: {"mine.py": "newer"})
    launch.run_plan(one)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{one.key} was made with another mine.py: its stored result is of that code; rerun=true makes it anew"
    ]


def test_ranks_that_exist_do_not_set_a_run_aside(tmp_path, monkeypatch):
    one = plan(tmp_path, 1)
    monkeypatch.setattr(launch, "in_ranks", lambda: True)
    with pytest.raises(UserError) as error:
        launch.run_plan(one, rerun=True)
    assert str(error.value) == (
        "rerun=true cannot be given where the ranks exist already (torchrun, srun): each would set the others' run aside. "
        f"Move {tmp_path / one.key} away first, or give the command without them: it starts its own ranks"
    )
