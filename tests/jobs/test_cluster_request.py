"""What jobs ask of a cluster and of Ray, and what SLURM's words mean: boundaries, and each message as it stands."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest

from expected import refused
from made_plans import plan
from tutelage.config.hydra_choices import CHOICES
from tutelage.jobs import cluster, cluster_request, ray_request, slurm_queue
from tutelage.jobs.cluster_request import Request
from tutelage.jobs.slurm_queue import Seen

SLURM = {key: value for key, value in CHOICES["launcher/slurm"].items() if key != "_target_"}
RAY = {key: value for key, value in CHOICES["launcher/ray"].items() if key != "_target_"}


@pytest.mark.parametrize(("key", "value", "kind"), [
    ("timeout_min", 0, "a whole number of at least 1"), ("timeout_min", None, "a whole number of at least 1"),
    ("timeout_min", 0.5, "a whole number of at least 1"), ("nodes", 0, "a whole number of at least 1"),
    ("cpus_per_task", "4", "a whole number of at least 1"), ("array_parallelism", True, "a whole number of at least 1"),
    ("gpus_per_node", -1, "a whole number of at least 0"), ("gpus_per_node", 0.5, "a whole number of at least 0"),
    ("mem_gb", -0.5, "a number of at least 0 (all of a node)"), ("mem_gb", "much", "a number of at least 0 (all of a node)"),
    ("mem_gb", math.nan, "a number of at least 0 (all of a node)"),
])  # fmt: skip
def test_a_number_that_slurm_cannot_be_asked_for(key, value, kind):
    said = refused(cluster_request.check, SLURM | {key: value})
    assert said.startswith(f"hydra.launcher.{key} must be {kind}, got {value!r}")


@pytest.mark.parametrize("fine", [
    {}, {"timeout_min": 1}, {"timeout_min": 2.0}, {"gpus_per_node": 0}, {"mem_gb": 0}, {"mem_gb": 0.5}, {"nodes": 1}, {"nodes": None},
    {"more": {}}, {"more": {"account": "x"}}, {"cluster": "local"}, {"cluster": "debug"},
])  # fmt: skip
def test_numbers_that_slurm_can_be_asked_for(fine):
    cluster_request.check(SLURM | fine)


def test_a_cluster_that_is_none_and_more_that_is_no_mapping():
    said = "hydra.launcher.cluster must be one of slurm, local, debug, got 'slrum'; did you mean 'slurm'? Known: debug, local, slurm"
    assert refused(cluster_request.check, SLURM | {"cluster": "slrum"}) == said
    said = "hydra.launcher.more must be a mapping such as {account: x, constraint: a100}, got ['a']"
    assert refused(cluster_request.check, SLURM | {"more": ["a"]}) == said


CPU = {"accelerator": "cpu", "strategy": "auto"}
GPU = {"accelerator": "gpu", "strategy": "ddp"}


@pytest.mark.parametrize(("hardware", "workers", "options", "asked"), [
    ({**CPU, "devices": 1}, None, {}, (1, 1, None)),
    ({**CPU, "devices": 3}, 2, {}, (1, 9, None)),
    ({**CPU, "devices": 3}, 0, {}, (1, 3, None)), ({**CPU, "devices": 3}, -1, {}, (1, 3, None)),
    ({**CPU, "devices": 3}, 1, {}, (1, 6, None)),
    ({**CPU, "devices": "auto"}, None, {"gpus_per_node": 4}, (1, 1, 4)),
    ({**GPU, "devices": "auto"}, None, {"gpus_per_node": 4}, (1, 4, 4)),
    ({**GPU, "devices": -1}, None, {}, (1, 1, 1)), ({**GPU, "devices": -1}, None, {"gpus_per_node": 4}, (1, 4, 4)),
    ({**GPU, "devices": 1}, None, {"gpus_per_node": 4}, (1, 1, 4)),
    ({**GPU, "devices": "auto", "strategy": "single_device"}, None, {"gpus_per_node": 4}, (1, 1, 4)),
    ({**GPU, "devices": [1, 2, 3], "num_nodes": 2}, 1, {}, (2, 6, 3)),
    ({**GPU, "devices": 2}, 1, {"more": {"gres": "gpu:2"}}, (1, 4, None)),
    ({**GPU, "devices": 2}, 1, {"more": {"gpus_per_task": 1}}, (1, 4, None)),
    ({**GPU, "devices": 2}, 1, {"more": {"account": "x"}}, (1, 4, 2)),
    ({**GPU, "devices": 2}, 1, {"gpus_per_node": 0}, (1, 4, 0)),
    ({**GPU, "devices": 2}, 1, {"nodes": 3, "cpus_per_task": 2}, (3, 2, 2)),
    ({**GPU, "devices": "many", "num_nodes": 0}, "x", {}, (1, 1, 1)),  # what is no number, the job says
])  # fmt: skip
def test_what_a_job_asks_slurm_for(hardware, workers, options, asked):
    data = {} if workers is None else {"num_workers": workers}
    assert cluster_request.request_of(plan(hardware=hardware, data=data), SLURM | options) == Request(*asked)


def test_a_job_asks_for_what_the_largest_of_its_runs_needs():
    need = plan(seed=2, hardware={**GPU, "devices": 2, "num_nodes": 3}, data={"num_workers": 5})
    other = plan(seed=3, hardware={**CPU, "devices": 7}, data="by its name")
    assert cluster_request.request_of(plan(needs=[need, other]), SLURM) == Request(3, 12, 2)
    assert cluster_request.request_of(plan(needs=[other]), SLURM) == Request(1, 7, None)


def test_less_than_the_ranks_need_is_one_message():
    one = plan(hardware={**GPU, "devices": 4, "num_nodes": 2})
    assert refused(cluster_request.request_of, one, SLURM | {"nodes": 1}) == (
        "hydra.launcher.nodes=1, but hardware.num_nodes=2: give hydra.launcher.nodes=2, or leave it out"
    )
    assert refused(cluster_request.request_of, one, SLURM | {"cpus_per_task": 3}) == (
        "hydra.launcher.cpus_per_task=3, but 4 ranks start on each node: give hydra.launcher.cpus_per_task=4 or more, or leave it out"
    )
    assert cluster_request.request_of(one, SLURM | {"nodes": 2, "cpus_per_task": 4}) == Request(2, 4, 4)


@pytest.mark.parametrize(("minutes", "delay"), [(1, 15), (5, 75), (6, 90), (240, 90)])
def test_the_parameters_of_a_job_for_submitit(minutes, delay):
    more = {
        "account": "x",
        "slurm_constraint": "a100",
        "additional_parameters": {"nodes": 9, "nice": 1},
        "srun_args": ["--x"],
    }
    options = SLURM | {
        "timeout_min": minutes,
        "mem_gb": 5,
        "partition": "p",
        "array_parallelism": 3,
        "more": more,
    }
    assert cluster_request._for_slurm(options, Request(2, 4, 1)) == {
        "cpus_per_task": 4,
        "gpus_per_node": 1,
        "mem_gb": 5,
        "slurm_partition": "p",
        "slurm_array_parallelism": 3,
        "slurm_signal_delay_s": delay,
        "slurm_additional_parameters": {"nodes": 9, "nice": 1},
        "slurm_srun_args": ["--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--mpi=none", "--x"],
        "slurm_account": "x",
        "slurm_constraint": "a100",
    }
    plain = cluster_request._for_slurm(SLURM, Request(2, 4, None))
    assert plain["slurm_additional_parameters"] == {"nodes": 2}
    assert plain["slurm_srun_args"] == ["--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--mpi=none"]


@pytest.mark.parametrize("name", ["nodes", "ntasks_per_node", "use_srun", "num_gpus", "slurm_nodes"])
def test_what_the_layout_says_is_none_of_more(name):
    said = refused(cluster_request._for_slurm, SLURM | {"more": {name: 1}}, Request())
    assert said.startswith(f"hydra.launcher.more has no '{name}'; ")
    assert f" {name.removeprefix('slurm_')}," not in said


def made_by_submitit(monkeypatch, options, request):
    """Return what submitit's executor was made and updated with."""
    given = []

    class Executor:
        def __init__(self, **more):
            given.append(more)

        def update_parameters(self, **more):
            given.append(more)
            if more["timeout_min"] == 13:
                raise ValueError("13 is unlucky")

    monkeypatch.setattr("submitit.AutoExecutor", Executor)
    cluster_request.executor("folder", options, request)
    return given


