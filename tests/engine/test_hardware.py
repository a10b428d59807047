"""Every hardware file composes with every method; half precision, accumulation and clipping train on a CPU."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from small_runs import GUIDE, METHODS
from tutelage.config.compose import compose, hydra_ready
from tutelage.config.groups import group_options
from tutelage.config.settings import Fit
from tutelage.engine.fit import plan_steps
from tutelage.typed import read


@pytest.mark.parametrize("hardware", group_options("hardware"))
def test_every_hardware_composes_with_every_method(hardware):
    methods = sorted(METHODS)
    place = group_options("hardware").index(hardware)
    with hydra_ready():
        alone = compose([f"hardware={hardware}"])["hardware"]
        # The files do not overlap, so a third of the pairs at a time shows that; the slow tier has them all.
        for method in methods[place % 3 :: 3]:
            assert (
                compose([f"hardware={hardware}", f"method={method}", *METHODS[method]])["hardware"] == alone
            )


@pytest.mark.slow
@pytest.mark.parametrize("hardware", group_options("hardware"))
def test_all_pairs_of_hardware_and_method_compose(hardware):
    with hydra_ready():
        for method, words in METHODS.items():
            config = compose([f"hardware={hardware}", f"method={method}", *words])
            assert set(config["hardware"]) == set(compose([])["hardware"])


def short(method):
    """The words of a method for a run of a few updates: both stages of FitNets within four."""
    return [f"method={method}", *METHODS[method], *(["method.hint_steps=2"] if method == "fitnets" else [])]


EVERYWHERE = ["hardware.precision=bf16-mixed", "fit.accumulate=2", "fit.gradient_clip=1.0", "fit.max_steps=4"]


@pytest.mark.parametrize(
    "method",
    [m if m in ("guidance", "fitnets", "gan") else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_half_precision_accumulation_and_clipping_train_with_every_method(command, method):
    run = command(*short(method), *EVERYWHERE)
    assert run.is_complete and run.result["last"]["step"] == 4
    assert all(math.isfinite(row["train/loss"]) for row in run.metrics.rows if "train/loss" in row)


@pytest.mark.parametrize(
    "method",
    [m if m in ("supervised", "guidance") else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_a_compiled_network_trains_with_every_method(command, monkeypatch, method):
    """Captured graphs, run without code generation, which needs a compiler: the same numbers as without."""
    words = [*short(method), "fit.max_steps=4"]
    plain = command(*words, folder="plain")
    compiled = []

    def by_graphs(self):
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", by_graphs)
    run = command(*words, "hardware.compile=true")
    assert compiled
    assert run.result["metrics"] == plain.result["metrics"]
    assert (
        load_file(run.path / "network.safetensors").keys()
        == load_file(plain.path / "network.safetensors").keys()
    )


def test_accumulation_does_not_enlarge_the_batch_of_an_alignment_and_guidance_says_so(command, caplog):
    run = command("method=guidance", *GUIDE, "fit.accumulate=2", "fit.max_steps=2")
    said = run.log.read_text()
    assert "not that of the alignment" in said
    assert "batch of 32 samples" in said


def test_a_run_states_its_cost_and_no_energy_that_it_did_not_measure(command):
    cost = command("fit.max_steps=4").result["cost"]
    assert cost["steps"] == 4
    assert cost["samples_per_s"] > 0
    assert cost["peak_memory_mb"] > 0
    assert cost["total_s"] >= cost["train_s"] > 0
    assert not any("energy" in key for key in cost)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
@pytest.mark.parametrize("remember", ["false", "true"])
@pytest.mark.parametrize(("method", "frozen"), [("guidance", "guide"), ("distillation", "teacher")])
def test_frozen_networks_follow_the_trained_one_into_its_precision(
    command, method, frozen, remember, precision
):
    words = (
        "data.augment=null",
        f"method.cache={[frozen] if remember else []}".replace("'", ""),
        "fit.max_steps=2",
    )
    run = command(f"method={method}", *METHODS[method], f"hardware.precision={precision}", *words)
    assert run.is_complete


@pytest.mark.parametrize(
    ("batches", "accumulate", "epochs", "updates"), [(2, 4, 10, 5), (7, 2, 2, 7), (1, 2, 10, 5), (3, 1, 2, 6)]
)
def test_epochs_are_passes_over_the_data_also_when_updates_gather_several_batches(
    batches, accumulate, epochs, updates
):
    data = SimpleNamespace(steps_per_epoch=batches)
    built = SimpleNamespace(data=data, method=SimpleNamespace())
    words = ["fit.max_steps=null", f"fit.epochs={epochs}", f"fit.accumulate={accumulate}"]
    assert plan_steps(read(Fit, compose(words)["fit"], "fit"), built)[0] == updates == built.method.max_steps


def test_accumulation_records_each_update_once(command):
    run = command(
        "fit.accumulate=4", "fit.log_every_steps=2", "fit.max_steps=6", "fit.validate_every_steps=6"
    )
    assert [row["step"] for row in run.metrics.rows] == [2, 4, 6, 6]


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_does_not_wake_it(command, monkeypatch):
    """Asking CUDA for anything starts it, and a process in which it has started can fork no job."""
    asked = torch.cuda.is_available
    ours = "tutelage.engine.fit"  # Lightning would go on and use the device
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: sys._getframe(1).f_globals["__name__"] == ours or asked()
    )
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: pytest.fail("CUDA was started"))
    assert command("hardware=cpu", "fit.max_steps=4").is_complete
