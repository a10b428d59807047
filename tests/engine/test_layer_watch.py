"""Layers that are watched (fit.watch_layers): the training stays as it is, and what is recorded is the look of `diagnose`."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from small_runs import METHODS
from tutelage.engine.build import build
from tutelage.engine.layer_watch import BATCHES, QUANTITIES, STEP
from tutelage.engine.signal import signal
from tutelage.errors import UserError
from tutelage.methods.base import step_seed

NO_TASK = ("gan", "diffusion", "inversion", "masked_images", "masked_tokens", "self_supervised", "synthesis")
OF_A_TASK = [name for name in METHODS if name.split("/")[0] not in NO_TASK]
QUICK = ("supervised", "guidance", "semi_supervised")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in OF_A_TASK]
)
def test_a_watched_run_is_the_run_it_was(command, name):
    words = [f"method={name}", *METHODS[name], "fit.max_steps=8"]
    plain, seen = (
        command(*words, f"fit.watch_layers={value}", folder=f"r{value}") for value in ("false", "true")
    )
    ours, theirs = (load_file(run.path / "network.safetensors") for run in (seen, plain))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs) and ours.keys() == theirs.keys()
    assert seen.result["metrics"] == plain.result["metrics"]
    before, *rows = seen.metrics.rows
    assert before["step"] == 0
    timed = ("train_s",)
    kept = [{k: v for k, v in row.items() if not k.startswith("layers/") and k not in timed} for row in rows]
    assert kept == [{k: v for k, v in row.items() if k not in timed} for row in plain.metrics.rows]
    looked = [row for row in rows if "validation/accuracy" in row]
    assert looked and all(f"layers/{quantity}/" in " ".join(row) for row in looked for quantity in QUANTITIES)


def test_the_first_look_is_that_of_diagnose(command):
    run = command("method=supervised", "fit.max_steps=2", "fit.watch_layers=true", "seed=3")
    built = build(run.config)
    stream = built.data.train_stream(seed=3, device="cpu")
    batches = list(itertools.islice(stream, BATCHES))
    found = signal(built.method.network, built.data.task, batches, seed=step_seed(3, 0), step=STEP)
    row = run.metrics.rows[0]
    assert {key for key in row if key.startswith("layers/rank/")} == {
        f"layers/rank/{layer.name}" for layer in found.layers
    }
    for layer in found.layers:
        for quantity in QUANTITIES:
            assert row[f"layers/{quantity}/{layer.name}"] == getattr(layer, quantity)


def test_an_identity_counts_it_and_stays_where_it_is_not_asked(command):
    one, other = (
        command("fit.max_steps=2", *words, folder="r") for words in ([], ["fit.watch_layers=false"])
    )
    assert one.identity == other.identity
    assert command("fit.max_steps=2", "fit.watch_layers=true", folder="r").identity != one.identity


def test_a_method_without_a_task_is_refused(command):
    with pytest.raises(UserError, match=r"fit\.watch_layers looks at how the task's loss"):
        command(
            "method=self_supervised", *METHODS["self_supervised"], "fit.max_steps=2", "fit.watch_layers=true"
        )


@pytest.mark.parametrize("killed_after", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_run_that_goes_on_has_each_look_once(tmp_path, killed_after):
    words = [
        "train", "data=digits", "model=fcn", "model.width=16", "fit.max_steps=60", "fit.validate_every_steps=10",
        "fit.checkpoint_every_s=0", "fit.watch_layers=true", "logger=none",
    ]  # fmt: skip

    def rows(folder):
        found = [*(tmp_path / folder).rglob("metrics.jsonl")]
        return [json.loads(line) for line in found[0].read_text().splitlines()] if found else []

    def begun(folder):
        told = subprocess.DEVNULL
        command = [sys.executable, "-m", "tutelage", *words, f"runs_dir={tmp_path / folder}"]
        return subprocess.Popen(command, stdout=told, stderr=told)

    assert begun("whole").wait() == 0
    run = begun("killed")
    while run.poll() is None and len(rows("killed")) < killed_after:
        time.sleep(0.002)
    run.kill()
    run.wait()
    assert begun("killed").wait() == 0
    whole, again = ([{**row, "train_s": 0} for row in rows(folder)] for folder in ("whole", "killed"))
    assert whole[0]["step"] == 0 and again == whole
