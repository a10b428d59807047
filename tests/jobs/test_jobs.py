"""Sweeps and their failures: keep going, stop, try again; dead processes; kills; several processes on one sweep."""

from __future__ import annotations

import math
import os
import signal
import sys
import time

import pytest
from safetensors.torch import load_file

from small_runs import SMALL
from tutelage.cli.main import main
from tutelage.config.planner import plan_of
from tutelage.jobs import notes, outcomes
from tutelage.runs.run import State
from tutelage.runs.store import Store

QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=4",
    "fit.validate_every_steps=2",
    "model.depth=2",
    "model.width=8",
]
LOCAL = ["hydra/launcher=local", "hydra.launcher.processes=2"]
FLAKY = """
import os, pathlib
from tutelage.models.fcn import FCN

class Flaky(FCN):
    def __init__(self, input_shape, output_size, bad=0, times=1, how="raise"):
        super().__init__(input_shape=input_shape, output_size=output_size, depth=1, width=8)
        tries = pathlib.Path(f"tries-{bad}")
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if bad and len(tries.read_text()) <= times:
            if how == "raise":
                raise OSError(28, "No space left on device")
            os.kill(os.getpid(), 9)
"""


@pytest.fixture
def flaky(tmp_path, monkeypatch):
    """Give the words of a network that fails `times` times where `bad` is not 0, and then works."""
    (tmp_path / "flaky_network.py").write_text(FLAKY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "flaky.yaml").write_text(
        "_target_: flaky_network.Flaky\nbad: 0\ntimes: 1\nhow: raise\n"
    )
    yield [*QUICK[:4], "model=flaky"]
    sys.modules.pop("flaky_network", None)


def runs_by(store, key):
    return {run.config["model"][key]: run for run in store.runs()}


@pytest.mark.parametrize("launcher", [[], LOCAL])
def test_a_failure_is_listed_with_reason_and_log_and_the_others_go_on(flaky, capsys, launcher):
    assert main(["train", "-m", *flaky, *launcher, "model.bad=0,1,2"]) == 1
    error = capsys.readouterr().err
    assert "2 of 3 jobs failed" in error
    runs = runs_by(Store("runs"), "bad")
    for bad in (1, 2):
        (line,) = [line for line in error.splitlines() if line.startswith(f"  {runs[bad].key}")]
        assert f"(model.bad={bad})" in line
        assert "No space left on device" in line
        assert str(runs[bad].log) in line
    assert runs[0].state is State.COMPLETE
    assert main(["train", "-m", *flaky, *launcher, "model.bad=0,1,2"]) == 0
    assert all(run.state is State.COMPLETE for run in Store("runs").runs())


@pytest.mark.parametrize(("how", "launcher"), [("raise", []), ("raise", LOCAL), ("die", LOCAL)])
def test_retry_tries_again_within_the_command(flaky, capsys, how, launcher):
    words = [*flaky, *launcher, f"model.how={how}", "model.bad=1,2", "retry=1"]
    assert main(["train", "-m", *words]) == 0, capsys.readouterr().err
    error = capsys.readouterr().err
    if how == "die":
        assert "it is started again" in error
    else:
        assert [run.failures for run in Store("runs").runs()] == [1, 1]


def test_a_job_whose_process_dies_is_listed_and_the_exit_code_says_so(flaky, capsys):
    assert (
        main(["train", "-m", *flaky, *LOCAL, "model.how=die", "model.bad=0,1", "model.times=9", "retry=1"])
        == 1
    )
    error = capsys.readouterr().err
    assert "1 of 2 jobs failed" in error
    assert "killed by signal 9" in error


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=local", "hydra.launcher.processes=1"]])
def test_fail_fast_begins_no_further_job(flaky, capsys, launcher):
    assert main(["train", "-m", *flaky, *launcher, "on_failure=stop", "model.bad=1,0", "seed=0,1"]) == 1
    error = capsys.readouterr().err
    assert "1 of 4 jobs failed" in error
    assert "3 jobs not begun" in error
    assert len(list(Store("runs").runs())) == 1


