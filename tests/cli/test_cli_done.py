"""What commands do from their first word to their last: whom they ask, in which order, what they print and how they end."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tutelage.cli import (
    evaluate,
    in_ranks,
    listing,
    main,
    predict,
    programme,
    programme_stages,
    reproduce,
    serve,
    speed,
    synthesize,
    train,
)
from tutelage.cli.programme_stages import Work
from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.reporting.programme_file import Programme, Stage
from tutelage.runs.needs import Plan


class Left(Exception):
    """The process has ended, in this way."""


def leaves(how):
    def end(code):
        raise Left(how, code)

    return end


# --- the console script


class Stream(io.StringIO):
    """A stream whose flush fails."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        if self.error is not None:
            raise self.error

    def fileno(self) -> int:
        return 77


@pytest.mark.parametrize(
    ("raised", "errors", "torch", "ended", "piped"),
    [
        (None, (None, None), True, ("at once", 7), 0),
        (None, (None, None), False, ("exit", 7), 0),
        (BrokenPipeError(), (None, None), True, ("at once", 0), 0),
        (OSError("denied"), (None, None), True, ("exit", "tutelage: denied"), 0),
        (None, (BrokenPipeError(), None), True, ("at once", 7), 1),
        (BrokenPipeError(), (OSError("full"), None), True, ("at once", 1), 0),  # not all was written
        (None, (OSError("full"), BrokenPipeError()), False, ("exit", 7), 1),
    ],
)
def test_the_console_script_ends_with_the_commands_code(monkeypatch, raised, errors, torch, ended, piped):
    events: list[Any] = []

    def command():
        if raised is not None:
            raise raised
        return 7

    class Thread:
        def __init__(self, name: str, *, daemon: bool) -> None:
            self.name, self.daemon = name, daemon

        def join(self) -> None:
            events.append(self.name)

    here = Thread("main", daemon=False)
    monkeypatch.setattr(main, "main", command)
    monkeypatch.setattr(threading, "main_thread", lambda: here)
    monkeypatch.setattr(
        threading, "enumerate", lambda: [here, Thread("works", daemon=False), Thread("waits", daemon=True)]
    )
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: events.append("at exit"))
    modules = {key: value for key, value in sys.modules.items() if key != "torch"}
    system = SimpleNamespace(
        modules=modules | ({"torch": ModuleType("torch")} if torch else {}),
        stdout=Stream(errors[0]), stderr=Stream(errors[1]), exit=leaves("exit"),
    )  # fmt: skip
    opened: list[Any] = []
    monkeypatch.setattr(main, "sys", system)
    monkeypatch.setattr(
        main,
        "os",
        SimpleNamespace(
            _exit=leaves("at once"), devnull=os.devnull, O_WRONLY=os.O_WRONLY, open=lambda *words: 5,
            dup2=lambda *places: opened.append(places),
        ),
    )  # fmt: skip
    with pytest.raises(Left) as left:
        main.entry()
    assert left.value.args == ended and opened == [(5, 77)] * piped
    assert events == (["works", "at exit"] if ended[0] == "at once" else [])


# --- train


@pytest.mark.parametrize(
    ("terminal", "ranks", "rank", "fit", "said", "shown"),
    [
        (True, False, 0, {"max_steps": 1200, "epochs": None}, "a/0123456 seed 3: 1,200 steps on cpu", True),
        (True, False, 0, {"max_steps": None, "epochs": 2}, "a/0123456 seed 3: 2 epochs on cpu", True),
        (True, True, 0, {"max_steps": 0, "epochs": 2}, "a/0123456 seed 3: 0 steps on cpu", True),
        (True, True, 1, {"max_steps": 5, "epochs": None}, None, False),
        (False, False, 0, {"max_steps": 5, "epochs": None}, None, True),
        (False, True, 1, {"max_steps": 5, "epochs": None}, None, False),
    ],
)
def test_a_run_is_announced_on_a_terminal_and_shown_by_the_first_rank(
    monkeypatch, caplog, capsys, terminal, ranks, rank, fit, said, shown
):
    from tutelage.config import planner
    from tutelage.engine import rank_environment
    from tutelage.jobs import launch

    config = {
        "fit": fit, "seed": 3, "hardware": {"accelerator": "cpu"}, "rerun": "again", "runs_dir": "R",
    }  # fmt: skip
    plan = Plan(config, "a", "0123456789ab")
    done: list[Any] = []
    monkeypatch.setattr(planner, "plan_of", lambda words: done.append(words) or plan)
    monkeypatch.setattr(launch, "run_plan", lambda plan, rerun: done.append((plan, rerun)) or "its result")
    monkeypatch.setattr(rank_environment, "in_ranks", lambda: ranks)
    monkeypatch.setattr(rank_environment, "global_rank", lambda: rank)
    monkeypatch.setattr(train, "headline", lambda result: f"said of {result}")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("tutelage.runs.store.short", lambda key: key[:9])
    caplog.set_level(logging.INFO, "tutelage")
    assert train.run(Given(settings=["x=1"])) == 0
    assert done == [["x=1"], (plan, "again")]
    assert [one.getMessage() for one in caplog.records] == ([] if said is None else [said])
    assert capsys.readouterr().out == (
        "a/0123456789ab: said of its result\nR/a/0123456789ab\n" if shown else ""
    )


def test_latency_is_measured_once_and_kept_at_the_root_of_the_runs(monkeypatch):
    from tutelage.analysis import network_cost
    from tutelage.reporting import measured

    kept: dict[Any, Any] = {}
    timed: list[Any] = []
    key = "deep/name/0123456789ab"
    run = SimpleNamespace(key=key, path=Path("elsewhere/runs") / key)
    monkeypatch.setattr(measured, "recall", lambda root, run, *asked: kept.get((root, run.key, str(asked))))
    monkeypatch.setattr(
        measured,
        "remember",
        lambda root, run, name, asked, found: kept.update({(root, run.key, str((name, asked))): found}),
    )
    monkeypatch.setattr(network_cost, "latency_ms", lambda run, root: timed.append(root) or 1.5)
    assert [train._latency_ms(run), train._latency_ms(run)] == [1.5, 1.5]
    assert timed == [Path("elsewhere/runs")]
    assert list(kept) == [(Path("elsewhere/runs"), key, str(("latency", {"batch": "1", "threads": "1"})))]


# --- lists, pages, ranks


