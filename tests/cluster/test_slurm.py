"""On a real SLURM of two nodes (`slurm.sh` starts it): jobs of several nodes, ranks started by hand, and all that ends a job early."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutelage.errors import UserError
from tutelage.runs.run import State
from tutelage.runs.store import Store

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
MISSING = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"there is no SLURM here: {', '.join(MISSING)} missing (see tests/cluster/slurm.sh)",
    ),
    pytest.mark.skipif(
        os.getuid() != 0, reason="tests/cluster/slurm.sh needs root: a node daemon starts jobs for others"
    ),
]
QUICK = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=40",
    "fit.validate_every_steps=20",
    "model.depth=2",
    "model.width=8",
]
LONG = [*QUICK, "fit.max_steps=900", "fit.validate_every_steps=100", "fit.checkpoint_every_s=0",
        "+objective@method.objectives.held=held"]  # fmt: skip
HELD = '''
import time
from pathlib import Path

from tutelage.objectives.base import Objective


class Held(Objective):
    """Nothing, but a process waits after 300 steps until there is a file `go`: so a run lasts as long as a test means, on any machine."""

    seen = 0

    def loss(self, step):
        self.seen += 1
        while self.seen > 300 and not Path("go").exists():
            time.sleep(0.05)
        return 0 * step.output.sum()
'''
TWO_NODES = ["hardware=slurm", "hardware.accelerator=cpu", "hardware.devices=1"]
SLURM = "hydra/launcher=slurm"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start SLURM; give its folder."""
    folder = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).parent / "slurm.sh"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        subprocess.run([script, "start", folder], check=True)
        yield folder
        subprocess.run([script, "stop", folder], check=True)


@pytest.fixture(autouse=True)
def empty(cluster, tmp_path, monkeypatch):
    """Work in a folder of its own, where `LONG` runs wait for a file `go`, and leave no job behind."""
    monkeypatch.chdir(tmp_path)
    Path("held_runs.py").write_text(HELD)
    Path("conf/objective").mkdir(parents=True)
    Path("conf/objective/held.yaml").write_text(
        "_target_: held_runs.Held\nweight: 1.0\nschedule: {name: always}\n"
    )
    yield
    subprocess.run(["scancel", "--me"], check=True)
    until(lambda: not said("squeue", "--noheader"), "the queue is empty")


def command(*words):
    """Give the command line of a training."""
    return [sys.executable, "-m", "tutelage", "train", *words]


def said(*words):
    """Run a command; return what it prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def train(*words):
    """Run a training; return exit code and what it says."""
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr


def begin(*words):
    """Begin a sweep; what it says is in the file `said`."""
    file = Path(f"sweep-{len(list(Path().glob('sweep-*')))}.txt").absolute()
    with file.open("w") as output:
        sweep = subprocess.Popen(command("-m", SLURM, *words), stdout=output, stderr=subprocess.STDOUT)
    sweep.said = file
    return sweep


def end(sweep):
    """Wait for a sweep; return exit code and what it said."""
    code = sweep.wait(timeout=500)
    return code, sweep.said.read_text()


def go():
    """Let the runs that wait go on."""
    Path("go").touch()


def until(condition, what, limit_s=200):
    """Wait for something; return it."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    pytest.fail(f"not within {limit_s} s: {what}\n{said('squeue', '--array', '--states=all')}")


def run_of(seed):
    """Return the run of a seed."""
    with contextlib.suppress(StopIteration, OSError, UserError):  # one that is being made
        return next(run for run in Store("runs").runs() if run.config["seed"] == seed)


def saved(*seeds):
    """Wait until the runs of these seeds could be resumed."""
    until(
        lambda: all((run := run_of(seed)) and run.checkpoint("last").exists() for seed in seeds),
        "checkpoints",
    )


def numbers():
    """Return the cluster's numbers of the jobs of the last sweep, in the order of their seeds."""
    return sorted(said("squeue", "--array", "--noheader", "--format=%i").split())


def lines(output):
    """Return the lines of jobs that ended."""
    return [line for line in output.splitlines() if re.match(r"\[\d+/\d+\]", line)]


