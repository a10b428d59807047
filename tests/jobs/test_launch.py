"""Ranks: a run of two is started by command from its finished configuration, in a single run and inside a multirun."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from tutelage.cli.main import main
from tutelage.engine.fit import train
from tutelage.errors import UserError
from tutelage.jobs import parallel, ranks
from tutelage.runs.store import Store

SMALL = ["logger=none", "hardware.threads=1", "fit.max_steps=6", "fit.validate_every_steps=3", "data.batch_size=32",
         "model.depth=2", "model.width=16", "model.batch_norm=false",
         "fit.log_every_steps=1", "optimizer.schedule=cosine", "optimizer.final_factor=0.1"]  # fmt: skip


def test_a_multirun_of_two_rank_jobs_gives_the_results_of_one_rank(tmp_path):
    """Batch norm aside, which sees its rank's share, the global batch alone decides: two ranks train the same network."""
    assert main(["train", "-m", *SMALL, f"runs_dir={tmp_path}", "hardware=ddp_cpu", "seed=0,1"]) == 0
    assert main(["train", "-m", *SMALL, f"runs_dir={tmp_path}", "seed=0,1"]) == 0
    rates = {tuple(row["lr"] for row in run.metrics.rows) for run in Store(tmp_path).runs()}
    assert len(rates) == 1  # the schedule does not depend on the ranks, and ends where it should
    assert rates.pop()[-1] == pytest.approx(1e-4)
    runs = {(run.result["cost"]["ranks"], run.config["seed"]): run.result for run in Store(tmp_path).runs()}
    assert set(runs) == {(2, 0), (2, 1), (1, 0), (1, 1)}
    for seed in (0, 1):
        two, one = runs[2, seed], runs[1, seed]
        assert two["best"]["step"] == one["best"]["step"]
        # 216 and 359 samples: equal metrics of unequal shares count every sample once.
        for split in ("validation", "test"):
            assert two["last"][split]["accuracy"] == pytest.approx(one["last"][split]["accuracy"], abs=1e-6)
            assert two["last"][split]["loss"] == pytest.approx(one["last"][split]["loss"], rel=1e-4)


LAUNCHERS = {
    "local": ["hydra/launcher=local", "hydra.launcher.processes=2"],
    "slurm": ["hydra/launcher=slurm", "hydra.launcher.cluster=local"],
}


@pytest.mark.parametrize("launcher", [pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS])
def test_jobs_of_two_ranks_work_inside_every_launcher(tmp_path, launcher):
    """Two jobs at a time, each a group of two ranks; the test above has them in this process."""
    words = ["train", "-m", *SMALL, "hardware=ddp_cpu", "seed=0,1"]
    assert main([*words, *LAUNCHERS[launcher], f"runs_dir={tmp_path}"]) == 0
    runs = {run.config["seed"]: run for run in Store(tmp_path).runs()}
    assert set(runs) == {0, 1}
    for run in runs.values():
        assert run.result["cost"]["ranks"] == 2
        assert len(run.attempts) == 1
    assert runs[0].result["last"]["test"]["loss"] != runs[1].result["last"]["test"]["loss"]


