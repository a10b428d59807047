"""Jobs on SLURM, by a stand-in for what it says: what they ask for, how they end, what is submitted again and what is not."""

from __future__ import annotations

import itertools
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from made_plans import plan, stored
from tutelage.config.hydra_choices import CHOICES
from tutelage.errors import UserError
from tutelage.jobs import cluster, cluster_request, cluster_task, slurm_queue
from tutelage.jobs.notes import Outcome
from tutelage.jobs.outcomes import Jobs
from tutelage.jobs.slurm_queue import Seen

OPTIONS = {key: value for key, value in CHOICES["launcher/slurm"].items() if key != "_target_"}


@pytest.mark.parametrize(("hardware", "data", "options", "request_"), [
    ({}, {}, {}, (1, 1, None)),
    ({"devices": 4, "num_nodes": 2, "strategy": "ddp"}, {}, {}, (2, 4, None)),
    ({"devices": 4, "num_nodes": 2, "accelerator": "gpu"}, {"num_workers": 3}, {}, (2, 16, 4)),
    ({"devices": [0, 1], "accelerator": "gpu"}, {}, {"more": {"gres": "gpu:a100:2"}}, (1, 2, None)),
    ({"devices": "auto", "accelerator": "gpu", "strategy": "ddp"}, {}, {"gpus_per_node": 8}, (1, 8, 8)),
    ({"devices": 2}, {}, {"cpus_per_task": 12, "nodes": 1}, (1, 12, None)),
])  # fmt: skip
def test_a_job_asks_for_the_place_that_its_ranks_need(hardware, data, options, request_):
    asked = cluster_request.request_of(plan(hardware=hardware, data=data), OPTIONS | options)
    assert (asked.nodes, asked.cpus, asked.gpus) == request_


@pytest.mark.parametrize(
    ("options", "said"), [({"nodes": 1}, "hydra.launcher.nodes=2"), ({"cpus_per_task": 3}, "cpus_per_task=4")]
)
def test_too_little_for_the_ranks_is_refused_before_anything_is_submitted(options, said):
    with pytest.raises(UserError, match=said):
        cluster_request.request_of(plan(hardware={"devices": 4, "num_nodes": 2}), OPTIONS | options)


@pytest.mark.parametrize(
    "more", [{"account": "x", "constraint": "a100"}, {"slurm_account": "x", "slurm_constraint": "a100"}]
)
def test_more_settings_have_submitits_names_with_and_without_its_prefix(tmp_path, monkeypatch, more):
    pytest.importorskip("submitit")
    monkeypatch.setattr("submitit.slurm.slurm.SlurmExecutor.affinity", classmethod(lambda _: 2))
    options = OPTIONS | {"more": more, "timeout_min": 2}
    made = cluster_request.executor(tmp_path, options, cluster_request.Request(2, 8, None))
    text = made._executor._make_submission_file_text("python", "id")
    for line in ("account=x", "constraint=a100", "nodes=2", "cpus-per-task=8", "signal=USR2@30"):
        assert f"#SBATCH --{line}\n" in text
    assert "--nodes=1 --ntasks=1 --cpus-per-task=8" in text
    with pytest.raises(UserError, match="did you mean 'account'"):
        cluster_request.executor(tmp_path, OPTIONS | {"more": {"acount": 1}}, cluster_request.Request())


def test_the_shape_of_more_is_what_hydra_takes():
    from tutelage.config.compose import of_hydra

    for words in ("hydra.launcher.more={account: x}", "+hydra.launcher.more.account=x"):
        assert of_hydra(["hydra/launcher=slurm", words], "launcher")["more"] == {"account": "x"}