def test_sweeps_are_listed_with_every_table_and_a_table_with_its_title(monkeypatch, tmp_path, capsys):
    from tutelage.config import groups

    files = {}
    for name, text in (("p/a", "# x\ntitle: 'The first'\nmetric: m\n"), ("p/b", "metric: m\n")):
        files[name] = tmp_path / f"{name.replace('/', '-')}.yaml"
        files[name].write_text(text)
    monkeypatch.setattr(groups, "abouts", lambda group: {f"{group} itself": "described"})
    monkeypatch.setattr(listing, "tables", lambda: files)
    monkeypatch.setattr(listing, "width", lambda: 80)
    expected = {
        "sweeps": "sweep itself  described\np/a           The first\np/b\n",
        "tables": "p/a  The first\np/b\n",
        "cases": "scale itself  described\n",
    }
    for what, shown in expected.items():
        listing.run(Given(names=[what]))
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"under": "", "sort": None, "most": None, "state": None}),
        ({"last": "1"}, {"under": "", "sort": "-started", "most": 1, "state": None}),
        ({"last": "3", "sort": "seed", "name": "a", "state": "failed"},
         {"under": "a", "sort": "seed", "most": 3, "state": "failed"}),
    ],
)  # fmt: skip
def test_which_runs_are_listed(monkeypatch, capsys, given, asked):
    from tutelage.reporting import runs_table

    seen: list[Any] = []
    monkeypatch.setattr(
        runs_table, "render_runs_table", lambda store, **words: seen.append((str(store.root), words)) or "all"
    )
    name = given.pop("name", None)
    options = dict.fromkeys(listing.OF_RUNS, "") | {"runs_dir": "R"} | given
    assert listing.run(Given(names=["runs", *filter(None, [name])], options=options)) == 0
    others = {"method": None, "data": None, "since": None, "before": None}
    assert seen == [("R", asked | others)] and capsys.readouterr().out == "all\n"
    with pytest.raises(UserError, match=r"^--watch needs a terminal: elsewhere give `tutelage list runs`"):
        listing.run(Given(names=["runs"], options=options, flags=["--watch"]))


@pytest.mark.parametrize(
    ("path", "settings", "runs_first", "made"),
    [
        ("t.yaml", [], False, ["table t.yaml", "table t.yaml"]),
        ("t.yaml", ["a=1"], True, ["table t.yaml", "table t.yaml"]),
        ("t.yaml", [], True, ["free below/x", "free below/x"]),
        (None, [], False, ["free below/x", "free below/x"]),
        (None, ["a=1"], False, r"^a page of runs takes runs_dir=<folder>, got 'a=1'$"),
    ],
)
def test_the_report_of_a_page(monkeypatch, path, settings, runs_first, made):
    from tutelage.reporting import index, runs_report
    from tutelage.runs import store

    built: list[Any] = []
    monkeypatch.setattr(
        store, "Store", lambda root: SimpleNamespace(root=root, name_in=lambda what: f"below/{what}")
    )
    monkeypatch.setattr(index, "Index", lambda root: f"index of {root}")
    monkeypatch.setattr(
        runs_report, "free_report", lambda store, name, index: f"free {name}" if index == "index of R" else ""
    )
    monkeypatch.setattr(serve, "table_path", lambda what: path and Path(path))
    monkeypatch.setattr(
        serve, "table_path_unless_runs", lambda what, runs: None if runs_first or not path else Path(path)
    )
    monkeypatch.setattr(serve, "_of_table", lambda path, *_: built.append(path) or (lambda: f"table {path}"))
    with serve._reports("x", Given(settings=settings, options={"runs_dir": "R"})) as make:
        if isinstance(made, str):
            with pytest.raises(UserError, match=made):
                make()
            return
        assert [make(), make()] == made and len(built) == (made[0] != "free below/x")


def test_words_of_a_page_that_count_are_those_of_its_runs(monkeypatch):
    from tutelage.config import compose, planner
    from tutelage.reporting import table_file, table_report, tables

    found: list[Any] = []
    monkeypatch.setattr(compose, "hydra_ready", nullcontext)
    monkeypatch.setattr(planner, "plan_of", "plan_of")
    monkeypatch.setattr(table_file, "load", lambda path: f"table of {path}")
    monkeypatch.setattr(tables, "finder", lambda *words, recorded: found.append((words, recorded)) or "find")
    monkeypatch.setattr(table_report, "build", lambda *words: words)
    words = ["+hardware.threads=1", "fit.max_steps=3", "~guide"]
    given = Given(settings=words, options={"runs_dir": "R"}, spoken=["runs_dir"])
    entered: list[Any] = []
    made = serve._of_table(Path("t"), given, SimpleNamespace(enter_context=entered.append))
    assert made() == ("table of t", "find", ["fit.max_steps=3", "~guide"]) and len(entered) == 1
    assert found == [(([*words, "runs_dir=R"], "plan_of", "table of t"), True)]


@pytest.mark.parametrize(("name", "of"), [(["a"], "a"), ([], "all runs")])
def test_a_page_is_served_until_it_is_interrupted(monkeypatch, capsys, name, of):
    from tutelage.reporting import live

    events: list[Any] = []

    class View:
        def __init__(self, store, make, every_s):
            events.append((str(store.root), make, every_s))

        def now(self):
            events.append("now")

    def forever(poll_interval):
        events.append(poll_interval)
        raise KeyboardInterrupt

    serving = SimpleNamespace(server_address=("127.0.0.1", 80, "more"), serve_forever=forever)
    monkeypatch.setattr(live, "View", View)
    monkeypatch.setattr(live, "server", lambda view, port: events.append(port) or nullcontext(serving))
    monkeypatch.setattr(serve, "_reports", lambda what, given: nullcontext(f"reports {what}"))
    options = {"runs_dir": "R", "port": "8", "every": "3600"}
    assert serve.run(Given(names=name, options=options)) == 0
    assert events == [("R", f"reports {''.join(name)}", 3600), "now", 8, 0.2]
    assert capsys.readouterr().out == f"http://127.0.0.1:80 shows {of} in R; Ctrl-C ends it\n"
    for every in ("0", "3601"):
        with pytest.raises(UserError, match="every must be a whole number from 1 to 3600"):
            serve.run(Given(options=options | {"every": every}))