def test_a_mistake_is_not_tried_again(capsys, tmp_path):
    assert main(["train", "-m", *QUICK, f"runs_dir={tmp_path}", "retry=3", "model.activation=rulu,sulu"]) == 2
    error = capsys.readouterr().err
    assert "2 of 2 jobs failed" in error
    assert "tried again" not in error


def test_a_single_run_is_tried_again(flaky, capsys):
    assert main(["train", *flaky, "model.bad=1", "retry=1"]) == 0
    (run,) = Store("runs").runs()
    assert run.failures == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_reproduce_keeps_going_retries_and_stops_too(flaky, capsys, tmp_path, processes):
    words = ", ".join(f'"{word}"' for word in flaky)
    (tmp_path / "table.yaml").write_text(
        f"title: t\nmetric: accuracy\nseeds: [0]\nbase: [{words}]\n"
        "arms: {bad: [model.bad=1], good: [model.bad=0]}\n"
    )
    command = ["reproduce", "table.yaml", f"processes={processes}"]
    assert main([*command, "model.times=2"]) == 1
    error = capsys.readouterr().err
    assert "1 of 2 jobs failed" in error
    assert "log.txt" in error
    assert main([*command, "model.times=2", "retry=1"]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*command, "model.times=2", "--dry"]) == 0
    assert "every run of table.yaml is there" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_what_is_stored_is_taken_without_a_job(command, tmp_path):
    words = [*SMALL, f"runs_dir={tmp_path / 'runs'}"]
    jobs = outcomes.Jobs.new(str(tmp_path / "runs"))
    run = command()
    assert jobs.take(plan_of(words), words) == run.result["best"]["validation"]["accuracy"]
    assert [note.outcome for note in jobs.notes()] == [notes.Outcome.DONE]
    assert jobs.take(plan_of([*words, "rerun=true"]), words) is None  # it is to be made anew
    assert jobs.take(None, words) is None and jobs.take(plan_of([*words, "seed=1"]), words) is None
    jobs.stop()
    assert jobs.take(plan_of(words), words) is None


def finished(store):
    """Rows less their times, result less its cost, and the network of every complete run."""
    found = {}
    for run in store.runs():
        if run.is_complete:
            rows = [{k: v for k, v in row.items() if k != "train_s"} for row in run.metrics.rows]
            state = load_file(run.path / "network.safetensors")
            tensors = {name: value.numpy().tobytes() for name, value in state.items()}
            found[run.key] = (rows, {k: v for k, v in run.result.items() if k != "cost"}, tensors)
    return found


SWEEP = ["logger=none", "hardware.threads=1", "fit.max_steps=30", "fit.validate_every_steps=10", "fit.checkpoint_every_s=0",
         "experiment=demo/guided-trained", "model.depth=3", "model.width=64", "needs.cnn=['experiment=demo/cnn',"
         "'fit.max_steps=30','fit.validate_every_steps=10','fit.checkpoint_every_s=0']"]  # fmt: skip


def in_fit(run):
    """A run is in fit: it has saved a state, and has no result."""
    return run.checkpoint("last").exists() and not run.is_complete