def test_what_the_queue_says_and_where_it_is_silent_the_accounts(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho '7_0|RUNNING|None|1-00:01:02|n1'\necho '7_1|PENDING|Priority|0:00|'\n"
    )
    (tmp_path / "sacct").write_text("#!/bin/sh\necho '5|CANCELLED by 0|17|n2'\n")
    for name in ("squeue", "sacct"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    seen = slurm_queue.look(["7_0", "7_1", "5", "3"])
    assert seen == {"7_0": Seen("RUNNING", "None", 86462.0, "n1"), "7_1": Seen("PENDING", "Priority", 0.0),
                    "5": Seen("CANCELLED", "", 17.0, "n2"), "3": Seen("GONE")}  # fmt: skip
    (tmp_path / "sacct").write_text("#!/bin/sh\necho accounting is disabled >&2; exit 1\n")
    assert slurm_queue.look(["5"]) == {"5": Seen("GONE")}
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: no controller' >&2; exit 1\n")
    with pytest.raises(slurm_queue.NoAnswer, match="no controller"):
        slurm_queue.look(["5"])


def test_the_last_words_are_the_jobs_own(tmp_path):
    log = tmp_path / "log"
    assert slurm_queue.last_words(log) == ""
    log.write_text(
        "submitit INFO (now) - Starting\nsrun: error: n1: task 0: Killed\nsrun: Force Terminated StepId=2.0\n"
    )
    assert slurm_queue.last_words(log).startswith("its process was killed on n1 (signal 9")
    log.write_text(
        "submitit INFO (now) - Starting\nsrun: error: n1: task 0: Exited with exit code 3\nsrun: x\n"
    )
    assert slurm_queue.last_words(log) == "its process on n1: Exited with exit code 3"
    log.write_text(
        "submitit INFO\nModuleNotFoundError: No module named 'x'\nsrun: error: n1: task 0: Exited\n"
    )
    assert slurm_queue.last_words(log) == "ModuleNotFoundError: No module named 'x'"


@pytest.fixture
def slurm(monkeypatch):
    """Stand for SLURM: jobs are numbered; `states` gives what is said of each, the last for ever; `submitted` lists the words."""
    stand = SimpleNamespace(states={}, submitted=[], count=itertools.count(1))

    class Executor:
        def batch(self):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def submit(self, task):
            stand.submitted.append(task.words)
            return SimpleNamespace(job_id=str(next(stand.count)))

    def look(ids):
        said = {}
        for number in ids:
            states = stand.states.get(number, [Seen("GONE")])
            said[number] = states.pop(0) if len(states) > 1 else states[0]
            if callable(said[number]):
                said[number] = said[number]()
        return said

    monkeypatch.setattr(cluster_request, "executor", lambda *_: Executor())
    monkeypatch.setattr(slurm_queue, "look", look)
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(cluster, "ASK_EVERY_S", (0.0, 0.0))
    monkeypatch.setattr(cluster, "NOTE_WITHIN_S", 0.01)
    return stand


def new_jobs(tmp_path, name="now"):
    """Give the jobs of a command."""
    (tmp_path / ".sweeps" / name / "jobs").mkdir(parents=True)
    return Jobs(tmp_path / ".sweeps" / name)


def noted(jobs, one, outcome=Outcome.DONE, **more):
    """Give what a job does on its node, at the moment SLURM is asked."""

    def run():
        if outcome is Outcome.DONE:
            stored(Path(one.config["runs_dir"]) / one.key)
        jobs.note(one.key, outcome, seconds=12.0, **more)
        return Seen("COMPLETING", seconds=13.0)

    return run


def test_a_job_that_ends_is_a_line_with_its_value_and_time(tmp_path, slurm, caplog):
    jobs, ones = new_jobs(tmp_path), [plan(tmp_path, seed) for seed in (0, 1)]
    slurm.states = {"1": [Seen("PENDING"), Seen("RUNNING", seconds=1.0), noted(jobs, ones[0])],
                    "2": [Seen("PENDING"), noted(jobs, ones[1], Outcome.FAILED, reason="no disk")]}  # fmt: skip
    with caplog.at_level(logging.INFO, "tutelage"):
        values = cluster.submit(jobs, [([f"seed={i}"], one, False) for i, one in enumerate(ones)], OPTIONS)
    assert values[0] == 0.5 and values[1] != values[1]
    assert "[2/2] seed=0: val. accuracy 0.5, test 0.5 (12 s)" in caplog.text
    assert "[1/2] seed=1: failed: no disk (12 s)" in caplog.text
    assert slurm.submitted == [["seed=0"], ["seed=1"]]


@pytest.mark.parametrize(("state", "retry", "times", "said"), [
    ("CANCELLED", 3, 1, "was cancelled while it ran"),  # somebody wanted that
    ("NODE_FAIL", 1, 2, "lost its node n1"),
    ("OUT_OF_MEMORY", 0, 1, "hydra.launcher.mem_gb"),
    ("TIMEOUT", 0, 1, "hydra.launcher.timeout_min"),
    ("GONE", 1, 2, "no longer known to SLURM"),
    ("COMPLETED", 1, 2, "ended without a result"),
])  # fmt: skip
def test_how_a_job_died_is_said_in_words_and_faults_are_submitted_again(
    tmp_path, slurm, caplog, state, retry, times, said
):
    jobs = new_jobs(tmp_path)
    end = [Seen("RUNNING", seconds=3.0), Seen(state, seconds=4.0, node="n1")]
    slurm.states = {str(number): list(end) for number in range(1, 5)}
    cluster.submit(jobs, [(["seed=0"], plan(tmp_path, retry=retry), False)], OPTIONS)
    assert len(slurm.submitted) == times
    (note,) = jobs.notes()
    assert note.outcome is Outcome.FAILED and said in note.reason and "srun" not in note.reason


def test_a_preempted_job_is_submitted_again_whatever_retry_says_and_one_queued_again_is_said(
    tmp_path, slurm, caplog
):
    jobs, one = new_jobs(tmp_path), plan(tmp_path)
    slurm.states = {"1": [Seen("RUNNING", seconds=3.0), Seen("PREEMPTED")],
                    "2": [Seen("RUNNING", seconds=9.0), Seen("PENDING", "BeginTime"), noted(jobs, one)]}  # fmt: skip
    with caplog.at_level(logging.INFO, "tutelage"):
        assert cluster.submit(jobs, [(["seed=0"], one, False)], OPTIONS) == [0.5]
    assert "gave way to other jobs" in caplog.text and "interrupted and queued again (job 2)" in caplog.text


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_job_that_died_stops_the_others_where_that_is_asked_for(tmp_path, slurm, on_failure):
    jobs = new_jobs(tmp_path)
    slurm.states = {"1": [Seen("OUT_OF_MEMORY")]}
    (value,) = cluster.submit(jobs, [(["seed=0"], plan(tmp_path, on_failure=on_failure), False)], OPTIONS)
    assert value != value and jobs.stopped is (on_failure == "stop")


@pytest.mark.parametrize(
    ("words", "names"),
    [([["seed=0"]], ["the job"]), ([["a=1", "seed=0"], ["a=2", "seed=0"]], ["a=1", "a=2"])],
)
def test_jobs_are_called_by_the_words_that_differ_and_one_alone_the_job(
    tmp_path, slurm, monkeypatch, words, names
):
    asked = []
    monkeypatch.setattr(cluster, "plan_here", lambda jobs, words, name: asked.append(name))
    found = cluster.submit(new_jobs(tmp_path), [(one, None, False) for one in words], OPTIONS)
    assert asked == names and all(value != value for value in found) and slurm.submitted == []


def test_a_job_that_died_after_its_result_was_written_is_done(tmp_path, slurm):
    jobs, one = new_jobs(tmp_path), plan(tmp_path)
    slurm.states = {"1": [lambda: stored(tmp_path / one.key) or Seen("RUNNING"), Seen("FAILED")]}
    assert cluster.submit(jobs, [(["seed=0"], one, False)], OPTIONS) == [0.5]
    assert [note.outcome for note in jobs.notes()] == [Outcome.DONE]


def test_a_waiting_job_that_needs_somebody_and_a_silent_controller_are_said_once(tmp_path, slurm, caplog):
    jobs, one = new_jobs(tmp_path), plan(tmp_path)

    def silent():
        raise slurm_queue.NoAnswer("no controller")

    held = Seen("PENDING", "JobHeldUser")
    slurm.states = {"1": [held, held, silent, silent, held, noted(jobs, one)]}
    cluster.submit(jobs, [(["seed=0"], one, False)], OPTIONS)
    assert caplog.text.count("the reason JobHeldUser") == 1
    assert caplog.text.count("no controller") == 1


@pytest.mark.parametrize(
    ("state", "waits_s"), [("COMPLETED", 30.0), ("GONE", 30.0), ("FAILED", 2.0), ("TIMEOUT", 2.0)]
)
def test_a_note_is_waited_for_where_a_job_ended_well(tmp_path, slurm, monkeypatch, state, waits_s):
    now = [100.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 1.0)
    monkeypatch.setattr(cluster, "NOTE_WITHIN_S", 30.0)
    jobs, one = new_jobs(tmp_path), plan(tmp_path)
    queue = cluster._Queue(jobs, {}, OPTIONS)
    job = cluster._Job("x", ["seed=0"], one, cluster_request.Request(), 1, jobs.folder, "1")
    queue.left = {one.key: job}
    slurm.states = {"1": [Seen("RUNNING"), Seen(state), Seen("RUNNING"), Seen(state)]}
    for after, over in (
        (0.0, False),
        (1.0, False),
        (99.0, False),
        (100.0, False),
        (100.0 + waits_s - 0.5, False),
        (100.0 + waits_s, True),
    ):
        now[0] = 200.0 + after
        assert queue._ended() == ([job] if over else [])
    jobs.note(one.key, Outcome.DONE)
    job.over_since = None
    assert queue._ended() == [job]


def test_slurm_is_asked_less_and_less_often(tmp_path, slurm, monkeypatch):
    now, asked = [100.0], []
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cluster, "ASK_EVERY_S", (1.0, 2.0))
    monkeypatch.setattr(
        slurm_queue, "look", lambda numbers: asked.append(now[0]) or dict.fromkeys(numbers, Seen("RUNNING"))
    )
    jobs, one = new_jobs(tmp_path), plan(tmp_path)
    queue = cluster._Queue(jobs, {}, OPTIONS)
    job = cluster._Job("x", ["seed=0"], one, cluster_request.Request(), 1, jobs.folder, "1")
    queue._ask([])
    for tenth in range(1000, 1100):
        now[0] = tenth / 10
        queue._ask([job])
    assert asked == [100.0, 101.0, 102.3, 104.0, 106.0, 108.0]


