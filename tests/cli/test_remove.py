"""remove: never what a table needs, never a running run, asks first; list's filters are its filters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tutelage.cli import remove as remove_module
from tutelage.cli.main import main
from tutelage.cli.remove import owners_of
from tutelage.config.compose import hydra_ready
from tutelage.config.names import NameFinder, files_remembered
from tutelage.errors import UserError
from tutelage.runs.folders import left_aside, set_aside
from tutelage.runs.run import Run
from tutelage.runs.store import Store

QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=2",
    "fit.validate_every_steps=1",
    "model.depth=2",
    "model.width=8",
]
TABLE = """
title: t
metric: accuracy
seeds: 2
arms: {guided: [experiment=demo/guided-trained, name=demo/guided-trained]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of the table's names (made with other words, too), one that such a run needs, others, and an archived attempt."""
    folder = tmp_path_factory.mktemp("made")
    small = [*QUICK, f"runs_dir={folder}/runs"]
    need = "needs.cnn=['experiment=demo/cnn','fit.max_steps=1','fit.validate_every_steps=1']"
    assert main(["train", "experiment=demo/guided-trained", *small, need]) == 0
    assert main(["train", *small]) == 0
    assert main(["train", *small, "name=kept", "fit.log_every_steps=1", "fit.keep_checkpoints=true"]) == 0
    for more in ([], ["rerun=true"]):
        assert main(["train", *small, "name=other", "seed=1", *more]) == 0
    assert main(["train", *small, "name=other", "optimizer.lr=1e38"]) == 1
    (folder / "experiments" / "paper").mkdir(parents=True)
    (folder / "experiments" / "paper" / "table.yaml").write_text(TABLE)
    return folder


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Store("runs")


def names(store):
    return sorted(run.name for run in store.runs())


ALL = ["adhoc", "demo-cnn", "demo/guided-trained", "kept", "other", "other"]


def test_what_a_table_needs_stays_whatever_is_asked(runs):
    assert names(runs) == ALL
    assert main(["remove", "--all", "--yes"]) == 0
    assert names(runs) == ["demo-cnn", "demo/guided-trained"]
    locks = {path.stem for path in (runs.root / ".locks").iterdir()} - {"data"}
    assert locks == {run.identity for run in runs.runs()}  # a lock goes with its run


def test_what_a_remaining_run_needs_stays_without_any_table(runs):
    shutil.rmtree("experiments")
    assert main(["remove", "demo-cnn", "--yes"]) == 0
    assert names(runs) == ALL
    assert main(["remove", "--all", "--yes"]) == 0
    assert names(runs) == []


def test_it_asks_and_without_anybody_to_ask_it_does_nothing(runs, monkeypatch, capsys):
    assert main(["remove"]) == 2
    assert "--all" in capsys.readouterr().err
    assert main(["remove", "--all"]) == 2
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer in ("", "n", "what?"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert main(["remove", "--all"]) == 0
    assert names(runs) == ALL
    assert main(["remove", "--all", "--dry"]) == 0
    assert names(runs) == ALL
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["remove", "adhoc"]) == 0
    assert names(runs) == ALL[1:]


def test_filters_choose_for_list_and_prune_alike(runs, capsys):
    def listed(*words):
        assert main(["list", "runs", *words]) == 0
        return capsys.readouterr().out.splitlines()[0]

    assert listed().startswith("6 runs")
    assert listed("--state", "failed").startswith("1 run ")
    assert listed("--method", "guidance").startswith("1 run ")
    assert listed("--data", "digits", "--state", "complete").startswith("5 runs")
    assert listed("--before", "2020-01-01").startswith("0 runs")
    assert listed("--since", "2020-01-01").startswith("6 runs")
    assert main(["list", "runs", "--before", "soon"]) == 2
    assert listed("optimizer.lr=1e38").startswith("1 run ")
    assert main(["list", "methods", "seed=1"]) == 2
    assert "seed=1 belongs to `list runs`" in capsys.readouterr().err
    for words in (
        ["stat=failed"],
        ["--all", "stat=failed"],
        ["seed=9"],
        ["other", "kept"],
    ):  # nothing is passed over
        assert main(["remove", *words, "--yes"]) == 2
    assert names(runs) == ALL
    assert main(["remove", "--before", "2020-01-01", "--yes"]) == 0
    assert main(["remove", "optimizer.lr=1e38", "--dry"]) == 0 and names(runs) == ALL
    assert main(["remove", "optimizer.lr=1e38", "--yes"]) == 0
    assert names(runs) == ALL[:-1]


def test_a_run_of_two_names_stays_until_both_are_removed(runs, capsys):
    words = [*QUICK, "name=second"]
    assert main(["train", *words]) == 0
    assert "adhoc" in str(runs.root / next(iter(runs.runs("second"))).path.resolve())
    assert main(["remove", "adhoc", "--yes"]) == 0
    assert "also called second" in capsys.readouterr().err
    assert main(["remove", "second", "--yes"]) == 0
    assert names(runs) == ALL
    assert main(["train", *words]) == 0
    assert main(["list", "runs", "second"]) == 0
    assert capsys.readouterr().out.splitlines()[-1]
    assert main(["remove", "--all", "--yes"]) == 0
    assert names(runs) == ["demo-cnn", "demo/guided-trained"]


def test_what_a_table_calls_a_run_keeps_it_under_every_name(runs):
    Path("experiments/paper/table.yaml").write_text(
        TABLE.replace("demo/guided-trained, name=demo/guided-trained", "demo/plain, name=a/b")
    )
    assert main(["train", *QUICK, "name=a/b"]) == 0  # the run `adhoc`
    assert main(["remove", "--all", "--yes"]) == 0
    assert names(runs) == ["adhoc"]


def test_a_running_run_stays(runs, capsys):
    (run,) = runs.runs("adhoc")
    with run.lock():
        assert main(["remove", "adhoc", "--yes"]) == 1
    assert "is being run by process" in capsys.readouterr().err
    assert run.is_complete


def test_archived_attempts_and_checkpoints_have_words_of_their_own(runs):
    assert main(["remove", "--all", "--archive", "--yes"]) == 0
    assert not list(runs.root.rglob(".archive/*"))
    (run,) = runs.runs("kept")
    assert run.checkpoint("last").exists()
    assert main(["remove", "--all", "--checkpoints", "--yes"]) == 0
    assert not run.checkpoint("last").exists()
    assert run.is_complete
    assert names(runs) == ALL


def test_of_tables_the_one_that_changed_is_read_again(runs, caplog):
    caplog.set_level("INFO", "tutelage")
    other = runs.root.parent / "experiments" / "paper" / "zweite.yaml"
    other.write_text(TABLE.replace("demo/guided-trained]", "second]"))
    whole = owners_of(Path("experiments"), runs)
    assert {name: Path(why.rpartition(": ")[2]).name for name, why in whole.items()} == {
        "demo/guided-trained": "table.yaml", "demo-cnn": "table.yaml", "second": "zweite.yaml",
    }  # fmt: skip
    other.write_text(other.read_text() + "# more\n")
    for _ in range(2):
        assert owners_of(Path("experiments"), runs) == whole
    assert caplog.messages == ["reading the needs of 2 tables", "reading the needs of 1 table"]


@pytest.mark.parametrize("damage", ["title: [", "arms: 3", TABLE.replace("metric", "metrics")])
def test_a_table_that_cannot_be_read_is_named_and_keeps_its_runs_alone(runs, damage, caplog):
    table = runs.root.parent / "experiments" / "paper" / "kept.yaml"
    table.write_text(damage + "# name=kept")
    (plain,) = runs.runs("adhoc")
    shutil.copytree(plain.path, runs.root / "paper" / "kept" / "arm" / plain.identity)
    assert main(["remove", "--all", "--yes"]) == 0
    assert names(runs) == ["demo-cnn", "demo/guided-trained", "kept", "paper/kept/arm"]
    assert "cannot be read" in caplog.text and "kept.yaml" in caplog.text


def test_a_complete_run_leaves_its_network_and_no_checkpoint_unless_asked(runs):
    (plain,), (kept,) = runs.runs("adhoc"), runs.runs("kept")
    assert (plain.path / "network.safetensors").exists()
    assert not (plain.path / "checkpoints").exists()
    assert kept.checkpoint("last").exists()
    assert json.loads((plain.path / "result.json").read_text())["metrics"] == kept.result["metrics"]


def test_the_shipped_tables_are_read_without_the_data_that_their_runs_read(caplog):
    """Every name of an experiment that a table here lists, and of what it needs, is known, with no data.root given."""
    owners = owners_of(Path(__file__).parents[2] / "experiments")
    assert {
        "guidance/paper/cifar10_layers/base",
        "guidance/cifar10/resnet20",
        "demo-cnn",
        "guidance/forecasting/encoder",
        "semi_supervised/digits/fixmatch-20",
    } <= set(owners)
    assert "cannot be read" not in caplog.text


def test_the_old_name_of_the_command_names_the_new(capsys):
    assert main(["prune", "--all"]) == 2
    assert "'prune' is called 'remove' now" in capsys.readouterr().err


def test_names_are_the_same_whether_files_are_remembered_or_not():
    commands = (
        ["experiment=demo/guided-trained"],
        ["experiment=demo/cnn", "name=a/b"],
        ["method=guidance", "model@guide=fcn"],
    )
    with hydra_ready():
        alone = [NameFinder()(words) for words in commands]
    names_of = NameFinder()
    with files_remembered():
        assert [names_of(words) for words in [*commands, *commands]] == [*alone, *alone]
    assert alone[0] == {"demo/guided-trained", "demo-cnn"}


class Killed(BaseException):
    """No handler of an error or an interrupt sees it."""


def copies(store, count, name="many"):
    """Return the folders of so many copies of a complete run, each with its lock."""
    (plain,) = store.runs("adhoc")
    found = []
    for place in range(count):
        found.append(store.root / name / f"{place:012x}")
        shutil.copytree(plain.path, found[-1])
        (store.root / ".locks" / f"{place:012x}.lock").write_text("{}")
    return found


def test_of_many_runs_one_that_is_worked_on_stays_and_nothing_is_left_of_the_others(runs, capsys):
    folders = copies(runs, 12)
    with runs.at("many/000000000007").lock():
        assert main(["remove", "many", "--yes"]) == 1
    assert "/000000000007 is being run by process" in capsys.readouterr().err
    assert [folder for folder in folders if folder.exists()] == [folders[7]]
    assert left_aside(runs.root) == []
    assert main(["remove", "many", "--yes"]) == 0
    assert names(runs) == ALL


@pytest.mark.parametrize("after", [0, 1, 17])
def test_a_removal_that_is_killed_leaves_whole_runs_and_the_next_one_deletes_the_rest(
    runs, after, monkeypatch
):
    """Killed between two moves: what was moved is gone for every reader, what was not is as it was."""
    folders = copies(runs, 20)
    moved = []

    def killed(self):
        if len(moved) == after:
            raise Killed
        moved.append(self.path)
        return [set_aside(self.path, runs.root)]

    with monkeypatch.context() as patch:
        patch.setattr(Run, "set_aside", killed)
        patch.setattr(remove_module, "finish", lambda *_: None)
        with pytest.raises(Killed):
            main(["remove", "many", "--yes"])
    assert len(left_aside(runs.root)) == after
    assert [folder for folder in folders if folder.exists()] == folders[after:]
    assert main(["list", "runs"]) == 0
    assert all(run.is_complete for run in runs.runs("many"))
    assert main(["remove", "--state", "failed", "--dry"]) == 0
    assert len(left_aside(runs.root)) == after  # a look changes nothing
    assert main(["remove", "many", "--yes"]) == 0
    assert left_aside(runs.root) == []
    assert names(runs) == ALL


def test_who_found_a_run_that_is_removed_meanwhile_is_told(runs):
    (run,) = runs.runs("adhoc")
    assert main(["remove", "adhoc", "--yes"]) == 0
    with pytest.raises(UserError, match=r"no run in .*expected a file config\.yaml there"):
        _ = run.config
    with pytest.raises(UserError, match="no run 'adhoc'"):
        runs.find("adhoc")


def test_a_run_that_another_removes_first_is_passed_over_and_its_namesake_stays(runs):
    """Its folder is gone when its lock is taken: the run of its identity under another name is not what was asked for."""
    (folder,) = copies(runs, 1)
    shutil.copytree(folder, runs.root / "namesake" / folder.name)
    shutil.rmtree(folder)
    for lock in (True, False):
        if not lock:
            (runs.root / ".locks" / f"{folder.name}.lock").unlink()
        assert remove_module.remove(runs, [folder], runs=True) == 0
    assert "namesake" in names(runs)


def test_what_cannot_be_moved_or_deleted_is_said(runs, monkeypatch, capsys):
    def refused(self):
        raise PermissionError(13, "Permission denied", str(self.path))

    with monkeypatch.context() as patch:
        patch.setattr(Run, "set_aside", refused)
        assert main(["remove", "adhoc", "--yes"]) == 1
    assert "kept: [Errno 13] Permission denied" in capsys.readouterr().err
    (run,) = runs.runs("adhoc")
    (run.path / "checkpoints").mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert main(["remove", "adhoc", "--yes"]) == 0
    assert "1 folder cannot be deleted after its removal, such as" in capsys.readouterr().err
    assert main(["remove", "adhoc", "--yes"]) == 2  # no such run; and what was left goes
    assert left_aside(runs.root) == []