def test_the_executor_of_each_cluster(monkeypatch):
    made, told = made_by_submitit(monkeypatch, SLURM, Request(2, 4, None))
    assert made == {"folder": "folder", "cluster": "slurm", "slurm_max_num_timeout": 1000}
    assert told == {
        "timeout_min": 240, "name": "tutelage", "tasks_per_node": 1, "cpus_per_task": 4, "slurm_signal_delay_s": 90,
        "slurm_additional_parameters": {"nodes": 2},
        "slurm_srun_args": ["--nodes=1", "--ntasks=1", "--cpus-per-task=4", "--mpi=none"],
    }  # fmt: skip
    made, told = made_by_submitit(
        monkeypatch, SLURM | {"cluster": "local", "gpus_per_node": 0}, Request(2, 4, 3)
    )
    assert made == {"folder": "folder", "cluster": "local"}
    assert told == {
        "timeout_min": 240,
        "name": "tutelage",
        "tasks_per_node": 1,
        "cpus_per_task": 4,
        "gpus_per_node": 0,
    }
    said = refused(made_by_submitit, monkeypatch, SLURM | {"cluster": "debug", "timeout_min": 13}, Request())
    assert said == (
        "submitit cannot use cluster=debug with {'timeout_min': 13, 'name': 'tutelage', 'tasks_per_node': 1, 'cpus_per_task': 1}: "
        "13 is unlucky"
    )


