"""N steps equal k + resume + N - k, bit by bit, for every method."""

from __future__ import annotations

import contextlib

import pytest
import torch
from safetensors.torch import load_file

from small_runs import COPIES, GUIDE, METHODS, TEACHER, WRITING, C
from tutelage.engine.callbacks import Recording
from tutelage.engine.checkpoints import Checkpoints
from tutelage.errors import UserError
from tutelage.objectives.frozen_cache import Memory
from tutelage.reporting.collect import collect
from tutelage.runs.run import State
from tutelage.runs.store import Store


def stop_after(monkeypatch, steps):
    """Let the process "die" right after the state of some step was saved."""
    save = Checkpoints.save

    def save_then_die(self, trainer):
        save(self, trainer)
        if trainer.global_step >= steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_then_die)


def timeless(rows):
    return [{k: v for k, v in row.items() if k != "train_s"} for row in rows]


REMEMBERED = [("guidance", "method.cache=[guide]"), ("distillation", "method.cache=[teacher]")]
FEATURE = "objective@method.objectives.feature"
R = "method.objectives.repa"
ALIGNED = [f"+objective@{R}=repa", f"{R}.schedule={{name: until, steps: 6}}",
           f"{R}.pairing={{strategy: explicit, k: null, pairs: [[blocks.2, middle.0]]}}"]  # fmt: skip
OWN_STATE = [
    ("supervised", "+objective@method.objectives.more=adversarial", "method.objectives.more.target=outputs"),
    ("feature_distillation", f"{FEATURE}=crd", "method.objectives.feature.negatives=50"),
    *(("feature_distillation", f"{FEATURE}={name}") for name in ("vid", "vkd")),
    ("self_supervised", "method.objectives.views.loss=byol"),
    ("diffusion", *GUIDE, *ALIGNED),
    ("diffusion", *GUIDE, *ALIGNED, f"{R}.schedule={{name: until_opposed, steps: 3}}"),
    (
        "guidance",
        "method.ema_decay=0.9",
        "method.objectives.alignment.schedule={name: until_opposed, steps: 3}",
    ),
    ("semi_supervised", f"{C}.weak_gradient=false", f"{C}.batch_norm=labelled"),
    *(
        ("semi_supervised", f"objective@{C}={name}", f"{C}.distribution_alignment={aligned}")
        for name, aligned in (
            ("flexmatch", "labels"),
            ("freematch", "null"),
            ("softmatch", "uniform"),
            ("adamatch", "predictions"),
        )
    ),
]


COMBINED = [
    "method=guidance", *GUIDE, "model.dropout=0.2", "+objective@method.objectives.hint=hint", *TEACHER,
    "+objective@method.objectives.soft=soft_targets", "method.objectives.soft.network=guide",
    "method.objectives.hint.schedule={name: warm_up, steps: 6}", "method.objectives.alignment.schedule={name: until, steps: 6}",
]  # fmt: skip
"""A guide that also teaches, and a teacher beside it."""
SCHEDULED = ["optimizer.schedule=cosine", "optimizer.warmup_steps=3"]
WORDS = [
    pytest.param([f"method={method}", *METHODS[method], *more, *SCHEDULED], id="-".join([method, *more]))
    for method, *more in [*([method] for method in METHODS), *REMEMBERED, *OWN_STATE]
]
WORDS.append(pytest.param([*COMBINED, *SCHEDULED], id="several objectives"))
WRITTEN = [
    "method=distillation",
    *WRITING,
    *COPIES,
    "objective@method.objectives.soft=gkd",
    "model.dropout=0.2",
]
WORDS.append(pytest.param([*WRITTEN, *SCHEDULED], id="texts that the network writes"))
WORDS.append(pytest.param(["method=distillation", *TEACHER, "model.quantised=int8", *SCHEDULED], id="int8"))
PRUNED = ["method=guidance", *GUIDE, "model.dropout=0.2", "method.ema_decay=0.8", "model.pruned=0.5"]
WORDS += [
    pytest.param([*PRUNED, f"model.pruned_by={by}", *SCHEDULED], id=f"pruned {by}")
    for by in ("weights", "channels")
]


@pytest.mark.parametrize("words", WORDS)
def test_a_resumed_run_is_the_undisturbed_run(command, monkeypatch, words):
    resumes_exactly(command, monkeypatch, words)


RECIPE = ["method.ema_decay=0.8", "optimizer.schedule=plateau", "optimizer.patience=0", "optimizer.warmup_steps=2",
          "optimizer.decay_norms_and_biases=false", "optimizer.weight_decay=0.1", "optimizer.layer_decay=0.7"]  # fmt: skip
