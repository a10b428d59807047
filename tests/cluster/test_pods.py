"""A sweep by several pods that share a folder, as docs/tutorials/kubernetes.yaml gives it: namespaces of this machine stand for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tutelage.cli.main import main
from tutelage.runs.store import Store

MANIFEST = Path(__file__).parents[2] / "docs" / "tutorials" / "kubernetes.yaml"
SMALL = ["seed=range(6)", "model.depth=3", "fit.max_steps=300", "fit.validate_every_steps=50", "fit.checkpoint_every_s=0",
         "hardware.threads=1", "logger=none"]  # fmt: skip
NAMESPACES = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--net", "--ipc"]
INSIDE = 'hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'


def words_of_the_manifest(runs_dir):
    (container,) = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]["spec"]["containers"]
    changed = {word.partition("=")[0] for word in SMALL}
    words = [word for word in container["args"] if word.partition("=")[0] not in {*changed, "runs_dir"}]
    return [*words, *SMALL, f"runs_dir={runs_dir}"]


class Pod:
    """A process with its own hostname, network, processes and mounts; the shared folder is mounted where the manifest has it."""

    def __init__(self, name, folder):
        study = folder / f"study-of-{name}"
        study.mkdir()
        self.output = folder / f"{name}.txt"
        command = [sys.executable, "-m", "tutelage", *words_of_the_manifest(study / "runs")]
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [*NAMESPACES, "sh", "-c", INSIDE, "sh", name, str(folder / "volume"), str(study), *command],
                stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def evict(self):
        self.process.kill()  # the kernel ends what else is in its namespace
        self.process.wait()


def can_make_pods():
    if os.geteuid() or not shutil.which("unshare"):
        return False
    return not subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not can_make_pods(), reason="needs root and Linux's namespaces (unshare)")
def test_pods_share_a_sweep_and_what_one_leaves_that_is_killed_others_end(tmp_path):
    (tmp_path / "volume").mkdir()
    store = Store(tmp_path / "volume" / "runs")
    pods = [Pod(f"pod-{number}", tmp_path) for number in range(3)]
    try:
        while not any(run.checkpoint("last").is_file() and not run.is_complete for run in store.runs()):
            assert all(pod.process.poll() is None for pod in pods), [pod.output.read_text() for pod in pods]
            time.sleep(0.02)
        at_work = [pod for pod in pods if "waiting" not in pod.output.read_text()]
        at_work[0].evict()
        pods[pods.index(at_work[0])] = Pod("pod-again", tmp_path)
        codes = [pod.process.wait(timeout=900) for pod in pods]
    finally:
        for pod in pods:
            pod.evict()
    assert codes == [0, 0, 0], [pod.output.read_text() for pod in pods]
    runs = [run for run in store.runs() if run.name == "demo/plain"]
    assert len(runs) == 6 and all(run.is_complete for run in runs)
    attempts = sorted(len(run.attempts) for run in runs)
    assert attempts[:5] == [1] * 5 and attempts[5] <= 2  # the killed pod's run alone was begun again
    assert main([*words_of_the_manifest(tmp_path / "alone")]) == 0
    for run in runs:
        other = Store(tmp_path / "alone").at(run.key)
        assert run.result["metrics"] == other.result["metrics"]
        ours, theirs = (load_file(one.path / "network.safetensors") for one in (run, other))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
