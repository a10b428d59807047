"""A sweep under a storm of kill -9, through the real command: it ends with the files of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tutelage.runs.store import Store

WORDS = ["logger=none", "hardware.threads=1", "fit.max_steps=800", "fit.validate_every_steps=20", "fit.checkpoint_every_s=0",
         "experiment=demo/plain,demo/guided-trained", "seed=0,1", "model.depth=6"]  # fmt: skip
KILLS = 20
LAUNCHERS = {
    "in this process": [],
    "local": ["hydra/launcher=local", "hydra.launcher.processes=2"],
}


def start(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tutelage", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*words: str) -> str:
    process = start(*words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def network(run):
    """The header of the network's file, whose keys the library writes in a random order, and the bytes of its tensors."""
    content = (run.path / "network.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def files(root):
    """What must be equal: tables, selected networks, results (less their cost), rows (less their times), by path."""
    finish("report", "demo", f"runs_dir={root}")
    found = {}
    for run in Store(root).runs():
        rows = [{k: v for k, v in row.items() if k != "train_s"} for row in run.metrics.rows]
        result = {k: v for k, v in run.result.items() if k != "cost"}
        found[run.key] = (rows, result, network(run))
    return found, (root / "demo" / "table.csv").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    finish("train", "-m", *WORDS, f"runs_dir={root}")
    return files(root)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_twenty_kills_at_random_moments(tmp_path, undisturbed, launcher):
    draw = random.Random(0)
    words = ["train", "-m", *WORDS, *LAUNCHERS[launcher], f"runs_dir={tmp_path}"]
    kills = 0
    while kills < KILLS:
        before = len(list(tmp_path.glob(".sweeps/*")))
        sweep = start(*words)
        while len(list(tmp_path.glob(".sweeps/*"))) == before and sweep.poll() is None:
            time.sleep(0.01)  # importing: nothing to kill yet
        time.sleep(draw.uniform(0.2, 1.5))
        sweep.kill()
        code = sweep.wait()
        sweep.stdout.close()
        assert code == -signal.SIGKILL, f"the sweep ended after {kills} kills: it is too short for this test"
        kills += 1
    finish(*words)
    assert files(tmp_path) == undisturbed
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_three_processes_on_one_sweep_killed_in_turn(tmp_path, undisturbed):
    """Two go on while one dies and comes back; afterwards no run was made twice, and no process is left."""
    words = ["train", "-m", *WORDS, f"runs_dir={tmp_path}"]
    draw = random.Random(1)
    sweeps = [start(*words) for _ in range(3)]
    for turn in range(6):
        time.sleep(draw.uniform(3.0, 6.0))
        if sweeps[turn % 3].poll() is None:
            sweeps[turn % 3].kill()
        sweeps[turn % 3].communicate()
        sweeps[turn % 3] = start(*words)
    for sweep in sweeps:
        output, _ = sweep.communicate(timeout=600)
        assert sweep.returncode == 0, output
    assert files(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_stale_lock_file_of_a_dead_machine_is_no_lock(tmp_path):
    """Who holds a run is the system's lock, which dies with its holder: what the files beside it say stops nobody."""
    words = ["train", *WORDS[:4], "fit.max_steps=20", f"runs_dir={tmp_path}"]
    finish(*words)
    (run,) = Store(tmp_path).runs()
    (run.path / "result.json").unlink()
    lock = run._lock_path.with_suffix(".json")
    lock.write_text('{"pid": 1, "host": "elsewhere", "since": "2020-01-01 00:00:00"}')
    os.utime(lock, (0, 0))
    finish(*words)
    assert run.is_complete
