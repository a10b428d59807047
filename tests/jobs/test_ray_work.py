"""The jobs of a command on a cluster, by a stand-in for Ray: what is given, in which order, how each ends, and what is said of it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from made_plans import plan, stored
from tutelage.config.hydra_choices import CHOICES
from tutelage.engine import progress
from tutelage.errors import UserError
from tutelage.jobs import launch, ray_cluster, run_parcels
from tutelage.jobs.notes import Note, Outcome
from tutelage.jobs.outcomes import Jobs
from tutelage.jobs.ray_request import Request

OPTIONS = {key: value for key, value in CHOICES["launcher/ray"].items() if key != "_target_"}
DONE, FAILED, LEFT = Outcome.DONE, Outcome.FAILED, Outcome.LEFT


class Died(Exception):
    """Of a process."""


class NodeDied(Died):
    """Of a node."""


@pytest.fixture
def ray(tmp_path, monkeypatch, caplog):
    """Stand for Ray: `ends` gives, by run, what its tries end with; the last one for ever."""
    caplog.set_level(logging.INFO, "tutelage")
    stand = SimpleNamespace(ends={}, given=[], cancelled=[], put=[], connected=[])

    class Remote:
        def options(self, **more):
            return SimpleNamespace(remote=lambda *words: give(more, words))

    def give(more, words):
        stand.given.append((more, words))
        return len(stand.given) - 1

    def get(task):
        one = stand.given[task][1][0]
        ends = stand.ends.get(one.key, [])
        end = ends.pop(0) if len(ends) > 1 else (ends or [None])[0]
        if isinstance(end, BaseException):
            raise end
        if end is None:
            stored(tmp_path / one.key, 0.25)
            end = Note(one.key, DONE, seconds=7.4), 0.75, None
        return end

    stand.ray = SimpleNamespace(
        remote=lambda function: Remote(), wait=lambda tasks, num_returns, timeout: (tasks[:1], tasks[1:]), get=get,
        cancel=lambda task, force: stand.cancelled.append((task, force)), put=lambda what: stand.put.append(what) or len(stand.put),
        exceptions=SimpleNamespace(NodeDiedError=NodeDied, RayError=Died),
    )  # fmt: skip
    monkeypatch.setattr(ray_cluster, "connected", lambda *words: stand.connected.append(words) or stand.ray)

    def lines():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    stand.lines = lines
    (tmp_path / "notes").mkdir()
    stand.jobs = Jobs(tmp_path / "notes")
    stand.submit = lambda wanted, **more: ray_cluster.submit(stand.jobs, wanted, OPTIONS | more)
    stand.begun = lambda: [words[0].key for _, words in stand.given]
    return stand


def test_jobs_are_given_with_what_they_ask_for_and_end_in_a_line(ray, tmp_path):
    one, two, there = plan(tmp_path, 1, data={"num_workers": 2}), plan(tmp_path, 2), plan(tmp_path, 3)
    stored(tmp_path / there.key, 0.5)
    ray.ends = {two.key: [(Note(two.key, FAILED, "no 'x'", True, seconds=0.2), 0.0, None)]}
    log = tmp_path / two.key / "log.txt"
    log.parent.mkdir(parents=True)
    log.touch()
    wanted = [(["s=1"], one, False), (["s=2"], two, False), (["s=3"], there, True), (["s=1"], one, False)]
    values = ray.submit(wanted, memory_gb=0.5)
    assert values[0] == values[3] == 0.75 and values[1] != values[1] and values[2] == 0.5
    assert ray.connected == [(None, [Request(3, None, 2**29), Request(1, None, 2**29)])]
    assert ray.given == [
        (
            {"max_retries": 0, "name": "s=1", "num_cpus": 3, "memory": 2**29},
            (one, ["s=1"], str(Path.cwd()), True),
        ),
        (
            {"max_retries": 0, "name": "s=2", "num_cpus": 1, "memory": 2**29},
            (two, ["s=2"], str(Path.cwd()), True),
        ),
    ]
    assert ray.lines() == [
        "x/000000 seed 3, stored: val. accuracy 0.5, test 0.5",
        "[1/2] s=1: val. accuracy 0.25, test 0.25 (7 s)",
        "[2/2] s=2: failed: no 'x' (0 s)",
    ]
    assert [note for note in ray.jobs.notes() if note.key != there.key] == [
        Note(one.key, DONE, words=("s=1",), seconds=7.4),
        Note(two.key, FAILED, "no 'x'", True, str(log), ("s=2",), seconds=0.2),
    ]


def test_a_single_job_and_none(ray, tmp_path):
    one = plan(tmp_path, 1)
    assert ray.submit([([], one, False)]) == [0.75]
    assert ray.lines() == ["[1/1] the job: val. accuracy 0.25, test 0.25 (7 s)"]
    assert ray.submit([]) == [] and len(ray.connected) == 1
    assert ray.submit([([], one, True)]) == [0.25] and len(ray.connected) == 1


def test_what_others_need_is_made_first_and_once(ray, tmp_path):
    below, there = plan(tmp_path, 10, name="below", retry=3), plan(tmp_path, 11)
    stored(tmp_path / there.key)
    need = plan(tmp_path, 12, [below], name="need")
    one, two = plan(tmp_path, 1, [need, there]), plan(tmp_path, 2, [need])
    assert ray.submit([(["s=1"], one, False), (["s=2"], two, False)]) == [0.75, 0.75]
    assert ray.begun() == [below.key, need.key, one.key, two.key]
    assert [words[1] for _, words in ray.given] == [["name=below"], ["name=need"], ["s=1"], ["s=2"]]
    assert ray.lines()[:2] == [
        f"[1/4] {below.key}, which others need: val. accuracy 0.25, test 0.25 (7 s)",
        f"[2/4] {need.key}, which others need: val. accuracy 0.25, test 0.25 (7 s)",
    ]
    assert [note.key for note in ray.jobs.notes()] == [one.key, two.key]  # of what the command names


def test_a_run_that_is_named_and_needed_is_the_commands_own(ray, tmp_path):
    need = plan(tmp_path, 12, name="need")
    one = plan(tmp_path, 1, [need])
    ray.submit([(["s=1"], one, False), (["s=n"], need, False)])
    assert ray.begun() == [need.key, one.key]
    assert [note.key for note in ray.jobs.notes()] == [need.key, one.key]


def test_a_failed_need_fails_those_above_it(ray, tmp_path):
    need = plan(tmp_path, 12, name="need")
    one, two = plan(tmp_path, 1, [need]), plan(tmp_path, 2)
    ray.ends = {need.key: [(Note(need.key, FAILED, "no disk"), 0.0, None)]}
    values = ray.submit([(["s=1"], one, False), (["s=2"], two, False)])
    assert values[0] != values[0] and values[1] == 0.75
    reason = f"it needs {need.key}, which failed: no disk"
    assert ray.lines() == [
        f"[1/3] {need.key}, which others need: failed: no disk",
        f"[2/3] s=1: failed: {reason}",
        "[3/3] s=2: val. accuracy 0.25, test 0.25 (7 s)",
    ]
    assert ray.jobs.note_of(one.key) == Note(one.key, FAILED, reason, words=("s=1",))


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_failure_stops_what_has_not_begun_where_that_is_asked_for(ray, tmp_path, on_failure):
    need = plan(tmp_path, 12, name="need", on_failure=on_failure)
    one, above = plan(tmp_path, 1), plan(tmp_path, 2, [one_need := plan(tmp_path, 13, name="other")])
    ray.ends = {need.key: [(Note(need.key, FAILED, "no disk"), 0.0, None)]}
    ray.submit([(["s=0"], need, False), (["s=1"], one, False), (["s=2"], above, False)])
    assert ray.jobs.stopped == (on_failure == "stop")
    left = {note.key: note.outcome for note in ray.jobs.notes()}
    assert left == {need.key: FAILED, one.key: DONE, above.key: LEFT if on_failure == "stop" else DONE}
    assert (above.key in ray.begun()) == (on_failure == "continue") and one_need.key in ray.begun()
    if on_failure == "stop":
        assert ray.lines()[1] == "[2/4] s=2: left"


def test_nothing_is_begun_after_a_stop(ray, tmp_path):
    ray.jobs.stop()
    (value,) = ray.submit([(["s=1"], plan(tmp_path, 1), False)])
    assert value != value and not ray.connected
    assert ray.jobs.notes() == [Note("x/000000000001", LEFT, words=("s=1",))]


PROCESS, NODE = Died("\n  the worker died \n more"), NodeDied("")
GIVEN_AGAIN = "; it is given to the cluster again"


@pytest.mark.parametrize(("retry", "ends", "tries", "well"), [
    (0, [PROCESS], 1, False), (1, [PROCESS], 2, False), (1, [PROCESS, None], 2, True), (2, [PROCESS, PROCESS, None], 3, True),
    (0, [NODE, None], 2, True), (0, [NODE] * 10 + [None], 11, True), (0, [NODE] * 11, 11, False),
    (1, [NODE, PROCESS, NODE, PROCESS], 4, False),
])  # fmt: skip
def test_what_dies_is_given_again_as_often_as_is_its_due(ray, tmp_path, retry, ends, tries, well):
    one = plan(tmp_path, 1, retry=retry)
    ray.ends = {one.key: list(ends)}
    (value,) = ray.submit([(["s=1"], one, False)])
    assert len(ray.given) == tries and (value == 0.75) == well
    said = {
        PROCESS: "its process ended without a result (the worker died)",
        NODE: "the node that it ran on died (NodeDied)",
    }
    last = "val. accuracy 0.25, test 0.25 (7 s)" if well else f"failed: {said[ends[-1]]}"
    again = ends[: tries - 1]
    assert ray.lines() == [*(f"s=1: {said[one]}{GIVEN_AGAIN}" for one in again), f"[1/1] s=1: {last}"]


def test_what_dies_after_a_stop_is_not_given_again(ray, tmp_path):
    one, two = plan(tmp_path, 1, on_failure="stop"), plan(tmp_path, 2, retry=5)
    ray.ends = {one.key: [(Note(one.key, FAILED, "no disk"), 0.0, None)], two.key: [PROCESS]}
    ray.submit([(["s=1"], one, False), (["s=2"], two, False)])
    assert ray.begun() == [one.key, two.key]


@pytest.mark.parametrize("rerun", [False, True])
def test_what_dies_after_its_work_was_done_is_done(ray, tmp_path, rerun):
    one = plan(tmp_path, 1, rerun=rerun)
    stored(tmp_path / one.key, 0.5)
    ray.ends = {one.key: [PROCESS]}
    assert ray.submit([(["s=1"], one, False)]) == [0.5] and len(ray.given) == 1
    assert (
        ray.lines()[0] == "s=1: its process ended without a result (the worker died), after its work was done"
    )
    assert ray.jobs.note_of(one.key).outcome is DONE


def test_an_interrupt_cancels_what_was_given(ray, tmp_path):
    one = plan(tmp_path, 1)
    ray.ends = {one.key: [KeyboardInterrupt()]}
    two = plan(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt):
        ray.submit([(["s=1"], one, False), (["s=2"], two, False)])
    assert ray.cancelled == [(1, False)]


def test_every_job_that_ends_moves_the_bar(ray, tmp_path, monkeypatch):
    board, seen = progress.Board(9), []
    monkeypatch.setattr(progress, "_current", board)
    monkeypatch.setattr(ray_cluster.Watch, "look", lambda self, plans: seen.append(list(plans)))
    one, two = plan(tmp_path, 1), plan(tmp_path, 2)
    ray.submit([(["s=1"], one, False), (["s=2"], two, False)])
    assert board.done == 2 and seen == [[(0, one), (1, two)]] * 2


def test_runs_travel_where_no_folder_is_shared(ray, tmp_path, monkeypatch):
    need = plan(tmp_path, 12, name="need")
    one, two = plan(tmp_path, 1, [need]), plan(tmp_path, 2, [need])
    monkeypatch.setattr(run_parcels, "pack", lambda run: run.key)
    unpacked = []
    monkeypatch.setattr(run_parcels, "unpack", lambda parcel, run: unpacked.append((parcel, run.key)))
    stored(tmp_path / two.key, 0.25)
    ray.ends = {two.key: [(Note(two.key, DONE), 0.5, b"whole")]}
    ray.submit([(["s=1"], one, False), (["s=2"], two, False)], shared=False)
    # of the need, which is complete by then, one parcel; of each other what there is, before what it needs
    assert ray.put == [need.key, need.key, one.key, two.key]
    assert [words[3:] for _, words in ray.given] == [(False, 1), (False, 2, 3), (False, 2, 4)]
    assert unpacked == [(b"whole", two.key)]


@pytest.mark.parametrize("shared", [True, False])
def test_a_node_does_the_job_where_the_command_was_given(tmp_path, monkeypatch, shared):
    need = plan(tmp_path, 12, name="need")
    one = plan(tmp_path / "runs", 1, [need])
    folder = tmp_path / "here"
    folder.mkdir()
    before, path = Path.cwd(), list(sys.path)
    monkeypatch.setattr(sys, "path", path)
    seen = SimpleNamespace(unpacked=[])
    monkeypatch.setattr(
        run_parcels,
        "unpack",
        lambda parcel, run: seen.unpacked.append((parcel, run.key, run.path.parents[1])),
    )
    monkeypatch.setattr(run_parcels, "pack", lambda run: run.path.parents[1])

    def run_plan(plan, **_):
        seen.cwd, seen.plan = Path.cwd(), plan
        return {
            "best": {"validation": {"m": 0.5}, "test": {"m": 0.25}, "step": 1},
            "selection": {"monitor": "m"},
            "cost": {"steps": 1},
        }

    monkeypatch.setattr(launch, "run_plan", run_plan)
    note, value, parcel = ray_cluster.work(
        one, ["s=1"], str(folder), shared, *([] if shared else [b"need", b"own"])
    )
    assert (note.key, note.outcome, note.words, value) == (one.key, DONE, ("s=1",), 0.5)
    assert seen.cwd == folder and Path.cwd() == before
    assert sys.path == [str(folder), *[entry for entry in path if entry != str(folder)]]
    runs = Path(seen.plan.config["runs_dir"])
    assert [one.config["runs_dir"] for one in (seen.plan, *seen.plan.prerequisites())] == (
        [str(tmp_path / "runs"), str(tmp_path)] if shared else [str(runs)] * 2
    )
    assert parcel == (None if shared else runs)
    assert seen.unpacked == ([] if shared else [(b"need", need.key, runs), (b"own", one.key, runs)])
    ray_cluster.work(one, ["s=1"], str(tmp_path / "absent"), True)
    assert (
        seen.cwd == before and sys.path.count(str(folder)) == 1 and str(tmp_path / "absent") not in sys.path
    )


@pytest.fixture
def nodes(monkeypatch):
    """Stand for Ray itself: `there` are its nodes; a connection to "auto" or a named address fails where there are none."""
    stand = SimpleNamespace(there=[], begun=[], up=False)

    def init(**more):
        stand.begun.append(more)
        if more["address"] != "local" and not stand.there:
            raise ConnectionError("\nnobody answers\nat all")
        if more["address"] == "local":
            stand.there = [{"Alive": True, "Resources": {"CPU": more["num_cpus"]}}]

    fake = SimpleNamespace(is_initialized=lambda: stand.up, init=init, nodes=lambda: stand.there)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(ray_cluster, "cores", lambda: 4)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    stand.ray = fake
    return stand


QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


def test_a_cluster_that_runs_is_used_and_what_has_no_room_waits(nodes, caplog):
    nodes.there = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    asked = [Request(4, 1, None), Request(5, None, None), Request(5, None, None)]
    assert ray_cluster.connected(None, asked) is nodes.ray
    assert nodes.begun == [{"address": "auto", **QUIET}]
    assert [one.getMessage() for one in caplog.records] == [
        "no node of the cluster has room for a job that asks for 5 CPUs: it waits until one comes"
    ]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    nodes.up = True
    ray_cluster.connected("a:1", [])
    assert len(nodes.begun) == 1  # it is connected already


def test_one_is_made_here_where_none_runs_and_what_it_cannot_give_is_said(nodes):
    ray_cluster.connected(None, [Request(4, None, None)])
    local = {"address": "local", "num_cpus": 4, "include_dashboard": False, **QUIET}
    assert nodes.begun == [{"address": "auto", **QUIET}, local]
    nodes.there = []
    with pytest.raises(UserError) as error:
        ray_cluster.connected(None, [Request(1, 0.5, None)])
    assert str(error.value) == (
        "no node of the cluster has room for a job that asks for 1 CPU, 0.5 GPUs: this machine has 4 CPUs and 0 GPUs"
    )


@pytest.mark.parametrize(
    ("address", "variable", "where"), [("a:1", None, "a:1"), (None, "b:2", "b:2"), ("a:1", "b:2", "a:1")]
)
def test_a_named_cluster_that_does_not_answer_is_one_message(nodes, monkeypatch, address, variable, where):
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(UserError, match=f"^no Ray cluster answers at {where}: nobody answers$"):
        ray_cluster.connected(address, [])
    assert nodes.begun == [{"address": address or "auto", **QUIET}]


def test_words_that_mean_nothing_are_no_job(ray, tmp_path, monkeypatch):
    planned = []

    def plan_here(jobs, words, name):
        planned.append((words, name))
        return None if words == ["s=x"] else plan(tmp_path, 5)

    monkeypatch.setattr(ray_cluster, "plan_here", plan_here)
    values = ray.submit([(["s=x"], None, False), (["s=5"], None, False)])
    assert values[0] != values[0] and values[1] == 0.75
    assert planned == [(["s=x"], "s=x"), (["s=5"], "s=5")] and ray.begun() == ["x/000000000005"]


def test_a_stored_need_is_no_job_and_rerun_makes_none_of_it_anew(ray, tmp_path):
    need = plan(tmp_path, 12, name="need")
    stored(tmp_path / need.key)
    ray.submit([(["s=1"], plan(tmp_path, 1, [need], rerun=True), False)])
    assert ray.begun() == ["x/000000000001"]