def interrupted(tmp_path, slurm, one, options=OPTIONS):
    """Give the jobs of a command that is stopped while its job is in the queue."""
    jobs = new_jobs(tmp_path, "before")

    def stop():
        raise KeyboardInterrupt

    slurm.states = {"1": [Seen("RUNNING", seconds=1.0), stop]}
    with pytest.raises(KeyboardInterrupt):
        cluster.submit(jobs, [(["seed=0"], one, False)], options)
    return jobs


@pytest.mark.parametrize(
    ("state", "more"), [("RUNNING", {}), ("RUNNING", {"cpus_per_task": 4}), ("PENDING", {})]
)
def test_the_same_command_waits_for_the_jobs_of_an_interrupted_one(tmp_path, slurm, caplog, state, more):
    """One that runs is waited for whatever it asked for: it has its place."""
    one = plan(tmp_path)
    before = interrupted(tmp_path, slurm, one)
    assert "`scancel 1` ends them, the same command waits for them" in caplog.text
    jobs = new_jobs(tmp_path)
    slurm.states = {"1": [Seen(state), noted(before, one)]}
    assert cluster.submit(jobs, [(["seed=0"], one, False)], OPTIONS | more) == [0.5]
    assert slurm.submitted == [["seed=0"]]
    assert [note.outcome for note in jobs.notes()] == [Outcome.DONE]


