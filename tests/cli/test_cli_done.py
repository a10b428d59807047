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

from tutelage.cli import in_ranks, listing, main, programme, programme_stages, reproduce, serve, speed, train
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
        ("2", (), False, ["measured", "room 114.0", "off until 115.0", "report False", "end False 1.0 0"], 10),
        ("2", ("--tiny",), False, ["measured", "room 114.0", "off until 115.0", "report True", "end False 1.0 0"], 10),
        ("2", ("--dry",), False, ["measured", "room 114.0"], 0),
        ("", (), True, ["measured", "room inf", "off until inf", "report False", "end True 1.0 0"], 10),
    ],
)  # fmt: skip
def test_a_programme_from_its_words_to_its_end(monkeypatch, capsys, minutes, flags, up, events, code):
    from tutelage.config import compose

    seen: list[str] = []
    clock = [0.0]
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
    monkeypatch.setattr(
        programme,
        "works_of",
        lambda programme, places, extra, tiny, runs_dir: (
            [Work(Stage("one", table="t"), ()), Work(Stage("two", table="t"), ())],
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
    given = Given(options={"minutes": minutes}, flags=flags)
    assert programme.run(Path("p.yaml"), given) == code and seen == events
    assert capsys.readouterr().out == (
        "A title\nmeasuring the speed of this machine on: one, two\ntable\nleft out, three: why\n"
    )
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
