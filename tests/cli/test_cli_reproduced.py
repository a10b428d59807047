"""`reproduce` from its words to its end: a table's rounds, a programme's stages, and how fast this machine is."""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.cli import (
    programme,
    programme_stages,
    reproduce,
    speed,
)
from tutelage.cli.programme_stages import Work
from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.programme_file import Programme, Stage
from tutelage.runs.needs import Plan


class Cells:
    """A table's cells of two rounds: the second appears once the first is done; the jobs and what was asked of them."""

    def __init__(self, monkeypatch, *, stopped: bool = False, analyses: Any = ()) -> None:
        from tutelage.config import compose, planner
        from tutelage.jobs import outcomes, sweep
        from tutelage.reporting import tables

        self.events: list[Any] = []
        self.rounds = [["a=1"], ["a=2"]], [["a=1"], ["b=1"]]  # a cell that failed is missing again
        self.asked = 0

        def unfinished(table, find):
            self.asked += 1
            cells = self.rounds[min(self.asked, 3) - 1] if self.asked < 3 else [["a=1"]]
            return [SimpleNamespace(overrides=words) for words in cells]

        def launch(jobs, commands, plans):
            assert plans == {(*words,): f"plan of {words}" for words in commands}
            self.events.append(commands)

        monkeypatch.setattr(reproduce, "programme_path", lambda name: None)
        monkeypatch.setattr(reproduce, "table_path", lambda name: Path("t.yaml"))
        monkeypatch.setattr(reproduce, "load_table", lambda path: "table")
        monkeypatch.setattr(reproduce, "_analyses", lambda *_: iter(analyses))
        monkeypatch.setattr(
            reproduce, "report_table", lambda path, extra: self.events.append(("report", path, extra))
        )
        monkeypatch.setattr(compose, "hydra_ready", nullcontext)
        monkeypatch.setattr(compose, "compose", lambda words: {"runs_dir": words})
        monkeypatch.setattr(planner, "Planner", lambda: lambda words: f"plan of {words}")
        monkeypatch.setattr(
            outcomes.Jobs,
            "new",
            lambda runs_dir: (
                self.events.append(("jobs", runs_dir))
                or SimpleNamespace(finish_busy=lambda: None, stopped=stopped, close=lambda: 4)
            ),
        )
        monkeypatch.setattr(sweep, "launcher_of", lambda words, processes: (launch, words))
        monkeypatch.setattr(sweep, "at_a_time", lambda launch, count: f", {count} at a time")
        monkeypatch.setattr(tables, "unfinished", unfinished)
        monkeypatch.setattr(tables, "finder", lambda *_: None)

    def run(self, *flags: str) -> int:
        words = ["m=1", "runs_dir=R"]
        return reproduce.run(Given(names=["t"], settings=words, flags=flags))


@pytest.mark.parametrize("stopped", [False, True])
def test_what_a_table_misses_is_run_in_rounds_each_cell_once(monkeypatch, caplog, stopped):
    from tutelage.cli import analyse

    words = ["ranks", "r/1", "r/2", "r/3", "batch=8"]
    one = Cells(monkeypatch, stopped=stopped, analyses=[words])
    monkeypatch.setattr(
        analyse, "run", lambda given: one.events.append((given.verb, given.names, given.settings))
    )
    monkeypatch.setattr("tutelage.cli.reader.read", lambda *words: Given("ranks", words[2]))
    caplog.set_level(logging.INFO, "tutelage")
    assert one.run() == 4
    jobs, first, *rest = one.events
    assert jobs == ("jobs", ["runs_dir=R"])
    assert first == [["a=1", "m=1", "runs_dir=R"], ["a=2", "m=1", "runs_dir=R"]]
    report = ("report", Path("t.yaml"), ["m=1", "runs_dir=R"])
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == ["looking for the runs of t.yaml", "2 runs of t.yaml to make, 2 at a time"]
    if stopped:
        assert rest == [report] and len(said) == 2
    else:
        assert rest == [[["b=1", "m=1", "runs_dir=R"]], ("ranks", words, []), report]
        assert said[2:] == ["1 run of t.yaml to make, 1 at a time", "ranks of 3 runs of t.yaml"]


def test_what_would_be_run_is_printed(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO, "tutelage")
    one = Cells(monkeypatch, analyses=[["ranks", "r/1"]])
    assert one.run("--dry") == 0 and one.events == []
    assert capsys.readouterr().out == (
        "tutelage train a=1 m=1 runs_dir=R\ntutelage train a=2 m=1 runs_dir=R\n"
    )
    assert caplog.records[-1].getMessage() == "2 runs of t.yaml to make"
    monkeypatch.setattr("tutelage.reporting.tables.unfinished", lambda *_: [])
    assert one.run("--dry") == 0
    assert capsys.readouterr().out == "tutelage analyse ranks r/1\n"
    monkeypatch.setattr(reproduce, "_analyses", lambda *_: iter(()))
    assert one.run("--dry") == 0
    assert capsys.readouterr().out == "every run of t.yaml is there: tutelage report t\n"
    assert one.run() == 0 and one.events == [("report", Path("t.yaml"), ["m=1", "runs_dir=R"])]