def test_a_rank_that_dies_after_the_result_is_written_fails_nothing(tmp_path, capsys, monkeypatch):
    (tmp_path / "late.py").write_text(
        "import atexit, os\n"
        "from tutelage.models.fcn import FCN\n"
        "class Late(FCN):\n"
        "    pass\n"
        "if os.environ.get('RANK') == '1':\n"
        "    atexit.register(os.abort)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [w for w in SMALL if not w.startswith("model.")]
    own = ["model=own", "model._target_=late.Late", "+model.depth=1", "+model.width=8"]
    assert main(["train", *words, *own, f"runs_dir={tmp_path}/runs", "hardware=ddp_cpu"]) == 0
    assert "died after the result was written" in capsys.readouterr().err
    (run,) = Store(tmp_path / "runs").runs()
    assert run.is_complete


def test_a_mistake_that_only_a_rank_can_see_is_one_message(tmp_path, capsys):
    words = [*SMALL, f"runs_dir={tmp_path}", "hardware=ddp_cpu", "data.batch_size=31"]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert error == "tutelage: " + error.removeprefix("tutelage: ").splitlines()[0] + "\n"
    assert "31 cannot be shared by 2 ranks" in error
    assert "Traceback" not in error


def test_parameters_without_a_gradient_are_explained_and_allowed_where_the_user_says_so(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "partial.py").write_text(
        "from torch import nn\n"
        "class Partial(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.used, self.spare = nn.Linear(64, num_classes), nn.Linear(3, 3)\n"
        "    def forward(self, inputs):\n"
        "        return self.used(inputs.flatten(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [w for w in SMALL if not w.startswith("model.")]
    own = ["model=own", "model._target_=partial.Partial"]
    words = ["train", *words, *own, f"runs_dir={tmp_path}/runs", "hardware=ddp_cpu"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "set hardware.strategy=ddp_find_unused_parameters_true" in error and "Traceback" not in error
    assert main([*words, "hardware.strategy=ddp_find_unused_parameters_true"]) == 0


@pytest.mark.parametrize(
    ("accelerator", "devices", "ranks_or_none"),
    [
        ("gpu", [0, 3], 2),
        ("gpu", [5], 1),
        ("gpu", [-1], None),
        ("gpu", [True], None),
        ("gpu", ["0"], None),
        ("cpu", [0, 1], None),
    ],
)
def test_a_list_of_devices_names_gpus(accelerator, devices, ranks_or_none):
    hardware = {"devices": devices, "num_nodes": 1, "strategy": "ddp", "accelerator": accelerator}
    if ranks_or_none:
        assert ranks.ranks_of({"hardware": hardware}) == ranks_or_none
        return
    with pytest.raises(UserError, match="a list names the GPUs to use by their numbers"):
        ranks.ranks_of({"hardware": hardware})


@pytest.mark.parametrize("devices", [0, -2, True, "many"])
def test_an_impossible_number_of_devices_is_refused(devices):
    hardware = {"devices": devices, "num_nodes": 1, "strategy": "ddp", "accelerator": "cpu"}
    with pytest.raises(UserError, match="devices"):
        ranks.ranks_of({"hardware": hardware})


def test_several_nodes_without_srun_or_torchrun_are_explained(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(UserError, match="srun or torchrun"):
        ranks.ranks_of({"hardware": {"devices": 1, "num_nodes": 2, "strategy": "ddp", "accelerator": "gpu"}})


def test_existing_ranks_are_recognised(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert ranks.in_ranks()


def test_rerun_where_ranks_exist_already_is_refused_and_touches_nothing(tmp_path, monkeypatch, capsys):
    assert main(["train", *SMALL, f"runs_dir={tmp_path}"]) == 0
    (run,) = Store(tmp_path).runs()
    written = (run.path / "result.json").stat().st_mtime_ns
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert main(["train", *SMALL, f"runs_dir={tmp_path}", "rerun=true"]) == 2
    assert "rerun=true cannot be given where the ranks exist already" in capsys.readouterr().err
    assert (run.path / "result.json").stat().st_mtime_ns == written


def visible():
    return float(os.environ["CUDA_VISIBLE_DEVICES"])


@pytest.mark.parametrize(("given", "expected"), [("5,7", [5.0, 7.0]), ("3", [3.0, 3.0]), (None, [0.0, 1.0])])
def test_parallel_jobs_get_gpus_that_this_process_was_given(monkeypatch, given, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(parallel, "_gpus", lambda: 2)
    assert parallel.run_forked([visible, visible], processes=2) == expected


@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_ends_parallel_jobs_also_where_a_shell_had_them_ignore_interrupts(ignored):
    """`command &` in a script starts with SIGINT ignored, and its children with it."""

    def leave(*_):
        raise KeyboardInterrupt

    def job():
        time.sleep(60)
        return 0.0

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGTERM, leave)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            parallel.run_forked([job, job], processes=2)
        assert time.monotonic() - started < 25  # not 60, and no job had to be killed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_fewer_samples_than_ranks_are_told():
    trainer = SimpleNamespace(world_size=2, global_rank=0, strategy=SimpleNamespace(root_device="cpu"))
    splits = {"train": range(8), "validation": range(1), "test": range(8)}
    built = SimpleNamespace(data=SimpleNamespace(splits=splits), method=None)
    with pytest.raises(UserError, match="1 validation samples cannot be shared by 2 ranks"):
        train(trainer, built, every=1, max_steps=1, checkpoint=None, config={"seed": 0})
