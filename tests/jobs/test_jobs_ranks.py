"""Ranks: how many a configuration asks for, where there is room for them, how a step is started, and why one failed, word by word."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from tutelage.errors import RunFailed, StoppedBelow, UserError
from tutelage.jobs import ranks
from tutelage.runs.records import write_json
from tutelage.runs.store import Store


def config(devices=1, nodes=1, strategy="ddp", accelerator="gpu", **more):
    return {
        "hardware": {"devices": devices, "num_nodes": nodes, "strategy": strategy, "accelerator": accelerator, **more}
    }  # fmt: skip


@pytest.fixture
def alone(monkeypatch):
    """Be no rank and in no allocation, on a machine of four cores and three GPUs."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.parametrize(("asked", "number"), [
    (config(1), 1), (config(4), 4), (config([0]), 1), (config([0, 2, 3]), 3),
    (config("auto"), 3), (config(-1), 3), (config("auto", strategy="auto"), 1), (config("auto", strategy="single_device"), 1),
    (config("auto", accelerator="cpu"), 1), (config(-1, accelerator="cpu"), 1), (config(4, accelerator="cpu"), 4),
    (config(99), 99),
])  # fmt: skip
def test_how_many_ranks(alone, asked, number):
    assert ranks.ranks_of(asked) == number


