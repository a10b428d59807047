"""Exports and stored runs: what is damaged, too large or refused is one message."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from expected import refused
from tutelage.engine import exported, load
from tutelage.engine.exported import Exported, Served
from tutelage.errors import UserError
from tutelage.runs.records import write_json


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (3, 5, 2), (3, 2)])
def test_normalisation_goes_into_a_network_and_out_of_its_inputs(shape):
    mean, deviation = (0.25, 0.5), (0.5, 0.125)
    served = Served(nn.Identity(), (mean, deviation))
    inputs = torch.rand(shape)
    axis = 1 if len(shape) == 4 else len(shape) - 1
    slow = inputs.clone()
    for channel in range(2):
        part = slow.select(axis, channel)
        part.copy_((inputs.select(axis, channel) - mean[channel]) / deviation[channel])
    assert torch.allclose(served(inputs), slow) and torch.allclose(served.raw(slow), inputs)
    plain = Served(nn.Identity())
    assert plain(inputs) is inputs and plain.raw(inputs) is inputs


def test_an_exported_network_takes_a_batch_of_its_shape(tmp_path):
    seen = []
    facts = {"inputs": "float32", "input_shape": [3], "masked": False}

    def network(inputs, mask):
        seen.append((inputs.dtype, None if mask is None else mask.tolist()))
        return inputs

    one = Exported(facts, tmp_path, network)
    one(np.ones((2, 3)))
    assert refused(one, np.ones((2, 4))) == "this network takes a batch (n, 3), got (2, 4)"
    tokens = Exported(facts | {"inputs": "int64", "masked": True}, tmp_path, network)
    tokens(np.ones((2, 3)))
    tokens(np.ones((1, 3)), np.array([[1, 0, 1]]))
    assert seen == [
        (torch.float32, None),
        (torch.int64, [[True] * 3] * 2),
        (torch.int64, [[True, False, True]]),
    ]
    assert (
        refused(one.encode, None)
        == "this network takes its inputs as they are: it was not trained on a table or texts"
    )


GOOD = {
    "format": "onnx",
    "input_shape": [3],
    "inputs": "float32",
    "masked": False,
    "normalise": False,
    "normalization": None,
    "answer": {},
}


def test_an_export_folder_that_is_none_or_is_damaged(tmp_path):
    facts = tmp_path / "export.json"
    assert (
        refused(exported.load_exported, tmp_path)
        == f"{tmp_path} is no folder of `tutelage export`: it has no export.json"
    )
    write_json(facts, {key: value for key, value in GOOD.items() if key != "answer"})
    keys = "answer, format, input_shape, inputs, masked, normalise, normalization"
    assert refused(exported.load_exported, tmp_path) == f"{facts} is damaged: expected {keys}"
    write_json(facts, ["format"])
    assert refused(exported.load_exported, tmp_path) == f"{facts} is damaged: expected {keys}"
    write_json(facts, GOOD | {"format": "onx"})
    assert refused(exported.load_exported, tmp_path).startswith(
        f"{facts}: there is no format 'onx'; did you mean 'onnx'?"
    )
    write_json(facts, GOOD)
    assert refused(exported.load_exported, tmp_path) == f"{tmp_path} lacks network.onnx, the network itself"
    write_json(facts, GOOD | {"format": "safetensors"})
    (tmp_path / "weights.safetensors").touch()
    build = f"{facts} is damaged: expected `config` and `sizes`, which build the network"
    for more in (
        {},
        {"config": {"model": {}}},
        {"config": {}, "sizes": {}},
        {"config": {"model": 3}, "sizes": {}},
    ):
        write_json(facts, GOOD | {"format": "safetensors"} | more)
        assert refused(exported.load_exported, tmp_path) == build
    write_json(facts, GOOD | {"format": "safetensors", "config": {"model": {}}, "sizes": {}})
    assert (
        refused(exported.load_exported, tmp_path)
        == f"{facts} is damaged: expected `sizes` with the shape of a sample"
    )
    write_json(facts, GOOD | {"format": "torch_export"})
    (tmp_path / "network.pt2").touch()
    assert "can execute code where it is read" in refused(exported.load_exported, tmp_path)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("kind", "quantised", "unpacks"),
    [("onnx", None, False), ("onnx", {"kind": "weights"}, True), ("onnx", {"kind": "static"}, False),
     ("openvino", None, False), ("torch_export", None, False)],
)  # fmt: skip
def test_each_format_is_given_the_inputs_and_a_mask_where_there_is_one(
    monkeypatch, tmp_path, kind, quantised, unpacks, masked
):
    import onnxruntime
    import openvino

    asked = []

    def answer(*given):
        asked.append([one.tolist() for one in given])
        return given[0] * 2

    class Session:
        def __init__(self, file, options, providers):
            assert file == str(tmp_path / "network.onnx") and providers == ["CPUExecutionProvider"]
            assert set(options.added.items()) <= {("session.disable_quant_qdq", "1")}
            entries.append((options.intra_op_num_threads, bool(options.added)))

        def get_inputs(self):
            return [SimpleNamespace(name="inputs"), SimpleNamespace(name="mask")]

        def run(self, outputs, given):
            assert list(given) == ["inputs", "mask"][: 1 + masked]
            return [answer(*given.values())]

    class Options:
        intra_op_num_threads = -1

        def __init__(self):
            self.added = {}

        def add_session_config_entry(self, key, value):
            self.added[key] = value

    class Model:
        inputs = (1, 2) if masked else (1,)

        def __call__(self, given):
            return [answer(*given)]

    entries = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    compiled = []
    monkeypatch.setattr(
        openvino,
        "Core",
        lambda: SimpleNamespace(compile_model=lambda *words: compiled.append(words) or Model()),
    )
    monkeypatch.setattr(torch.export, "load", lambda file: SimpleNamespace(module=lambda: answer))
    file = tmp_path / exported.FILES[kind]
    file.touch()
    write_json(tmp_path / "export.json", GOOD | {"format": kind, "masked": masked, "quantised": quantised})
    found = exported.load_exported(tmp_path, code=["torch_export"])
    assert found(np.ones((2, 3))).tolist() == [[2.0] * 3] * 2
    assert asked == [[[[1.0] * 3] * 2, *([[[True] * 3] * 2] if masked else [])]]
    assert entries == ([(0, unpacks)] if kind == "onnx" else [])
    assert compiled == (
        [(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})] if kind == "openvino" else []
    )


@pytest.mark.parametrize("target", [exported.HUGGING_FACE, "a.Own"])
@pytest.mark.parametrize("architecture", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_network_of_weights_is_built_as_its_export_says(
    monkeypatch, tmp_path, target, architecture, normalise
):
    asked = []
    if architecture:
        (tmp_path / exported.ARCHITECTURE).touch()
    monkeypatch.setattr(
        exported.trust, "check_stored", lambda config, folder, code: asked.append((folder, code))
    )
    monkeypatch.setattr(
        exported, "restored", lambda *words, advice: asked.append((*words, advice)) or nn.Identity()
    )
    model = {"_target_": target, "name": "their/model", "revision": "r"}
    facts = {
        "config": {"model": model, "seed": 1}, "sizes": {"input_shape": [2, 3], "output_size": 4}, "normalise": normalise,
        "normalization": [[0.5], [2.0]],
    }  # fmt: skip
    found = exported._of_weights(tmp_path, "file", facts, ["mine"])
    own = target == exported.HUGGING_FACE and architecture
    config = {"model": model | ({"name": str(tmp_path), "revision": None} if own else {}), "seed": 1}
    sizes = {"input_shape": (2, 3), "output_size": 4, "tables": {}}
    assert asked == [(tmp_path, ["mine"]), (str(tmp_path), config, sizes, "file", "Export the run anew")]
    assert found(torch.full((1, 2, 1), 4.5)).flatten().tolist() == [2.0 if normalise else 4.5] * 2
    assert not found.training


def test_rows_are_encoded_as_an_export_says(monkeypatch, tmp_path):
    from tutelage.engine import encoding

    monkeypatch.setattr(encoding, "encode", lambda *words: words)
    one = Exported({"encoding": {"kind": "table"}}, tmp_path, None)
    assert one.encode("rows") == ({"kind": "table"}, "rows", "the rows", tmp_path / "tokenizer.json")
    assert one.encode("rows", "t.csv")[2] == "t.csv"


@pytest.mark.parametrize(("missing", "package"), [("onnxscript", "onnxscript"), (None, "onnx")])
def test_a_missing_package_is_named_with_what_brings_it(missing, package):
    def needs():
        with exported.extra("onnx"):
            raise ImportError("no", name=missing)

    assert refused(needs) == f"format=onnx needs the package {package}: pip install 'tutelage[onnx]'"


@pytest.mark.parametrize("before", [None, "0"])
def test_pickles_are_refused_for_as_long_as_a_program_is_read(monkeypatch, before):
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(key, raising=False)
    if before is not None:
        monkeypatch.setenv(key, before)
    with exported._pickles_refused():
        assert os.environ[key] == "1"
    assert os.environ.get(key) == before


@pytest.mark.parametrize(("error", "said_"), [
    (ValueError("\n first \nsecond"), "it: first"), (ValueError(), "it: ValueError"), (UserError("ours"), "ours"),
    (ValueError("x" * 400), "it: " + "x" * 300),
])  # fmt: skip
def test_what_libraries_raise_is_one_message(error, said_):
    def failing():
        with exported.one_message("it"):
            raise error

    assert refused(failing) == said_


@pytest.mark.parametrize(("asked", "stored", "fine"), [(10**7, 0, True), (10**7 + 1, 0, False), (2 * 10**7, 2 * 10**7, True),
                                                       (2 * 10**7 + 1, 2 * 10**7, False), (-5, 0, True)])  # fmt: skip
def test_a_stored_network_is_no_larger_than_its_weights(tmp_path, asked, stored, fine):
    weights = tmp_path / "w.safetensors"
    if stored:
        with weights.open("wb") as file:
            file.truncate(stored)
    config = {"model": {"a": {"width": asked}, "name": "x" * 5}}
    if fine:
        load.check_size("x", config, weights)
        return
    said_ = f"x: model.a.width={asked} asks for a larger network than w.safetensors could fill"
    assert refused(load.check_size, "x", config, weights) == said_


@pytest.mark.parametrize(("spare", "parts", "message"), [
    (100, 20, None), (100 - 1, 20, "more weights"), (100, 20 - 1, "more parts"),
])  # fmt: skip
def test_a_network_grows_no_larger_than_the_file_of_its_weights(tmp_path, monkeypatch, spare, parts, message):
    weights = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, weights)
    monkeypatch.setattr(load, "_SPARE_VALUES", spare - weights.stat().st_size)
    monkeypatch.setattr(load, "_PARTS_OF_A_TENSOR", 5)
    monkeypatch.setattr(load, "_SPARE_PARTS", parts - 2 * 5)

    def build():
        with load.within(weights):
            module = nn.Module()
            for number in range(20):
                module.add_module(str(number), nn.ReLU())
            module.register_parameter("w", nn.Parameter(torch.zeros(10, 10)))
            module.register_parameter("later", nn.UninitializedParameter())
            module.register_parameter("none", None)

    if message is None:
        build()
    else:
        assert f"has {message} than w.safetensors (0.0 MB) could fill" in refused(build)


@pytest.mark.parametrize(("config", "message"), [
    ({}, None), ({"model": 3}, "expected a section 'model'"), ({"seed": -1}, "expected a seed from 0 to 2^32 - 1, got -1"),
    ({"seed": 0}, None),
    ({"seed": 2**32 - 1}, None), ({"seed": 2**32}, "expected a seed from 0 to 2^32 - 1"),
    ({"seed": "1"}, "expected a seed from 0 to 2^32 - 1"),
    ({"data": {"root": "/dev/null"}}, "data.root=/dev/null is a pipe, socket or device"), ({"data": {"root": "/"}}, None),
    ({"data": {"root": __file__}}, None), ({"data": {"root": "no such file"}}, None),
])  # fmt: skip
def test_the_configuration_of_a_stored_run(tmp_path, config, message):
    run = SimpleNamespace(config={"data": {}, "model": {}, "method": {}, "seed": 3} | config, path=tmp_path)
    if message is None:
        assert load.stored_config(run, runs_dir="here")["runs_dir"] == "here"
    else:
        assert message in refused(load.stored_config, run, runs_dir="here")
