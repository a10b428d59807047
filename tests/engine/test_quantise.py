"""Exports in int8: what is stored, what is measured, and that an export is read as any other."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import tutelage
from tutelage.cli.analyse import run as analyse
from tutelage.cli.commands import COMMANDS
from tutelage.cli.export import run as export
from tutelage.cli.reader import read
from tutelage.config.planner import plan_of
from tutelage.engine import quantise
from tutelage.engine.export import _onnx, onnx_of
from tutelage.engine.exported import Served
from tutelage.errors import UserError
from tutelage.jobs.launch import run_plan
from tutelage.runs.store import Store

SMALL = [
    "logger=none",
    "hardware.threads=1",
    "fit.max_steps=30",
    "fit.validate_every_steps=30",
    "optimizer.lr=0.01",
]
NETWORKS = {
    "conv": ["model=convnet", "model.blocks=1", "model.stages=2"],
    "fcn": ["model=fcn", "model.depth=1", "model.width=32"],
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """From a network's name to its run, its network as it leaves, its data and its ONNX file."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    for name, words in NETWORKS.items():
        run_plan(plan_of([*SMALL, *words, f"name={name}", f"runs_dir={root}"]))
        (run,) = Store(root).runs(name)
        loaded = tutelage.load_run(run.path)
        served = Served(loaded.network, loaded.data.normalization).eval()
        _onnx(served, torch.rand(8, 1, 8, 8), None, root / f"{name}.onnx")
        found[name] = run, served, loaded.data, root / f"{name}.onnx"
    return found


def quantised(exports, name, kind, folder):
    run, served, data, file = exports[name]
    shutil.copy(file, folder / "network.onnx")
    return run, quantise.quantise(kind, folder / "network.onnx", served, data, masked=False)


@pytest.mark.parametrize(
    ("name", "kind"), [("conv", "static"), ("conv", "weights"), ("fcn", "dynamic"), ("fcn", "static")]
)
def test_int8_is_smaller_and_judged_beside_the_floats(exports, tmp_path, monkeypatch, name, kind):
    monkeypatch.setattr(quantise, "TIMED", 3)
    run, facts = quantised(exports, name, kind, tmp_path)
    whole, small = facts["measured"]["float"], facts["measured"][kind]
    assert whole["metrics"]["accuracy"] == pytest.approx(run.result["metrics"]["test"]["accuracy"])
    assert abs(whole["metrics"]["accuracy"] - small["metrics"]["accuracy"]) < 0.03
    assert small["size_mb"] < 0.8 * whole["size_mb"] and facts["answers_changed"] < 0.05
    assert {"batch 1, 1 thread", "batch 64, 1 thread"} <= set(small["latency_ms"])
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    lines = quantise.table(facts, "accuracy")
    assert lines[1].startswith("test accuracy") and f"n = {small['n']} test samples" in lines[-1]


def test_stored_weights_are_rounded_for_each_output(exports, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "TIMED", 3)
    quantised(exports, "fcn", "weights", tmp_path)
    graph = onnx.load(tmp_path / "network.onnx").graph
    held = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    packed = [value for name, value in held.items() if name.endswith("_int8")]
    real = exports["fcn"][1].network.layers[0].linear.weight.detach().numpy()
    slow = np.rint(real / (np.abs(real).max(1, keepdims=True) / 127))
    found = next(one for one in packed if one.shape in (real.shape, real.T.shape))
    found = found if found.shape == real.shape else found.T
    # batch norm may be part of the layer in the graph: the proportions in a row are the same
    assert found.dtype == np.int8 and np.abs(np.abs(found.astype(int)) - np.abs(slow)).max() <= 1


@pytest.mark.slow
def test_recurrent_weights_are_quantised_though_the_graph_reorders_them(exports, tmp_path, monkeypatch):
    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = torch.nn.LSTM(8, 48, batch_first=True), torch.nn.Linear(48, 10)

        def forward(self, images):
            return self.head(self.cell(images.squeeze(1))[0][:, -1])

    monkeypatch.setattr(quantise, "TIMED", 3)
    data, file = exports["fcn"][2], tmp_path / "network.onnx"
    served, masked = onnx_of(Rows(), data, file)
    facts = quantise.quantise("dynamic", file, served, data, masked=masked)
    assert facts["measured"]["dynamic"]["size_mb"] < 0.5 * facts["measured"]["float"]["size_mb"]


def test_the_ranges_come_from_training_samples(exports, monkeypatch, tmp_path):
    seen, whole = [], quantise._feeds

    def watched(served, data, split, *more, **options):
        seen.append(split)
        return whole(served, data, split, *more, **options)

    monkeypatch.setattr(quantise, "_feeds", watched)
    monkeypatch.setattr(quantise, "TIMED", 3)
    quantised(exports, "conv", "static", tmp_path)
    assert seen == ["train"]


def test_what_cannot_be_is_one_message(exports, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="weights of at least 512 numbers"):
        monkeypatch.setattr(quantise, "_SMALL", 10**9)
        quantised(exports, "conv", "weights", tmp_path)

    def no_kernel(*_, **__):
        raise RuntimeError("NOT_IMPLEMENTED: no kernel for ConvInteger")

    monkeypatch.setattr(quantise, "of_onnx", no_kernel)
    with pytest.raises(
        UserError, match=r"no kernels for it on this machine \(quantise=weights needs none\): NOT_IMPL"
    ):
        quantised(exports, "fcn", "dynamic", tmp_path)


def test_the_command_writes_card_and_facts_and_its_folder_is_read_as_any_other(exports, tmp_path, capsys):
    run = exports["fcn"][0]
    given = [run.key, f"runs_dir={run.path.parents[1]}", f"out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="quantise=static is of format=onnx, got format=safetensors"):
        export(read("export", COMMANDS["export"], [*given, "quantise=static"]))
    assert not (tmp_path / "out").exists()
    assert export(read("export", COMMANDS["export"], [*given, "format=onnx", "quantise=weights"])) == 0
    assert "int8, weights" in capsys.readouterr().out
    assert "int8, weights" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["quantised"]["kind"] == "weights"
    images = torch.rand(3, 1, 8, 8)
    ours, theirs = tutelage.load_exported(tmp_path / "out")(images), exports["fcn"][1](images)
    assert float((ours - theirs).abs().max()) < 0.1 * float(theirs.abs().max())


def test_the_analysis_has_a_row_for_each_run_and_form_and_a_figure(exports, tmp_path, capsys, monkeypatch):
    run, served, _, made = exports["fcn"]

    def written(network, data, file):  # it takes seconds, and another test does it
        shutil.copy(made, file)
        return served, False

    monkeypatch.setattr("tutelage.analysis.compression.onnx_of", written)
    words = [run.key, f"runs_dir={run.path.parents[1]}", f"out={tmp_path}"]
    assert analyse(read("analyse", COMMANDS["analyse"], ["int8", *words, "forms=static,weights"])) == 0
    assert "fcn, weights: accuracy" in capsys.readouterr().out
    rows = (tmp_path / "int8.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith(
        'network,arm,seed,form,test_accuracy,size_mb,"latency_ms, batch 1'
    )
    assert (tmp_path / "int8.png").stat().st_size > 5000
    with pytest.raises(UserError, match="there is no 'statics'; did you mean 'static'"):
        analyse(read("analyse", COMMANDS["analyse"], ["int8", *words, "forms=statics"]))