MIXED = ["data.augment={random_erasing: {}, mixup: {probability: 0.5}, cutmix: {probability: 0.5}}"]


@pytest.mark.parametrize("method", METHODS)
def test_the_recipe_resumes_exactly_with_every_method(command, monkeypatch, method):
    """An average, a plateau, groups of parameters and mixed images; generators and texts take no mixed ones."""
    mixed = [] if any(word.startswith(("model=generator", "data=")) for word in METHODS[method]) else MIXED
    resumes_exactly(command, monkeypatch, [f"method={method}", *METHODS[method], *mixed, *RECIPE])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("words", WORDS)
def test_on_a_gpu_with_deterministic_kernels_a_resumed_run_is_the_undisturbed_run(
    command, monkeypatch, words, precision
):
    if precision == "16-mixed" and "method=gan" in words:
        pytest.skip("a GAN is not trained in 16-mixed: a message says so")
    if "method=diffusion" in words:
        pytest.importorskip("diffusers")
    gpu = ["hardware=gpu", f"hardware.precision={precision}", "hardware.deterministic=true"]
    resumes_exactly(command, monkeypatch, [*words, *gpu])


def resumes_exactly(command, monkeypatch, words):
    """Hold a run that dies after step 4 and goes on against the undisturbed one, bit by bit."""
    whole = command(*words, folder="whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            command(*words, folder="broken")
    (broken,) = Store(whole.path.parents[2] / "broken").runs()
    assert broken.state == State.INTERRUPTED
    assert not (broken.path / "network.safetensors").exists()
    resumed = command(*words, folder="broken")
    assert resumed.result["cost"]["resumed_at_step"] == 4
    ours, theirs = (load_file(run.path / "network.safetensors") for run in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    files = [(run.path / "network.safetensors").read_bytes() for run in (resumed, whole)]
    assert files[0] == files[1]
    assert timeless(resumed.metrics.rows) == timeless(whole.metrics.rows)
    for part in ("best", "last", "metrics"):
        assert resumed.result[part] == whole.result[part]


def broken_off(command, monkeypatch, step):
    """Break a run off right after the checkpoint of a step; return it, unfinished, beside the undisturbed one."""
    whole = command(folder="whole")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            command(folder="broken")
    (broken,) = Store(whole.path.parents[2] / "broken").runs()
    return broken, whole


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_is_used(command, monkeypatch, caplog):
    run, whole = broken_off(command, monkeypatch, 8)
    last = run.checkpoint("last")
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    resumed = command(folder="broken")
    assert resumed.result["cost"]["resumed_at_step"] == 4
    assert resumed.result["metrics"] == whole.result["metrics"]
    assert "last.ckpt" in run.log.read_text()


def test_a_complete_run_is_not_run_again_and_rerun_archives_it(command, monkeypatch):
    first = command()
    written = (first.path / "result.json").stat().st_mtime_ns
    assert command().result == first.result
    assert (first.path / "result.json").stat().st_mtime_ns == written
    again = command(rerun=True)
    assert again.result["metrics"] == first.result["metrics"]
    assert len(list((first.path.parent / ".archive").iterdir())) == 1


def test_training_ends_early_on_validation_and_a_resumed_run_ends_at_the_same_step(command, monkeypatch):
    words = ["optimizer.lr=0.1", "fit.max_steps=80"]
    values = {
        row["step"]: row["validation/accuracy"]
        for row in command(*words).metrics.rows
        if "validation/accuracy" in row
    }
    best = {
        step: min(s for s in values if values[s] == max(v for t, v in values.items() if t <= step))
        for step in values
    }
    end = next(step for step in values if step - best[step] == 8)
    words.append("fit.patience=2")
    whole = command(*words, folder="whole")
    assert whole.result["ended_early"] == {"step": end, "of": 80, "patience": 2}
    assert (whole.result["best"]["step"], whole.result["cost"]["steps"]) == (end - 8, end)
    for step in (end - 4, end):  # before the end, and after the state that says so
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, step)
            command(*words, folder=f"broken{step}")
        resumed = command(*words, folder=f"broken{step}")
        assert timeless(resumed.metrics.rows) == timeless(whole.metrics.rows)
        assert resumed.result["metrics"] == whole.result["metrics"]
        assert resumed.result["ended_early"] == whole.result["ended_early"]


def test_a_run_killed_between_its_last_checkpoint_and_its_result_only_evaluates(command, monkeypatch):
    _, whole = broken_off(command, monkeypatch, 12)
    resumed = command(folder="broken")
    assert resumed.result["cost"]["resumed_at_step"] == 12
    assert resumed.result["metrics"] == whole.result["metrics"]


def test_the_protocol_of_papers_that_select_on_the_test_set_stands_beside_and_selects_nothing(
    command, monkeypatch
):
    plain = command(folder="plain")
    lengths = [command(f"fit.max_steps={steps}", folder=f"{steps}").result["last"] for steps in (4, 8, 12)]
    best = max(lengths, key=lambda last: last["test"]["accuracy"])
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            command("fit.protocol=best_on_test", folder="asked")
    asked = command("fit.protocol=best_on_test", folder="asked")
    found = asked.result["best_on_test"]
    assert (found["test"], found["of"]) == (best["test"], 3) and "selected on the test set" in found["note"]
    for part in ("best", "last", "metrics", "selection"):
        assert asked.result[part] == plain.result[part]
    assert "best_on_test" not in plain.result and not (asked.path / "checkpoints").exists()
    (row,) = collect(Store(plain.path.parents[2] / "asked"))
    assert row.metrics["best_on_test/accuracy"] == best["test"]["accuracy"]
    assert row.metrics["test/accuracy"] == plain.result["best"]["test"]["accuracy"]


@pytest.mark.parametrize(("method", "setting"), REMEMBERED)
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_remembered_is_given_back_when_fit_ends_however_it_ends(
    command, monkeypatch, method, setting, fails
):
    kept = []
    fill = Memory._fill

    def fill_and_note(self, device):
        fill(self, device)
        kept.append((self, dict(self._stored)))

    monkeypatch.setattr(Memory, "_fill", fill_and_note)
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt, SystemExit):
        if fails:
            stop_after(patch, 4)
        command(f"method={method}", *METHODS[method], setting)
    ((memory, stored),) = kept
    assert stored and not memory._stored


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_state_whose_best_weights_are_damaged_is_named_and_passed_over(command, monkeypatch, how):
    run, whole = broken_off(command, monkeypatch, 12)
    state = torch.load(run.checkpoint("last"), weights_only=True)["callbacks"]["Checkpoints"]
    best = run.path / "checkpoints" / f"best-{state['best']['step']}.safetensors"
    best.write_bytes(best.read_bytes()[:300]) if how == "truncated" else best.unlink()
    resumed = command(folder="broken")
    assert resumed.result["cost"]["resumed_at_step"] < 12
    assert resumed.result["metrics"] == whole.result["metrics"]
    assert "last.ckpt" in run.log.read_text()