@pytest.mark.parametrize(("said", "reason"), [
    ("sbatch: error: no such partition\nsbatch: error: Batch job failed\nand more", "no such partition; Batch job failed"),
    ("  one\n\n two  \n", "two"),
    ("", "no reason given"),
])  # fmt: skip
def test_why_a_cluster_takes_no_job(said, reason):
    options = SLURM | {"partition": "p", "mem_gb": 0, "array_parallelism": 3}
    error = cluster._refusal(RuntimeError(said), options)
    assert str(error) == f"the cluster takes no job: {reason} (hydra.launcher: timeout_min=240, partition=p)"


@pytest.mark.parametrize(("elapsed", "seconds"), [
    ("0:00", 0), ("59", 59), ("1:01", 61), ("02:03:04", 7384), ("1-02:03:04", 93784), ("10-00:00:01", 864001),
    ("", None), ("INVALID", None), ("1-", None), ("-1:00", None), ("1:00-", None),
])  # fmt: skip
def test_how_long_a_job_has_run(elapsed, seconds):
    assert slurm_queue._seconds(elapsed) == seconds
    if seconds and "-" in elapsed:
        days, clock = elapsed.split("-")
        hours, minutes, rest = map(int, clock.split(":"))
        assert seconds == timedelta(int(days), rest, 0, 0, minutes, hours).total_seconds()


@pytest.mark.parametrize(
    ("listed", "least"),
    [("16(x2),8", 8), ("4", 4), ("4,16(x2)", 4), ("16(x2),32(x4)", 16), ("", 0), ("x", 0)],
)
def test_the_least_cpus_of_a_node(listed, least):
    assert slurm_queue.cpus_per_node(listed) == least


RUN, WAIT = "RUNNING", "PENDING"


@pytest.mark.parametrize(("before", "after", "again"), [
    (Seen(WAIT), Seen(WAIT), False), (Seen(WAIT), Seen(RUN, seconds=1), False),
    (Seen(RUN, seconds=5), Seen(WAIT), True), (Seen("COMPLETING", seconds=5), Seen(WAIT), True),
    (Seen(RUN, seconds=5), Seen(RUN, seconds=5), False), (Seen(RUN, seconds=5), Seen(RUN, seconds=4), True),
    (Seen(RUN, seconds=5), Seen(RUN, seconds=6), False),
    (Seen(RUN), Seen(RUN, seconds=4), False), (Seen(RUN, seconds=5), Seen(RUN), False),
])  # fmt: skip
def test_a_job_that_was_queued_again_runs_anew(before, after, again):
    assert after.comes_after_an_interruption_of(before) == again