@pytest.mark.parametrize(
    ("minutes", "flags", "up", "events", "code"),
    [
        ("2", (), False, ["measured", "room 114.0", "off until 165.0", "report False", "end False 1.0 0"], 10),
        ("2", ("--tiny",), False, ["measured", "room 114.0", "off until 165.0", "report True", "end False 1.0 0"], 10),
        ("2", ("--dry",), False, ["measured", "room 114.0"], 0),
        ("", (), True, ["measured", "room inf", "off until inf", "report False", "end True 1.0 0"], 10),
    ],
)  # fmt: skip
def test_a_programme_from_its_words_to_its_end(monkeypatch, capsys, minutes, flags, up, events, code):
    from tutelage.config import compose

    seen: list[str] = []
    clock = [50.0]
    one = Programme("p", "A title", (), {})

    def measured(works, *_):
        seen.append("measured")
        clock[0] += 1.0
        return works

    def work_off(works, plan_of, until, *_):
        seen.append(f"off until {until}")
        if up:
            raise programme.TimeIsUp

    monkeypatch.setattr(compose, "hydra_ready", nullcontext)
    monkeypatch.setattr(programme, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(programme, "load", lambda path: one)
    monkeypatch.setattr(programme, "planner", lambda tiny: None)
    asked: list[Any] = []
    monkeypatch.setattr(
        programme,
        "works_of",
        lambda programme, places, extra, tiny, runs_dir: (
            asked.append((extra, tiny, runs_dir))
            or [Work(Stage("one", table="t"), ()), Work(Stage("two", table="t"), ())],
            {"three": "why"},
        ),
    )
    monkeypatch.setattr(programme, "_alarm", lambda until: nullcontext())
    monkeypatch.setattr(programme, "measured", measured)
    monkeypatch.setattr(programme, "_plan_table", lambda works, left: seen.append(f"room {left}") or "table")
    monkeypatch.setattr(programme, "_work_off", work_off)
    monkeypatch.setattr(
        programme, "_report", lambda works, plan_of, runs_dir, tiny: seen.append(f"report {tiny}")
    )
    monkeypatch.setattr(
        programme,
        "_end",
        lambda works, plan_of, failed, over, seconds, runs_dir, left: (
            seen.append(f"end {over} {seconds} {left - 1}") or 10
        ),
    )
    words = ["runs_dir=R"] if flags else ["seed=1"]
    given = Given(options={"minutes": minutes}, flags=flags, settings=words)
    assert programme.run(Path("p.yaml"), given) == code and seen == events
    assert capsys.readouterr().out == (
        "A title\nmeasuring the speed of this machine on: one, two\ntable\nleft out, three: why\n"
    )
    assert asked == [(words, "--tiny" in flags, "R" if flags else "runs")]
    monkeypatch.setattr(programme, "works_of", lambda *_: ([], {"three": "why"}))
    with pytest.raises(UserError, match=r"^nothing of the programme p can be done here: give what is asked"):
        programme.run(Path("p.yaml"), given)
    monkeypatch.setattr(programme, "works_of", lambda *_: ([], {}))  # all was done before
    capsys.readouterr()
    programme.run(Path("p.yaml"), given)
    assert "measuring the speed of this machine on: nothing\n" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 3])
