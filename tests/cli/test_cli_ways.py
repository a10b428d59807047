"""Which way a command goes by its words, and with what exit code it ends."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.cli import guarded, main, report, reproduce, synthesize, train
from tutelage.cli.reader import Given
from tutelage.errors import RunFailed, UserError
from tutelage.reporting import measured
from tutelage.reporting.row import Row
from tutelage.reporting.tables import Arm, Table
from tutelage.runs.run import State


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, 0, ""),
        (UserError("a mistake"), 2, "a mistake"),
        (RunFailed("a failure"), 1, "a failure"),
        (BrokenPipeError(), 0, ""),
        (OSError(errno.EACCES, "denied", "f"), 2, "cannot use f: denied. Give this user the right to it"),
        (OSError("cannot allocate memory"), 2, "there is not enough memory"),
        (
            OSError(errno.ENOSPC, "full"),
            1,
            "[Errno 28] full\nWhat was saved before is whole: the same command continues from there",
        ),
        (MemoryError(), 2, "there is not enough memory: none is left."),
        (RuntimeError("CUDA out of memory"), 2, "there is not enough memory: CUDA out of memory."),
        (SystemExit(3), 3, ""),
        (SystemExit("x"), 1, ""),
        (SystemExit(None), 0, ""),
        (guarded.Terminated(), 143, "terminated; the same command continues where it stopped"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues where it stopped"),
    ],
)
def test_how_a_command_ends(monkeypatch, raised, code, said):
    told: list[str] = []
    monkeypatch.setattr(guarded, "complain", told.append)

    def work(name, words):
        if raised is not None:
            raise raised
        return 0

    monkeypatch.setattr(guarded, "_run", work)
    before = signal.getsignal(signal.SIGTERM)
    assert guarded.run("do", []) == code and signal.getsignal(signal.SIGTERM) is before
    assert (told == []) is (said == "") and all(one.startswith(said) for one in told)


def test_an_error_of_ours_is_no_message(monkeypatch):
    monkeypatch.setattr(guarded, "_run", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        guarded.run("do", [])


def test_a_command_that_returns_nothing_is_done_and_one_process_does_what_ranks_cannot(monkeypatch):
    monkeypatch.setattr(
        guarded.importlib,
        "import_module",
        lambda name: SimpleNamespace(run=lambda given: asked.append(given.names)),
    )
    asked: list[Any] = []
    assert guarded._run("report", ["x"]) == 0 and asked == [["x"]]
    monkeypatch.setattr(guarded, "in_ranks", lambda: True)
    for ranks, name, words, refused in (
        (1, "report", ["x"], False),
        (2, "report", ["x"], True),
        (2, "doctor", [], False),
    ):
        monkeypatch.setattr(guarded, "join_environment", lambda ranks=ranks: (0, ranks))
        if refused:
            with pytest.raises(UserError, match=r"^report works in one process, and 2 were started here"):
                guarded._run(name, words)
        else:
            assert guarded._run(name, words) == 0
    with pytest.raises(UserError, match=r"^'\w+' is called '\w+' now: tutelage \w+ \.\.\.$"):
        guarded._run(next(iter(guarded.RENAMED)), [])


def test_help_and_version_come_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(
        guarded, "run", lambda name, words, verbose: asked.append((name, words, verbose)) or 7
    )
    asked: list[Any] = []
    for words in (["--version"], ["-V"]):
        assert main.main(words) == 0 and capsys.readouterr().out.startswith("tutelage ")
    for words in ([], ["-h"], ["--help"], ["help"], ["-v"]):
        assert main.main(words) == 0 and capsys.readouterr().out.startswith("usage: tutelage <command>")
    assert main.main(["report"]) == 2 and main.main(["report", "--help"]) == main.main(["doctor", "-h"]) == 0
    capsys.readouterr()
    assert (
        main.main(["report", "x"])
        == main.main(["-v", "report", "x"])
        == main.main(["report", "x", "--verbose"])
        == 7
    )
    assert asked == [("report", ["x"], False), ("report", ["x"], True), ("report", ["x"], True)]


@pytest.mark.parametrize(
    ("names", "flags", "settings", "done"),
    [
        (["demo"], [], [], "runs demo"),  # runs of that name lie there
        (["demo"], ["--replace"], [], "table True ['runs_dir=RUNS']"),
        (["demo"], [], ["a=1"], "table False ['a=1', 'runs_dir=RUNS']"),
        (["other"], [], [], "runs other"),
        (["other"], ["--replace"], [], "--replace belongs to a report on a table; other is a name of runs"),
        (["other"], [], ["a=1"], "a report on runs takes runs_dir=<folder>, got 'a=1'"),
        (["guidance/digits"], [], [], "table False ['runs_dir=RUNS']"),
    ],
)
def test_whether_a_report_is_of_runs_or_of_a_table(tmp_path, monkeypatch, names, flags, settings, done):
    (tmp_path / "demo").mkdir()
    events: list[str] = []
    monkeypatch.setattr(
        report, "report_runs", lambda name, runs_dir, *, columns: events.append(f"runs {name}")
    )
    monkeypatch.setattr(
        report,
        "report_table",
        lambda path, words, *, replace, columns: events.append(
            f"table {replace} {words}".replace(str(tmp_path), "RUNS")
        ),
    )
    given = Given(
        names=names,
        flags=flags,
        settings=settings,
        options={"runs_dir": str(tmp_path), "columns": ""},
        spoken=["runs_dir"],
    )
    try:
        assert report.run(given) == 0
    except UserError as error:
        events.append(str(error))
    assert events == [done]


def test_analyses_that_a_table_wants_of_runs_that_lack_them(monkeypatch):
    arms = (Arm("a", ("x=1",)), Arm("b", ("x=2",)))
    table = Table("T", "m", arms, (0, 1), (0,), analyses={"ranks": {"k": "3"}, "ece": {}})

    def find(cell):
        state = State.COMPLETE if (cell.arm.label, cell.seed) != ("b", 1) else State.FAILED
        return Row(f"t/{cell.arm.label}/{cell.seed:012x}", "t", cell.seed, state, {}, {})

    known = {("ranks", f"t/a/{0:012x}")}
    monkeypatch.setattr(
        measured,
        "recall",
        lambda root, run, name, asked: (
            [] if (name, f"t/{run.path.parent.name}/{run.path.name}") in known else None
        ),
    )
    keys = [f"t/a/{0:012x}", f"t/a/{1:012x}", f"t/b/{0:012x}"]
    assert list(reproduce._analyses(table, find, ["runs_dir=R", "y=1"])) == [
        ["ranks", *keys[1:], "k=3", "runs_dir=R"], ["ece", *keys, "runs_dir=R"],
    ]  # fmt: skip
    known |= {(name, key) for name in ("ranks", "ece") for key in keys}
    assert (
        list(reproduce._analyses(table, find, []))
        == []
        == list(reproduce._analyses(Table("T", "m", arms, (0,), (0,)), find, []))
    )


def test_what_cannot_be_reproduced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError,
        match=r"^there is no table or programme 'nothing-at-all': tables are files experiments/<paper>/<table>.yaml",
    ):
        reproduce.run(Given(names=["nothing-at-all"]))
    for given in ({"flags": ["--tiny"]}, {"spoken": ["minutes"]}):
        with pytest.raises(
            UserError, match=r"^(--tiny|minutes) belongs to a programme \(.*\); guidance/digits is a table$"
        ):
            reproduce.run(Given(names=["guidance/digits"], **given))


def test_words_of_a_single_run_and_of_a_sweep(monkeypatch):
    swept: list[Any] = []
    monkeypatch.setattr(train, "multirun", lambda words: swept.append(words) or 4)
    assert (
        train.run(Given(flags=["-m"], settings=["a=1"])) == train.run(Given(settings=["a=1", "sweep=x"])) == 4
    )
    assert swept == [["a=1"], ["a=1", "sweep=x"]]
    for word in ("hydra.x=1", "hydra/launcher=local"):
        with pytest.raises(
            UserError, match=f"^{word} is for sweeps, whose jobs Hydra lists and launches: add -m$"
        ):
            train.run(Given(settings=["a=1", word]))


def test_a_finished_run_in_two_lines(monkeypatch, capsys):
    monkeypatch.setattr(train, "headline", lambda result: f"said of {result}")
    train.show({"x": 1}, "a/b", "runs")
    assert capsys.readouterr().out == "a/b: said of {'x': 1}\nruns/a/b\n"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], ["method=synthesis", "name=pseudo"]),
        (["method=mine"], ["name=pseudo", "method=mine"]),
        (["name=n"], ["method=synthesis", "name=n"]),
        (["experiment=e", "method.k=1"], ["method=synthesis", "experiment=e", "method.k=1"]),
    ],
)
def test_words_of_a_pseudo_data_set(monkeypatch, words, asked):
    from tutelage.config import planner

    seen: list[Any] = []
    plan = SimpleNamespace(name="n", config={"method": {"_target_": "a.B"}})
    monkeypatch.setattr(planner, "plan_of", lambda given: seen.append(given) or plan)
    with pytest.raises(
        UserError,
        match=r"^n makes no pseudo data set: the file of its method \(a\.B\) does not declare `_makes_: pseudo_data`$",
    ):
        synthesize.run(Given(settings=words, options={"code": ""}))
    assert seen == [asked]
    with pytest.raises(
        UserError, match=r"^synthesize <run> takes runs_dir=<folder> and code=<modules>, got 'a=1'$"
    ):
        synthesize.run(Given(names=["x"], settings=["a=1"], options={"code": ""}))


def test_a_folder_as_a_user_would_give_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        synthesize._short(tmp_path / "runs") == "runs"
        and synthesize._short(Path("/elsewhere")) == "/elsewhere"
    )