@pytest.mark.parametrize("why", ["over", "rerun", "other settings", "not ours"])
def test_what_an_earlier_command_submitted_and_does_not_serve_is_submitted_again(
    tmp_path, slurm, caplog, why
):
    one = plan(tmp_path)
    interrupted(tmp_path, slurm, one)
    if why == "not ours":
        (tmp_path / ".sweeps" / "before" / "jobs" / "submitted.json").write_text(
            '{"x/000000000000": {"number": "1; reboot"}}'
        )
    again = plan(tmp_path, rerun=why == "rerun")
    jobs = new_jobs(tmp_path)
    slurm.states = {"1": [Seen("PENDING" if why == "other settings" else "FAILED" if why == "over" else "RUNNING")],
                    "2": [noted(jobs, again)]}  # fmt: skip
    options = OPTIONS | ({"cpus_per_task": 4} if why == "other settings" else {})
    assert cluster.submit(jobs, [(["seed=0"], again, False)], options) == [0.5]
    assert len(slurm.submitted) == 2
    assert ("`scancel 1` ends it" in caplog.text) == (why == "other settings")


def test_a_job_of_this_machine_is_ended_with_its_command(tmp_path, monkeypatch):
    local = [
        SimpleNamespace(done=lambda: True, cancelled=False),
        SimpleNamespace(done=lambda: False, cancelled=False),
    ]
    queue = cluster._Queue(new_jobs(tmp_path), {}, OPTIONS | {"cluster": "local"})
    for number, job in enumerate(local):
        job.cancel = lambda job=job, **_: setattr(job, "cancelled", True)
        queue.left[str(number)] = SimpleNamespace(number=str(number), job=job)
    queue._leave()
    assert [job.cancelled for job in local] == [False, True]


