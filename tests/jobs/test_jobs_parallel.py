"""Jobs in processes of this machine: what comes through their pipes, how many at a time, and what is said as each ends."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from tutelage.engine import progress
from tutelage.errors import UserError
from tutelage.jobs import gpu_places, parallel
from tutelage.jobs.gpu_places import CONTEXT_BYTES, Gpu

GIB = 2**30


@pytest.fixture
def lines(caplog):
    """Give a function that returns what was said, a time of few whole seconds as `_`."""
    caplog.set_level(logging.INFO, "tutelage")
    return lambda: [re.sub(r"\(\d{1,3} s", "(_ s", record.getMessage()) for record in caplog.records]


@pytest.fixture
def child():
    """Give a job's process as its parent has it, and the end of its pipe into which it writes."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    return parallel._Child(0, 0, read, 0.0), write


def test_the_last_status_that_came_is_shown_and_what_is_torn_waits(child):
    one, write = child
    assert one.listen() and one.status() is None
    os.write(
        write,
        b'{"title": "a", "step": 1, "steps": 4}\n{"title": "a", "step": 2, "steps": 4}\n{"title": "a", ',
    )
    assert one.listen()
    assert one.status() == progress.Status("a", 2, 4)
    assert one.status() is None and one.said == b'{"title": "a", '
    os.write(write, b'"step": 3, "steps": 4}\nsomething else\n\n0.5')
    assert one.listen() and one.status() == progress.Status("a", 3, 4)
    os.close(write)
    assert not one.listen() and one.value() == 0.5


@pytest.mark.parametrize(("written", "value"), [
    (b"", None), (b"\n0.25", 0.25), (b"\n0.25\n", 0.25), (b'{"step": 1}\n', None), (b'{"step": 1}\n\n2', 2.0),
])  # fmt: skip
def test_the_value_is_the_last_line_that_is_no_status(child, written, value):
    one, write = child
    os.write(write, written)
    os.close(write)
    assert one.value() == value


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_a_number_of_processes_is_whole_and_above_zero(wrong):
    parallel.check_processes(1)
    parallel.check_processes(None)
    said = rf"^hydra.launcher.processes must be a whole number of at least 1, got {wrong!r}$"
    with pytest.raises(UserError, match=said):
        parallel.check_processes(wrong)


