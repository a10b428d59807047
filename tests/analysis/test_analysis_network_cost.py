"""What a network costs, against counts by hand."""

import pytest
import torch
from torch import nn

from tutelage.analysis import network_cost as analysis
from tutelage.analysis.network_cost import BATCHES, network_cost, peak_bytes
from tutelage.cli.commands import COMMANDS
from tutelage.cli.reader import read
from tutelage.cli.report import run as report
from tutelage.config.planner import plan_of
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.models.counts import counted
from tutelage.models.frozen import FrozenNetwork
from tutelage.runs.store import Store
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


def test_a_run_records_what_its_networks_hold_and_a_report_has_it_as_columns(tmp_path, capsys, monkeypatch):
    words = ["logger=none", "hardware.threads=1", "fit.max_steps=2", "fit.validate_every_steps=2"]
    network = ["model=fcn", "model.depth=1", "model.width=8", "model.batch_norm=false"]
    run_plan(
        plan_of(
            [
                *words,
                *network,
                "method=distillation",
                "model@teacher=convnet",
                "name=c/kd",
                f"runs_dir={tmp_path}",
            ]
        )
    )
    (run,) = Store(tmp_path).runs("c/kd")
    first, last = 64 * 8 + 8, 8 * 10 + 10
    recorded = run.result["networks"]
    assert recorded["model"]["parameters"] == first + last
    assert recorded["model"]["operations"] == 2 * (64 * 8 + 8 * 10)
    assert recorded["teacher"]["parameters"] > 10_000
    assert (
        report(
            read(
                "report",
                COMMANDS["report"],
                ["c", f"runs_dir={tmp_path}", "columns=parameters,flops,size,latency"],
            )
        )
        == 0
    )
    assert "Latency and memory: " in capsys.readouterr().out
    header, row = (tmp_path / "c" / "table.csv").read_text().splitlines()
    assert header.startswith("arm,metric,mean,std,n,parameters,flops,size,latency of 1")
    assert ",610 (teacher " in row and ",1.18k (teacher " in row and " ms (teacher " in row
    monkeypatch.setattr(analysis, "thread_counts", lambda device: [1, 2])
    of = [name.partition(", ")[2] for name in analysis.of_run(run, tmp_path) if name.startswith("latency")]
    assert of[:2] == ["1 thread", "2 threads"]
    with pytest.raises(UserError, match="there is no 'flop'; did you mean 'flops'"):
        report(read("report", COMMANDS["report"], ["c", f"runs_dir={tmp_path}", "columns=flop"]))


def test_counting_leaves_a_network_as_it_was():
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.BatchNorm1d(3))
    network[0].weight.data[0] = 0
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = torch.random.get_rng_state()
    found = counted(network, torch.randn(5, 4))
    assert found == {"parameters": 21, "nonzero": 21 - 4 - 3, "operations": 24}
    assert network.training and all(torch.equal(state[n], v) for n, v in network.state_dict().items())
    assert counted(network, torch.randn(5, 9))["operations"] is None
    torch.random.set_rng_state(before)
