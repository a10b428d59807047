"""Several runs on one GPU: how many, which, what each may take, and that one that dies takes no other along. The GPUs are made up."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tutelage.errors import UserError
from tutelage.jobs import gpu_places, parallel
from tutelage.jobs.gpu_places import Gpu
from tutelage.jobs.outcomes import Jobs

GIB = 2**30
TOOL = """#!/bin/sh
printf 'GPU-a, 20480, 40960\\nGPU-b, 1024, 40960\\nGPU-c, [N/A], [N/A]\\n'
"""


def test_as_many_as_fit_the_gpus_in_turn():
    gpus = [Gpu("a", 25 * GIB, 80 * GIB), Gpu("b", 79 * GIB, 80 * GIB), Gpu("c", 9 * GIB, 80 * GIB)]
    found = gpu_places.places(10, gpus)
    assert found == ["a", "b", "a", "b", "b", "b", "b", "b", "b"]
    assert all(
        found.count(gpu.name) * 10 * GIB <= gpu.free < (found.count(gpu.name) + 1) * 10 * GIB for gpu in gpus
    )


@pytest.mark.parametrize(("gpus", "said"), [([], "no GPU"), ([Gpu("a", 3 * GIB, 80 * GIB)], "3.0 GiB")])
def test_no_room_is_one_message(gpus, said):
    with pytest.raises(UserError, match=said):
        gpu_places.places(4, gpus)


@pytest.mark.parametrize("amount", [0, -1, "much", True, float("inf")])
def test_what_is_no_amount_is_one_message(amount):
    with pytest.raises(UserError, match="gpu_memory_gb"):
        gpu_places.check(amount)


def test_the_shares_of_all_that_fit_and_of_cuda_itself_fit_the_gpu():
    for free in (80 * GIB, 11 * GIB):
        gpu = Gpu("a", free, 80 * GIB)
        for need in (0.3, 1.0, 2.5, 10.0):
            many = len(gpu_places.places(need, [gpu]))
            assert many * gpu_places.share(need, gpu) * gpu.total <= free
            if need * GIB > 2 * gpu_places.CONTEXT_BYTES:
                assert many * (gpu_places.share(need, gpu) * gpu.total + gpu_places.CONTEXT_BYTES) <= free + 1


@pytest.mark.parametrize(
    ("given", "expected"), [(None, ["GPU-a", "GPU-b"]), ("1", ["GPU-b"]), ("GPU-a", ["GPU-a"]), ("", [])]
)
def test_the_gpus_are_those_that_this_process_may_use(tmp_path, monkeypatch, given, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert [gpu.name for gpu in gpu_places.look()] == expected
    free = {"GPU-a": 20 * GIB, "GPU-b": GIB}
    assert all((gpu.total, gpu.free) == (40 * GIB, free[gpu.name]) for gpu in gpu_places.look())


@pytest.fixture
def two(monkeypatch):
    """Pretend to have two GPUs with room for two jobs and for one."""
    monkeypatch.setattr(
        gpu_places, "look", lambda: [Gpu("0", 9 * GIB, 10 * GIB), Gpu("1", 5 * GIB, 10 * GIB)]
    )
    monkeypatch.setattr(parallel._Share, "limit", lambda _: None)


def visible():
    return float(os.environ["CUDA_VISIBLE_DEVICES"])


def test_jobs_share_gpus_and_one_that_is_killed_takes_no_other_along(two):
    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    died = []
    values = parallel.run_forked(
        [visible, killed, visible, visible],
        gpu_memory_gb=4,
        died=lambda number, how: died.append((number, how)),
    )
    assert [value for value in values if value == value] == [0.0, 0.0, values[3]]
    assert len(died) == 1 and died[0][0] == 1 and "SIGKILL" in died[0][1]


def test_a_job_waits_while_somebody_else_has_the_room(two, monkeypatch):
    asked = []

    def look():
        asked.append(time.monotonic())
        free = 9 if len(asked) == 1 else 1  # it is taken as soon as the first job has begun
        return [Gpu("0", free * GIB, 10 * GIB)]

    monkeypatch.setattr(gpu_places, "look", look)

    def job():
        began = time.monotonic()
        time.sleep(0.2)
        return began

    first, second = sorted(parallel.run_forked([job, job], gpu_memory_gb=4))
    assert second - first >= 0.2


def test_the_share_of_a_launcher_reaches_its_jobs(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(parallel, "run_forked", lambda jobs, **more: given.update(more) or [])
    jobs = Jobs(tmp_path)
    jobs.gpu_memory_gb = 4
    jobs.fork([(["seed=0"], None, lambda: 0.0)], 2)
    assert given["gpu_memory_gb"] == 4