MOMENTS = {
    "in a prerequisite": lambda store: any(in_fit(run) for run in store.runs("demo-cnn")),
    "in a checkpoint write": lambda store: any(store.root.glob("demo/*/*/checkpoints/fresh.tmp")),
    "between jobs": lambda store: any(run.is_complete for run in store.runs("demo")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_sweep_killed_at_any_moment_ends_with_the_numbers_of_an_undisturbed_one(
    forked, tmp_path, undisturbed, moment
):
    words = ["train", "-m", *SWEEP, f"runs_dir={tmp_path}/killed", "seed=0,1"]
    store = Store(tmp_path / "killed")
    sweep = forked(*words)
    while not MOMENTS[moment](store) and sweep.running:
        time.sleep(0.0005)
    assert sweep.kill() == -9, f"the sweep ended before it could be killed {moment}"
    assert sum(run.is_complete for run in store.runs()) < 3
    again = forked(*words)
    assert again.wait() == 0, again.text()
    assert finished(store) == undisturbed
    assert not list(store.root.glob("**/*.tmp"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main(["train", "-m", *SWEEP, f"runs_dir={folder}", "seed=0,1"]) == 0
    return finished(Store(folder))


def test_two_processes_share_one_sweep_and_no_run_is_made_twice(forked, tmp_path):
    words = ["train", "-m", *QUICK, "fit.max_steps=100", f"runs_dir={tmp_path}/runs", "seed=0,1,2,3"]
    both = [forked(*words), forked(*words)]
    assert [one.wait() for one in both] == [0, 0], [one.text() for one in both]
    runs = list(Store(tmp_path / "runs").runs())
    assert len(runs) == 4
    for run in runs:
        assert len(run.attempts) == 1


def test_what_a_killed_process_leaves_of_a_busy_run_is_taken_over(forked, tmp_path):
    words = [
        *QUICK,
        "fit.max_steps=400",
        "fit.validate_every_steps=10",
        "fit.checkpoint_every_s=0",
        f"runs_dir={tmp_path}/runs",
    ]
    first = forked("train", *words, "seed=0")
    store = Store(tmp_path / "runs")
    while not any(in_fit(run) for run in store.runs()):
        time.sleep(0.001)
    os.kill(first.pid, signal.SIGSTOP)  # busy for as long as this test needs
    second = forked("train", "-m", *words, "seed=0,1")
    while "waiting for 1 run" not in second.text():
        assert second.running
        time.sleep(0.01)
    first.kill()
    assert second.wait() == 0, second.text()
    assert all(run.state is State.COMPLETE for run in store.runs())


def test_the_line_of_a_job_without_a_value_says_why(tmp_path, caplog):
    found = outcomes.Jobs.new(str(tmp_path))

    def job(word, outcome):
        def noted():
            found.note(word, outcome, words=[word])
            return math.nan

        return [word], None, noted

    with caplog.at_level("INFO", "tutelage"):
        found.fork([job("seed=0", notes.Outcome.BUSY), job("seed=1", notes.Outcome.FAILED)], 1)
    assert "[1/2] seed=0: another process works on it (" in caplog.text
    assert "[2/2] seed=1: failed (" in caplog.text


def test_a_full_disk_in_the_notes_ends_no_other_job_and_is_listed(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    found = outcomes.Jobs.new(str(tmp_path))
    monkeypatch.setattr(notes, "write_json", full)
    found.note("a", notes.Outcome.FAILED, "the disk is full")
    found.note("b", notes.Outcome.DONE)
    assert [(note.key, note.outcome) for note in found.notes()] == [("a", "failed"), ("b", "done")]
    assert found.close() == 1
    monkeypatch.setattr(found, "_process", -1)  # as in a forked job, whose parent notes how it ended
    with pytest.raises(OSError, match="No space"):
        found.note("c", notes.Outcome.DONE)


def test_a_mistake_that_jobs_share_is_said_once(capsys, tmp_path):
    """The lists of what there is differ from experiment to experiment; where some jobs are right, those with one mistake are counted."""
    words = ["train", "-m", *QUICK, f"runs_dir={tmp_path}", "fit.max_steps=1"]
    assert main([*words, "method=supervised,distillation", "model@teacher=fcn", "methd=4"]) == 2
    error = capsys.readouterr().err
    assert error.count("'methd'") == 1 and "jobs failed" not in error
    assert main([*words, "seed=0,1", "fit.metrics=[aurok]"]) == 2
    error = capsys.readouterr().err
    assert "2 of 2 jobs failed" in error and error.count(", and 1 more: ") == 1
    assert error.count("did you mean 'auroc'") == 2  # at once, and at the end


def test_words_that_mean_nothing_are_said_before_others_train(capsys, tmp_path):
    """A sweep of days must not tell at its end what was known at its beginning."""
    assert main(["train", "-m", *QUICK, f"runs_dir={tmp_path}", "fit.max_steps=1", "fit.metrics=[],3"]) == 2
    said = capsys.readouterr().err
    assert said.index("failed: ") < said.index("seed 0: ")
