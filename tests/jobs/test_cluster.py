"""hydra/launcher=slurm: submitit's local executor with real jobs, requeue, dead jobs; ranks on several nodes by a stand-in srun."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage.cli.main import main
from tutelage.engine import rank_environment
from tutelage.errors import UserError
from tutelage.jobs import ranks
from tutelage.runs.run import State
from tutelage.runs.store import Store

submitit = pytest.importorskip("submitit")
QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=4",
    "fit.validate_every_steps=2",
    "model.depth=2",
    "model.width=8",
]
CLUSTER = ["hydra/launcher=slurm", "hydra.launcher.cluster=local"]
SRUN = """#!/bin/sh
# A cluster of as many nodes as asked for, all of them this machine.
echo "$@" > "$SRUN_CALLS"
for word in "$@"; do case $word in --ntasks=*) n=${word#--ntasks=};; --nodes=*) nodes=${word#--nodes=};; esac; done
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_NTASKS=$n SLURM_NNODES=$nodes SLURM_JOB_NODELIST=localhost SLURM_NODELIST=localhost SLURM_STEP_NODELIST=localhost
export SLURM_STEP_NUM_TASKS=$n
i=0; pids=
while [ $i -lt $n ]; do
  SLURM_PROCID=$i SLURM_NODEID=$((i * nodes / n)) SLURM_LOCALID=$((i % (n / nodes))) "$@" & pids="$pids $!"; i=$((i + 1))
done
code=0; for pid in $pids; do wait $pid || code=$?; done; exit $code
"""


def test_an_impossible_cluster_is_one_message(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM, whatever this machine has
    for words in (
        ["hydra.launcher.cluster=slrm"],
        ["hydra.launcher.cluster=slurm"],
        ["hydra.launcher.nope=1"],
    ):
        assert main(["train", "-m", *QUICK, *CLUSTER, *words, f"runs_dir={tmp_path}", "seed=0,1"]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_jobs_in_this_process_by_the_debug_cluster(tmp_path, capsys):
    words = ["train", "-m", *QUICK, *CLUSTER, "hydra.launcher.cluster=debug", f"runs_dir={tmp_path}"]
    assert main([*words, "model.activation=relu,rulu", "seed=0"]) == 2
    assert "1 of 2 jobs failed" in capsys.readouterr().err
    assert sorted(run.state for run in Store(tmp_path).runs()) == [State.COMPLETE]


def test_several_nodes_without_a_cluster_are_explained(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="hydra/launcher=slurm"):
        ranks.ranks_of({"hardware": {"devices": 1, "num_nodes": 2, "strategy": "ddp", "accelerator": "gpu"}})


def test_ranks_started_by_hand_do_not_make_needed_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert main(["train", "experiment=demo/distilled", "logger=none", f"runs_dir={tmp_path}"]) == 2
    assert "tutelage train experiment=demo/cnn seed=0" in capsys.readouterr().err


LAUNCHERS = {
    "in this process": [],
    "two processes": ["processes=2"],
    "the launcher of two processes": ["hydra/launcher=local", "hydra.launcher.processes=2"],
    "a cluster in this process": [*CLUSTER, "hydra.launcher.cluster=debug"],
}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Give a table of four cells: two seeds of an arm, and of one that fails."""
    monkeypatch.chdir(tmp_path)
    words = ", ".join(QUICK)
    (tmp_path / "table.yaml").write_text(
        f"title: t\nmetric: accuracy\nseeds: [0, 1]\nbase: [{words}]\n"
        "arms: {good: [], bad: [model.activation=rulu]}\n"
    )
    return "table.yaml"


@pytest.mark.parametrize("launcher", [*LAUNCHERS, pytest.param("a cluster", marks=pytest.mark.slow)])
def test_reproduce_runs_the_missing_cells_by_any_launcher(table, capsys, launcher):
    assert main(["train", *QUICK, "seed=0"]) == 0
    (complete,) = Store("runs").runs()
    written = (complete.path / "result.json").stat().st_mtime_ns
    assert main(["reproduce", table, *LAUNCHERS.get(launcher, CLUSTER)]) == 2
    said = capsys.readouterr()
    assert f"3 runs of {table} to make" in said.err
    assert "2 of 3 jobs failed" in said.err and "rulu" in said.err
    assert (complete.path / "result.json").stat().st_mtime_ns == written
    done = {run.config["seed"]: run for run in Store("runs").runs() if run.is_complete}
    assert set(done) == {0, 1}
    values = [run.result["metrics"]["test"]["accuracy"] for run in done.values()]
    (row,) = [line for line in Path("results/table.md").read_text().splitlines() if line.startswith("| good")]
    assert f"{sum(values) / 2:.3f}" in row


@pytest.mark.parametrize("words", [[*CLUSTER, "hydra.launcher.cluster=nope"], [*CLUSTER, "hydra.launcher.nope=1"],
                                   ["hydra/launcher=local", "hydra.launcher.processes=many"]])  # fmt: skip
def test_a_launcher_that_reproduce_cannot_use_is_one_message(table, capsys, words):
    assert main(["reproduce", table, *words]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and "hydra.launcher." in error
    assert not list(Store("runs").runs())


@pytest.fixture
def allocation(tmp_path, monkeypatch):
    """Pretend to be the one task of a job on two nodes."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(SRUN)
    srun.chmod(srun.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SRUN_CALLS", str(tmp_path / "calls"))
    for name, value in {
        "SLURM_JOB_ID": "15000",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_JOB_NAME": "sweep",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.slow
def test_two_nodes_train_what_one_process_trains(allocation):
    words = [*QUICK, "data.batch_size=32", "model.batch_norm=false"]
    two = ["hardware=slurm", "hardware.accelerator=cpu", "hardware.devices=1", "hardware.num_nodes=2"]
    assert main(["train", *words, *two, f"runs_dir={allocation}/two"]) == 0
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1" in (allocation / "calls").read_text()
    assert main(["train", *words, f"runs_dir={allocation}/one"]) == 0
    (a,), (b,) = Store(allocation / "two").runs(), Store(allocation / "one").runs()
    assert a.result["cost"]["ranks"] == 2
    assert a.result["last"]["test"]["loss"] == pytest.approx(b.result["last"]["test"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_submitted_jobs_die_are_submitted_again_and_are_queued_again_when_interrupted(tmp_path):
    words = [
        *QUICK,
        "fit.max_steps=2000",
        "fit.validate_every_steps=100",
        "fit.checkpoint_every_s=0",
        "retry=1",
    ]
    words = [
        sys.executable,
        "-m",
        "tutelage",
        "train",
        "-m",
        *words,
        *CLUSTER,
        f"runs_dir={tmp_path}",
        "seed=0,1",
    ]
    sweep = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # Seed 0 dies and is submitted again by the sweep. Seed 1 gets SIGUSR2, what the cluster sends before it takes the node
    # away, and is queued again by submitit. Each as soon as it can resume: the jobs need not run at the same time.
    signals = {0: signal.SIGKILL, 1: signal.SIGUSR2}
    deadline = time.monotonic() + 300
    while signals:
        assert time.monotonic() < deadline
        assert sweep.poll() is None, sweep.communicate()
        for run in Store(tmp_path).runs():
            if run.checkpoint("last").exists() and run.config["seed"] in signals:
                os.kill(int(_holder(run)["pid"]), signals.pop(run.config["seed"]))
        time.sleep(0.02)
    output, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, output
    runs = list(Store(tmp_path).runs())
    assert len(runs) == 2
    for run in runs:
        assert run.is_complete
        assert run.result["cost"]["resumed_at_step"] > 0
        assert len(run.attempts) == 2


def _holder(run):
    return json.loads(run._lock_path.read_text())


@pytest.mark.parametrize(("told", "ranks"), [
    ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, (0, 1)),  # a batch script: one process that may start two
    ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
    ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
    ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NAME": "bash"}, (0, 1)),
    ({"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0"}, (3, 4)),
])  # fmt: skip
def test_ranks_are_those_that_were_started_not_those_that_may_be(monkeypatch, told, ranks):
    for name in [name for name in os.environ if name.startswith(("SLURM", "TORCHELASTIC"))] + [
        "RANK",
        "WORLD_SIZE",
    ]:
        monkeypatch.delenv(name, raising=False)
    placed = {
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "gpu[03-05],b",
    }
    monkeypatch.setattr(os, "environ", {**os.environ, **placed, **told})
    assert rank_environment.join_environment() == ranks
    assert rank_environment.in_ranks() == (ranks[1] > 1)
    kind = type(rank_environment.lightning_environment()).__name__
    assert kind == ("TorchElasticEnvironment" if ranks[1] > 1 else "LightningEnvironment")
    if "SLURM_STEP_NUM_TASKS" in told and ranks[1] > 1:
        assert os.environ["MASTER_ADDR"] == "gpu03" and 12000 <= int(os.environ["MASTER_PORT"]) < 32000


@pytest.mark.parametrize(
    ("listed", "first"), [("a", "a"), ("a,b", "a"), ("n[1-3]", "n1"), ("n[07,9]-x,m", "n07-x")]
)
def test_the_first_node_of_slurms_list(listed, first):
    assert rank_environment.first_node(listed) == first


def test_ranks_that_are_not_as_many_as_asked_for_are_one_message(tmp_path, monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", *QUICK, "hardware=ddp_cpu", f"runs_dir={tmp_path}"]) == 2
    assert "3 processes were started" in capsys.readouterr().err
    assert not list(Store(tmp_path).runs())


def test_a_stored_result_is_not_submitted_again(tmp_path, caplog):
    words = ["train", "-m", *QUICK, *CLUSTER, "hydra.launcher.cluster=debug", f"runs_dir={tmp_path}"]
    assert main([*words, "seed=0"]) == 0
    caplog.clear()
    assert main([*words, "seed=0,1"]) == 0
    assert "1 job submitted" in caplog.text
    caplog.clear()
    assert main([*words, "seed=0,1"]) == 0
    assert "submitted" not in caplog.text


def test_the_same_run_twice_is_one_job(tmp_path, caplog):
    words = ["train", "-m", *QUICK, *CLUSTER, "hydra.launcher.cluster=debug", f"runs_dir={tmp_path}"]
    assert main([*words, "optimizer.lr=0.01,0.010", "seed=0"]) == 0
    assert "1 job submitted" in caplog.text


def test_words_that_mean_nothing_are_not_submitted(tmp_path, capsys, caplog):
    words = ["train", "-m", *QUICK, *CLUSTER, "hydra.launcher.cluster=debug", f"runs_dir={tmp_path}"]
    assert main([*words, "seed=0,x"]) == 2
    assert "1 job submitted" in caplog.text and "seed must be a whole number" in caplog.text
    caplog.clear()
    assert main([*words, "seed=1,x", "on_failure=stop"]) == 2
    assert "submitted" not in caplog.text and "1 job not begun" in caplog.text


def test_a_machine_with_srun_is_not_told_to_use_it(allocation, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    assert main(["train", *QUICK, f"runs_dir={allocation}/runs"]) == 0
    assert "srun" not in capsys.readouterr().err
