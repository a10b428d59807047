"""What is seen of a network before its training, the rule that reads it, and the probes of guides."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from small_runs import METHODS, SMALL
from tutelage.analysis import rate_range, trainability
from tutelage.analysis.diagnosis import (
    Probe,
    State,
    apart_from_method,
    nearest_mean,
    ranked,
    state_of,
    told_apart,
)
from tutelage.cli.main import main
from tutelage.config.compose import compose, hydra_ready
from tutelage.data.base import DataModule
from tutelage.engine.data_sets import build_data
from tutelage.engine.signal import mean_cosine, participation_ratio, signal
from tutelage.errors import UserError
from tutelage.models.fcn import FCN
from tutelage.tasks import Batch, Classification

ROOT = Path(__file__).parents[2]
QUICK = ["logger=none", "hardware.threads=1", "data.batch_size=32"]


def batch(seed: int, n: int = 24, shape: tuple[int, ...] = (1, 4, 4)) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(n, *shape, generator=draw), torch.randint(3, (n,), generator=draw), torch.arange(n)
    )


def test_participation_ratio_is_that_of_the_eigenvalues_and_knows_neither_rotation_nor_scale():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(20, 7, generator=draw) * torch.tensor([9.0, 3, 1, 1, 0.5, 0.1, 0]) + 5
    values = np.linalg.eigvalsh(np.cov(features.double().numpy().T))
    expected = values.sum() ** 2 / (values**2).sum()
    turn = torch.linalg.qr(torch.randn(7, 7, generator=draw))[0]
    for changed in (features, 1e-6 * features, features @ turn, features[torch.randperm(20)]):
        assert participation_ratio(changed) == pytest.approx(expected, rel=1e-4)
    assert participation_ratio(torch.ones(5, 3)) == 0
    assert participation_ratio(torch.full((5, 3), 0.1)) == 0


def test_mean_cosine_is_that_of_every_two_rows():
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    pairs = [torch.cosine_similarity(rows[i], rows[j], dim=0) for i in range(6) for j in range(6) if i != j]
    assert mean_cosine(rows) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)
    assert mean_cosine(torch.ones(4, 3)) == pytest.approx(1)
    assert mean_cosine(torch.zeros(4, 3)) == 1
    assert (
        mean_cosine(torch.tensor([[1e-30, 0.0], [0.0, 1.0]], dtype=torch.float64)) == 0
    )  # short is not zero


def test_the_nearest_mean_tells_classes_that_lie_apart():
    features, classes = torch.tensor([[0.0], [0.2], [5.0], [5.2]]), torch.tensor([2, 2, 7, 7])
    tested = torch.tensor([[0.3], [4.0], [5.1]])
    assert nearest_mean(features, classes, tested, torch.tensor([2, 7, 2])) == pytest.approx(2 / 3)


def test_gradients_are_those_of_a_training_step_and_nothing_of_the_network_changes():
    torch.manual_seed(0)
    network, task = FCN((1, 4, 4), 3, depth=3, width=8, dropout=0.2), Classification(3)
    network.layers[0].linear.weight.requires_grad_(False)
    network.eval()
    before, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    seen = signal(network, task, [batch(1), batch(2)], seed=5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network.training and torch.equal(random, torch.get_rng_state())
    assert not network.layers[0].linear.weight.requires_grad and all(
        p.grad is None for p in network.parameters()
    )
    assert [layer.name for layer in seen.layers] == [*(f"layers.{i}.linear" for i in range(3)), "head"]

    network.train()
    network.requires_grad_(True)
    gradients = []
    torch.manual_seed(5)
    for one in (batch(1), batch(2)):
        network.zero_grad()
        loss = task.loss(network(one.inputs), one)
        loss.backward()
        gradients.append(network.layers[0].linear.weight.grad.flatten().clone())
        if len(gradients) == 1:
            assert seen.loss == pytest.approx(float(loss), abs=1e-6)
            expected = network.head.weight.grad.norm() / network.head.weight.norm()
            assert seen.layers[-1].gradient == pytest.approx(float(expected), rel=1e-4)
    agreement = torch.cosine_similarity(*gradients, dim=0)
    assert seen.layers[0].agreement == pytest.approx(float(agreement), abs=1e-5)


def test_steadiness_is_the_cosine_of_gradients_before_and_after_a_step_that_is_taken_back():
    torch.manual_seed(0)
    network, task = FCN((1, 4, 4), 3, depth=2, width=8, dropout=0.2), Classification(3)
    one, other = batch(1), batch(2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    seen = signal(network, task, [one, other], seed=5, step=0.05)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert math.isnan(signal(network, task, [one, other], seed=5).layers[0].steadiness)

    moved = copy.deepcopy(network).train()
    weights = [layer.linear.weight for layer in moved.layers] + [moved.head.weight]

    def gradients():
        torch.manual_seed(5)
        return torch.autograd.grad(task.loss(moved(one.inputs), one), weights)

    first = gradients()
    length, slope = (math.sqrt(sum(float(x.detach().square().sum()) for x in xs)) for xs in (weights, first))
    with torch.no_grad():
        for weight, gradient in zip(weights, first, strict=True):
            weight -= 0.05 * length / slope * gradient
    for layer, x, y in zip(seen.layers, first, gradients(), strict=True):
        expected = torch.cosine_similarity(x.flatten(), y.flatten(), dim=0)
        assert layer.steadiness == pytest.approx(float(expected), abs=1e-5) and abs(expected) < 1


def test_a_network_that_is_blind_or_dead_is_seen():
    torch.manual_seed(0)
    dead = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(dead[1].bias, -100.0)
    seen = signal(dead, Classification(3), [batch(1), batch(2)])
    assert seen.dead == 1 and seen.correlation == 1 and seen.rank_left == 0 and seen.layers[0].gradient == 0
    verdict = trainability.verdict(seen)
    assert verdict.probability == 0 and "nearly the same for every sample" in verdict.sentence


def _data():
    return build_data(compose([*QUICK, "data=digits"]))


def test_one_batch_or_one_sample_is_a_message():
    network, task = FCN((1, 4, 4), 3, depth=1, width=4), Classification(3)
    for batches in ([batch(1)], [batch(1, n=1), batch(2, n=1)]):
        with pytest.raises(UserError, match="at least two batches of at least two samples"):
            signal(network, task, batches)


def test_how_deep_classes_are_read_grows_with_what_a_network_knows():
    data = _data()
    network = FCN(data.input_shape, 10, depth=4, width=16)
    names = [f"layers.{i}.linear" for i in range(4)]
    before = state_of(network, data, names)
    assert len(before.readable) == 4 and before.readable[0] > 0.8 > before.readable[-1]
    assert all(p.requires_grad for p in network.parameters()) and network.training
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for one in data.train_stream(seed=0, device="cpu"):
        optimizer.zero_grad()
        data.task.loss(network(one.inputs), one).backward()
        optimizer.step()
    after = state_of(network, data, names)
    assert after.depth_read > before.depth_read and after.loss < before.loss


def test_the_rule_is_what_its_calibration_gives():
    with (ROOT / "experiments/guidance/results/phase_diagram.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "demo/plain" and row["chosen"] == "1"]
    ratios = [float(row["gradient_ratio"]) for row in rows]
    trained = [float(row["test"]) >= trainability.TRAINS for row in rows]
    intercept, slope = trainability.calibrate(ratios, trained)
    assert pytest.approx((intercept, slope), abs=0.01) == (trainability.INTERCEPT, trainability.SLOPE)


def test_the_calibration_is_the_maximum_of_its_likelihood():
    draw = np.random.default_rng(0)
    ratios = 10 ** draw.normal(0, 2, 80)
    trained = draw.random(80) < 1 / (1 + np.exp(-(3 - 2 * np.log10(ratios))))
    found = np.array(trainability.calibrate(ratios, trained))

    def loss(at):
        odds = at[0] + at[1] * np.log10(ratios)
        return np.log1p(np.exp(np.where(trained, -odds, odds))).sum() + 0.005 * at[1] ** 2

    for step in ([1e-2, 0], [-1e-2, 0], [0, 1e-2], [0, -1e-2]):
        assert loss(found) < loss(found + step)
    assert trainability.probability(1.0) > 0.99 > 0.01 > trainability.probability(1e3) > 0
    assert trainability.probability(0.0) == 0 and trainability.probability(1e-3) is None


def test_diagnose_looks_ranks_and_writes(tmp_path, capfd):
    words = [
        *QUICK,
        "data=digits",
        "model=fcn",
        "model.depth=12",
        "model.width=16",
        f"runs_dir={tmp_path / 'runs'}",
    ]
    out = tmp_path / "seen.json"
    assert main(["diagnose", *words, "steps=3", "guides=residual_convnet", f"out={out}"]) == 0
    shown = capfd.readouterr().out
    assert "the rule says" in shown and "after 3 steps" in shown
    assert f"tutelage train {' '.join(QUICK)} data=digits" in shown
    record = json.loads(out.read_text())
    assert len(record["signal"]["layers"]) == 13 and 0 < record["verdict"]["probability"] < 1
    assert [probe["label"] for probe in record["probes"]] == ["alone", "residual_convnet"]
    alone, guided = (probe["state"]["readable"] for probe in record["probes"])
    assert len(alone) == len(guided) == 13 and alone != guided


@pytest.mark.parametrize(
    "words",
    [
        ["data=parity", "data.train_size=64", "data.validation_size=32", "data.test_size=32", "model=parity_transformer", "guides=lstm"],
        ["data=copy_paste", "data.train_size=64", "data.validation_size=32", "data.test_size=32", "model=relu_rnn", "model.width=16",
         "model.depth=2", "guides=transformer"],
    ],
    ids=["classes of strings", "tokens"],
)  # fmt: skip
def test_diagnose_of_sequences(words, tmp_path, capfd):
    assert main(["diagnose", *QUICK, "data.batch_size=16", *words, "steps=2", f"runs_dir={tmp_path}"]) == 0
    shown = capfd.readouterr().out
    assert "after 2 steps" in shown and "not tried" not in shown and "nan" not in shown


def test_diagnose_of_series(tmp_path, capfd):
    rows = ["date,a,b"] + [
        f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{math.sin(i)},{i % 7}" for i in range(600)
    ]
    (tmp_path / "s.csv").write_text("\n".join(rows))
    data = ["data=series", f"data.root={tmp_path / 's.csv'}", "data.length=12", "data.horizon=3"]
    assert (
        main(["diagnose", *QUICK, *data, "model=fcn", "model.width=8", "steps=0", f"runs_dir={tmp_path}"])
        == 0
    )
    shown = capfd.readouterr().out
    assert "the rule says" in shown and "classes read" not in shown


def test_the_guide_of_the_command_is_tried_where_it_has_one(tmp_path, capfd):
    words = [
        "experiment=demo/guided-untrained",
        "model.depth=3",
        "model.width=8",
        "logger=none",
        f"runs_dir={tmp_path}",
    ]
    assert main(["diagnose", *words, "steps=2"]) == 0
    shown = capfd.readouterr().out
    assert "  yours: loss" in shown and "  alone: loss" in shown and "not tried" not in shown


def test_probes_are_told_apart_by_more_than_the_noise_of_their_samples():
    def of(share, n=400):
        return Probe("a", (), 1, 0.0, State(1.0, 0.5, (share, share), n), None)

    assert told_apart(of(0.5), of(0.6)) and not told_apart(of(0.5), of(0.55))
    assert told_apart(of(0.5, 4000), of(0.55, 4000))
    assert [p.state.depth_read for p in ranked([of(0.2), of(0.4), of(0.3)])] == [0.4, 0.3, 0.2]


def test_a_range_test_reads_where_the_loss_falls_and_where_it_diverges():
    rates = np.geomspace(1e-6, 1.0, 61)
    x = np.log10(rates)
    losses = (
        2.3 - 1.5 / (1 + np.exp(-4 * (x + 3))) + np.where(x > -1, 40 * (x + 1), 0)
    )  # falls around 1e-3, rises from 0.1
    found = rate_range.read(rates, losses.tolist())
    assert 5e-4 < found.steepest < 5e-3 and found.steepest < found.lowest < 0.11 < found.diverged
    nan = rate_range.read(rates, [*losses[:40], float("nan")])
    assert nan.diverged == rates[40] and len(nan.losses) == 40
    assert rate_range.read(rates, np.linspace(1, 1.5, 61).tolist()).steepest is None


@pytest.mark.parametrize("method", ["supervised", "guidance", "semi_supervised"])
def test_a_range_test_is_of_the_commands_own_training_and_opens_no_test_set(
    method, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr(DataModule, "open_test", lambda self: pytest.fail("the test set was opened"))
    words = [*SMALL, f"method={method}", *METHODS[method], f"runs_dir={tmp_path}", "optimizer=sgd"]
    words += ["optimizer.lr_factors=[['*',0.5]]", "fit.accumulate=2"]
    out = tmp_path / "seen.json"
    assert main(["diagnose", *words, "steps=0", "rates=24", f"out={out}"]) == 0
    assert "learning rate: over 24 steps" in " ".join(capfd.readouterr().out.split())
    found = json.loads(out.read_text())["rates"]
    assert found["rates"][0] == pytest.approx(1e-6) and 12 < len(found["losses"]) <= 24
    assert found["of"] == {"supervised": None}.get(method, "task")
    if method == "supervised":
        assert found["losses"][0] == pytest.approx(math.log(10), abs=0.7)  # of a mean over the two batches
    assert not any(tmp_path.glob("*/*/config.yaml"))


def test_a_range_test_shorter_than_a_phase_of_the_training_is_of_that_phase(tmp_path, capfd):
    words = [*SMALL, "method=guidance", *METHODS["guidance"], f"runs_dir={tmp_path}", "fit.max_steps=500"]
    words += [
        "method.objectives.alignment.schedule.name=alone_first",
        "method.objectives.alignment.schedule.steps=100",
    ]
    assert main(["diagnose", *words, "steps=0", "rates=24"]) == 0
    assert "learning rate: over 24 steps" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(("words", "kept", "left"), [
    (["model=fcn", "method=guidance", "model@guide=vit", "guide.depth=2", "name=a"], ["model=fcn"], []),
    (["method=distillation", "model@teacher=fcn", "teacher.weights=run", "model@frozen.a=fcn", "frozen.a.depth=2"], [], []),
    (["similarity@method.objectives.alignment.similarity=ridge", "alignment.weight=0.5", "seed=1"], ["seed=1"],
     ["similarity@method.objectives.alignment.similarity=ridge", "method.objectives.alignment.weight=0.5"]),
    (["+objective@method.objectives.soft=soft_targets", "method.cache=[guide]"], [],
     ["+objective@method.objectives.soft=soft_targets", "method.cache=[guide]"]),
    (["task.weight=0", "method.objectives.task.schedule.name=from"], [],
     ["method.objectives.task.weight=0", "method.objectives.task.schedule.name=from"]),
    (["method.objectives.task.label_smoothing=0.3", "task.class_weight=balanced", "method.ema_decay=0.9"],
     ["method.objectives.task.label_smoothing=0.3", "method.objectives.task.class_weight=balanced", "method.ema_decay=0.9"], []),
])  # fmt: skip
def test_what_a_command_says_of_its_method_alone_is_left_out_of_the_probes(words, kept, left):
    with hydra_ready():
        assert apart_from_method(words) == (kept, left)


@pytest.mark.parametrize("words", [
    ["method=guidance", *METHODS["guidance"], "alignment.weight=0.5", "similarity@method.objectives.alignment.similarity=ridge"],
    ["experiment=demo/distilled"],
    ["method=guidance", *METHODS["guidance"], "model@teacher=convnet", "+objective@method.objectives.soft=soft_targets"],
])  # fmt: skip
def test_probes_of_a_command_with_objectives_of_its_own(words, tmp_path, capfd):
    given = [*SMALL, *words, "steps=2", "guides=residual_convnet", f"runs_dir={tmp_path}"]
    assert main(["diagnose", *given]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "not tried" not in out and "residual_convnet: loss" in out and "alone: loss" in out
    assert ("of the method the probes leave out:" in out) == ("method=guidance" in words)


def test_the_probe_of_the_commands_own_guide_leaves_nothing_out(tmp_path, capfd):
    words = [*SMALL, "method=guidance", *METHODS["guidance"], "alignment.weight=0.5", f"runs_dir={tmp_path}"]
    assert main(["diagnose", *words, "steps=2"]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "the probes, but for yours, leave out: method.objectives.alignment.weight=0.5" in out
    assert "yours: loss" in out


def test_a_network_whose_answers_are_no_numbers_is_no_matter_of_rules():
    seen = SimpleNamespace(gradient_ratio=math.nan, correlation=math.nan)
    found = trainability.verdict(seen)
    assert found.probability is None and found.sentence.startswith("its gradients are no numbers")
    assert trainability.guide_sentence(math.nan) == "" and trainability.probability(math.inf) < 1e-300


def test_where_no_guide_could_be_tried_it_is_not_said_to_be_behind(tmp_path, capfd):
    words = [*SMALL, "steps=2", f"runs_dir={tmp_path}", "guides=transformer_encoder"]
    assert main(["diagnose", *words]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "transformer_encoder: not tried" in out and "no guide was tried; to train it alone:" in out


def test_what_cannot_be_diagnosed_is_a_message(capfd):
    for words, said in (
        (["steps=many"], "steps must be a whole number"),
        (["rates=3"], "rates must be a whole number of at least 20"),
        (["guides=residual_convnets"], "did you mean 'residual_convnet'"),
        (["model=generator/gan", "method=gan", "model@source=residual_convnet"], "learns a task"),
        (["model.depht=3"], "did you mean"),
        (["steps=0", "out=."], "out=. is a folder: what is seen goes to a file, such as out=diagnosis.json"),
    ):
        assert main(["diagnose", *QUICK, "data=digits", *words]) == 2
        assert said in capfd.readouterr().err
