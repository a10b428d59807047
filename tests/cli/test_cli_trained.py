"""The console script and `train`: how a process ends, what a run or a sweep is announced by, and the table of its arms."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tutelage.cli import (
    main,
    train,
)
from tutelage.cli.reader import Given
from tutelage.errors import UserError
from tutelage.runs.needs import Plan


class Left(Exception):
    """The process has ended, in this way."""


def leaves(how):
    def end(code):
        raise Left(how, code)

    return end


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
