"""Sweeps over methods with frozen networks, and a submitted job on its node: when it is queued again, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from made_plans import plan
from tutelage.errors import UserError
from tutelage.jobs import cluster_task, frozen_words, plain_log, slurm_queue


def test_a_network_is_left_out_where_its_method_has_no_place_for_it(lines, monkeypatch):
    places = {"supervised": set(), "distillation": {"teacher"}, "guidance": {"guide"}, "wrong": None}
    monkeypatch.setattr(frozen_words, "_places", lambda words, compose: places[words[0].partition("=")[2]])
    rest = [
        "model@teacher=fcn",
        "teacher.width=8",
        "+model@guide=cnn",
        "guide.a.b=1",
        "model@frozen.x=fcn",
        "model@source=null",
        "teachers.a=1",
    ]
    commands = [[f"method={name}", *rest] for name in places]
    fitted = frozen_words.fitting(commands, print)
    of = {words[0]: words[1:] for words in fitted}
    assert of == {
        "method=supervised": rest[4:],
        "method=distillation": [*rest[:2], *rest[4:]],
        "method=guidance": rest[2:],
        "method=wrong": rest,
    }
    assert lines() == [
        "method=distillation has no place for a guide: it is left out of these runs",
        "method=guidance has no place for a teacher: it is left out of these runs",
        "method=supervised has no place for a guide: it is left out of these runs",
        "method=supervised has no place for a teacher: it is left out of these runs",
    ]
    one_method = [["method=supervised", *rest], ["method=supervised", *rest, "seed=1"]]
    assert frozen_words.fitting(one_method, print) == one_method
    without = [["method=supervised"], ["method=distillation", "model@teacher=null"]]
    assert frozen_words.fitting(without, print) == without


@pytest.mark.parametrize(("ran_min", "limit", "fruitless", "saved", "now"), [
    (0.9, 10, 1, False, 1), (1.1, 10, 1, False, 2), (5, 10, 1, True, 0), (None, 10, 1, False, 1),
])  # fmt: skip
def test_a_job_that_used_up_a_tenth_of_its_time_for_nothing_is_counted(
    tmp_path, monkeypatch, ran_min, limit, fruitless, saved, now
):
    task = cluster_task.Task("folder", ["s=1"], limit, 5.0, fruitless)
    task.began = None if ran_min is None else 1000.0
    monkeypatch.setattr(time, "time", lambda: 1000.0 + 60 * (ran_min or 0))
    monkeypatch.setattr(task, "_saved", lambda: saved)
    again = task.checkpoint().function
    assert (again.folder, again.words, again.timeout_min, again.submitted, again.fruitless) == (
        "folder",
        ["s=1"],
        limit,
        5.0,
        now,
    )
    assert again.began is None


def test_a_job_that_never_saves_is_told_what_to_do(tmp_path, monkeypatch):
    task = cluster_task.Task("folder", ["s=1"], 10, 5.0, 2)
    task.began = 1000.0
    monkeypatch.setattr(time, "time", lambda: 1000.0 + 90)
    with pytest.raises(UserError) as error:
        task.checkpoint()
    assert str(error.value) == (
        "3 times in a row the time on the cluster was over before a checkpoint was written (now 1.5 minutes): "
        "give it more (hydra.launcher.timeout_min), or save more often (fit.validate_every_steps, fit.checkpoint_every_s)"
    )


@pytest.mark.parametrize("file", ["checkpoints/last.ckpt", "result.json", "other"])
@pytest.mark.parametrize("of", ["own", "need"])
def test_a_job_has_saved_something_since_it_began(tmp_path, file, of):
    need = plan(tmp_path, 2)
    task = cluster_task.Task("folder", [], 10, 5.0)
    assert not task._saved()
    task.plan = plan(tmp_path, 1, [need])
    assert not task._saved()
    task.began = 1000.0
    assert not task._saved()
    path = tmp_path / (need if of == "need" else task.plan).key / file
    path.parent.mkdir(parents=True)
    path.touch()
    for moment, saved in ((999.0, False), (1000.0, True), (1001.0, True)):
        os.utime(path, (moment, moment))
        assert task._saved() == (saved and file != "other")


@pytest.mark.parametrize(("stamp", "rerun"), [(4.0, True), (5.0, False), (6.0, False), (None, True)])
def test_a_job_that_is_tried_again_does_not_begin_its_run_anew_twice(tmp_path, monkeypatch, stamp, rerun):
    monkeypatch.setattr(
        "tutelage.config.planner.plan_of", lambda words: plan(tmp_path, 1, rerun="rerun=false" not in words)
    )
    if stamp is not None:
        path = tmp_path / "x/000000000001/config.yaml"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (stamp, stamp))
    assert cluster_task.Task("folder", ["rerun=true"], 10, 5.0)._planned().config["rerun"] == rerun


@pytest.mark.parametrize(("variables", "asked"), [
    ({}, []), ({"SUBMITIT_EXECUTOR": "local", "SLURM_JOB_ID": "3"}, []),
    ({"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "3"}, ["3"] * 3),
    ({"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "3", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, ["7_2"] * 3),
])  # fmt: skip
def test_a_job_that_is_told_to_end_waits_until_slurm_has_ended_it(monkeypatch, variables, asked):
    monkeypatch.setattr(os, "environ", {**os.environ, **variables})
    seen, states = [], iter(["RUNNING", None, "COMPLETING"])

    def look(numbers):
        seen.extend(numbers)
        if (state := next(states)) is None:
            raise slurm_queue.NoAnswer
        return {numbers[0]: slurm_queue.Seen(state)}

    monkeypatch.setattr(slurm_queue, "look", look)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    cluster_task._outlast()
    assert seen == asked


def test_a_job_waits_no_longer_than_its_time(monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "3"})
    clock = iter([0.0, 899.0, 900.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    asked = []
    monkeypatch.setattr(
        slurm_queue, "look", lambda numbers: asked.append(numbers) or {"3": slurm_queue.Seen("RUNNING")}
    )
    monkeypatch.setattr(time, "sleep", lambda _: None)
    cluster_task._outlast()
    assert asked == [["3"]]


@pytest.mark.parametrize("submitted", [False, True])
def test_sigterm_interrupts_a_submitted_job_alone(monkeypatch, submitted):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    if submitted:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    before = signal.getsignal(signal.SIGTERM)
    with cluster_task._ended_by_sigterm():
        assert (signal.getsignal(signal.SIGTERM) is not before) == submitted
        if submitted:
            with pytest.raises(cluster_task.Cancelled):
                signal.getsignal(signal.SIGTERM)()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_task_says_its_outcome_in_the_notes(tmp_path, monkeypatch):
    from tutelage.jobs.outcomes import Jobs

    done = []
    monkeypatch.setattr(Jobs, "do", lambda self, make, words: done.append((self.folder, words)) or 0.5)
    monkeypatch.setattr(plain_log, "speak_plainly", lambda: None)
    task = cluster_task.Task(str(tmp_path), ("s=1",), 10, 5.0)
    assert task() == 0.5 and done == [(Path(tmp_path), ["s=1"])] and task.began is not None

    def interrupted(self, make, words):
        raise KeyboardInterrupt

    monkeypatch.setattr(Jobs, "do", interrupted)
    with pytest.raises(SystemExit) as error:
        task()
    assert error.value.code == 143
