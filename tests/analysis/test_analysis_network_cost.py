"""What a network costs, against counts by hand."""

import pytest
import torch
from torch import nn

from tutelage.analysis.network_cost import BATCHES, network_cost, peak_bytes
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch


def batch_of(inputs, mask=None):
    n = len(inputs)
    return Batch(inputs, torch.zeros(n, dtype=torch.long), mask, torch.arange(n))


def test_parameters_size_and_operations_are_those_counted_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    found = network_cost(FrozenNetwork(network), batch_of(torch.randn(2, 3, 8, 8)), threads=(1, 1))
    convolution, linear = 8 * 3 * 9, 8 * 36 * 5
    assert found.parameters == convolution + 2 * 8 + linear + 5
    assert found.size_mb == pytest.approx(
        (4 * (found.parameters + 2 * 8) + 8) / 2**20
    )  # running statistics, a counter
    assert found.operations == 2 * (convolution * 36 + linear)
    assert [(one.batch, one.threads) for one in found.latencies] == [(size, 1) for size in BATCHES]
    assert all(0 < one.low_s <= one.median_s <= one.high_s for one in found.latencies)
    assert set(found.columns) >= {"parameters", "operations", "size_mb", "latency_ms_batch_64_threads_1"}
    first = found.latencies[0]
    assert found.columns[f"latency_ms_batch_{first.batch}_threads_1"] == round(1000 * first.median_s, 4)


def test_shared_weights_count_once():
    layer = nn.Linear(4, 4)
    found = network_cost(FrozenNetwork(nn.Sequential(layer, layer)), batch_of(torch.randn(2, 4)))
    assert found.parameters == 20 and found.operations == 2 * 2 * 16


def test_peak_memory_is_of_what_lives_at_once():
    class Chain(nn.Module):
        def forward(self, x):
            for _ in range(5):
                x = x + 1  # each step lets go of the one before
            return x

    class Keep(nn.Module):
        def forward(self, x):
            kept = [x + i for i in range(5)]
            return kept[0]

    x = batch_of(torch.randn(16, 1024))
    one = 16 * 1024 * 4
    with torch.inference_mode():
        assert peak_bytes(FrozenNetwork(Chain()), x) == 2 * one
        assert peak_bytes(FrozenNetwork(Keep()), x) == 5 * one


def test_threads_are_as_before_also_after_a_failure():
    class Fails(nn.Module):
        def forward(self, x):
            if len(x) > 1:
                raise RuntimeError("no")
            return x

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        network_cost(FrozenNetwork(Fails()), batch_of(torch.randn(2, 4)), threads=(before + 1,))
    assert torch.get_num_threads() == before
