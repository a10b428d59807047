"""The bench itself: what it quotes, what it holds against a target, and what its hand-written loop does. Nothing here is timed."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import pytest
import torch

from tutelage.bench.__main__ import BENCHES, main
from tutelage.bench.throughput import CASES, COMMON, BareLoop
from tutelage.bench.timing import median_interval, row, seconds, until_decided
from tutelage.errors import UserError


def test_a_row_quotes_the_median_and_holds_it_against_its_target() -> None:
    at_least = row("a", [0.9, 3.0, 1.0], at_least=0.95)
    assert (at_least.ratio, at_least.low, at_least.high, at_least.n, at_least.met) == (1.0, 0.9, 3.0, 3, True)
    assert row("a", [1.0, 1.2, 1.3], at_most=1.1).met is False
    assert row("a", [1.0]).met is None


def test_the_interval_of_a_median_is_that_of_the_binomial_sum() -> None:
    for n in (1, 3, 6, 9, 15, 40):
        values = list(range(n))
        low, high = median_interval(values)
        # a median lies outside where fewer than low + 1 values are below it, or above
        assert (
            n < 6
            or sum(math.comb(n, k) for k in range(low + 1)) / 2**n
            <= 0.025
            < sum(math.comb(n, k) for k in range(low + 2)) / 2**n
        )
        assert low + high == n - 1


def test_a_target_inside_the_noise_is_measured_on_and_one_outside_is_not() -> None:
    calls: list[int] = []

    def measure(pairs: int) -> list[float]:
        calls.append(pairs)
        return [0.9, 1.1] * (pairs // 2) if len(calls) < 3 else [1.2] * pairs * 5

    assert len(until_decided(measure, 1.0, pairs=8)) == 8 + 8 + 40 and calls == [8, 8, 8]
    calls.clear()
    assert len(until_decided(measure, 2.0, pairs=8)) == 8 and calls == [8]
    assert len(until_decided(lambda pairs: [1.0] * pairs, 1.0, pairs=3, most=4)) == 12
    assert until_decided(lambda pairs: [1.0] * pairs, None, pairs=3) == [1.0] * 3


def test_a_wrong_name_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guided_stpe"]) == 2
    said = capsys.readouterr().err
    assert "guided_stpe" in said and all(name in said for name in BENCHES)


def test_the_loop_by_hand_trains_on_the_training_data_and_only_looks_at_the_validation_data() -> None:
    from tutelage.config.planner import plan_of
    from tutelage.engine.build import build

    words, *_ = CASES["MLP 784-64-128-64, batch 128, 28 px"]
    built = build(plan_of([*words, *COMMON, "data.samples=400", "data.batch_size=64", "fit.epochs=1"]).config)
    sizes = {
        stage: sum(len(b.inputs) for b in built.data.batches(stage, device="cpu"))
        for stage in ("train", "validation")
    }
    loop = BareLoop(built)
    assert (len(loop.inputs), len(loop.unseen)) == (sizes["train"], sizes["validation"])
    before = [p.detach().clone() for p in loop.network.parameters()]
    loop._validate()
    assert all(torch.equal(a, b) for a, b in zip(before, loop.network.parameters(), strict=True))
    training, validation = loop.run(1)
    assert training > 0 and validation > 0
    assert not all(torch.equal(a, b) for a, b in zip(before, loop.network.parameters(), strict=True))


@pytest.mark.parametrize("k", [3, None])
def test_the_floors_guide_runs_the_layers_that_ours_runs_and_in_its_layout(k) -> None:
    from torch.nn.modules.module import register_module_forward_hook

    from tutelage.bench.guided_step import conv_to_fcn

    steps = conv_to_fcn(batch=4, pixels=32, depth=4, width=8, k=k)
    ran = []
    handle = register_module_forward_hook(
        lambda module, _, out: (
            ran.append(out.is_contiguous(memory_format=torch.channels_last))
            if isinstance(module, torch.nn.Conv2d)
            else None
        )
    )
    counts = []
    for step in (steps.floor, steps.guided):
        ran.clear()
        step()
        counts.append(list(ran))
    handle.remove()
    assert counts[0] == counts[1] == [True] * (3 if k else 20)


def test_epochs_are_timed_inside_one_run(tmp_path) -> None:
    from tutelage.bench.throughput import validations
    from tutelage.config.planner import plan_of
    from tutelage.jobs.launch import run_plan
    from tutelage.methods.base import Method

    words, *_ = CASES["MLP 784-64-128-64, batch 128, 28 px"]
    before = Method.on_validation_epoch_end
    plan = plan_of([*words, *COMMON, "data.samples=400", "fit.epochs=3", f"runs_dir={tmp_path}"])
    with validations() as ends:
        run_plan(plan, say=lambda _: None)
    assert len(ends) == 3 and ends == sorted(ends) and Method.on_validation_epoch_end is before


def test_the_bench_of_the_hardware_has_words_for_every_kind_of_method_and_they_compose(tmp_path):
    from tutelage.bench import hardware
    from tutelage.config.compose import compose, hydra_ready
    from tutelage.config.groups import group_options

    measured = {hardware.method_of(name).partition("/")[0] for name in hardware.METHODS}
    assert measured == {name.partition("/")[0] for name in group_options("method")} - {
        "synthesis",
        "guidance_released",  # guidance in other words
        "semi_supervised",  # pseudo_ssl's class on images of a set, which synthetic inputs are not
        "self_supervised",  # likewise, as are the next two
        "masked_images",
        "masked_tokens",
    }
    pseudo = hardware._pseudo(tmp_path / "pseudo", 8)
    with hydra_ready():
        for method, words in hardware.METHODS.items():
            for more in hardware.SETTINGS.values():
                compose(
                    [
                        *hardware.COMMON,
                        f"method={hardware.method_of(method)}",
                        "hardware=gpu",
                        *(word.format(pseudo=pseudo) for word in words),
                        *more,
                    ]
                )


def test_own_data_are_measured_against_what_one_would_write_by_hand(tmp_path, monkeypatch):
    from tutelage.bench import own_data

    made = []

    def once(ours, theirs, **_):
        made.append((ours(), theirs()))
        return [(1.0, 1.0)]

    monkeypatch.setattr(own_data, "in_turn", once)
    assert own_data._tar_files(tmp_path / "shards", 0, 1, count=200, pixels=8).ratio == 1.0
    own_data._datasets(1, count=300, width=4)
    assert all(len(ours) == len(theirs) > 0 for ours, theirs in made)
    pickle.dumps(own_data.Bare(None, None, 0))  # workers are spawned
    assert own_data._step(tmp_path / "bert", "guided", 1, batch=4, length=8).met


def test_the_bench_of_distillations_arms_takes_a_step_of_an_arm_and_counts_what_it_trains(tmp_path):
    from tutelage.bench import distillation_arms as bench
    from tutelage.bench.transfer_step import stepping

    words, root = bench.arms(), bench.images(tmp_path / "images", each=10)
    assert next(iter(words)) == "ResNet-8, alone" and len(words) == 23
    method, batch = bench.method_of(words["ResNet-8, VkD"], root, str(tmp_path))
    assert "teacher 272,474 parameters" in bench.networks(method, batch)
    assert bench.trained(method) == "trains 4,096 parameters of its own"
    before = method.network.state_dict()["conv1.weight"].clone()
    stepping(method, batch)()
    assert not torch.equal(before, method.network.state_dict()["conv1.weight"])


def test_the_processors_time_of_a_command_that_was_waited_for_counts(monkeypatch) -> None:
    monkeypatch.setenv("TUTELAGE_BENCH_CLOCK", "processor")
    work = "import time\nwhile time.process_time() < 0.2: pass"
    assert seconds(lambda: subprocess.run([sys.executable, "-c", work], check=True)) >= 0.2


def test_losses_are_measured_beside_those_of_another_library(monkeypatch, tmp_path) -> None:
    """The library is no dependency: a stand-in takes every call."""
    from tutelage.bench import distillation_peers as peers

    class Loss:
        def __init__(self, *_, **__) -> None:
            pass

        def __call__(self, student, _):
            read = student["norm" if "norm" in student else "x"]["output"]
            return (read if torch.is_tensor(read) else read[0]).sum()

    class Library:
        def __getattr__(self, _):
            return Loss

    monkeypatch.setattr(peers, "NEGATIVES", 16)
    monkeypatch.setattr(peers, "SAMPLES", 100)
    for _, ours, theirs in peers.losses(Library()):
        for loss in (ours(), theirs()):
            assert loss.ndim == 0 and loss.isfinite()
            loss.backward()
    name, steps = next(peers.whole_steps(Library(), str(tmp_path), "resnet8", "resnet8"))
    assert name == "soft targets" and all(step() is None for step in steps)
    with pytest.raises(UserError, match="pip install torchdistill"):
        peers.rows()