def test_a_sweep_of_two_nodes_and_the_same_command_again():
    words = ["-m", *QUICK, SLURM, "hydra.launcher.nodes=2", *TWO_NODES, "seed=0,1"]
    code, output = train(*words)
    assert code == 0, output
    assert len(lines(output)) == 2 and all(
        re.search(r"val\. \w+ .*, test .* \(\d+ s\)$", line) for line in lines(output)
    )
    assert "srun" not in output and "submitit" not in output
    assert [run.result["cost"]["ranks"] for run in Store("runs").runs()] == [2, 2]
    code, output = train(*words)
    assert code == 0 and "submitted" not in output


def test_ranks_that_srun_starts_and_those_that_a_batch_script_starts():
    code = subprocess.run(
        ["srun", "--nodes=2", "--ntasks=2", *command(*QUICK, "hardware=ddp_cpu", "seed=0")]
    ).returncode
    assert code == 0
    words = " ".join(command(*QUICK, "hardware=ddp_cpu", "seed=1"))
    subprocess.run(["sbatch", "--wait", "--ntasks=2", "--output=batch", f"--wrap={words}"], check=True)
    words = " ".join(command(*QUICK, *TWO_NODES, "seed=2"))
    subprocess.run(["sbatch", "--wait", "--nodes=2", "--output=batch", f"--wrap={words}"], check=True)
    runs = {run.config["seed"]: run for run in Store("runs").runs()}
    assert {seed: run.result["cost"]["ranks"] for seed, run in runs.items()} == {0: 2, 1: 2, 2: 2}


def test_too_few_cpus_or_nodes_are_said_where_they_are_asked_for():
    code, output = train(
        "-m", *QUICK, SLURM, *TWO_NODES, "hardware.devices=2", "hydra.launcher.cpus_per_task=1", "seed=0"
    )
    assert code == 2 and "hydra.launcher.cpus_per_task=2" in output
    words = " ".join(command(*QUICK, *TWO_NODES, "hardware.devices=2"))
    failed = subprocess.run(["sbatch", "--wait", "--nodes=2", "--output=batch", f"--wrap={words}"])
    batch = Path("batch").read_text()
    assert failed.returncode == 2 and "has only 1 of a node's CPUs" in batch and "Traceback" not in batch
    code, output = train("-m", *QUICK, SLURM, "hydra.launcher.partition=nope", "seed=0")
    assert code == 2 and "the cluster takes no job: invalid partition specified: nope" in output


def test_a_sweep_that_is_stopped_two_at_once_a_requeue_a_cancelled_job_and_a_preemption():
    """Nothing twice, nothing lost, and the numbers are those of a run that nothing happened to."""
    words = [*LONG, "seed=0,1,2,3"]
    sweep = begin(*words)
    saved(0, 1, 2, 3)
    jobs = numbers()
    sweep.send_signal(signal.SIGTERM)
    code, output = end(sweep)
    assert code == 143 and f"`scancel {' '.join(jobs)}` ends them, the same command waits for them" in output
    sweeps = [begin(*words), begin(*words)]
    for sweep in sweeps:
        until(lambda sweep=sweep: "wait or run" in sweep.said.read_text(), "both wait for the jobs")
    said("scontrol", "requeue", jobs[0])
    said("scancel", jobs[1])
    subprocess.run(
        ["srun", "--partition=urgent", "--nodes=2", "--exclusive", "sleep", "1"], check=True
    )  # takes the others' place
    go()
    for sweep in sweeps:
        code, output = end(sweep)
        assert code == 1, output
        assert "waiting for 4 jobs of an earlier command" in output and "submitted;" not in output
        assert len(lines(output)) == 4
        assert re.search(r"seed=1: failed: job \S+ of the cluster was cancelled while it ran", output), output
        assert "seed=0: interrupted and queued again" in output and "srun" not in output
    code, output = train("-m", SLURM, *words)
    assert code == 0 and "1 job submitted" in output, output
    runs = {run.config["seed"]: run for run in Store("runs").runs()}
    assert set(runs) == {0, 1, 2, 3} and all(run.state is State.COMPLETE for run in runs.values())
    assert all(len(runs[seed].attempts) >= 2 for seed in (0, 1))
    assert any(len(runs[seed].attempts) >= 2 for seed in (2, 3))  # whose place was taken
    code, output = train(*LONG, "seed=0", "runs_dir=plain")
    assert code == 0, output
    (plain,) = Store("plain").runs()
    assert runs[0].result["cost"]["resumed_at_step"] > 0
    assert runs[0].result["metrics"] == plain.result["metrics"]