@pytest.mark.parametrize(
    ("device", "cards", "chosen"),
    [("cuda", 2, [1]), ("gpu", 4, [3]), ("cpu", 2, []), ("cuda", 0, []), ("mps", 2, [])],
)
def test_a_rank_takes_the_card_of_its_place_on_the_machine(monkeypatch, device, cards, chosen):
    import torch

    from tutelage.engine import shared_work
    from tutelage.jobs import parallel

    taken: list[int] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(in_ranks, "in_ranks", lambda: True)
    monkeypatch.setattr(in_ranks, "join_environment", lambda: (3, 4))
    monkeypatch.setattr(parallel, "die_with_parent", lambda: None)
    monkeypatch.setattr(shared_work, "ranks_together", nullcontext)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    given = Given(options={in_ranks.KEY: "1", "device": device})
    assert in_ranks.run_in_ranks("do", given, lambda given: 6) == 6 and taken == chosen


# --- reproduce: tables


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

        def launch(jobs, commands, _):
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
        monkeypatch.setattr(planner, "Planner", lambda: None)
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
    assert said[:2] == ["looking for the runs of t.yaml", "2 runs of t.yaml are missing, 2 at a time"]
    if stopped:
        assert rest == [report] and len(said) == 2
    else:
        assert rest == [[["b=1", "m=1", "runs_dir=R"]], ("ranks", words, []), report]
        assert said[2:] == ["1 runs of t.yaml are missing, 1 at a time", "ranks of 3 runs of t.yaml"]


def test_what_would_be_run_is_printed(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO, "tutelage")
    one = Cells(monkeypatch, analyses=[["ranks", "r/1"]])
    assert one.run("--dry") == 0 and one.events == []
    assert capsys.readouterr().out == (
        "tutelage train a=1 m=1 runs_dir=R\ntutelage train a=2 m=1 runs_dir=R\n"
    )
    assert caplog.records[-1].getMessage() == "2 runs of t.yaml are missing"
    monkeypatch.setattr("tutelage.reporting.tables.unfinished", lambda *_: [])
    assert one.run("--dry") == 0
    assert capsys.readouterr().out == "tutelage analyse ranks r/1\n"
    monkeypatch.setattr(reproduce, "_analyses", lambda *_: iter(()))
    assert one.run("--dry") == 0
    assert capsys.readouterr().out == "every run of t.yaml is there: tutelage report t\n"
    assert one.run() == 0 and one.events == [("report", Path("t.yaml"), ["m=1", "runs_dir=R"])]


# --- reproduce: programmes


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


# --- the table of a sweep, and what other commands look up


@pytest.mark.parametrize(
    ("states", "tabled", "written"),
    [
        ({"1": "complete", "2": "failed"}, True, ["table.csv"]),
        ({"1": "complete", "2": "complete"}, False, []),
        ({"1": "failed", "2": "failed"}, True, None),
    ],
)
def test_the_table_of_a_sweep(monkeypatch, tmp_path, capsys, states, tabled, written):
    from tutelage.reporting import collect, facts, index, render, runs_report
    from tutelage.reporting.row import Row
    from tutelage.runs import store
    from tutelage.runs.run import State

    seen: list[Any] = []
    saved: list[int] = []

    def row_of(run, store, known):
        number = run[-1]
        inputs = {"x": 1} if states[number] == "complete" else {}
        return Row(f"n/{number}", "n", 9 if inputs else None, State(states[number]), inputs, {})

    root = tmp_path / "runs"
    (root / "paper/t").mkdir(parents=True)
    (root / "paper/t" / runs_report.FILES["table"]).touch()
    monkeypatch.setattr(collect, "row_of", row_of)
    monkeypatch.setattr(collect, "Known", lambda index: None)
    monkeypatch.setattr(index, "Index", lambda root: SimpleNamespace(save=lambda: saved.append(1)))
    monkeypatch.setattr(
        store, "Store", lambda root: SimpleNamespace(root=root, run=lambda name, identity: identity)
    )
    monkeypatch.setattr(
        facts, "settings_of", lambda config: SimpleNamespace(seed=config["seed"], inputs={"of": "plan"})
    )
    monkeypatch.setattr(runs_report, "sweep_report", lambda *words: seen.append(words) or "report")
    monkeypatch.setattr(runs_report, "write", lambda report, store, folder, files: seen.append(folder))
    monkeypatch.setattr(render, "terminal", lambda report: f"shown {report}")
    plans = {number: Plan({"seed": int(number)}, "n", f"id{number}") for number in "12"}
    table: Any = SimpleNamespace(title="T", name="paper/t") if tabled else None
    train._show_table(table, {"a": [plans["1"]], "none": [], "b": [plans["2"]]}, root)  # type: ignore[arg-type]
    assert saved == [1]
    if written is None:
        assert seen == [] and capsys.readouterr().out == ""
        return
    (title, rows, seeds), *more = seen
    done = {number: state == "complete" for number, state in states.items()}
    assert title == ("T" if tabled else "this sweep") and list(rows) == ["a", "b"]
    assert [(row.seed, row.inputs) for found in rows.values() for row in found] == [
        (9, {"x": 1}) if done[number] else (int(number), {"of": "plan"}) for number in "12"
    ]
    assert seeds == sorted({9 if done[number] else int(number) for number in "12"})
    out = capsys.readouterr().out
    assert more == ([root / "paper/t"] if tabled else [])
    assert out == "shown report\n" + f"written: {root}/paper/t/{runs_report.FILES['table']}\n" * tabled


def test_the_commands_of_a_sweep(monkeypatch, caplog):
    from tutelage.cli import sweep_words
    from tutelage.config import planner
    from tutelage.jobs import frozen_words, sweep

    events: list[Any] = []
    table = SimpleNamespace(processes=3)
    fits = [("a=1",), ("a=2",), ("b=1",)]
    planned = ["plan 1", None, "plan 3"]
    monkeypatch.setattr(sweep_words, "table_of", lambda words: (table, [*words, "of=table"]))
    monkeypatch.setattr(sweep_words, "arms_of", lambda table, words: {"a": fits[:2], "b": fits[2:]})
    monkeypatch.setattr(
        planner, "Planner", lambda: SimpleNamespace(compose=lambda words: {"runs_dir": words})
    )
    monkeypatch.setattr(sweep, "launcher_of", lambda words, processes: (f"by {processes}", words))
    monkeypatch.setattr(frozen_words, "fitting", lambda commands, compose: commands if kept else [])
    monkeypatch.setattr(
        sweep,
        "run_commands",
        lambda commands, launch, runs_dir, plan: (
            events.append((commands, launch, runs_dir)) or SimpleNamespace(close=lambda: 6), planned,
        ),
    )  # fmt: skip
    monkeypatch.setattr(train, "_show_table", lambda *words: events.append(words))
    kept = True
    caplog.set_level(logging.INFO, "tutelage")
    words = ["x=1", "runs_dir=R", "hardware=cpu"]
    assert train._commands(words) == 6 and caplog.messages == ["3 commands"]
    places = [word for word in [*words, "of=table"] if word.startswith(sweep.PLACES)]
    assert "runs_dir=R" in places and "x=1" not in places
    assert events == [(fits, "by 3", places), (table, {"a": ["plan 1"], "b": ["plan 3"]}, places)]
    monkeypatch.setattr(sweep_words, "table_of", lambda words: (None, words))
    assert train._commands(words) == 6 and events[2][1] == "by 1"
    kept = False
    with pytest.raises(
        UserError, match=r"^the sweep has no job: one of x=1 runs_dir=R hardware=cpu has no value$"
    ):
        train._commands(words)