@pytest.mark.parametrize(("seen", "said"), [
    (Seen("CANCELLED", seconds=3.0), "was cancelled while it ran"), (Seen("CANCELLED", seconds=0.0), "was cancelled before it began"),
    (Seen("CANCELLED"), "was cancelled before it began"), (Seen("NODE_FAIL", node="n1"), "lost its node n1"),
    (Seen("FAILED", node="n1"), "failed"), (Seen("GONE"), "is no longer known to SLURM, and left no result"),
])  # fmt: skip
def test_how_a_job_ended(seen, said):
    assert seen.ending == said and seen.is_over
    assert not any(Seen(state).is_over for state in (RUN, WAIT, "COMPLETING", "SUSPENDED"))


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        ({"squeue": "1|RUNNING|None|0:05|n1\n 2|PENDING|Priority\n9|RUNNING|None|0:05|n1", "sacct": ""},
         {"1": Seen(RUN, "None", 5.0, "n1"), "2": Seen(WAIT, "Priority"), "3_1": Seen("GONE")}),
        ({"squeue": "", "sacct": "1|CANCELLED by 7|12|n2\n2|FAILED||n3"},
         {"1": Seen("CANCELLED", "", 12.0, "n2"), "2": Seen("FAILED", node="n3"), "3_1": Seen("GONE")}),
        ({"squeue": ""}, dict.fromkeys(("1", "2", "3_1"), Seen("GONE"))),
    ],
)  # fmt: skip
def test_what_slurm_says_of_jobs(monkeypatch, answers, seen):
    asked = []

    def ask(*command):
        asked.append(command)
        if command[0] not in answers:
            raise slurm_queue.NoAnswer("no accounts")
        return answers[command[0]]

    monkeypatch.setattr(slurm_queue, "_ask", ask)
    assert slurm_queue.look(iter(["1", "2", "3_1"])) == seen
    assert asked[0] == ("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%r|%M|%N")
    forgotten = "3_1" if answers["squeue"] else "1,2,3_1"
    columns = "--format=JobID,State,ElapsedRaw,NodeList"
    assert asked[1:] == [
        ("sacct", "--noheader", "--parsable2", "--allocations", columns, f"--jobs={forgotten}")
    ]


def test_nothing_forgotten_asks_no_accounts(monkeypatch):
    monkeypatch.setattr(slurm_queue, "_ask", lambda *command: {"squeue": "1|RUNNING"}[command[0]])
    assert slurm_queue.look(["1"]) == {"1": Seen(RUN)}


def test_a_tool_that_fails_or_is_absent_does_not_answer():
    with pytest.raises(slurm_queue.NoAnswer, match=r"^second$"):
        slurm_queue._ask("sh", "-c", "echo first >&2; echo second >&2; exit 3")
    with pytest.raises(slurm_queue.NoAnswer, match=r"^sh failed$"):
        slurm_queue._ask("sh", "-c", "exit 3")
    with pytest.raises(slurm_queue.NoAnswer, match="no-such-tool"):
        slurm_queue._ask("no-such-tool")
    assert slurm_queue._ask("echo", "fine") == "fine\n"


@pytest.mark.parametrize(("log", "words"), [
    ("submitit x\n\n  own words  \nsrun: y\nslurmstepd: z\nUserWarning: w\n", "own words"),
    ("x" * 400, "x" * 300),
    ("srun: error: n1: tasks 0-3: Killed\nsrun: error: n2: task 0: Exited with exit code 1\n",
     "its process on n2: Exited with exit code 1"),
    ("own\nsrun: error: n1: tasks 0-3: Killed\n", "its process was killed on n1 (signal 9, which a machine short of memory sends too)"),
    ("srun: nothing\n", ""), ("", ""),
    ("lost" + "\n" * 20_001, ""), ("kept" + "\n" * 19_996, "kept"),
])  # fmt: skip
def test_the_last_words_of_a_log(tmp_path, log, words):
    path = tmp_path / "log"
    assert slurm_queue.last_words(path) == ""
    path.write_text(log)
    assert slurm_queue.last_words(path) == words


@pytest.mark.parametrize(("key", "value", "said"), [
    *((key, value, f"hydra.launcher.{key} must be a number of at least 0 or nothing (null), got {value!r}")
      for key in ("cpus", "gpus", "memory_gb") for value in (-0.1, True, "1", math.inf, math.nan)),
    ("gpus", 1.5, "hydra.launcher.gpus must be a whole number, or a part of one GPU such as 0.25, got 1.5"),
    ("shared", 1, "hydra.launcher.shared must be true or false, got 1"),
    ("address", 6379, "hydra.launcher.address must be text such as 10.0.0.1:6379 or nothing (null), got 6379"),
])  # fmt: skip
def test_a_setting_that_ray_cannot_be_given(key, value, said):
    assert refused(ray_request.check, RAY | {key: value}).startswith(said)


