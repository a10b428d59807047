"""A runs folder that a group shares: two users, each with the usual umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.runs.folders import is_held, lock_at, make_folder
from tutelage.runs.run import Run

WORK = """
import os, sys
from pathlib import Path
path, user, group = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
import filelock, json, socket  # that user may not be allowed to read what Python is installed in
from tutelage.runs.run import Run
os.setgroups([group]); os.setgid(user); os.setuid(user)
os.umask(0o022)
run = Run(path, name="a/b")
with run.lock():
    path.mkdir(parents=True, exist_ok=True)
    with run.writer() as writer:
        writer.write({"step": int(sys.argv[4])})
print(len(run.metrics.rows))
"""


def work(path: Path, user: int, step: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(path), str(user), "54321", str(step)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to become other users"
)
def test_two_users_of_one_group_work_on_one_run_whatever_their_umask(tmp_path):
    runs = Path("/tmp") / f"shared-runs-{os.getpid()}"
    runs.mkdir()
    try:
        os.chown(runs, 0, 54321)
        runs.chmod(0o2775)
        run = runs / "a/b/0123456789ab"
        assert [work(run, user, step) for step, user in enumerate((65001, 65002, 65001), start=1)] == [
            "1",
            "2",
            "3",
        ]
        (lock,) = runs.rglob("*.lock")
        assert stat.S_IMODE(lock.stat().st_mode) == 0o664
    finally:
        subprocess.run(["rm", "-r", str(runs)], check=True)


@pytest.mark.parametrize(
    ("folder", "lock"), [(0o700, 0o600), (0o755, 0o644), (0o2775, 0o664), (0o775, 0o664)]
)
def test_a_lock_may_be_taken_by_those_who_may_write_its_folder(tmp_path, folder, lock):
    place = tmp_path / "runs"
    place.mkdir()
    place.chmod(folder)
    with lock_at(place / "x.lock"):
        assert is_held(place / "x.lock")
    assert stat.S_IMODE((place / "x.lock").stat().st_mode) == lock
    assert not is_held(place / "x.lock")


def test_the_umask_holds_where_no_group_shares_the_folder_and_is_put_back_where_one_does(tmp_path):
    before = os.umask(0o027)
    try:
        make_folder(tmp_path / "own" / "runs")
        assert stat.S_IMODE((tmp_path / "own/runs").stat().st_mode) == 0o750
        (tmp_path / "own").chmod(0o2775)
        with Run(tmp_path / "own/shared/0123456789ab", name="shared").lock():
            assert (tmp_path / "own/shared").stat().st_mode & stat.S_IWGRP
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
