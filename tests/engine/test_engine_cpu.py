"""What a process that trains on a CPU does with waiting threads and freed memory."""

import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tutelage.engine.cpu import set_openmp_wait

FAULTS = """
import resource, sys, torch
from tutelage.engine.cpu import prepare_cpu
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    prepare_cpu(1)
def step():
    first = torch.zeros(4, 500_000)
    second = first.exp()
    return float((first + second).sum())
for _ in range(5):  # the heap finds its size
    step()
found = []
for _ in range(3):  # a kernel that reclaims idle pages adds faults of its own to some of these
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(found))
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_a_step_frees_the_next_one_finds_without_a_page_fault() -> None:
    pages = 3 * 4 * 500_000 * 4 // 4096  # of one step
    assert faults("kept") < pages / 10  # in twenty steps
    # A small allocation above the heap's last gap pins it in some processes, and then nothing is given back anyway.
    assert any(faults("given back") > 5 * pages for _ in range(4))


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_wait_as_the_user_says_or_briefly(given: dict[str, str], monkeypatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    set_openmp_wait()
    found = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    if given or sys.platform != "darwin":
        assert found == (given or {"GOMP_SPINCOUNT": "1000"})
    monkeypatch.setattr("sys.platform", "darwin")
    set_openmp_wait()
    assert "OMP_WAIT_POLICY" in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
@pytest.mark.parametrize("limit_gb", [1.5, 2.9])
def test_a_limit_in_which_pytorch_does_not_fit_is_a_message(tmp_path, limit_gb):
    words = ["train", "model.depth=2", "fit.max_steps=2", "fit.validate_every_steps=2", "logger=none", f"runs_dir={tmp_path}"]  # fmt: skip
    limit = int(limit_gb * 2**30)
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", *words],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert (
        f"{limit_gb} GB that `ulimit -v` leaves a process" in done.stderr and "bad_alloc" not in done.stderr
    )


@pytest.mark.parametrize(("platform", "has", "threads", "asked"), [
    ("linux", True, 3, [(-3, 32 << 20), (-1, 1 << 30)]), ("linux", False, 3, []), ("darwin", True, None, []),
])  # fmt: skip
def test_freed_memory_is_kept_where_the_system_has_a_word_for_it(monkeypatch, platform, has, threads, asked):
    import torch

    from tutelage.engine import cpu

    said, used = [], []
    library = SimpleNamespace(mallopt=lambda *words: said.append(words)) if has else SimpleNamespace()
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    with cpu.prepared_cpu(threads):
        assert said == asked
    assert used == ([threads] if threads else []) + [7]


@pytest.mark.parametrize(("platform", "given", "made"), [
    ("linux", {}, {"GOMP_SPINCOUNT": "1000"}), ("darwin", {}, {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "PASSIVE"}),
    ("darwin", {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}), ("linux", {"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
])  # fmt: skip
def test_how_long_waiting_threads_spin(monkeypatch, platform, given, made):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "environ", dict(given))
    set_openmp_wait()
    assert os.environ == made
