"""hydra/launcher=ray: what is asked for, runs that travel as bytes, and a cluster of two nodes whose nodes, drivers and processes die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tutelage.cli.main import main
from tutelage.config.compose import of_hydra
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs import ray_request, run_parcels
from tutelage.runs.records import read_json
from tutelage.runs.run import State
from tutelage.runs.store import Store

QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=4",
    "fit.validate_every_steps=2",
    "model.depth=2",
    "model.width=8",
]
LONG = [*QUICK, "fit.max_steps=3000", "fit.validate_every_steps=50", "fit.checkpoint_every_s=0"]
RAY = "hydra/launcher=ray"


def options(*words):
    found = of_hydra([RAY, *words], "launcher")
    found.pop("_target_")
    return found


def request(*words, of=()):
    given = options(*words)
    ray_request.check(given)
    return ray_request.request_of(plan_of([*QUICK, *of]), given)


def test_a_job_asks_for_what_its_ranks_need_unless_the_command_says_otherwise():
    assert request() == ray_request.Request(1, None, None)
    assert request(of=["hardware=ddp_cpu"]).cpus == 2
    assert request(of=["hardware=gpu"]).gpus == 1
    shared = request(
        "hydra.launcher.gpus=0.25",
        "hydra.launcher.memory_gb=1.5",
        "hydra.launcher.cpus=0.5",
        of=["hardware=gpu"],
    )
    assert shared == ray_request.Request(0.5, 0.25, 3 * 2**29)
    assert shared.fits({"CPU": 1, "GPU": 1, "memory": 2**31}) and not shared.fits({"CPU": 1})


@pytest.mark.parametrize(("words", "of", "said"), [
    (["hydra.launcher.gpus=1.5"], [], "part of one GPU"),
    (["hydra.launcher.cpus=many"], [], "hydra.launcher.cpus"),
    (["hydra.launcher.memory_gb=-1"], [], "hydra.launcher.memory_gb"),
    (["hydra.launcher.shared=maybe"], [], "true or false"),
    (["hydra.launcher.gpus=0.5"], ["hardware=gpu", "hardware.devices=2"], "asks for 2"),
    ([], ["hardware=slurm", "hardware.num_nodes=2"], "hydra/launcher=slurm"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_one_message(words, of, said):
    with pytest.raises(UserError, match=said):
        request(*words, of=of)


def test_a_run_travels_whole_and_replaces_no_complete_one(command, tmp_path):
    run = command("seed=0")
    there = Store(tmp_path / "there").run(run.name, run.identity)
    run_parcels.unpack(run_parcels.pack(there), there)  # nothing of nothing
    assert there.state is State.MISSING
    there.path.mkdir(parents=True)
    (there.path / "half").touch()
    run_parcels.unpack(run_parcels.pack(run), there)
    assert there.is_complete and not (there.path / "half").exists()
    assert {p.name: p.read_bytes() for p in run.path.glob("*.*")} == {
        p.name: p.read_bytes() for p in there.path.glob("*.*")
    }
    before = (there.path / "result.json").stat().st_ino
    run_parcels.unpack(run_parcels.pack(run), there)
    assert (there.path / "result.json").stat().st_ino == before
    assert not list(there.path.parent.glob(".arriving*"))


@pytest.fixture(scope="module")
def cluster():
    """Give a Ray cluster of a head without CPUs for jobs and two nodes of one CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def started(cluster, folder, *words):
    """Start a sweep on the cluster, in a process of its own."""
    own = [RAY, f"hydra.launcher.address={cluster.address}", f"runs_dir={folder}"]
    whole = [sys.executable, "-m", "tutelage", "train", "-m", *words, *own]
    return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(true, what, process=None, seconds=900):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        if process is not None and process.poll() is not None:
            pytest.fail(f"{what}: the command ended: {process.communicate()[0]}")
        time.sleep(0.05)


def begun(folder, seed):
    return any(
        run.checkpoint("last").exists()
        for run in Store(folder).runs()
        if (run.path / "config.yaml").exists() and run.config["seed"] == seed
    )


def undisturbed(folder, *words):
    assert main(["train", "-m", *words, f"runs_dir={folder}"]) == 0
    return {run.identity: run.result["metrics"] for run in Store(folder).runs()}


def results(folder):
    return {run.identity: run.result["metrics"] for run in Store(folder).runs() if run.is_complete}


@pytest.mark.slow
def test_a_node_that_dies_a_driver_that_dies_and_a_process_that_is_killed(cluster, tmp_path):
    words = [*LONG, "seed=0,1,2", "retry=1"]
    shared = tmp_path / "shared"
    sweep = started(cluster, shared, *words)
    until(lambda: begun(shared, 0) and begun(shared, 1), "two jobs have saved something", sweep)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    until(lambda: begun(shared, 2) or sweep.poll() is not None, "the third job runs")
    sweep.kill()  # the driver
    sweep.communicate()
    until(
        lambda: not any(run.is_locked for run in Store(shared).runs()), "what the driver had begun has ended"
    )
    cluster.add_node(num_cpus=1)
    again = started(cluster, shared, *words)

    def running():
        for run in Store(shared).runs():
            if run.is_locked and not run.is_complete:
                return read_json(run._lock_path)["pid"]
        return None

    until(running, "a job runs again", again)
    os.kill(int(running()), signal.SIGKILL)
    said, _ = again.communicate(timeout=1500)
    assert again.returncode == 0, said
    assert "given to the cluster again" in said
    assert results(shared) == undisturbed(tmp_path / "alone", *words)
    runs = list(Store(shared).runs())
    assert len(runs) == 3 and any(run.result["cost"]["resumed_at_step"] > 0 for run in runs)
    stamps = {run.key: (run.path / "result.json").stat().st_mtime_ns for run in runs}
    last = started(cluster, shared, *words)
    assert last.wait(timeout=1500) == 0
    assert {run.key: (run.path / "result.json").stat().st_mtime_ns for run in Store(shared).runs()} == stamps


@pytest.mark.slow
def test_without_a_shared_folder_runs_and_what_they_need_travel(cluster, tmp_path):
    need = "+needs.t=[" + ",".join(f"'{word}'" for word in (*QUICK, "name=teacher")) + "]"
    words = [*QUICK, "method=distillation", "model@teacher=fcn", "teacher.depth=2", "teacher.width=8", "teacher.weights=need:t",
             need, "seed=0,1"]  # fmt: skip
    sweep = started(cluster, tmp_path / "here", *words, "hydra.launcher.shared=false")
    said, _ = sweep.communicate(timeout=1500)
    assert sweep.returncode == 0, said
    runs = list(Store(tmp_path / "here").runs())
    assert len(runs) == 3 and all(run.is_complete for run in runs), (
        said
    )  # a teacher, made once, and two students
    assert results(tmp_path / "here") == undisturbed(tmp_path / "alone", *words)
