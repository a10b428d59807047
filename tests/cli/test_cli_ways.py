"""Which way a command goes by its words, and with what exit code it ends."""

from __future__ import annotations

import errno
import signal
import threading
from dataclasses import replace
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


def begins_anew(interrupt: KeyboardInterrupt) -> KeyboardInterrupt:
    interrupt.begins_anew = "a/b"  # type: ignore[attr-defined]
    return interrupt


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
        (guarded.Terminated(), 143, "terminated; the same command continues from what was saved"),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues from what was saved"),
        (begins_anew(KeyboardInterrupt()), 130, "interrupted; no state of a/b was saved yet"),
        (begins_anew(guarded.Terminated()), 143, "terminated; no state of a/b was saved yet"),
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


def test_a_scheduler_ends_a_command_in_the_main_thread_as_an_interrupt_does():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(guarded.Terminated), guarded._terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    seen: list[Any] = []

    def elsewhere():
        with guarded._terminable():  # setting a signal here would be an error
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


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


FILTERS = dict.fromkeys(("state", "method", "data", "since", "before"), "")


def test_what_remove_says_before_it_removes(tmp_path, capsys, monkeypatch):
    from tutelage.cli import remove

    def run(*flags):
        code = remove.run(Given(flags=["--all", *flags], options=FILTERS | {"runs_dir": str(tmp_path)}))
        return code, capsys.readouterr().out.replace(str(tmp_path), "RUNS")

    (tmp_path / "a/.archive").mkdir(parents=True)
    assert run("--archive", "--yes") == (0, "nothing to remove\n")
    for name, size in (("0" * 12 + "-1", 1_500_000), ("0" * 12 + "-2", 40_000)):
        (tmp_path / "a/.archive" / name).mkdir()
        (tmp_path / "a/.archive" / name / "x").write_bytes(bytes(size))
    listed = f"RUNS/a/.archive/{'0' * 12}-1  1.5 MB\nRUNS/a/.archive/{'0' * 12}-2  0.0 MB\n"
    assert run("--archive", "--dry") == (0, f"{listed}nothing removed; 2 folders, 1.5 MB could be\n")
    asked: list[str] = []
    monkeypatch.setattr(remove, "agreed", lambda question: asked.append(question) or False)
    assert run("--archive") == (0, f"{listed}nothing removed\n") and asked == ["Remove 2 folders, 1.5 MB?"]
    assert (
        run("--archive", "--yes")[1].endswith("removed 2 folders\n")
        and list((tmp_path / "a/.archive").iterdir()) == []
    )
    (tmp_path / "a/.archive/one").mkdir()
    assert run("--archive", "--dry") == (
        0,
        "RUNS/a/.archive/one  0.0 MB\nnothing removed; 1 folder, 0.0 MB could be\n",
    )


def test_the_values_on_a_card_are_those_of_its_arm(monkeypatch):
    from tutelage.cli import export
    from tutelage.reporting import collect

    values = {"test/accuracy": {0: 0.5, 1: 0.75}, "test/loss": {0: 1.0}}
    arms = [
        SimpleNamespace(rows=[SimpleNamespace(key=key)], values=lambda name: values.get(name, {}))
        for key in ("other", "mine")
    ]
    monkeypatch.setattr(collect, "group", lambda rows: arms)
    monkeypatch.setattr(collect, "row_of", lambda run, store: run)
    store = SimpleNamespace(named=lambda name: [SimpleNamespace(is_complete=True)])
    source = SimpleNamespace(name="n", key="mine")
    result = {"best": {"test": {"accuracy": 0.123456, "loss": 2, "kind": "x"}}}
    head = ["| test | this network | over the seeds of its arm |", "|---|---|---|"]
    assert export._metrics(source, store, result) == [
        *head, "| accuracy | 0.1235 | 0.625 (0 to 1, 95 %, n = 2) |", "| loss | 2 | one seed |",
    ]  # fmt: skip
    arms.pop()
    assert export._metrics(source, store, result)[2:] == [
        "| accuracy | 0.1235 | one seed |",
        "| loss | 2 | one seed |",
    ]
    assert (
        export._metrics(source, store, {}) == export._metrics(source, store, {"best": {"test": None}}) == head
    )