@pytest.mark.parametrize("ranks", [TWO_NODES, ["hardware=ddp_cpu"]], ids=["on two nodes", "on one"])
def test_a_job_of_two_ranks_that_is_queued_again_and_then_cancelled(ranks):
    sweep = begin(*LONG, *ranks, "seed=0")
    saved(0)
    (job,) = numbers()
    said("scontrol", "requeue", job)
    until(lambda: len(run_of(0).attempts) == 2, "the second attempt")
    time.sleep(2)  # the cluster counts whole seconds: a job of none has not begun
    said("scancel", job)
    code, output = end(sweep)
    assert code == 1 and "interrupted and queued again" in output, output
    assert "was cancelled while it ran" in output and "srun" not in output
    until(lambda: not run_of(0).is_locked, "the lock is free")


def test_a_job_whose_time_is_over_is_queued_again_and_resumes():
    # one minute leaves twenty seconds, in which a busy machine has not saved anything yet
    sweep = begin(*LONG, "hydra.launcher.timeout_min=2", "seed=0")
    until(lambda: "interrupted and queued again" in sweep.said.read_text(), "the time is over", limit_s=400)
    go()
    code, output = end(sweep)
    assert code == 0 and "interrupted and queued again" in output, output
    assert run_of(0).result["cost"]["resumed_at_step"] > 0


def kill_all_of(job):
    """Kill every process of a job of this cluster, those that watch over it first."""
    ours = {f"SLURM_JOB_ID={job}", f"SLURM_CONF={os.environ['SLURM_CONF']}"}
    processes, watchers = [], set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if ours <= set((process / "environ").read_text(errors="replace").split("\0")):
                processes.append(int(process.name))
                parent = re.search(r"PPid:\s+(\d+)", (process / "status").read_text())[1]
                if "slurmstepd" in Path("/proc", parent, "cmdline").read_text(errors="replace"):
                    watchers.add(int(parent))
    assert processes and watchers
    for process in [*watchers, *processes]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def test_a_job_whose_process_is_killed_is_said_in_words_and_submitted_again():
    sweep = begin(*LONG, "seed=0", "retry=1")
    saved(0)
    holder = (Path("runs/.locks") / f"{run_of(0).identity}.lock").read_text()
    os.kill(int(re.search(r'"pid": (\d+)', holder)[1]), signal.SIGKILL)
    go()
    code, output = end(sweep)
    assert code == 0, output
    assert (
        "its process was killed on" in output and "; it is submitted again" in output and "srun" not in output
    )
    assert run_of(0).result["cost"]["resumed_at_step"] > 0


@pytest.mark.parametrize("what", ["the daemon", "the machine"])
def test_a_node_that_dies_gives_its_job_to_another(cluster, what):
    sweep = begin(*LONG, "seed=0")
    saved(0)
    node = said("squeue", "--noheader", "--format=%N").strip()
    os.kill(int((cluster / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
    if what == "the machine":
        kill_all_of(said("squeue", "--noheader", "--format=%i").strip())
    go()
    code, output = end(sweep)
    subprocess.run([Path(__file__).parent / "slurm.sh", "node", cluster, node[-1]], check=True)
    assert code == 0, output
    assert run_of(0).state is State.COMPLETE
    assert len(run_of(0).attempts) == (1 if what == "the daemon" else 2)
    until(
        lambda: said("sinfo", "--noheader", "--format=%T", "--partition=main").split() == ["idle"],
        "both nodes are idle",
    )