@pytest.mark.parametrize("fine", [{"cpus": 0}, {"gpus": 0}, {"gpus": 0.25}, {"gpus": 1}, {"gpus": 2.0}, {"memory_gb": 0}, {"shared": False},
                                  {"address": "a:1"}, {}])  # fmt: skip
def test_a_setting_that_ray_can_be_given(fine):
    ray_request.check(RAY | fine)


@pytest.mark.parametrize(("hardware", "options", "asked", "words"), [
    ({**CPU, "devices": 3}, {}, (3, None, None), "3 CPUs"),
    ({**GPU, "devices": 2}, {}, (2, 2, None), "2 CPUs, 2 GPUs"),
    ({**GPU, "devices": 2}, {"gpus": 2, "cpus": 0, "memory_gb": 1.5}, (0, 2, 3 * 2**29), "0 CPUs, 2 GPUs, 1.5 GiB of memory"),
    ({**GPU, "devices": 1}, {"gpus": 0.25}, (1, 0.25, None), "1 CPU, 0.25 GPUs"),
    ({**GPU, "devices": 1}, {"gpus": 0, "memory_gb": 0}, (1, 0, 0), "1 CPU, 0 GiB of memory"),
    ({**CPU, "devices": 3}, {"gpus": 1}, (3, 1, None), "3 CPUs, 1 GPU"),
])  # fmt: skip
def test_what_a_job_asks_ray_for(hardware, options, asked, words):
    found = ray_request.request_of(
        plan(hardware=hardware, needs=[plan(seed=2, hardware={**CPU, "devices": 9})]), RAY | options
    )
    assert found == ray_request.Request(*asked) and str(found) == words


@pytest.mark.parametrize(("hardware", "options", "said"), [
    ({**GPU, "devices": 3}, {"gpus": 2}, "hydra.launcher.gpus=2, but hardware.devices asks for 3 of them: give 3, or leave it out"),
    ({**GPU, "num_nodes": 2}, {}, "hardware.num_nodes=2: a task of Ray's lies on one node; use hydra/launcher=slurm, or one node of "
                                  "several devices"),
])  # fmt: skip
def test_what_a_task_of_rays_cannot_be(hardware, options, said):
    assert refused(ray_request.request_of, plan(hardware=hardware), RAY | options) == said


@pytest.mark.parametrize(("node", "fits"), [
    ({"CPU": 2, "GPU": 1, "memory": 8}, True), ({"CPU": 1.9, "GPU": 1, "memory": 8}, False), ({"CPU": 2, "GPU": 0.9, "memory": 8}, False),
    ({"CPU": 2, "GPU": 1, "memory": 7}, False), ({"CPU": 2, "GPU": 1}, False), ({"CPU": 3, "GPU": 2, "memory": 9}, True),
])  # fmt: skip
def test_a_node_that_could_give_it(node, fits):
    assert ray_request.Request(2, 1, 8).fits(node) == fits
    assert ray_request.Request(0, None, None).fits({})


def test_a_jobs_note_is_known_by_its_run_or_its_words(tmp_path):
    job = cluster._Job(
        "name", ["a=1", "b=2"], plan(tmp_path, 3, hardware={"num_nodes": 2}), Request(), 1, tmp_path, "7_1"
    )
    assert job.keys == ("x/000000000003", "a=1 b=2") and job.nodes == 2
    assert job.log == tmp_path / "jobs" / "7_1_0_log.err"
    assert job.note is None and len({*job.notes}) == 2
    cluster.Jobs(tmp_path).note("a=1 b=2", cluster.Outcome.DONE)
    assert job.note.key == "a=1 b=2"
    cluster.Jobs(tmp_path).note("x/000000000003", cluster.Outcome.FAILED)
    assert job.note.key == "x/000000000003"
    assert cluster._list([job, SimpleNamespace(number="8")]) == "7_1 8"
    assert re.fullmatch(r"[0-9a-f]{16}\.json", job.notes[0].name)