def test_ranks_are_started_with_the_same_words(monkeypatch):
    import torch

    from tutelage.cli import in_ranks
    from tutelage.jobs import ranks

    started: list[Any] = []
    failed: dict[int, int] = {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(ranks, "launched", lambda *words: started.append(words) or (failed, None))
    monkeypatch.setattr(ranks, "killed_of", lambda failed: "{} was killed" if 9 in failed.values() else "")
    given = Given(
        "gap",
        ["n", "m"],
        ["--b", "--a"],
        {"x": "1", in_ranks.KEY: "3", "y": "2"},
        ["y", in_ranks.KEY, "x"],
        ["data.root=r"],
    )
    assert in_ranks._start("analyse", given, 3) == 0
    ((command, count, threads, name),) = started
    assert command == [
        "-m",
        "tutelage",
        "analyse",
        "gap",
        "n",
        "m",
        "--a",
        "--b",
        "x=1",
        "y=2",
        "data.root=r",
    ]
    assert (count, threads) == (3, "2") and name.startswith("analyse-")
    failed |= {0: 1, 1: 4}
    assert (
        in_ranks._start("analyse", Given(), 8) == 4
        and started[1][0] == ["-m", "tutelage", "analyse"]
        and started[1][2] == "1"
    )
    failed[2] = 9
    with pytest.raises(UserError, match=r"^analyse was killed$"):
        in_ranks._start("analyse", Given(), 2)


@pytest.mark.parametrize(
    ("devices", "device", "asked"),
    [
        ("1", "cpu", None),
        ("4", "cpu", ("cpu", 4)),
        ("auto", "cuda", ("gpu", "auto")),
        ("2", "gpu", ("gpu", 2)),
    ],
)
def test_how_many_ranks_are_asked_for(monkeypatch, devices, device, asked):
    from tutelage.cli import in_ranks
    from tutelage.jobs import ranks

    seen: list[Any] = []
    monkeypatch.setattr(ranks, "ranks_of", lambda config: seen.append(config["hardware"]) or 5)
    assert in_ranks._asked(Given(options={in_ranks.KEY: devices, "device": device})) == (
        1 if asked is None else 5
    )
    assert [(one["accelerator"], one["devices"], one["num_nodes"], one["strategy"]) for one in seen] == (
        [] if asked is None else [(*asked, 1, "ddp")]
    )


@pytest.mark.parametrize(
    ("given", "steps", "found"),
    [
        ("", {"guide": None}, {"usual": ["u"]}),
        ("", {"guide": {"x": 1}}, {"yours": []}),
        ("usual", {"guide": {"x": 1}}, {"usual": ["u"]}),
        ("[usual,fcn]", {}, {"usual": ["u"], "fcn": ["model@guide=fcn"]}),
        ("fcm", {}, "there is no guide 'fcm'; did you mean 'fcn'?"),
    ],
)
def test_guides_that_diagnose_tries(monkeypatch, given, steps, found):
    from tutelage.analysis import diagnosis
    from tutelage.cli import diagnose

    monkeypatch.setattr(diagnosis, "guides_for", lambda data: {"usual": ("u",)})
    subject = SimpleNamespace(data=None, config=steps)
    if isinstance(found, str):
        with pytest.raises(UserError, match=found.replace("?", r"\?")):
            diagnose._guides(given, [], subject)
    else:
        assert {name: list(words) for name, words in diagnose._guides(given, [], subject).items()} == found


def test_a_programme_does_what_fits_in_order_and_then_begins_the_rest(monkeypatch):
    from tutelage.cli import programme
    from tutelage.cli.programme_stages import Work
    from tutelage.reporting.programme_file import Stage

    clock, done = [0.0], []
    monkeypatch.setattr(programme, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    left = {"a": [(("a1",), 10.0), (("a2",), 50.0)], "b": [(("b1",), 5.0)]}
    monkeypatch.setattr(programme, "timed", lambda work, plan_of, speed: left[work.stage.label])

    def one(jobs, plan, words, speed):
        done.append(words)
        clock[0] += 10.0

    monkeypatch.setattr(programme, "_one", one)
    monkeypatch.setattr(
        programme,
        "_command",
        lambda work, runs_dir: done.append(work.stage.label) or work.stage.label != "bad",
    )
    closed: list[int] = []
    notes = [
        SimpleNamespace(key="k", outcome=programme.Outcome.FAILED),
        SimpleNamespace(key="ok", outcome=None),
    ]
    monkeypatch.setattr(
        programme.Jobs,
        "new",
        lambda runs_dir: SimpleNamespace(notes=lambda: notes, close=lambda: closed.append(1)),
    )

    def stage(label, seconds=None):
        words = ("x",) if seconds else ()
        return Work(
            Stage(label, table="" if seconds else "t", command=words),
            (),
            [((label,), seconds)] if seconds else [],
        )

    failed: list[str] = []
    works = [
        stage("a"),
        stage("bad", 30.0),  # as much as is left
        stage("tight", 30.5),
        stage("slow", 100.0),
        stage("b"),
        Work(Stage("none", command=("x",)), ()),
    ]
    programme._work_off(works, lambda words: words, 40.0, "runs", None, failed)
    assert (
        done == [("a1",), "bad", ("b1",), ("a2",), "tight", "slow"]
        and failed == ["bad", "k"]
        and closed == [1]
    )


def test_the_alarm_of_a_programme_rings_once_and_is_put_away():
    import math
    import time

    from tutelage.cli import programme

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(programme.TimeIsUp), programme._alarm(time.monotonic() - 5):
        time.sleep(5)
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    with programme._alarm(time.monotonic() + 60):
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    with programme._alarm(math.inf):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


@pytest.mark.parametrize(
    ("normalise", "more", "lines"),
    [
        ("true", {"normalise": True}, ["inputs as they are, normalised inside"]),
        ("false", {"normalise": False}, ["inputs as the data module gives them"]),
        (
            "true",
            {"normalise": True, "quantised": {"kind": "x"}},
            ["inputs as they are, normalised inside", "measured x by accuracy"],
        ),
    ],
)
def test_an_export_takes_the_place_of_an_earlier_one_and_of_nothing_else(
    tmp_path, monkeypatch, normalise, more, lines
):
    from tutelage.cli import export
    from tutelage.engine import export as engine
    from tutelage.engine import inherited, load, quantise, trust
    from tutelage.runs.store import Store

    source = SimpleNamespace(key="a/0123456789ab", config={}, path=tmp_path)
    loaded = SimpleNamespace(data=SimpleNamespace(summary=dict, task=SimpleNamespace(monitor="accuracy")))
    asked: list[Any] = []

    def made(loaded, folder, format, *, key, normalise, quantised):
        folder.mkdir()
        (folder / export.FACTS).write_text("{}")
        asked.append((format, key, normalise, quantised))
        return {"compared": 7, "largest_difference": 1e-6, **more}

    monkeypatch.setattr(Store, "find", lambda self, name: source)
    monkeypatch.setattr(engine, "export", made)
    monkeypatch.setattr(inherited, "check_answers", lambda *_: None)
    monkeypatch.setattr(load, "load_run", lambda *_, **__: loaded)
    monkeypatch.setattr(trust, "modules", lambda code: code)
    monkeypatch.setattr(quantise, "table", lambda facts, monitor: [f"measured {facts['kind']} by {monitor}"])
    monkeypatch.setattr(export, "card", lambda *_: "a card")
    out = tmp_path / "out"

    def run(format="onnx"):
        words = {"licence": "", "hub": "", "quantise": "none", "runs_dir": str(tmp_path), "code": ""}
        return export.export("x", format=format, out=str(out), normalise=normalise, **words)

    for _ in range(2):  # the second in place of the first
        said, *measured, written = run().splitlines()
        assert (
            said
            == f"a/0123456789ab as onnx: {lines[0]}; on 7 validation samples its outputs are the network's up to 1e-06"
        )
        assert (
            measured == lines[1:]
            and written == f"written: {out}"
            and (out / "README.md").read_text() == "a card"
        )
    assert asked == [("onnx", "a/0123456789ab", normalise == "true", "none")] * 2
    (out / export.FACTS).unlink()
    with pytest.raises(UserError, match="holds other things than an export: name another folder, out="):
        run()
    for path in list(out.iterdir()):
        path.unlink()
    run()  # an empty folder
    import shutil

    shutil.rmtree(out)
    out.touch()
    with pytest.raises(UserError, match="holds other things than an export"):
        run()


def test_where_the_table_of_a_report_lies_and_which_words_count(tmp_path, monkeypatch, capsys):
    from tutelage.reporting import committed, render

    seen: list[Any] = []

    def write_table(table, find, store, folder, stem, *, words, replace, finish, **_):
        seen.append((store.root, folder, stem, words, replace, finish("report")))
        return "report", "what was said"

    monkeypatch.setattr(committed, "write_table", write_table)
    monkeypatch.setattr(render, "terminal", lambda report: report)
    monkeypatch.chdir(tmp_path)
    text = "title: T\nmetric: accuracy\nseeds: 1\narms: {a: [m=1]}\n"
    inside, outside = (
        tmp_path / "experiments/p/t.yaml",
        tmp_path.parent / f"{tmp_path.name}-outside" / "u.yaml",
    )
    for path in (inside, outside):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    report.report_table(inside, ["runs_dir=R", "+hardware.threads=1", "fit.max_steps=3"], replace=True)
    report.report_table(outside, ["a.b=1"])
    assert seen == [
        (Path("R"), inside.parent / "results", "t", ["fit.max_steps=3"], True, "report"),
        (Path("runs"), Path("runs/u"), "u", ["a.b=1"], False, "report"),
    ]
    assert capsys.readouterr().out == "report\nwhat was said\n" * 2


@pytest.mark.parametrize(
    ("result", "learned"),
    [
        ({"cost": {"total_s": 5.0}}, [5.0]),
        ({"cost": {"total_s": 5.0, "resumed_at_step": 0}}, [5.0]),
        ({"cost": {"total_s": 5.0, "resumed_at_step": 3}}, []),
        (None, []),
    ],
)
def test_the_speed_of_this_machine_is_learned_of_runs_from_their_beginning(monkeypatch, result, learned):
    from tutelage.cli import programme

    found: list[float] = []
    run = SimpleNamespace(run=lambda name, identity: SimpleNamespace(result=result))
    monkeypatch.setattr(programme, "Store", lambda root: run)
    done: list[Any] = []
    jobs = SimpleNamespace(do=lambda plan, words: done.append((plan(), words)))
    plan = SimpleNamespace(config={"runs_dir": "r"}, name="n", identity="i")
    programme._one(jobs, plan, ("a=1",), SimpleNamespace(learn=lambda plan, seconds: found.append(seconds)))
    assert done == [(plan, ("a=1",))] and found == learned


def test_tables_of_a_programme_are_written_once_each_of_complete_runs(monkeypatch, tmp_path, capsys):
    from tutelage.cli import programme
    from tutelage.cli.programme_stages import Work
    from tutelage.reporting.programme_file import Stage

    table = Table("T", "m", (Arm("a", ("x=1",), (("p=1",), ("p=2",))),), (0, 1), (0,), name="paper/t")
    done: list[Any] = []
    states: dict[str, set[tuple[str, int]]] = {"t": {("p=2", 1)}, "none": set(), "u": {("p=1", 0)}}
    monkeypatch.setattr(
        Stage, "read_table", lambda self: (Path(f"{self.table}.yaml"), replace(table, title=self.table))
    )

    def finder(words, plan_of, table):
        return lambda cell: SimpleNamespace(
            state=State.COMPLETE if (cell.point[0], cell.seed) in states[table.title] else State.FAILED
        )

    monkeypatch.setattr(programme, "finder", finder)
    monkeypatch.setattr(programme, "report_table", lambda path, words: done.append((str(path), words)))
    monkeypatch.setattr(
        programme,
        "write_table",
        lambda table, find, store, folder, stem: (None, done.append((folder, stem)) or f"wrote {stem}"),
    )
    works = [
        Work(Stage(label, table=name), ("w=1",))
        for label, name in (("1", "t"), ("2", "none"), ("3", "t"), ("4", "u"))
    ]
    works.append(Work(Stage("5", command=("x",)), ()))
    programme._report(works, None, "runs", False)
    assert done == [("t.yaml", ["w=1"]), ("u.yaml", ["w=1"])]
    done.clear()
    programme._report(works, None, str(tmp_path), True)  # a rehearsal, below the runs
    assert (
        done == [(tmp_path / "paper/t", "t")] * 2 + [(tmp_path / "paper/t", "u")]
        and capsys.readouterr().out == "wrote t\nwrote t\nwrote u\n"
    )