def test_what_is_said_as_jobs_end(tmp_path, lines):
    def well():
        print("fine", flush=True)
        return 0.123456

    def says_no_value():
        print("so it is", flush=True)
        return math.nan

    def raises():
        print("before", file=sys.stderr, flush=True)
        raise OSError("no disk")

    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    died = []
    values = parallel.run_forked(
        [well, says_no_value, raises, dies],
        processes=1,
        names=["one", "two", "three", "four"],
        retries=[1, 1, 0, 2],
        died=lambda *words: died.append(words),
        became=lambda number, value: f"{number} is {value:.2f}",
        outputs=tmp_path,
    )
    assert values[0] == 0.123456 and all(map(math.isnan, values[1:]))
    killed = "was killed by signal 9 (SIGKILL)"
    no_result = "ended with exit code 1 and no result"
    assert died == [(2, no_result), (3, killed)]
    assert lines() == [
        "[1/4] one: 0 is 0.12 (_ s)",
        "[2/4] two: 1 is nan (_ s)",
        f"[3/4] three: 2 is nan (_ s, {no_result})",
        f"the process of four {killed}: it is started again",
        f"the process of four {killed}: it is started again",
        f"[4/4] four: 3 is nan (_ s, {killed})",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.txt", "2.txt", "3.txt"]
    assert (tmp_path / "1.txt").read_text() == "so it is\n"
    assert (tmp_path / "2.txt").read_text().startswith("before\nTraceback")


def test_jobs_without_names_or_words_for_their_values(lines):
    assert parallel.run_forked([lambda: 0.123456], processes=None) == [0.123456]
    assert parallel.run_forked([]) == []
    assert lines() == ["[1/1] job 0: 0.1235 (_ s)"]


@pytest.fixture
def started(monkeypatch):
    """Give a list of (slot, slots, GPU) of the jobs that were started; none is, and each has ended at once."""
    found, ended = [], []

    def start(job, slot, slots, gpus, output):
        found.append((slot, slots, gpus if isinstance(gpus, int) else gpus.name))
        read, write = os.pipe()
        os.write(write, b"\n1.0")
        os.close(write)
        os.set_blocking(read, False)
        ended.append(len(found))
        return len(found), read

    monkeypatch.setattr(parallel, "_start", start)
    monkeypatch.setattr(parallel, "_wait", lambda running: (ended.pop(0), 0))
    return found


@pytest.mark.parametrize(("jobs", "processes", "gpus", "cores", "slots"), [
    (5, None, 0, 3, 3), (2, None, 0, 3, 2), (5, 2, 0, 3, 2), (5, 4, 0, 3, 4), (5, None, 2, 9, 2), (5, 3, 2, 9, 3),
])  # fmt: skip
def test_how_many_jobs_are_run_at_a_time(monkeypatch, started, jobs, processes, gpus, cores, slots):
    monkeypatch.setattr(parallel, "_gpus", lambda: gpus)
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    assert parallel.run_forked([lambda: 1.0] * jobs, processes=processes) == [1.0] * jobs
    assert {one[1:] for one in started} == {(slots, gpus)}
    assert [slot for slot, *_ in started[:slots]] == list(range(slots))


def test_how_long_a_job_took_is_counted_from_its_start(monkeypatch, started, caplog):
    clock = iter([100.0, 101.0, 112.0, 131.0])
    monkeypatch.setattr(parallel, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(parallel, "_gpus", lambda: 0)
    caplog.set_level("INFO", "tutelage")
    parallel.run_forked([lambda: 1.0] * 2, processes=2)
    assert caplog.messages == ["[1/2] job 0: 1 (12 s)", "[2/2] job 1: 1 (30 s)"]


@pytest.mark.parametrize(("processes", "slots"), [(None, 3), (2, 2), (9, 3)])
def test_how_many_jobs_share_gpus(monkeypatch, started, processes, slots):
    gpus = [Gpu("a", 9 * GIB, 16 * GIB), Gpu("b", 5 * GIB, 16 * GIB)]
    monkeypatch.setattr(gpu_places, "look", lambda: gpus)
    parallel.run_forked([lambda: 1.0] * 6, processes=processes, gpu_memory_gb=4)
    assert {one[1] for one in started} == {slots}
    assert {name for _, _, name in started[:slots]} == {"a", "b"}


@pytest.mark.parametrize(("given", "gpus", "slot", "names"), [
    ("", 0, 1, None), (None, 0, 1, None), ("5, 7", 2, 1, "7"), ("5,7,", 2, 2, "5"), (None, 3, 4, "1"), (" ,", 3, 2, "2"),
])  # fmt: skip
def test_which_gpu_a_slot_has(monkeypatch, tmp_path, given, gpus, slot, names):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(parallel, "cores", lambda: 9)

    def job():
        import torch

        print(repr(os.environ.get("CUDA_VISIBLE_DEVICES")), torch.get_num_threads(), flush=True)
        return 0.0

    pid, _ = parallel._start(job, slot, 4, gpus, tmp_path / "said")
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "said").read_text() == f"{names if gpus else given!r} 2\n"


def test_a_jobs_process_can_be_heard_and_ends_as_its_job_does(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    pid, _ = parallel._start(interrupted, 0, 99, 0, tmp_path / "said")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert (tmp_path / "said").read_text() == ""


def test_a_job_that_does_not_end_when_it_is_told_to_is_killed_after_its_time(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "GRACE_S", 0.3)
    told, killed = [], []
    kill = os.kill
    monkeypatch.setattr(
        os, "kill", lambda pid, how: ((killed if how == signal.SIGKILL else told).append(pid), kill(pid, how))
    )

    def deaf():
        for how in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # the second where these tests run in a shell's background
            signal.signal(how, signal.SIG_IGN)
        (tmp_path / "deaf").touch()
        time.sleep(60)

    def obedient():
        (tmp_path / "obedient").touch()
        time.sleep(60)

    pids = [parallel._start(job, 0, 1, 0, None)[0] for job in (deaf, obedient)]
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    parallel._end_all(pids)
    assert time.monotonic() - began >= 0.3
    assert sorted(told) == sorted(pids) and set(killed) == {pids[0]}
    parallel._end_all(pids)  # who has ended already is no error


def test_a_job_at_work_is_shown_by_the_slot_that_it_has(monkeypatch):
    board = progress.Board(1)
    monkeypatch.setattr(progress, "_current", board)
    seen = []
    monkeypatch.setattr(board, "show", lambda said, slot: seen.append((said.step, slot)))

    def job():
        for step in (3, 4):
            progress.current().show(progress.Status("a", step, 4))
            time.sleep(0.3)
        return 1.0

    assert parallel.run_forked([job], processes=1) == [1.0]
    assert seen == [(3, 0), (4, 0)] and board.done == 1


def gpu(gib, total=80):
    return Gpu("a", int(gib * GIB), total * GIB)


@pytest.mark.parametrize(("free", "fits"), [(3.9, False), (4.0, True), (4.1, True)])
def test_a_gpu_has_room_from_what_is_needed_on(free, fits):
    assert gpu_places.has_room("a", 4, [gpu(free)]) == fits
    assert not gpu_places.has_room("b", 4, [gpu(free)])
    if fits:
        assert gpu_places.places(4, [gpu(free)]) == ["a"]
        return
    with pytest.raises(
        UserError, match=r"^hydra.launcher.gpu_memory_gb=4: the most that a GPU has free is 3.9 GiB$"
    ):
        gpu_places.places(4, [gpu(2), gpu(free)])


def test_no_gpu_is_said():
    with pytest.raises(UserError, match=r"^hydra.launcher.gpu_memory_gb=0.5: this machine has no GPU$"):
        gpu_places.places(0.5, [])


@pytest.mark.parametrize(("need", "share"), [
    (10, (10 * GIB - CONTEXT_BYTES) / (80 * GIB)),
    (0.5, 0.05 * GIB / (80 * GIB)),  # CUDA itself takes more than all of it: a tenth is left
    (0.65, 0.065 * GIB / (80 * GIB)),
    (100, 1.0),
])  # fmt: skip
def test_the_part_of_a_gpus_memory_that_a_job_may_take(need, share):
    assert gpu_places.share(need, gpu(80)) == pytest.approx(share)


@pytest.mark.parametrize(("amount", "fine"), [
    (None, True), (1e-9, True), (1, True), (0, False), (-0.1, False), (math.inf, False), (math.nan, False), (True, False), ("1", False),
])  # fmt: skip
def test_an_amount_of_memory(amount, fine):
    if fine:
        gpu_places.check(amount)
        return
    said = re.escape(
        f"hydra.launcher.gpu_memory_gb must be a number above 0 or nothing (null), got {amount!r}"
    )
    with pytest.raises(UserError, match=f"^{said}"):
        gpu_places.check(amount)


def test_a_share_limits_pytorch_on_the_one_gpu_that_it_sees(monkeypatch):
    import torch

    asked = []
    monkeypatch.setattr(gpu_places, "look", lambda: [gpu(40)])
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *words: asked.append(words))
    parallel._Share("a", 10).limit()
    assert asked == [(gpu_places.share(10, gpu(40)), 0)]


def test_data_are_loaded_once_before_the_jobs(monkeypatch):
    loaded = []

    def build_data(config):
        loaded.append(config)
        if config["data"] == "wrong":
            raise UserError("no such data")

    monkeypatch.setattr("tutelage.engine.data_sets.build_data", build_data)
    parallel.preload(["a", "wrong", "a", "b"], "runs")
    assert loaded == [{"data": node, "runs_dir": "runs"} for node in ("a", "wrong", "b")]


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 5, 7})
    assert parallel.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert parallel.cores() == 1


def test_a_system_that_cannot_fork_is_told_what_to_use(monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UserError, match="use hydra/launcher=basic"):
        parallel.run_forked([])


def test_a_process_dies_with_its_parent_where_the_system_can(monkeypatch):
    asked = []
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(prctl=lambda *words: asked.append(words)))
    for platform, words in (("darwin", []), ("linux", [(1, signal.SIGKILL)])):
        monkeypatch.setattr(sys, "platform", platform)
        parallel.die_with_parent()
        assert asked == words