def test_a_stage_that_is_a_command_is_noted_with_its_end(monkeypatch, tmp_path, capsys, code):
    clock, ran = [5.0], []

    class Process:
        def __init__(self, words: list[str]) -> None:
            ran.append(words)

        def wait(self) -> int:
            clock[0] += 1.26
            return code

    monkeypatch.setattr(programme, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(programme, "subprocess", SimpleNamespace(Popen=Process))
    work = Work(Stage("a stage", command=("-c", "x")), (), [(("-c", "x"), 60.0)])
    assert programme._command(work, str(tmp_path)) is (code == 0)
    assert work.missing == ([] if code == 0 else [(("-c", "x"), 60.0)])
    note = json.loads((tmp_path / "reproduce/a-stage.json").read_text())
    assert (note["command"], note["exit_code"], note["seconds"]) == (["-c", "x"], code, 1.3)
    assert ran == [[sys.executable, "-c", "x"]] and capsys.readouterr().out == "a stage: python -c x\n"


def test_what_a_stage_misses_and_how_long_that_takes(monkeypatch):
    cells = [SimpleNamespace(seed=seed, overrides=(f"seed={seed}",)) for seed in (2, 9, 5, 7)]
    asked: list[Any] = []
    table = SimpleNamespace(seeds=(5, 9, 2))
    monkeypatch.setattr(Stage, "read_table", lambda self: (Path("t"), table))
    monkeypatch.setattr(programme_stages, "finder", lambda words, plan_of: asked.append(words))
    monkeypatch.setattr(programme_stages, "unfinished", lambda table, find: cells)
    work = Work(Stage("s", table="t"), ("w=1",))
    # by the table's order of seeds; one that it has not counts as its first
    order = [(f"seed={seed}", "w=1") for seed in (5, 7, 9, 2)]
    assert programme_stages.missing(work, None) == order and asked == [["w=1"]]

    needed = [
        SimpleNamespace(key=key, seconds=seconds) for key, seconds in (("a", 3.0), ("b", 20.0), ("c", 50.0))
    ]
    monkeypatch.setattr(
        programme_stages,
        "Store",
        lambda root: SimpleNamespace(at=lambda key: SimpleNamespace(is_complete=(root, key) == ("R", "c"))),
    )
    takes = SimpleNamespace(seconds=lambda plan: plan.seconds)

    def plan(words):
        own = 100.0 * (1 + order.index(tuple(words)))
        return SimpleNamespace(
            config={"runs_dir": "R"},
            seconds=own,
            prerequisites=lambda: needed[: 1 + order.index(tuple(words))],
        )

    # what is needed is counted once, and what is complete never
    assert programme_stages.timed(work, plan, takes) == [
        (order[0], 103.0), (order[1], 220.0), (order[2], 300.0), (order[3], 400.0),
    ]  # fmt: skip
    assert work.missing[0] == (order[0], 103.0)


def test_a_rehearsal_plans_each_command_once_and_alone(monkeypatch):
    from tutelage.config import planner

    made: list[Any] = []
    config = {"name": "n", "data": {"root": "need:x"}}
    monkeypatch.setattr(
        planner, "Planner", lambda: lambda words: made.append(list(words)) or Plan(config, "given", "0" * 12)
    )
    monkeypatch.setattr(programme_stages, "alone", lambda config: config | {"alone": True})
    monkeypatch.setattr(programme_stages, "identify", lambda config: f"of {sorted(config)}")
    plan_of = programme_stages.planner(False)
    assert plan_of(["a=1"]) is plan_of(("a=1",)) and plan_of(["a=1"]).name == "given"
    assert made == [["a=1"]]
    with pytest.raises(UserError, match=r"^its data are made by another run, which a rehearsal leaves out$"):
        programme_stages.planner(True)(["a=1"])
    config["data"]["root"] = "r"
    found = programme_stages.planner(True)(["a=1"])
    assert (found.name, found.identity) == ("n", "of ['alone', 'data', 'name']")


def test_the_speed_of_a_kind_of_run_is_that_of_twelve_updates(monkeypatch, tmp_path):
    from tutelage.jobs import launch
    from tutelage.runs import records

    asked: list[Plan] = []
    cost = {"samples_per_s": 4.0, "total_s": 100.0, "train_s": 60.0}
    sizes = {"sizes": {"train": 7, "validation": 60, "test": 90}}

    def run_plan(plan, say):
        asked.append(plan)
        say("nothing is said of it")
        return {"cost": cost}

    monkeypatch.setattr(launch, "run_plan", run_plan)
    monkeypatch.setattr(
        records, "read_json", lambda path: {"data": sizes} if path.name == "setup.json" else {}
    )
    monkeypatch.setattr(speed, "identify", lambda config: "0123456789ab")
    monkeypatch.setattr(speed, "alone", lambda config: dict(config) | {"needs": {}})
    config = {
        "fit": {"epochs": 3, "max_steps": None, "validate_every_steps": 5, "log_every_steps": 1, "accumulate": 2},
        "logger": {"kind": "wandb", "project": "p"}, "runs_dir": "R", "name": "n", "retry": 2, "seed": 4,
    }  # fmt: skip
    # a quarter of a second a sample; of the other 40 s 150 samples at a third of that are evaluation
    assert speed._measured(config) == (0.25, pytest.approx(40 - 0.25 / 3 * 150), sizes)
    (plan,) = asked
    assert plan.config["fit"] == {
        "epochs": None, "max_steps": 12, "validate_every_steps": 12, "log_every_steps": 12, "accumulate": 2,
    }  # fmt: skip
    assert plan.config["logger"] == {"kind": "none", "project": "p"} and plan.config["retry"] == 0
    assert (plan.name, plan.config["name"], plan.identity) == ("speed", "speed", "0123456789ab")
    assert plan.config["runs_dir"] != "R" and not Path(plan.config["runs_dir"]).exists()
    cost["total_s"] = 61.0
    assert speed._measured(config)[:2] == (0.25, 0.0) and not math.isnan(speed._measured(config)[1])