def test_a_job_that_saves_nothing_in_its_time_is_not_queued_for_ever(tmp_path):
    pytest.importorskip("submitit")
    task = cluster_task.Task(str(tmp_path), ["seed=0"], 1, 0.0)

    def again(began):
        task.began, task.plan = began, plan(tmp_path)
        return task.checkpoint().function

    for _ in range(cluster_task.FRUITLESS - 1):
        task = again(1.0)  # decades ago
    task = again(time.time())  # preempted at once
    with pytest.raises(UserError, match="timeout_min"):
        again(1.0)
    stored(tmp_path / plan().key)
    assert again(1.0).fruitless == 0


def test_a_job_that_begins_a_run_anew_does_so_once_however_often_it_is_queued_again(tmp_path, monkeypatch):
    asked = []

    def plan_of(words):
        asked.append(words)
        return plan(tmp_path, rerun="rerun=false" not in words)

    monkeypatch.setattr("tutelage.config.planner.plan_of", plan_of)
    config = tmp_path / plan().key / "config.yaml"
    config.parent.mkdir(parents=True)
    config.touch()  # of the run that is to be made anew
    os.utime(config, (1.0, 1.0))
    task = cluster_task.Task(str(tmp_path), ["rerun=true"], 1, time.time() - 1)
    assert task._planned().config["rerun"]
    config.touch()  # of what the first try began
    assert not task._planned().config["rerun"]


@pytest.mark.parametrize(
    ("key", "least"),
    [(key, 0 if key in ("gpus_per_node", "mem_gb") else 1) for key in cluster_request.NUMBERS],
)
def test_the_least_of_each_number_is_taken_and_less_is_refused(key, least):
    cluster_request.check(OPTIONS | {key: least})
    for wrong in (least - 1, "many", True, *([] if key == "mem_gb" else [least + 0.5])):
        with pytest.raises(UserError, match=rf"hydra.launcher.{key} must be .*number"):
            cluster_request.check(OPTIONS | {key: wrong})


def test_jobs_in_processes_of_their_own_are_given_their_plans(tmp_path, monkeypatch):
    jobs, given = Jobs(tmp_path), []
    monkeypatch.setattr(jobs, "fork", lambda asked, processes: given.extend((*asked, processes)))
    known = plan(seed=3)
    words = ["logger=none", "model=fcn", f"runs_dir={tmp_path}", "seed=4"]
    jobs.run_all([["seed=3"], words, ["no_such_setting=1"]], 2, plans={("seed=3",): known})
    assert [tuple(one[0]) for one in given[:3]] == [("seed=3",), tuple(words), ("no_such_setting=1",)]
    assert given[0][1] is known and given[1][1].config["seed"] == 4 and given[2][1] is None and given[3] == 2