def test_auto_is_one_where_there_is_no_gpu_and_two_processes_can_be_tried_anywhere(alone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ranks.ranks_of(config("auto")) == 1
    for cores in (1, None):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert ranks.ranks_of(config(2, accelerator="cpu")) == 2
        with pytest.raises(UserError, match=r"this machine has 2 cores: give 1 to 2$"):
            ranks.ranks_of(config(3, accelerator="cpu"))


LIST = "a list names the GPUs to use by their numbers; on a CPU it is a number of processes"
WHOLE_NODES = "hardware.num_nodes must be a whole number of at least 1, got "
WHOLE = "hardware.devices must be a whole number of at least 1, a list of devices, or auto; got "


@pytest.mark.parametrize(("asked", "said"), [
    (config([0], accelerator="cpu"), f"hardware.devices=[0]: {LIST}"),
    (config([0, -1]), f"hardware.devices=[0, -1]: {LIST}"),
    (config([0, True]), f"hardware.devices=[0, True]: {LIST}"),
    (config([]), WHOLE + "0"), (config(0), WHOLE + "0"), (config(-2), WHOLE + "-2"), (config(True), WHOLE + "True"),
    (config(1.0), WHOLE + "1.0"), (config("two"), WHOLE + "'two'"),
    *((config(1, wrong), f"{WHOLE_NODES}{wrong!r}") for wrong in (0, -1, True, 1.0, "1")),
    (config(5, accelerator="cpu"),
     "hardware.devices=5: on the CPU each is a process of its own, and this machine has 4 cores: give 1 to 4"),
    (config(1, 2), "hardware.num_nodes=2: no SLURM allocation is here to start ranks in. Submit the run with -m hydra/launcher=slurm "
                   "(or sbatch), or start the ranks yourself with srun or torchrun on every node"),
])  # fmt: skip
def test_a_number_of_ranks_that_cannot_be_is_one_message(alone, asked, said):
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        ranks.ranks_of(asked)


@pytest.fixture
def allocation(alone, monkeypatch, tmp_path):
    """Be the one process of an allocation."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(ranks.shutil, "which", lambda name: "/bin/srun" if name == "srun" else None)


def test_nodes_multiply_ranks_within_an_allocation_or_among_ranks(allocation, monkeypatch):
    assert ranks.ranks_of(config(3, 2)) == 6
    monkeypatch.setattr(ranks.shutil, "which", lambda _: None)
    assert not ranks.in_allocation()
    with pytest.raises(UserError, match="no SLURM allocation"):
        ranks.ranks_of(config(3, 2))
    monkeypatch.setattr(ranks, "in_ranks", lambda: True)
    assert ranks.ranks_of(config(3, 2)) == 6


def test_ranks_that_exist_are_as_many_as_asked_for(alone, monkeypatch):
    ranks.check_ranks(config("many"))  # there are none: nothing is asked
    monkeypatch.setattr(ranks, "in_ranks", lambda: True)
    monkeypatch.setattr(ranks, "join_environment", lambda: (1, 4))
    for fine in (config(4), config(2, 2), config("auto"), config(-1)):
        ranks.check_ranks(fine)
    said = (
        "4 processes were started as the ranks of one run (srun, torchrun), but hardware.devices x num_nodes asks for 3: "
        "give hardware.devices=4 (or hardware=ddp_cpu), or start one process, which starts its ranks itself"
    )
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        ranks.check_ranks(config(3))


@pytest.mark.parametrize(("failed", "said"), [
    ({}, ""), ({0: 1, 1: 0}, ""), ({0: -15, 1: 1}, ""),
    ({0: -15, 1: -9, 2: -11}, "rank 1 of {} was killed by signal 9 (9 is also what a machine short of memory sends)"),
])  # fmt: skip
def test_which_rank_was_killed(failed, said):
    assert ranks.killed_of(failed) == said


@pytest.fixture
def run(tmp_path):
    found = Store(tmp_path).run("x", "0" * 12)
    found.path.mkdir(parents=True)
    return found


@pytest.mark.parametrize(
    ("failed", "said", "complete", "raised"),
    [
        ({}, "", True, None),
        ({1: 1}, "a line\nanother", True, None),
        ({1: 1}, "a line\nanother", False, "a rank of x/000000000000 died without a message (a line); see {log}"),
        ({0: 1, 1: -9}, "a line", False,
         "rank 1 of x/000000000000 was killed by signal 9 (9 is also what a machine short of memory sends); see {log}"),
        ({}, "", False, "a rank of x/000000000000 died without a message; see {log}"),
    ],
)  # fmt: skip
def test_how_ranks_of_this_machine_end(run, monkeypatch, caplog, failed, said, complete, raised):
    started = []
    monkeypatch.setattr(ranks, "launched", lambda *words: started.append(words) or (failed, said))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    if complete:
        write_json(run.path / "result.json", {"state": "complete"})
    plan = SimpleNamespace(
        config=config(2, accelerator="cpu", threads=None), identity=run.identity, key=run.key
    )
    if raised is None:
        ranks.start_ranks(plan, run)
        died = "a rank of x/000000000000 died after the result was written: a line"
        assert [one.getMessage() for one in caplog.records] == ([died] if failed else [])
    else:
        with pytest.raises(ranks.RanksFailed, match=f"^{re.escape(raised.format(log=run.log))}$") as error:
            ranks.start_ranks(plan, run)
        assert error.value.mistake is False
    command = ["-m", "tutelage.jobs.rank_main", str(run.path.resolve())]
    assert started == [(command, 2, "3", run.identity, run.path)]


@pytest.mark.parametrize(
    ("given", "threads", "ranks_", "each"),
    [(None, 7, 2, "3"), (None, 1, 2, "1"), (5, 7, 2, "5"), (0, 8, 4, "2")],
)
def test_ranks_share_the_threads_unless_told_how_many(monkeypatch, given, threads, ranks_, each):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert ranks._threads(config(threads=given), ranks_) == each


@pytest.mark.parametrize(("failure", "kind", "said", "mistake"), [
    ({"error": "UserError", "message": "no 'x'", "exit_code": 2}, ranks.RanksFailed, "no 'x'", True),
    ({"error": "OSError", "message": "no disk", "traceback": "..."}, ranks.RanksFailed,
     "OSError: no disk; its traceback is in {failed}", False),
    ({"error": "RunFailed", "message": "not finite", "exit_code": 1}, RunFailed, "not finite", None),
])  # fmt: skip
def test_a_rank_fails_with_the_words_of_its_record(run, failure, kind, said, mistake):
    write_json(run.path / "failed.json", failure)
    error = ranks._why(run, None)
    assert type(error) is kind and str(error) == said.format(failed=run.path / "failed.json")
    assert mistake is None or error.mistake is mistake


def test_a_rank_that_stopped_below_what_was_asked_is_no_failure(run):
    write_json(
        run.path / "failed.json",
        {
            "error": "StoppedBelow",
            "message": "m",
            "step": 4,
            "value": 0.5,
            "asked": [[4, 0.6]],
            "traceback": "t",
        },
    )
    error = ranks._why(run, None)
    assert type(error) is StoppedBelow and str(error) == "m"
    assert error.facts == {"step": 4, "value": 0.5, "asked": [[4, 0.6]]}


@pytest.mark.parametrize(("there", "cpus", "nodes", "each", "found"), [
    (None, None, 2, 3, 3), ("2", "8(x2)", 2, 3, 8), ("3", "16(x2),4", 2, 4, 4), ("2", "3(x2)", 2, 3, 3),
])  # fmt: skip
def test_the_room_of_an_allocation(alone, monkeypatch, there, cpus, nodes, each, found):
    for name, value in (("SLURM_JOB_NUM_NODES", there), ("SLURM_JOB_CPUS_PER_NODE", cpus)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert ranks._room_for(nodes, each) == found


@pytest.mark.parametrize(("there", "cpus", "said"), [
    ("1", "8", "hardware.num_nodes=2, but the allocation has 1: ask for them (hydra.launcher.nodes=2, or sbatch --nodes=2)"),
    ("2", "2(x2)", "hardware.devices=3 starts 3 ranks on each node, but the allocation has only 2 of a node's CPUs: ask for more "
                   "(hydra.launcher.cpus_per_task=3, or sbatch --ntasks-per-node=3)"),
])  # fmt: skip
def test_too_little_room_is_said_before_srun_says_it(alone, monkeypatch, there, cpus, said):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", there)
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", cpus)
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        ranks._room_for(2, 3)


@pytest.mark.parametrize(("said", "code", "failure", "raised"), [
    ([], 0, False, None),
    (["no such node"], 1, False, "a rank of x/000000000000 died without a message (srun: no such node); see {log}"),
    ([], 3, False, "a rank of x/000000000000 died without a message (srun ended with exit code 3); see {log}"),
    (["task 0: Exited"], 1, True, "no 'x'"),
])  # fmt: skip
def test_a_step_on_the_nodes_of_an_allocation(allocation, run, monkeypatch, said, code, failure, raised):
    started = []
    monkeypatch.setattr(ranks, "_shown", lambda *words: started.append(words) or (said, code))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    inherited = {
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "13(x2)",
        "SLURM_CONF": "c",
        "SLURM_CLUSTER_NAME": "n",
    }
    for name, value in {**inherited, "SLURM_NTASKS": "1", "SLURM_MPI_TYPE": "pmix", "OTHER": "o"}.items():
        monkeypatch.setenv(name, value)
    if code == 0:
        write_json(run.path / "result.json", {"state": "complete"})
    if failure:
        write_json(run.path / "failed.json", {"error": "UserError", "message": "no 'x'", "exit_code": 2})
    plan = SimpleNamespace(config=config(3, 2, threads=None), identity=run.identity, key=run.key)
    if raised is None:
        ranks.start_ranks(plan, run)
    else:
        with pytest.raises(ranks.RanksFailed, match=f"^{re.escape(raised.format(log=run.log))}$"):
            ranks.start_ranks(plan, run)
    ((command, environment),) = started
    assert command == [
        "srun", "--overlap", "--nodes=2", "--ntasks=6", "--ntasks-per-node=3", "--cpus-per-task=4",
        "--kill-on-bad-exit=1", "--mpi=none", sys.executable, "-m", "tutelage.jobs.rank_main", str(run.path.resolve()),
    ]  # fmt: skip
    assert {name: value for name, value in environment.items() if name.startswith("SLURM_")} == inherited | {
        "SLURM_JOB_ID": "7"
    }
    assert environment["OMP_NUM_THREADS"] == "3" and environment["OTHER"] == "o"


def test_what_srun_says_is_passed_on_and_its_own_errors_are_kept(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    script = "echo 'srun: error: no node  ' >&2; echo 'a line' >&2; echo 'srun: error: gone' >&2; exit 3"
    assert ranks._shown(["sh", "-c", script], dict(os.environ)) == (["no node", "gone"], 3)
    assert err.getvalue() == "srun: error: no node  \na line\nsrun: error: gone\n"


def test_the_environment_is_as_it_was_afterwards(monkeypatch):
    monkeypatch.setenv("HAD", "1")
    monkeypatch.delenv("HAD_NOT", raising=False)
    with ranks.environment(HAD="2", HAD_NOT="3"):
        assert (os.environ["HAD"], os.environ["HAD_NOT"]) == ("2", "3")
    assert os.environ["HAD"] == "1" and "HAD_NOT" not in os.environ


def test_what_torch_elastic_does_to_signals_is_taken_back():
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {name: signal.getsignal(name) for name in names}
    try:
        with ranks._signal_handlers_kept():
            for name in names:
                signal.signal(name, lambda *_: None)
        assert {name: signal.getsignal(name) for name in names} == before
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