def test_each_state_that_may_be_resumed_from_has_its_best_weights(command, monkeypatch):
    run, _ = broken_off(command, monkeypatch, 8)
    steps = []
    for which in ("last", "previous"):
        state = torch.load(run.checkpoint(which), weights_only=True)["callbacks"]["Checkpoints"]
        steps.append(state["best"]["step"])
        assert (run.path / "checkpoints" / f"best-{steps[-1]}.safetensors").is_file()
    assert steps == [8, 4]  # or the test shows nothing


def test_a_resumed_run_goes_on_with_the_threads_it_was_begun_with(command, monkeypatch):
    """Sums round by how many threads share them, and a launcher gives a job more cores where fewer jobs are left."""
    before = torch.get_num_threads()
    seen = []
    start = Recording.on_train_epoch_start

    def note(self, trainer, method):
        seen.append(torch.get_num_threads())
        start(self, trainer, method)

    monkeypatch.setattr(Recording, "on_train_epoch_start", note)
    try:
        torch.set_num_threads(2)
        with monkeypatch.context() as patch:
            stop_after(patch, 4)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                command("hardware.threads=null")
        torch.set_num_threads(1)
        command("hardware.threads=null")
        assert set(seen) == {2}
        assert torch.get_num_threads() == 1  # the next run of this process has its own
    finally:
        torch.set_num_threads(before)


def test_a_run_that_could_not_be_built_leaves_the_threads_as_they_were(command):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(UserError):
            command("hardware.threads=1", "model=fcn", "model.activation=nonsense")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_lost_rows_of_the_record_are_named(command, monkeypatch):
    run, whole = broken_off(command, monkeypatch, 8)
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(lines[:2]))
    resumed = command(folder="broken")
    assert resumed.result["metrics"] == whole.result["metrics"]
    assert f"metrics.jsonl has 2 of the {len(lines)} rows written up to step 8" in run.log.read_text()
    text = (whole.path / "log.txt").read_text()
    assert "rows written" not in text
