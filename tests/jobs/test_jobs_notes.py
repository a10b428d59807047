"""What a command says of its jobs, word by word: at once, in a line as each ends, and in the list at the end."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from made_plans import plan, stored
from tutelage.config import planner
from tutelage.engine import progress
from tutelage.errors import RunFailed, StoppedBelow, UserError
from tutelage.jobs import launch, longer, outcomes, parallel
from tutelage.jobs.notes import Note, Notes, Outcome
from tutelage.jobs.outcomes import Jobs, Kind
from tutelage.runs.run import RunBusy
from tutelage.runs.store import Store


@pytest.fixture
def said(caplog):
    """Give a function that returns the lines since it was last asked, an error or a warning with its level before it."""
    caplog.set_level(logging.DEBUG, "tutelage")

    def lines():
        found = [
            (f"{one.levelname}: " if one.levelno > logging.INFO else "") + one.getMessage()
            for one in caplog.records
        ]
        caplog.clear()
        return found

    return lines


FAILED, DONE, LEFT = Outcome.FAILED, Outcome.DONE, Outcome.LEFT


@pytest.mark.parametrize(
    ("noted", "lines", "code"),
    [
        ([], [], 0),
        ([("a/1", DONE)], [], 0),
        ([("a/1", DONE), ("a/2", LEFT)], ["1 job not begun (on_failure=stop)"], 1),
        (
            [("a/1", DONE), ("a/2", FAILED, "no disk", False, "there/log.txt", ["model=fcn", "seed=2"])],
            [
                "1 of 2 jobs failed; the same command tries them again:",
                "  a/2 (model=fcn seed=2): no disk; log: there/log.txt",
            ],
            1,
        ),
        (
            [
                ("a/1", DONE, "", False, None, ["model=fcn", "seed=1"]),
                ("b/1", FAILED, "no 'x'; known: a, b", True, None, ["model=fcn", "seed=2"]),
                ("b/2", FAILED, "no 'x'; known: a", True, None, ["model=fcn", "seed=3"]),
                ("b/3", FAILED, "no 'x'; known: c", True, None, ["model=fcn", "seed=4"]),
                ("c/1", FAILED, "no disk", False, "1.txt", ["model=fcn", "seed=5"]),
                ("c/2", FAILED, "no disk", False, "2.txt", ["model=fcn", "seed=6"]),
                ("d/1", LEFT, "", False, None, ["model=fcn", "seed=7"]),
                ("model=fcn seed=x", FAILED, "seed must be a number", True, None, ["model=fcn", "seed=x"]),
            ],
            [
                "6 of 8 jobs failed; the same command tries them again:",
                "  b/1 (seed=2), and 2 more: no 'x'; known: a, b",
                "  c/1 (seed=5): no disk; log: 1.txt",
                "  c/2 (seed=6): no disk; log: 2.txt",
                "  seed=x: seed must be a number",
                "1 job not begun (on_failure=stop)",
            ],
            1,
        ),
        (
            [("a/1", FAILED, "no 'x'", True, None, ["n=1"]), ("a/2", LEFT, "", False, None, ["n=1"])],
            [
                "1 of 2 jobs failed; the same command tries them again:",
                "  a/1: no 'x'",
                "1 job not begun (on_failure=stop)",
            ],
            2,
        ),
        (
            [("n=1", FAILED, "no 'x'", True, None, ["n=1"]), ("n=1 ", FAILED, "no 'y'", True, None, ["n=1"])],
            [
                "2 of 2 jobs failed; the same command tries them again:",
                "  n=1: no 'x'",
                "  n=1 : no 'y'",
            ],
            2,
        ),
    ],
)  # fmt: skip
def test_the_list_of_what_failed_and_the_exit_code(tmp_path, said, noted, lines, code):
    jobs = Notes(tmp_path)
    for number, one in enumerate(noted):
        jobs.note(*one, here=number % 2 == 1)
    assert jobs.close() == code
    assert said() == [f"ERROR: {line}" for line in lines]


def test_a_note_is_found_as_it_was_written_and_the_last_one_counts(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    jobs = Notes(folder)
    first = Note("a/1", FAILED, "no disk", True, "log.txt", ("seed=1", "model=fcn"), None, 2.5)
    assert jobs.note_of("a/1") is None and jobs.notes() == []
    jobs.note(first.key, *list(vars(first).values())[1:])
    assert jobs.note_of("a/1") == first and Notes(folder).notes() == [first]
    jobs.note("a/1", DONE, here=True)
    assert jobs.note_of("a/1") == Note("a/1", DONE) and Notes(folder).note_of("a/1") == first
    assert jobs.notes() == [Note("a/1", DONE)]
    jobs.note("a/1", LEFT)  # what is written takes the place of what was known here alone
    jobs.note("A/0", DONE)
    assert jobs.note_of("a/1") == Note("a/1", LEFT)
    assert jobs.notes() == [Note("A/0", DONE), Note("a/1", LEFT)] == Notes(folder).notes()
    assert not jobs.stopped
    jobs.stop()
    assert jobs.stopped and Notes(folder).stopped
    jobs.close()
    assert folder.is_dir()
    (tmp_path / "empty").mkdir()
    Notes(tmp_path / "empty").close()  # nothing was written, nothing stays
    assert not (tmp_path / "empty").exists()


def test_of_mistakes_the_first_is_said_at_once_of_other_failures_each(tmp_path, said):
    jobs = Notes(tmp_path)
    for key, reason, mistake in [
        ("a", "no 'x'; known: a", True),
        ("b", "no 'x'; known: b", True),
        ("c", "no 'y'; known: a", True),
        ("d", "no disk", False),
        ("e", "no disk", False),
        ("f", "no disk", True),
    ]:
        jobs.say_failed(key, reason, mistake)
    assert said() == [
        "ERROR: a failed: no 'x'; known: a",
        "ERROR: c failed: no 'y'; known: a",
        "ERROR: d failed: no disk",
        "ERROR: e failed: no disk",
    ]


def result(step, steps, **more):
    best = {"validation": {"loss": 0.123456, "accuracy": 0.5}, "test": {"loss": 12.3456}, "step": step}
    return {"best": best, "selection": {"monitor": "loss"}, "cost": {"steps": steps}, **more}


PSEUDO = {"pseudo": {"count": 64, "classes": 10, "labelling": "uniform"}}


@pytest.mark.parametrize(
    ("result", "line", "value"),
    [
        (result(4000, 4000), "val. loss 0.1235, test 12.35", 0.123456),
        (result(1000, 4000), "val. loss 0.1235, test 12.35, at step 1,000 of 4,000", 0.123456),
        (
            result(1000, 2000, ended_early={"of": 4000}),
            "val. loss 0.1235, test 12.35, at step 1,000 of 2,000, ended early at 2,000 of 4,000",
            0.123456,
        ),
        (PSEUDO, "64 images of 10 classes, labelling uniform", 64.0),
    ],
)
def test_a_result_in_a_line_and_as_a_value(result, line, value):
    assert outcomes.headline(result) == line
    assert outcomes.monitored(result) == value


@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize(
    ("raised", "outcome", "reason", "mistake", "lines"),
    [
        (None, DONE, "", False, ["x/000000 seed 3: of 0.5"]),
        (RunBusy("it is busy"), Outcome.BUSY, "", False, []),
        (
            StoppedBelow("stopped at step 4", step=4),
            Outcome.STOPPED_BELOW,
            "stopped at step 4",
            False,
            ["x/000000000003: stopped at step 4"],
        ),
        (UserError("no 'x'"), FAILED, "no 'x'", True, ["ERROR: x/000000000003 failed: no 'x'"]),
        (
            RunFailed("diverged\nat 3"), FAILED, "diverged", False,
            ["ERROR: x/000000000003 failed: diverged\nat 3"],
        ),
        (
            OSError("no disk\nno"), FAILED, "OSError: no disk", False,
            ["ERROR: x/000000000003 failed: no disk\nno"],
        ),
    ],
)  # fmt: skip
def test_how_a_job_ends_is_noted_and_said(
    tmp_path, monkeypatch, said, raised, outcome, reason, mistake, lines, here
):
    (tmp_path / "notes").mkdir()
    jobs, one = Jobs(tmp_path / "notes"), plan(tmp_path, 3)
    given = {}

    def run_plan(plan, **more):
        given.update(more)
        more["say"]("it goes on")
        if raised is not None:
            raise raised
        return {"of": 0.5}

    monkeypatch.setattr(launch, "run_plan", run_plan)
    kind = Kind(lambda *_: None, "of {of}".format_map, lambda result: result["of"])
    value = jobs.do(
        lambda: one, words=["seed=3"], processes=4, wait=False, kind=kind, here=here, say=logging.getLogger("tutelage").info
    )  # fmt: skip
    assert value == 0.5 if raised is None else math.isnan(value)
    assert said() == ["it goes on", *lines]
    (note,) = jobs.notes()
    seconds = note.seconds
    assert note == Note(one.key, outcome, reason, mistake, None, ("seed=3",), 4, seconds)
    assert 0 <= seconds < 5
    assert any((tmp_path / "notes").iterdir()) != here
    assert (given["rerun"], given["wait"], given["make"]) == (False, False, kind.make)


@pytest.mark.parametrize(("rerun", "lines"), [
    (False, ["x/000000 seed 3, stored: val. accuracy 0.5, test 0.5"]),
    (True, ["made", "x/000000 seed 3: val. accuracy 0.5, test 0.5"]),
])  # fmt: skip
def test_of_a_stored_result_one_line_is_said(tmp_path, monkeypatch, said, rerun, lines):
    jobs, one = Jobs(tmp_path), plan(tmp_path, 3, rerun=rerun)
    stored(tmp_path / one.key)

    def run_plan(plan, *, say, **_):
        say("made")
        return Store(tmp_path).run(plan.name, plan.identity).result

    monkeypatch.setattr(launch, "run_plan", run_plan)
    assert jobs.do(lambda: one, words=[]) == 0.5
    assert said() == lines


@pytest.mark.parametrize(("settings", "stops"), [({}, False), ({"on_failure": "stop"}, True)])
def test_a_failure_names_the_runs_log_and_stops_the_others_where_that_is_asked_for(
    tmp_path, monkeypatch, settings, stops
):
    jobs, one = Jobs(tmp_path), plan(tmp_path, 3, **settings)
    log = tmp_path / one.key / "log.txt"
    log.parent.mkdir(parents=True)
    log.touch()
    made = []

    def run_plan(plan, **_):
        made.append(plan)
        raise OSError("no disk")

    monkeypatch.setattr(launch, "run_plan", run_plan)
    jobs.do(lambda: one, words=["seed=3"])
    assert jobs.note_of(one.key).log == str(log)
    assert jobs.stopped == stops
    jobs.do(lambda: one, words=["seed=3"])
    assert len(made) == (1 if stops else 2) and jobs.note_of(one.key).outcome is (LEFT if stops else FAILED)


def test_words_without_a_plan_are_the_name_of_their_job(tmp_path, said):
    jobs = Jobs(tmp_path)

    def wrong():
        raise UserError("no 'x'")

    for words in (["a=1", "b=2"], []):
        assert math.isnan(jobs.do(wrong, words=words))
    assert said() == ["ERROR: a=1 b=2 failed: no 'x'"]
    assert [(note.key, note.log, note.mistake) for note in jobs.notes()] == [
        ("a=1 b=2", None, True),
        ("the job", None, True),
    ]


@pytest.fixture
def fork(monkeypatch):
    """Give a function that forks nothing: it returns what the jobs would have been run with."""
    given = SimpleNamespace(looked=[], loaded=[])
    monkeypatch.setattr(longer, "look_around", lambda *words: given.looked.append(words))
    monkeypatch.setattr(parallel, "preload", lambda *words: given.loaded.append(words))
    monkeypatch.setattr(
        parallel, "run_forked", lambda jobs, **more: given.__dict__.update(jobs=jobs, **more) or []
    )

    def do(jobs, asked, processes=2):
        jobs.fork([(words, one, lambda: 0.0) for words, one in asked], processes)
        return given

    return do


def test_jobs_in_processes_are_named_tried_and_loaded_for_by_their_plans(tmp_path, fork):
    one = plan(tmp_path, 1, retry=3, data={"set": "a"})
    two = plan(tmp_path, 2, data={"set": "b"})
    words = [
        ["name=x", "model=fcn", "method.objectives.hint.weight=1", "experiment=e", "seed=1"],
        ["name=y", "model=fcn", "method.objectives.hint.weight=2", "experiment=f", "seed=2"],
        ["name=z", "model=fcn", "experiment=g"],
    ]
    given = fork(Jobs(tmp_path), list(zip(words, (one, two, None), strict=True)))
    assert given.names == ["x/000000 hint.weight=1 seed=1", "x/000000 hint.weight=2 seed=2", "name=z experiment=g"]  # fmt: skip
    assert given.retries == [3, 0, 0] and given.processes == 2 and given.outputs == tmp_path
    assert given.loaded == [([{"set": "a"}, {"set": "b"}], str(tmp_path))]
    ((configs, store),) = given.looked
    assert configs == [one.config, two.config] and store.root == tmp_path
    given = fork(Jobs(tmp_path), [([], None)])
    assert given.names == ["the job"] and len(given.loaded) == 1  # nothing is known, nothing is loaded


def test_how_a_process_died_is_noted_with_what_it_printed_or_else_the_runs_log(tmp_path, fork):
    (tmp_path / "notes").mkdir()
    jobs = Jobs(tmp_path / "notes")
    ones = [plan(tmp_path, 0), plan(tmp_path, 1), plan(tmp_path, 2)]
    asked = [*((["seed=?"], one) for one in ones), (["seed=x", "a=b"], None)]
    given = fork(jobs, asked)
    for one in ones[:2]:
        (tmp_path / one.key).mkdir(parents=True)
        (tmp_path / one.key / "log.txt").write_text("so far")
    (jobs.folder / "0.txt").write_text("a crash")
    (jobs.folder / "1.txt").touch()
    for number in range(4):
        given.died(number, "was killed")
    logs = [str(jobs.folder / "0.txt"), str(tmp_path / ones[1].key / "log.txt"), None, None]
    keys = [*(one.key for one in ones), "seed=x a=b"]
    assert [jobs.note_of(key) for key in keys] == [
        Note(key, FAILED, "its process was killed", False, log, tuple(words))
        for key, log, (words, _) in zip(keys, logs, asked, strict=True)
    ]
    assert not jobs.stopped
    fork(jobs, [(["seed=0"], plan(tmp_path, 0, on_failure="stop"))]).died(0, "was killed")
    assert jobs.stopped


def test_what_a_jobs_value_is_in_words(tmp_path, fork):
    jobs = Jobs(tmp_path)
    ones = [plan(tmp_path, seed) for seed in range(3)]
    stored(tmp_path / ones[0].key)
    stored(tmp_path / ones[1].key, selection={})
    given = fork(jobs, [*(([f"seed={one.config['seed']}"], one) for one in ones), (["seed=x"], None)])
    values = (0.123456, 0.123456, 0.123456, 0.123456)
    assert [given.became(number, value) for number, value in enumerate(values)] == [
        "val. accuracy 0.1235",
        "0.1235",
        "0.1235",
        "0.1235",
    ]
    jobs.note("another", DONE, words=["seed=7"])
    assert given.became(3, math.nan) == "no value"
    for outcome, word in [(Outcome.BUSY, "another process works on it"), (FAILED, "failed"), (LEFT, "left")]:
        jobs.note("seed=x", outcome, words=["seed=x"])
        assert given.became(3, math.nan) == word


def test_one_process_does_its_jobs_here_and_several_fork(tmp_path, monkeypatch):
    jobs, done, forked = Jobs(tmp_path), [], []
    known = plan(tmp_path, 1)
    monkeypatch.setattr(planner, "plan_of", lambda words: ("planned", tuple(words)))
    monkeypatch.setattr(jobs, "do", lambda make, **more: done.append((make(), more)) or 0.0)
    monkeypatch.setattr(
        jobs, "fork", lambda asked, processes: forked.append((processes, [one[:2] for one in asked], asked))
    )
    commands, plans = [["seed=1"], ["seed=2"]], {("seed=1",): known}
    jobs.run_all(commands, 1, plans=plans, wait=True)
    assert not forked
    assert done == [
        (made, {"words": words, "processes": 1, "wait": True, "here": True})
        for made, words in zip((known, ("planned", ("seed=2",))), commands, strict=True)
    ]
    jobs.run_all([], 2)
    assert not forked  # no jobs, no processes
    done.clear()
    jobs.run_all(commands, None, plans=plans)
    ((processes, asked, whole),) = forked
    assert processes is None and asked == [(["seed=1"], known), (["seed=2"], ("planned", ("seed=2",)))]
    for _, _, job in whole:
        job()
    assert [more for _, more in done] == [
        {"words": words, "processes": None, "wait": False, "here": False} for words in commands
    ]


def test_every_job_that_ends_here_moves_the_bar(tmp_path, monkeypatch):
    jobs, board = Jobs(tmp_path), progress.Board(2)
    seen = []
    monkeypatch.setattr(progress, "board", lambda total: seen.append(total) or nullcontext(board))
    monkeypatch.setattr(progress, "_current", board)
    monkeypatch.setattr(jobs, "do", lambda make, **_: seen.append(board.done))
    jobs.run_all([["seed=1"], ["seed=2"]], 1)
    assert seen == [2, 0, 1] and board.done == 2


@pytest.mark.parametrize(("busy", "line"), [
    ([], None),
    (["a"], "waiting for 1 run that other processes work on"),
    (["a", "b", "c"], "waiting for 3 runs that other processes work on"),
])  # fmt: skip
def test_busy_jobs_are_waited_for_by_as_many_processes(tmp_path, monkeypatch, said, busy, line):
    jobs, again = Jobs(tmp_path), []
    monkeypatch.setattr(jobs, "run_all", lambda *words, **more: again.append((words, more)))
    jobs.note("done", DONE, words=["z=1"])
    for key in busy:
        jobs.note(key, Outcome.BUSY, words=[f"{key}=1"], processes=3)
    jobs.finish_busy()
    assert said() == ([] if line is None else [line])
    assert again == ([(([(f"{key}=1",) for key in busy], 3), {"wait": True})] if busy else [])


@pytest.mark.parametrize(("words", "stops"), [(["seed=x"], False), (["seed=x", "on_failure=stop"], True)])
def test_words_that_a_cluster_could_not_plan_are_noted_here(tmp_path, monkeypatch, said, words, stops):
    def plan_of(words):
        raise UserError("seed must be a whole number")

    monkeypatch.setattr(planner, "plan_of", plan_of)
    jobs = Jobs(tmp_path)
    assert outcomes.plan_here(jobs, words, "seed=x") is None
    assert said() == ["ERROR: seed=x: seed must be a whole number"]
    assert jobs.notes() == [Note(" ".join(words), FAILED, "seed must be a whole number", True, None, tuple(words))]  # fmt: skip
    assert jobs.stopped == stops
    assert outcomes.plan_or_none(words) is None


def test_the_folder_of_a_command_is_new_and_lies_below_the_runs(tmp_path):
    one, other = Jobs.new(str(tmp_path / "runs")), Jobs.new(str(tmp_path / "runs"))
    assert one.folder != other.folder and one.folder.is_dir()
    assert {one.folder.parent, other.folder.parent} == {tmp_path / "runs" / ".sweeps"}
    assert Path(one.folder.name[:-9] + "-").match("20??-??-??_??-??-??*")
