"""Rounding to int8 against slow references, and as runs."""

import copy

import pytest
import torch
from torch import nn

import tutelage
from tutelage.config.planner import plan_of
from tutelage.engine.load import evaluate_network
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.models.int8 import in_floats, quantise, rounded_input, rounded_weight
from tutelage.runs.store import Store


def test_weights_are_rounded_by_their_output_and_inputs_by_their_sample():
    torch.manual_seed(0)
    weight, inputs = torch.randn(3, 2, 2), torch.randn(4, 5) * torch.tensor([[1.0], [10.0], [0.1], [0.0]])
    for row, found in zip(weight, rounded_weight(weight), strict=True):
        scale = row.abs().max() / 127
        torch.testing.assert_close(found, (row / scale).round().clamp(-127, 127) * scale)
    for row, found in zip(inputs, rounded_input(inputs), strict=True):
        low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
        scale = max(high - low, 1e-12) / 255
        zero = round(-low / scale)
        slow = ((row / scale).round() + zero).clamp(0, 255)
        torch.testing.assert_close(found, (slow - zero) * scale, atol=scale * 1e-3, rtol=1e-5)
        assert float((found - row).abs().max()) <= 0.51 * scale + 1e-9
    torch.testing.assert_close(rounded_input(inputs)[1:2], rounded_input(inputs[1:2]))


def test_a_rounded_network_has_the_same_state_learns_and_turns_back():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    images, plain = torch.randn(2, 1, 6, 6), copy.deepcopy(network)
    quantise(network, "int8")
    assert list(network.state_dict()) == list(plain.state_dict())
    twin = copy.deepcopy(network)
    assert torch.equal(twin(images), network(images)) and not torch.equal(network(images), plain(images))
    torch.testing.assert_close(network(images), plain(images), atol=0.03, rtol=0.05)
    network(images).square().sum().backward()
    plain(images).square().sum().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=0.2, rtol=0.2)
    assert torch.equal(in_floats(network)(images), plain(images))
    with pytest.raises(UserError, match="quantised must be int8, got 'int4'"):
        quantise(network, "int4")
    with pytest.raises(UserError, match="LSTM has no linear layer or convolution"):
        quantise(nn.LSTM(2, 2), "int8")


def test_a_run_learns_under_rounding_and_answers_alike_when_it_is_loaded(tmp_path):
    words = [
        "logger=none",
        "hardware.threads=1",
        "fit.max_steps=6",
        "fit.validate_every_steps=3",
        f"runs_dir={tmp_path}",
    ]
    run_plan(
        plan_of([*words, "model=fcn", "model.depth=1", "model.width=16", "model.quantised=int8", "name=q"])
    )
    (run,) = Store(tmp_path).runs("q")
    loaded = tutelage.load_run(run.path)
    batches = loaded.data.batches("validation", device=torch.device("cpu"))
    found = evaluate_network(loaded.network, loaded.data.task, batches, "cpu")
    assert found == run.result["metrics"]["validation"]
    before = loaded.network(torch.zeros(1, 1, 8, 8) + 0.3)
    assert not torch.equal(in_floats(loaded.network)(torch.zeros(1, 1, 8, 8) + 0.3), before)