@pytest.mark.parametrize(
    ("names", "lies", "words", "runs_dir"),
    [
        (["k"], "HERE/runs/deep/name/0123", [], "runs"),
        (["k"], "HERE/runs/deep/name/0123", ["runs_dir=R"], "R"),
        (["k"], "/else/runs/deep/name/0123", [], "/else/runs"),
        (["k"], "HERE/other/0123", [], "runs"),
        ([], "", ["name=n"], None),
    ],
)
def test_a_set_is_mended_or_made(monkeypatch, tmp_path, capsys, names, lies, words, runs_dir):
    from tutelage.config import compose, planner
    from tutelage.engine import trust
    from tutelage.jobs import launch, outcomes
    from tutelage.runs import needs, setting, store

    done: list[Any] = []
    monkeypatch.chdir(tmp_path)
    run = SimpleNamespace(
        config={"name": "deep/name", "seed": 1}, path=Path(lies.replace("HERE", str(tmp_path)))
    )
    monkeypatch.setattr(
        store, "Store", lambda root: SimpleNamespace(find=lambda name: done.append((str(root), name)) or run)
    )
    monkeypatch.setattr(trust, "check_stored", lambda config, path, code: done.append(code))
    monkeypatch.setattr(compose, "hydra_ready", nullcontext)
    plan = Plan({"rerun": True, "runs_dir": "R", "method": {}}, "n", "0123456789ab")
    monkeypatch.setattr(needs, "plan", lambda config, compose: done.append(config) or plan)
    monkeypatch.setattr(planner, "plan_of", lambda words: plan)
    monkeypatch.setattr(setting, "is_synthesis", lambda config: True)
    monkeypatch.setattr(outcomes, "headline", lambda result: f"said of {result}")
    monkeypatch.setattr(launch, "mend", lambda plan: mended)
    monkeypatch.setattr(launch, "run_plan", lambda plan, rerun: f"made {rerun}")
    for result, said in (("mended", "mended"), (None, "made True")):
        mended = result
        done.clear()
        given = Given(names=names, settings=words, options={"code": "a,b"})
        assert synthesize.run(given) == 0
        assert capsys.readouterr().out == f"n/0123456789ab: said of {said}\nR/n/0123456789ab/shards\n"
    if names:
        config = {"name": "deep/name", "seed": 1, "runs_dir": runs_dir}
        assert done == [("R" if words else "runs", "k"), ["a", "b"], config]


@pytest.mark.parametrize(
    ("target", "root", "asked"),
    [
        ("tutelage.data.pseudo.PseudoImages", "r", ("pseudo", "r")),
        ("tutelage.data.image_folder.ImageFolder", "r", ("files", "r", "images")),
        ("tutelage.data.table.Table", "r", ("files", "r", None)),
    ],
)
def test_the_fingerprint_of_other_files_by_their_kind(monkeypatch, target, root, asked):
    from tutelage.data import fingerprint

    monkeypatch.setattr(fingerprint, "pseudo_fingerprint", lambda root: ("pseudo", root))
    monkeypatch.setattr(fingerprint, "fingerprint", lambda root, kind: ("files", root, kind))
    assert evaluate._fingerprint({"_target_": target, "root": root}) == asked


@pytest.mark.parametrize("kind", ["text", "table"])
def test_rows_of_a_file_are_read_as_the_training_rows_were(monkeypatch, kind):
    from tutelage.engine import encoding

    monkeypatch.setattr(predict, "_frame", lambda files, **reading: (files, reading))
    asked: list[Any] = []
    monkeypatch.setattr(encoding, "encode", lambda *words: asked.append(words) or ("values", "mask"))
    monkeypatch.setattr(predict, "_features", lambda *words: iter([words]))
    how = {"kind": kind, "column": "t", "empty": ["", "NA"], "decimal": ","}
    assert list(predict._rows(["f"], how, Path("words"))) == [("values", "mask")]
    reading = {"texts": ("t",)} if kind == "text" else {"empty": ("", "NA"), "decimal": ","}
    assert asked == [(how, (["f"], reading), "f", Path("words"))]


