"""How often a run is tried, what stays of one that failed, and what its record says."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

from made_plans import plan, stored
from tutelage.errors import RunFailed, UnknownArgument, UserError
from tutelage.jobs import launch
from tutelage.jobs.launch import first_line, is_mistake
from tutelage.runs.identity import identify
from tutelage.runs.run import RunBusy
from tutelage.runs.store import Store


class NotTheirs(UserError):
    """A failure in words."""

    mistake = False


@pytest.mark.parametrize(("error", "line", "mistake"), [
    (UserError("a\nb"), "a", True), (OSError("a\nb"), "OSError: a", False), (OSError(), "OSError", False), (UserError(), "", True),
    (NotTheirs("c"), "c", False), (ValueError("  \n d\n"), "ValueError: d", False),
])  # fmt: skip
def test_the_first_line_of_an_error_and_whose_it_is(error, line, mistake):
    assert first_line(error) == line
    assert is_mistake(error) == mistake


@pytest.mark.parametrize(("leave", "never"), [
    ((), True), (("metrics.jsonl", ""), True), (("metrics.jsonl", "x"), False), (("checkpoints/last.ckpt", "x"), False),
    (("shards/0.npz", "x"), False), (("failed.json", '{"began": true}'), False), (("failed.json", '{"damaged": ["a"]}'), False),
    (("failed.json", '{"began": false}'), True), (("provenance.json", '{"attempts": [{}]}'), True),
    (("provenance.json", '{"attempts": [{}, {}]}'), False),
])  # fmt: skip
def test_a_run_that_never_began_has_nothing_of_its_own(tmp_path, leave, never):
    run = Store(tmp_path).at("x/000000000001")
    run.path.mkdir(parents=True)
    if leave:
        path = run.path / leave[0]
        path.parent.mkdir(exist_ok=True)
        path.write_text(leave[1])
    assert launch._never_began(run) == never


def making(tmp_path, ends, **settings):
    """Give a plan and what makes its run: each try ends as told, `None` well."""
    one, left, tries = plan(tmp_path, 1, **settings), list(ends), []
    one = replace(one, identity=identify(one.config))

    def make(config, run):
        tries.append(run)
        if (error := left.pop(0)) is not None:
            raise error
        stored(run.path)

    return one, make, tries


@pytest.mark.parametrize(("retry", "ends", "tries", "raised"), [
    (0, [None], 1, None), (0, [OSError("no")], 1, OSError), (1, [OSError("no"), None], 2, None),
    (1, [OSError("no"), OSError("no")], 2, OSError),
    (3, [UserError("no")], 1, UserError), (3, [RunBusy("busy")], 1, RunBusy), (2, [NotTheirs("a"), NotTheirs("b"), None], 3, None),
])  # fmt: skip
def test_a_run_is_tried_as_often_as_asked_unless_the_mistake_is_the_users(
    tmp_path, lines, retry, ends, tries, raised
):
    one, make, made = making(tmp_path, ends, retry=retry)
    if raised is None:
        assert launch.run_plan(one, make=make)["best"]["step"] == 1
    else:
        with pytest.raises(raised):
            launch.run_plan(one, make=make)
    assert len(made) == tries
    again = [f"{one.key} failed ({first_line(error)}) and is tried again" for error in ends[: tries - 1]]
    assert [line for line in lines() if "tried again" in line] == again


def test_a_complete_run_is_not_made_again_unless_that_is_asked_for(tmp_path):
    one, make, made = making(tmp_path, [None, OSError("no"), None], retry=1)
    said = []
    launch.run_plan(one, make=make)
    launch.run_plan(one, make=make, say=said.append)
    assert len(made) == 1 and said == [f"{one.key} is complete: its stored result is used"]
    (tmp_path / one.key / "mark").touch()
    launch.run_plan(one, make=make, rerun=True)
    # the failed attempt at the new one is resumed, not set aside too
    assert len(made) == 3 and not (tmp_path / one.key / "mark").exists()
    assert len(list(tmp_path.rglob("mark"))) == 1


@pytest.mark.parametrize(("rank", "begins"), [(None, True), (0, True), (1, False)])
def test_of_ranks_the_first_begins_the_run_and_writes_its_log(tmp_path, monkeypatch, rank, begins):
    one, make, made = making(tmp_path, [None])
    monkeypatch.setattr(launch, "in_ranks", lambda: rank is not None)
    monkeypatch.setattr(launch, "global_rank", lambda: rank or 0)
    run = Store(tmp_path).at(one.key)
    launch.execute(one, run, make)
    assert made == [run]
    assert (run.path / "config.yaml").is_file() == (run.path / "log.txt").is_file() == begins


@pytest.mark.parametrize(("rank", "named"), [(None, True), (0, True), (1, False)])
def test_of_ranks_the_first_links_a_run_that_has_another_name(tmp_path, monkeypatch, rank, named):
    one, make, _ = making(tmp_path, [None])
    linked = []
    monkeypatch.setattr(launch, "in_ranks", lambda: rank is not None)
    monkeypatch.setattr(launch, "global_rank", lambda: rank or 0)
    monkeypatch.setattr(Store, "also_called", lambda self, name, run: linked.append((name, run.key)))
    launch.run_plan(one, make=make)
    assert linked == [(one.name, one.key)] * named


@pytest.mark.parametrize(
    ("ranks", "there", "starts"), [(1, False, False), (2, False, True), (2, True, False)]
)
def test_ranks_are_started_where_none_are_there(tmp_path, monkeypatch, ranks, there, starts):
    one, make, made = making(tmp_path, [None])
    started = []
    monkeypatch.setattr(launch, "ranks_of", lambda config: ranks)
    monkeypatch.setattr(launch, "in_ranks", lambda: there)
    monkeypatch.setattr(launch, "start_ranks", lambda plan, run: started.append(run))
    run = Store(tmp_path).at(one.key)
    launch.execute(one, run, make)
    assert (started, made) == (([run], []) if starts else ([], [run]))


def test_ranks_that_exist_need_runs_that_are_complete(tmp_path, monkeypatch):
    need = plan(tmp_path, 2)
    one, make, made = making(tmp_path, [None], needs=[need])
    one.config["needs"] = {"need0": {"command": ["model=fcn", "seed=2"]}}
    monkeypatch.setattr(launch, "in_ranks", lambda: True)
    with pytest.raises(UserError) as error:
        launch.run_plan(one, make=make)
    assert str(error.value) == (
        f"{one.key} needs runs that are not complete; make them before starting ranks by hand:\n  tutelage train model=fcn seed=2"
    )
    stored(tmp_path / need.key)
    one = replace(one, identity=identify(one.config))
    launch.run_plan(one, make=make)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("words", "more"),
    [(None, ""), (("model=convnet",), ""),
     (("experiment=demo/plain", "model=convnet"),
      ". model.depth comes from conf/experiment/demo/plain.yaml: add '~model.depth' to go without")],
)  # fmt: skip
def test_a_setting_that_an_experiment_brought_along_is_told_from_a_mistake(tmp_path, words, more):
    one, make, _ = making(tmp_path, [UnknownArgument("no 'depth'", ["model.depth"])])
    with pytest.raises(UserError) as error:
        launch.run_plan(replace(one, words=words), make=make)
    assert str(error.value) == f"no 'depth'{more}"


def test_a_mistake_before_the_first_step_leaves_no_run_and_another_failure_does(tmp_path):
    one, make, _ = making(tmp_path, [UserError("no"), OSError("no disk")])
    with pytest.raises(UserError):
        launch.run_plan(one, make=make)
    assert not (tmp_path / one.key).exists()
    with pytest.raises(OSError, match="no disk"):
        launch.run_plan(one, make=make)
    failure = Store(tmp_path).at(one.key).failure
    assert failure["error"] == "OSError" and failure["message"] == "no disk"
    assert (
        failure["mistake"] is False
        and failure["exit_code"] == 1
        and failure["traceback"].startswith("Traceback")
    )
    assert failure["cause"] == ""


def test_the_record_of_a_failure_has_its_cause_and_its_facts(tmp_path):
    run = Store(tmp_path).at("x/000000000001")
    run.path.mkdir(parents=True)

    def make(config, run):
        try:
            raise OSError("below")
        except OSError as error:
            found = RunFailed("above")
            found.facts = {"step": 3}
            raise found from error

    with pytest.raises(RunFailed):
        launch.attempt({}, run, make)
    failure = run.failure
    assert (failure["traceback"], failure["step"], failure["exit_code"], failure["mistake"]) == (
        "",
        3,
        1,
        True,
    )
    assert failure["cause"].endswith("OSError: below\n")


@pytest.mark.parametrize(("text", "kind", "file"), [
    ('I/O error (os error 28) at path "/a/b"', "SafetensorError", "/a/b"),
    ("I/O error (os error 28)", "SafetensorError", "a file of weights"),
    ("I/O error (os error 28)", "OtherError", None), ("something else", "SafetensorError", None),
])  # fmt: skip
def test_a_full_disk_as_the_writer_of_weights_says_it(text, kind, file):
    error = type(kind, (Exception,), {})(text)
    found = launch._in_words(error)
    if file is None:
        assert found is error
    else:
        assert str(found) == f"[Errno 28] No space left on device: '{file}'"


def test_the_words_that_make_a_need_are_those_of_whoever_needs_it(tmp_path):
    need, other = plan(tmp_path, 3, name="n"), plan(tmp_path, 4, name="o")
    middle = plan(tmp_path, 2, [need])
    middle.config["needs"] = {"need0": {"command": ("model=fcn", "seed=3")}}
    one = plan(tmp_path, 1, [middle])
    one.config["needs"] = {"need0": {"command": ["m=1"]}}
    assert launch._command_of(one, need) == ["model=fcn", "seed=3"]
    assert launch._command_of(one, middle) == ["m=1"]
    assert launch._command_of(one, other) == ["name=o"]


def test_what_is_logged_goes_into_the_runs_log_while_it_runs(tmp_path):
    log, library = logging.getLogger("tutelage"), logging.getLogger("lightning.pytorch")
    before, level = (list(log.handlers), list(logging.root.handlers)), log.level
    with launch.logging_to(tmp_path / "deep" / "log.txt"):
        assert log.level == logging.DEBUG
        log.debug("ours")
        library.warning("theirs")
        (file,) = (handler for handler in logging.root.handlers if handler not in before[1])
        # to it alone: pytest's workers cannot send such a text to each other
        file.handle(log.makeRecord(log.name, logging.DEBUG, "", 0, "a file called caf\udce9", (), None))
    log.error("afterwards")
    text = (tmp_path / "deep" / "log.txt").read_text()
    assert [line.split(" ", 2)[2] for line in text.splitlines()] == [
        "DEBUG tutelage: ours",
        "WARNING lightning.pytorch: theirs",
        r"DEBUG tutelage: a file called caf\udce9",
    ]
    assert (list(log.handlers), list(logging.root.handlers)) == before and log.level == level


@pytest.mark.parametrize(
    ("kind", "loaded", "imported"),
    [
        ("wandb", (), 1),
        (["csv", "wandb"], (), 1),
        ("none", (), 0),
        (["csv"], (), 0),
        ("wandb", ("torch",), 0),
    ],
)
def test_a_mirror_that_is_slow_to_import_beside_torch_is_imported_before(kind, loaded, imported, monkeypatch):
    seen = []

    def broken(name):
        seen.append(name)
        raise SystemExit(name)

    monkeypatch.setattr(launch, "sys", SimpleNamespace(modules=loaded))
    monkeypatch.setattr(launch, "importlib", SimpleNamespace(import_module=broken))
    launch._import_mirror_first({"logger": {"kind": kind}})
    assert seen == ["wandb"] * imported