def test_an_image_that_fails_for_any_reason_is_named(monkeypatch, tmp_path):
    (tmp_path / "a.png").touch()
    for error, said in ((OSError("cut off\nmore"), "cut off"), (ValueError(), "ValueError")):
        monkeypatch.setattr(
            "tutelage.data.image_pixels.read", lambda *_, error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(UserError, match=rf"^cannot read the image {tmp_path}/a\.png: {said}$"):
            list(predict._images([str(tmp_path / "a.png")], (1, 2, 2), None, lambda x: x))


def test_images_of_bytes_are_brought_to_one_and_others_are_as_they_are(monkeypatch, tmp_path):
    import numpy as np

    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    read = iter([np.full((1, 2, 3), 51, np.uint8), np.full((1, 2, 3), 0.25, np.float32)])
    forms: list[Any] = []
    monkeypatch.setattr(
        "tutelage.data.image_pixels.read", lambda file, form: (forms.append(form) or next(read), None)
    )
    ((names, images, none),) = predict._images([str(tmp_path)], (1, 2, 3), None, lambda x: x)
    assert images.shape == (2, 1, 2, 3) and [one.unique().tolist() for one in images] == [
        [pytest.approx(0.2)], [0.25],
    ]  # fmt: skip
    assert [Path(one["file"]).name for one in names] == ["a.png", "b.png"] and none is None
    assert forms[0].size is None and forms[0].channels == 1


@pytest.mark.parametrize("state", ["complete", "incomplete"])
def test_which_runs_a_command_has_and_which_code_made_them(monkeypatch, capsys, state):
    from tutelage.cli import doctor

    complete = state == "complete"
    plans = [Plan({"runs_dir": "R"}, name, "0" * 12) for name in ("first", "second")]
    this = SimpleNamespace(
        config={"runs_dir": "R"}, name="mine", identity="1" * 12, key="mine/1", prerequisites=lambda: plans
    )
    run = SimpleNamespace(is_complete=complete, attempts="attempts", state=state)
    monkeypatch.setattr(doctor, "Store", lambda root: SimpleNamespace(run=lambda name, identity: run))
    monkeypatch.setattr(doctor, "width", lambda: 100)
    monkeypatch.setattr(doctor, "changed_files", lambda attempts, config: ["mine.py"] if changed else [])
    monkeypatch.setattr(doctor, "changed_packages", lambda attempts: ["models"] if changed else [])
    for other, said in ((True, " (the code of mine.py, models has changed since)"), (False, "")):
        changed = other
        doctor._runs(this)
        note = said if complete else ""
        assert capsys.readouterr().out.splitlines() == [
            f"  {role:<9} {key}  {state}{note}"
            for role, key in (("need 1", plans[0].key), ("need 2", plans[1].key), ("this run", "mine/1"))
        ]


def test_what_a_command_would_build(monkeypatch, capsys):
    from torch import nn

    from tutelage.cli import doctor
    from tutelage.engine import build, data_sets

    network, guide = nn.Linear(3, 2), SimpleNamespace(network=nn.Linear(40, 30, bias=False))
    network.bias.requires_grad_(False)
    pair = {
        f"{role}{part}": (4,) if part == "_shape" else "x"
        for role in ("guide", "network")
        for part in ("", "_kind", "_shape")
    }

    class Terms(dict):
        names = ("task", "hint", "soft")

    terms = Terms(
        task=SimpleNamespace(weight=1.0, schedule=SimpleNamespace(name="always")),
        hint=SimpleNamespace(weight=0.25, schedule=SimpleNamespace(name="warmup")),
        soft=SimpleNamespace(weight=2.0, schedule=SimpleNamespace(name="always")),
    )
    described = {
        "objectives": {"hint": {"kind": "h", "pairs": [pair]}, "soft": {"pairs": ["a > b"]}},
        "facts": 3,
    }
    method = SimpleNamespace(
        parameters=network.parameters, network=network, frozen={"guide": guide}, objectives=terms,
        describe=lambda: {**described, "objectives": dict(described["objectives"])},
    )  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(
        data_sets, "build_data", lambda config: SimpleNamespace(summary=lambda: {"name": "set"})
    )
    monkeypatch.setattr(
        build,
        "build",
        lambda config, data: asked.append(config) or SimpleNamespace(method=method, heads={"model": "out"}),
    )
    monkeypatch.setattr(doctor, "_without_needs", lambda config: "without needs")
    monkeypatch.setattr(doctor, "width", lambda: 100)
    monkeypatch.setattr(doctor, "_pair_table", lambda pairs: f"{len(pairs)} pairs in a table")
    there = {"a/0": True, "b/0": False}
    monkeypatch.setattr(
        doctor, "Store", lambda root: SimpleNamespace(at=lambda key: SimpleNamespace(is_complete=there[key]))
    )
    config = {"runs_dir": "R"}
    plan: Any = SimpleNamespace(
        config=config, prerequisites=lambda: [SimpleNamespace(key=key) for key in there]
    )
    assert doctor._build(plan) == []
    shown = [
        "", "Networks", "  trained: Linear, 6 parameters, final layer out", "  guide: 1,200 frozen parameters", "  facts  3",
        "", "Objective task (weight 1)", "", "Objective hint (weight 0.25, warmup)", "  kind  h", "Layer pairs (1)",
        "1 pairs in a table", "", "Objective soft (weight 2)", "  pairs  a > b",
    ]  # fmt: skip
    needed = ["", "needed runs are not complete yet, so their weights are shown as scratch: b/0"]
    assert capsys.readouterr().out.splitlines() == ["", "Data", "  name  set", *needed, *shown]
    there["b/0"] = True
    assert doctor._build(plan) == [] and asked == ["without needs", config]
    assert capsys.readouterr().out.splitlines() == ["", "Data", "  name  set", *shown]
    for module, name in ((build, "build"), (data_sets, "build_data")):
        monkeypatch.setattr(module, name, lambda *_: (_ for _ in ()).throw(UserError("no")))
        assert doctor._build(plan) == ["no"]


def test_the_files_of_a_report_that_are_there_are_named_the_page_first(monkeypatch, tmp_path, capsys):
    from tutelage.cli import report
    from tutelage.reporting import render, runs_report
    from tutelage.runs import store

    asked: list[Any] = []
    files = runs_report.FILES
    for name in (files["html"], files["table"]):
        (tmp_path / name).touch()
    monkeypatch.setattr(
        store,
        "Store",
        lambda root: SimpleNamespace(name_in=lambda name: f"in {name}", folder_of=lambda name: tmp_path),
    )
    monkeypatch.setattr(report, "_finish", lambda columns, store: f"finish {columns}")
    monkeypatch.setattr(
        runs_report, "write_report", lambda store, name, finish: asked.append((name, finish)) or "report"
    )
    monkeypatch.setattr(render, "terminal", lambda report: f"shown {report}")
    report.report_runs("x", "R", columns="macs")
    assert asked == [("in x", "finish macs")]
    assert capsys.readouterr().out == f"shown report\nwritten: {tmp_path}/{files['html']}, {files['table']}\n"


@pytest.mark.parametrize(
    ("given", "chosen", "every"),
    [
        ({"flags": ["--all"]}, ["a/111111111111", "b/222222222222"], "rows"),
        ({"names": ["a"]}, ["a/111111111111", "b/222222222222"], None),
        ({"state": "failed"}, ["a/111111111111", "b/222222222222"], None),
        ({"flags": ["--all", "--checkpoints"]}, ["a/111111111111/checkpoints"], None),
        ({"names": ["a"], "flags": ["--archive"]}, ["archived a"], None),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_which_folders_are_removed(monkeypatch, tmp_path, given, chosen, every, dry):
    from tutelage.cli import remove
    from tutelage.reporting import runs_table
    from tutelage.reporting.row import Row
    from tutelage.runs.run import State

    asked: list[Any] = []
    rows = [
        Row("a/111111111111", "a", 0, State.COMPLETE, {}, {}),
        Row("b/222222222222", "b", 0, State.FAILED, {}, {}),
    ]
    for folder in ("a/111111111111/checkpoints", "b/222222222222/checkpoints", "archived a"):
        (tmp_path / folder).mkdir(parents=True)
    given = dict(given)
    filters = dict.fromkeys(("state", "method", "data", "since", "before"), "")
    filters["state"] = given.pop("state", "")
    monkeypatch.setattr(
        runs_table, "filtered_rows", lambda store, under, **more: asked.append((under, more)) or rows
    )
    monkeypatch.setattr(remove, "archived", lambda store, name: [tmp_path / f"archived {name}"])
    monkeypatch.setattr(remove, "removable", lambda store, rows, name, every: asked.append(every) or rows)
    monkeypatch.setattr(remove, "finish", lambda store: asked.append("finish"))
    monkeypatch.setattr(remove, "remove", lambda store, folders, runs: asked.append((folders, runs)) or 1)
    flags = [*given.pop("flags", []), *(["--dry"] if dry else ["--yes"])]
    code = remove.run(Given(**given, flags=flags, options=filters | {"runs_dir": str(tmp_path)}))
    of_runs = not {"--archive", "--checkpoints"} & set(flags)
    name = given.get("names", [""])[0]
    expected: list[Any] = [] if dry else ["finish"]
    expected.append((name, {key: value or None for key, value in filters.items()}))
    expected += [rows if every else None] if of_runs else []
    if not dry:
        expected.append(([tmp_path / folder for folder in chosen], of_runs))
    assert asked == expected and code == (0 if dry else 1)


def test_tables_that_need_runs_are_those_of_the_folder_but_programmes(monkeypatch, tmp_path, caplog):
    from tutelage.cli import remove

    caplog.set_level(logging.INFO, "tutelage")
    assert remove.owners_of(tmp_path / "none") == {}
    assert caplog.messages == [
        f"there is no folder {tmp_path}/none here, so no table is known that needs a run"
    ]
    caplog.clear()
    for name in ("p/a", "programmes/b", "p/c", "p/broken"):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("[train, name=x/y, name=z]" if name == "p/broken" else "")

    def load(path):
        if path.stem == "broken":
            raise UserError("not read")
        return SimpleNamespace(arms=[SimpleNamespace(command=f"{path.stem}{number}") for number in (1, 2)])

    monkeypatch.setattr("tutelage.reporting.table_file.load", load)
    monkeypatch.setattr("tutelage.config.names.NameFinder", lambda: lambda command: [command, "shared"])
    monkeypatch.setattr("tutelage.config.names.files_remembered", nullcontext)
    found = remove.owners_of(tmp_path)
    has, broken = (
        "a table has runs of this name: {}/p/{}.yaml",
        f"a table cannot be read: {tmp_path}/p/broken.yaml",
    )
    assert found == {
        "a1": has.format(tmp_path, "a"), "a2": has.format(tmp_path, "a"), "shared": has.format(tmp_path, "a"),
        "c1": has.format(tmp_path, "c"), "c2": has.format(tmp_path, "c"),
        f"{remove.name_of(tmp_path / 'p/broken.yaml')}/": broken, "x/y": broken, "z": broken,
    }  # fmt: skip
    assert caplog.messages == [
        f"reading what the 3 tables under {tmp_path} need", "a table cannot be read, so all its runs stay: not read",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "problems", "code"),
    [((), ["x"], 0), (("--build",), ["no data", "no card"], 2), (("--build",), [], 0)],
)
def test_a_doctor_ends_with_what_is_missing(monkeypatch, capsys, flags, problems, code):
    from tutelage.cli import doctor
    from tutelage.config import planner

    monkeypatch.setattr(planner, "plan_of", lambda words: f"plan of {words}")
    monkeypatch.setattr(doctor, "_values", lambda plan, words: print("values:", plan, words))
    monkeypatch.setattr(doctor, "_runs", lambda plan: print("runs:", plan))
    monkeypatch.setattr(doctor, "_build", lambda plan: print("built:", plan) or problems)
    assert doctor.run(Given(settings=["a=1"], flags=flags)) == code
    plan = "plan of ['a=1']"
    expected = [f"values: {plan} ['a=1']", "", "Runs", f"runs: {plan}"]
    if flags:
        expected += [f"built: {plan}", *(f"missing: {one}" for one in problems)]
    assert capsys.readouterr().out.splitlines() == expected


def test_installed_packages_are_asked_where_one_of_them_speaks_of_commands(monkeypatch):
    from tutelage.cli import added

    asked: list[Any] = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: asked.append(group) or ("one",))
    monkeypatch.setattr(sys, "path", ["a", "b"])
    for speaks, found in (("b", ("one",)), ("", ())):
        monkeypatch.setattr(added, "_may_add", lambda place, speaks=speaks: place == speaks)
        assert added._entries() == found
    assert asked == ["tutelage.commands"]


def test_what_an_analysis_found_is_kept_for_runs_and_written(monkeypatch, tmp_path, capsys):
    from tutelage.cli import analyse

    kept: list[Any] = []
    monkeypatch.setattr(analyse, "remember", lambda *words: kept.append(words))

    def subject(label, role=""):
        return SimpleNamespace(label=label, role=role, run=SimpleNamespace(key=f"run of {label}"), seed=3)

    subjects = [subject("a"), subject("b"), subject("a", "teacher"), subject("none")]
    request: Any = SimpleNamespace(
        subjects=subjects, options={"runs_dir": "R"}, asked={"k": "1"}, folder=tmp_path / "new/deep"
    )
    rows = [{"network": "a", "x": 1}, {"network": "b", "y": "=2"}, {"network": "a", "x": 3}, {"x": 4}]
    analyse._keep(request, "ranks", rows)
    assert kept == [
        (Path("R"), subjects[0].run, "ranks", {"k": "1"}, [rows[0], rows[2]]),
        (Path("R"), subjects[1].run, "ranks", {"k": "1"}, [rows[1]]),
    ]
    analyse.write(request, "ranks", {"found": 5}, rows, lambda path: path.with_suffix(".webp").touch())
    assert capsys.readouterr().out == f"written: {tmp_path}/new/deep/ranks.webp, ranks.csv, ranks.json\n"
    text = (tmp_path / "new/deep/ranks.csv").read_text()
    assert text == "network,x,y\na,1,\nb,,'=2\na,3,\n,4,\n"
    record = json.loads((tmp_path / "new/deep/ranks.json").read_text())
    assert record.pop("subjects")[2] == {"label": "a", "run": "run of a", "role": "teacher", "seed": 3}
    assert record == {"analysis": "ranks", "options": {"runs_dir": "R"}, "found": 5}


@pytest.mark.parametrize("exported", [True, False])
@pytest.mark.parametrize("files", [["f"], []])
def test_what_a_network_answers_is_written(monkeypatch, tmp_path, exported, files):
    from tutelage.engine import predictions

    asked: list[Any] = []
    written: list[Any] = []
    batches = [([{"sample": 0}, {"sample": 1}], 2, "mask"), ([{"sample": 2}], 1, None)]
    made = lambda inputs, mask: asked.append((inputs, mask)) or "outputs", "answer", batches
    monkeypatch.setattr(predict, "_exported", lambda *words: asked.append(words) or made)
    monkeypatch.setattr(predict, "_of_run", lambda *words: asked.append(words) or made)
    monkeypatch.setattr(
        predictions, "answers", lambda outputs, answer: [{"p": outputs, "of": answer}] * asked[-1][0]
    )
    monkeypatch.setattr(predict, "_write", lambda *words: written.append(words))
    monkeypatch.chdir(tmp_path)
    if exported:
        (tmp_path / "export.json").touch()
    words = [] if files else ["data=d"]

    def answers():
        return predict.predict(".", files, words, split="test", out="x.csv", runs_dir="R", code="c")

    if exported and not files:
        with pytest.raises(UserError, match=r"^an exported network has no data: name image files"):
            answers()
        return
    assert answers() == "3 predictions written: x.csv"
    assert asked == [
        (".", files, "c") if exported else (".", files, words, "test", "R", "c"), (2, "mask"), (1, None),
    ]  # fmt: skip
    rows = [{"sample": number, "p": "outputs", "of": "answer"} for number in range(3)]
    assert written == [(Path("x.csv"), rows)]


# --- remove, step by step


IDS = [f"{number:012x}" for number in range(1, 5)]


@pytest.mark.parametrize(
    ("under", "rows", "owners", "going", "kept"),
    [
        ("b", ["b/other/0"], {}, ["b/other/0"], {}),  # the name goes, its run stays
        ("a", ["a/x/0"], {}, [], {"a/x/0": "also called b/other"}),
        ("a", ["a/x/1"], {}, ["a/x/1"], {}),
        ("", ["a/x/0", "b/other/0"], {}, ["a/x/0", "b/other/0"], {}),
        (
            "",
            ["a/x/0", "b/other/0"],
            {"b/other": "a table"},
            [],
            {"a/x/0": "a table", "b/other/0": "a table"},
        ),
        ("a/x/0", ["a/x/0"], {}, [], {"a/x/0": "also called b/other"}),  # one run, by its identity
        ("a/x/1", ["a/x/1"], {"a": "not this one"}, ["a/x/1"], {}),
        ("a/x/2", ["a/x/2"], {}, ["a/x/2"], {}),  # its other name lies beside it
    ],
)
def test_of_runs_with_several_names(monkeypatch, caplog, under, rows, owners, going, kept):
    from tutelage.cli import remove
    from tutelage.reporting.row import Row
    from tutelage.runs.run import State

    def full(key):
        return f"{key[:-1]}{IDS[int(key[-1])]}" if key[-1:].isdigit() else key

    caplog.set_level(logging.INFO, "tutelage")
    monkeypatch.setattr(remove, "kept_owners_of", lambda tables, store: owners)
    others = {IDS[0]: ["b/other"], IDS[2]: ["a/x/beside"]}
    store: Any = SimpleNamespace(other_names=lambda: others, name_in=lambda what: full(what))
    given = [Row(full(key), key.rpartition("/")[0], 0, State.COMPLETE, {}, {}) for key in rows]
    found = remove.removable(store, given, under, given)
    assert [row.key for row in found] == [full(key) for key in going]
    assert caplog.messages == [f"kept: {full(key)} ({why})" for key, why in kept.items()]


def test_what_tables_need_is_remembered_while_nothing_that_it_follows_from_changes(monkeypatch, tmp_path):
    from tutelage.cli import remove
    from tutelage.config import groups
    from tutelage.runs import provenance

    made: list[int] = []
    code = ["one"]
    conf, tables = tmp_path / "conf", tmp_path / "tables"
    for folder in (conf, tables):
        folder.mkdir()
        (folder / "a.yaml").write_text("x: 1")
    monkeypatch.setattr(groups, "folders", lambda: [conf])
    monkeypatch.setattr(provenance, "code_digest", lambda: code[0])
    monkeypatch.setattr(remove, "owners_of", lambda tables: made.append(1) or {"n": f"table {len(made)}"})
    store: Any = SimpleNamespace(root=tmp_path / "runs")
    kept = tmp_path / "runs/.index/owners.json"

    def anew():
        """Say whether it was made anew, and that what is said is what was made last."""
        before = len(made)
        assert remove.kept_owners_of(tables, store) == {"n": f"table {len(made)}"}
        return len(made) > before

    assert anew() and not anew() and kept.is_file()
    changes = [
        lambda: code.__setitem__(0, "two"),
        lambda: (conf / "a.yaml").write_text("x: 2"),
        lambda: (tables / "a.yaml").write_text("x: 3"),
        lambda: (tables / "a.yaml").rename(tables / "b.yaml"),
        lambda: (tables / "new.yaml").touch(),
        lambda: kept.write_text("torn"),
        lambda: kept.write_text("[1]"),
        kept.unlink,
    ]
    for change in changes:
        change()
        assert anew() and not anew()
    record = json.loads(kept.read_text())
    kept.write_text(json.dumps(record | {"owners": ["n"]}))
    assert anew() and not anew()
    kept.write_text(json.dumps(record | {"of": "another"}))
    assert anew() and not anew()
    (conf / "a.yaml").write_text("x: ${oc.env:PLACE}")  # which no digest knows
    assert anew() and anew()


@pytest.mark.parametrize("kind", ["runs", "checkpoints", "archive"])
def test_folders_are_set_aside_under_the_lock_of_their_run(monkeypatch, tmp_path, capsys, kind):
    from tutelage.cli import remove

    events: list[Any] = []
    there = {"free", "busy", "begun"}

    class Run:
        def __init__(self, folder, root):
            self.folder, self.identity, self.is_complete = folder, folder.name, folder.name != "begun"

        def lock_now(self):
            if self.folder.name == "busy":
                raise remove.RunBusy("it is busy")
            return nullcontext(events.append(("lock", self.folder.name)))

        def set_aside(self):
            events.append(("aside", self.folder.name))
            return [Path("aside") / self.folder.name]

    def set_aside(folder, root):
        events.append(("aside", str(folder.relative_to(tmp_path))))
        return Path("aside") / folder.parent.name

    monkeypatch.setattr(remove, "Run", Run)
    monkeypatch.setattr(remove, "set_aside", set_aside)
    monkeypatch.setattr(
        remove, "finish", lambda store, aside: events.append(("finish", [str(one) for one in aside]))
    )
    store: Any = SimpleNamespace(root=tmp_path, forget_links=lambda gone: events.append(("forget", gone)))
    end = {"runs": "", "checkpoints": "checkpoints", "archive": ".archive/one"}[kind]
    names = [*sorted(there), "gone"] if kind != "archive" else ["free"]
    for name in there:
        (tmp_path / name / end).mkdir(parents=True)
    folders = [tmp_path / name / end for name in names]
    code = remove.remove(store, folders, runs=kind == "runs")
    if kind == "archive":
        assert events == [("aside", "free/.archive/one"), ("finish", ["aside/.archive"]), ("forget", [])]
        assert code == 0 and capsys.readouterr().out == "removed 1 folders\n"
        return
    assert code == 1 and capsys.readouterr().out == "removed 3 folders\n"
    if kind == "runs":
        locked = [(what, name) for name in ("begun", "free") for what in ("lock", "aside")]
        ends = [("finish", ["aside/begun", "aside/free"]), ("forget", ["begun", "free"])]
    else:  # of a run that is not complete they are what it resumes from
        locked = [("lock", "begun"), ("lock", "free"), ("aside", "free/checkpoints")]
        ends = [("finish", ["aside/free"]), ("forget", [])]
    assert events == [*locked, ("lock", "gone"), *ends]


@pytest.mark.parametrize(
    ("columns", "measures"), [((), False), (("flops",), False), (("flops", "latency"), True)]
)
def test_torch_is_loaded_where_a_column_is_measured(monkeypatch, columns, measures):
    from tutelage.analysis import network_cost
    from tutelage.cli import report
    from tutelage.reporting import costs

    monkeypatch.setattr(costs, "chosen", lambda words: columns)
    monkeypatch.setattr(
        costs, "with_costs", lambda report, store, names, *measured: (report, names, measured)
    )
    monkeypatch.setattr(network_cost, "machine_said", lambda: "a CPU")
    store: Any = "store"
    found = report._finish("words", store)("report")  # type: ignore[arg-type]
    assert found == ("report", columns, (network_cost.of_run, "a CPU") if measures else ())


@pytest.mark.parametrize("verb", ["predict", "measure"])
def test_what_scale_does_by_its_verb(monkeypatch, verb):
    from tutelage.cli import scale
    from tutelage.scaling import measure_command, predict_command

    monkeypatch.setattr(scale, "read", lambda *words: words)
    monkeypatch.setattr(predict_command, "run", lambda request: ("predict", request))
    monkeypatch.setattr(measure_command, "run", lambda request: ("measure", request))
    given = Given(verb, ["n"], ["--f"], {"o": "1"}, [], ["s=1"])
    assert scale.run(given) == (verb, (verb, ["n"], {"--f"}, {"o": "1"}, ["s=1"]))


@pytest.mark.parametrize(("words", "seeds"), [(["a=1"], ["seed=3,5"]), (["a=1", "seed=7"], [])])
def test_the_seeds_of_a_table_are_those_of_every_arm_unless_words_say_others(monkeypatch, words, seeds):
    from tutelage.cli import sweep_words
    from tutelage.config.sweeps import SweptCommand

    asked: list[Any] = []
    monkeypatch.setattr(
        sweep_words, "expand", lambda words: asked.append(words) or [SweptCommand(tuple(words), ("seed=3",))]
    )
    table: Any = SimpleNamespace(
        seeds=(3, 5), arms=[SimpleNamespace(label=label, command=[f"{label}=1"]) for label in ("x", "y")]
    )
    assert list(sweep_words.arms_of(table, words)) == ["x", "y"]
    assert asked == [["x=1", *words, *seeds], ["y=1", *words, *seeds]]


@pytest.mark.parametrize(("search", "drawn"), [(None, None), ({"cost": []}, None), ({"cost": ["latency"]}, Path("p.png")),
                                              ({"cost": ["latency"]}, None)])  # fmt: skip
def test_a_sweep_is_a_search_where_its_sweeper_says_so(monkeypatch, caplog, search, drawn):
    from tutelage.config import compose, planner, sweeps
    from tutelage.jobs import sweep
    from tutelage.reporting import pareto_figure

    asked: list[Any] = []
    caplog.set_level(logging.INFO, "tutelage")
    monkeypatch.setattr(compose, "readable", lambda words: words)
    monkeypatch.setattr(compose, "as_given", lambda words: words)
    monkeypatch.setattr(sweeps, "sweeper_of", lambda words: (search, [*words, "rest"]))
    monkeypatch.setattr(train, "_commands", lambda words: asked.append(words) or 3)
    monkeypatch.setattr(planner, "Planner", lambda: "planner")
    monkeypatch.setattr(sweep, "launcher_of", lambda words, processes: (f"by {processes}", words))
    jobs = SimpleNamespace(folder=Path("f"), close=lambda: 4)
    monkeypatch.setattr(sweep, "run_search", lambda *words: asked.append(words) or jobs)
    monkeypatch.setattr(pareto_figure, "draw", lambda path: asked.append(path) or drawn)
    code = train.multirun(["a=1"])
    if search is None:
        assert (code, asked) == (3, [["a=1", "rest"]])
        return
    expected = [(["a=1", "rest"], search, "by 1", "planner", train._latency_ms)]
    assert code == 4 and asked == [*expected, *([Path("f/trials.csv")] if search["cost"] else [])]
    assert caplog.messages == ([f"written: {drawn}"] if drawn else [])
