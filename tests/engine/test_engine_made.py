"""Exports and pseudo data sets from what is asked for to the facts that are written, with networks and files that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from expected import refused
from tutelage.engine import export, pseudo_data
from tutelage.errors import UserError


@pytest.mark.parametrize(("masked", "heeds"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_network_is_measured_with_its_mask_where_it_heeds_one(monkeypatch, masked, heeds):
    written: list[Any] = []
    mask = torch.ones(2, 3) if masked else None
    served = SimpleNamespace(_call=SimpleNamespace(takes_mask=heeds), raw=lambda inputs: inputs + 1)
    served.eval = lambda: served
    monkeypatch.setattr(export, "in_floats", lambda network: f"{network} in floats")
    monkeypatch.setattr(
        export, "Served", lambda network, normalization: written.append((network, normalization)) or served
    )
    batch = SimpleNamespace(inputs=torch.zeros(2, 3), mask=mask)
    monkeypatch.setattr(export, "example_of", lambda data, count: batch if count == 64 else None)
    monkeypatch.setattr(export, "_onnx", lambda *words: written.append(words))
    data: Any = SimpleNamespace(normalization="n")
    assert export.onnx_of("network", data, "file") == (served, masked and heeds)
    first, (given, inputs, given_mask, file) = written
    assert first == ("network in floats", "n") and given is served and file == "file"
    assert torch.equal(inputs, torch.ones(2, 3)) and given_mask is (mask if heeds else None)


@pytest.mark.parametrize(
    ("kind", "quantised", "of", "copied"),
    [
        ("safetensors", "none", export.HUGGING_FACE, True),
        ("onnx", "none", export.HUGGING_FACE, False),
        ("safetensors", "none", "a.Own", False),
        ("onnx", "dynamic", "a.Own", False),
    ],
)
@pytest.mark.parametrize("masks", [(True, True), (True, False), (False, True)])
def test_the_facts_of_an_export(monkeypatch, tmp_path, kind, quantised, of, copied, masks):
    masked, heeds = masks
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / export.ARCHITECTURE).write_text("architecture")
    network = nn.Linear(3, 2)
    model = {"_target_": of, "name": "their/model"}
    data = SimpleNamespace(normalization=((0.5,), (0.25,)), input_shape=torch.Size((2, 3)))
    mask = torch.ones(2, 3) if masked else None
    monkeypatch.setattr(
        export, "example_of", lambda data, count: SimpleNamespace(inputs=torch.zeros(4, 2, 3), mask=mask)
    )
    monkeypatch.setattr(
        export.Served, "__init__", lambda self, network, normalization: nn.Module.__init__(self)
    )
    monkeypatch.setattr(export.Served, "raw", lambda self, inputs: inputs)
    monkeypatch.setattr(export.Served, "_call", SimpleNamespace(takes_mask=heeds), raising=False)
    monkeypatch.setattr(export, "answer_of", lambda data: {"names": ["a"]})
    monkeypatch.setattr(export, "encoding_of", lambda data: "encoded")
    monkeypatch.setattr(export, "sizes_of", lambda data: {"tables": 1, "output_size": 2, "class_names": 3})
    monkeypatch.setattr(export, "keep", lambda data, folder: None)
    monkeypatch.setattr(
        export,
        "model_folder",
        lambda name, revision: tmp_path / "theirs" if (name, revision) == ("their/model", None) else None,
    )
    written: list[Any] = []
    monkeypatch.setitem(
        export._WRITERS, kind, lambda served, inputs, mask, file: written.append((mask, file))
    )
    monkeypatch.setattr(export, "_verify", lambda *_: (0.125, 4))
    monkeypatch.setattr(export, "quantise", lambda how, file, served, data, masked: (how, file.name, masked))
    loaded: Any = SimpleNamespace(network=network, data=data, config={"model": model, "seed": 6})
    folder = tmp_path / "out"
    facts = export.export(loaded, folder, kind, key="a/1", normalise=quantised == "none", quantised=quantised)
    assert written == [(mask if heeds else None, folder / export.FILES[kind])]
    assert json.loads((folder / "export.json").read_text()) == json.loads(json.dumps(facts))
    assert (folder / export.ARCHITECTURE).is_file() is copied
    expected = {
        "format": kind, "run": "a/1", "input_shape": [2, 3], "inputs": "float32", "masked": masked and heeds,
        "normalise": quantised == "none", "normalization": [[0.5], [0.25]], "answer": {"names": ["a"]}, "encoding": "encoded",
        "largest_difference": 0.125, "compared": 4,
    }  # fmt: skip
    if kind == "safetensors":
        expected["config"] = {"model": model, "seed": 6, "hardware": {"accelerator": "cpu"}}
        expected["sizes"] = {"output_size": 2, "class_names": ["a"], "input_shape": [2, 3]}
    if quantised != "none":
        expected["quantised"] = (quantised, "network.onnx", masked and heeds)
    assert facts == expected
    monkeypatch.setattr(export, "_verify", lambda *_: (_ for _ in ()).throw(UserError("apart")))
    assert refused(export.export, loaded, tmp_path / "again", kind, key="a/1") == "apart"
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(("rank", "ranks", "conditions", "recorded", "brings"), [
    (0, 1, False, True, False), (0, 1, False, False, True), (0, 1, False, False, False), (0, 1, True, True, True),
    (0, 2, True, False, False),
    (1, 2, False, True, True),
])  # fmt: skip
def test_a_run_that_makes_a_set(monkeypatch, tmp_path, rank, ranks, conditions, recorded, brings):
    events: list[Any] = []
    made = {
        "labelling": "uniform", "count": 3, "classes": 2, "image_shape": [1, 2, 2], "generator": "g", "content_sha256": "c",
        "more": 1,
    }  # fmt: skip
    data = SimpleNamespace(summary=lambda: "its record", teardown=lambda: events.append("torn down"))
    source = SimpleNamespace(digest=lambda: "digest")
    source.to = lambda device: source
    opens = conditions or not (recorded or brings)
    asked: dict[str, Any] = {}
    for name, part in {
        "reads_of": lambda config: {"generator": "x"},
        "join_environment": lambda: (rank, ranks),
        "_device": lambda accelerator: torch.device("cpu"),
        "check_labelling": lambda labelling: labelling,
        "check_frozen": lambda config, own: events.append(own),
        "recorded_sizes": lambda where, config: {"output_size": 9} if recorded else {},
        "brings_sizes": lambda node: brings,
        "build_data": lambda config: data,
        "sizes_of": lambda given: "sizes of its data",
        "build_generator": lambda config, sizes: asked.update(sizes=sizes) or nn.Identity(),
        "build_frozen": lambda where, config, data: source,
        "construct": lambda where, node, **context: asked.update(context) or dict(made),
        "_targets": lambda data, device: "targets",
        "_origin": lambda config: "origin",
        "recorded_data": lambda where, config: {"classes": ["a", "b"]} if recorded else {},
        "_recognised": lambda *_: {"source_accuracy": 0.5},
        "write_grid": lambda images, labels, path, classes: events.append((images.max().item(), labels.tolist(), path.name, classes)),
    }.items():  # fmt: skip
        monkeypatch.setattr(pseudo_data, name, part)
    found = SimpleNamespace(images=torch.full((70, 1, 2, 2), 255), labels=torch.zeros(70))
    monkeypatch.setattr(pseudo_data.pseudo, "read", lambda folder: found)
    monkeypatch.setattr(pseudo_data.shards, "finish", lambda folder: dict(made, finished=folder.name))
    for name in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *words, name=name: events.append(name))
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(pseudo_data, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    results: list[Any] = []
    run: Any = SimpleNamespace(path=tmp_path, complete=results.append, result="result" if rank == 0 else None)
    config = {
        "hardware": {"accelerator": "cpu"}, "method": {"labelling": "source" if conditions else "uniform"}, "model": {}, "seed": 4,
    }  # fmt: skip
    assert pseudo_data._make(config, run) == ("result" if rank == 0 else {})
    assert asked["sizes"] == ({"output_size": 9} if recorded else "sizes of its data" if opens else {})
    assert (asked["rank"], asked["world_size"], asked["seed"], asked["origin"]) == (rank, ranks, 4, "origin")
    assert asked["classifier"] is (source if conditions else None)
    assert asked["targets"] == ("targets" if conditions else None)
    assert asked["folder"] == str(tmp_path / "shards")
    together = ["init_process_group", "barrier"], ["barrier", "destroy_process_group"]
    shown = [0.0] * pseudo_data.GRID_IMAGES
    grid = [(1.0, shown, "samples.png", ["a", "b"] if recorded else None)]
    expected = [["source"] if conditions else [], *(together[0] if ranks > 1 else [])]
    expected += grid if rank == 0 else []
    assert events == [*expected, *(together[1] if ranks > 1 else []), *(["torn down"] if opens else [])]
    if rank:
        assert results == [] and not (tmp_path / "setup.json").exists()
        return
    (result,) = results
    facts = {key: value for key, value in made.items() if key != "more"}
    assert result["metrics"] == ({"validation": {"source_accuracy": 0.5}} if conditions else {})
    assert result["pseudo"] == facts and result["cost"] == {"total_s": 2.5, "ranks": ranks}
    assert result["reads"] == {"generator": "x"} | ({} if opens else {"data": None})
    record = json.loads((tmp_path / "setup.json").read_text())
    assert record.pop("data", None) == ("its record" if conditions else None)
    assert record == {
        "pseudo": facts,
        "source_digest": "digest" if conditions else None,
        "reads": result["reads"],
    }


def test_ranks_meet_before_the_first_finishes_a_set(monkeypatch):
    events: list[Any] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", events.append)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: events.append("barrier"))
    manifest: Any = {"count": 3}
    monkeypatch.setattr(pseudo_data.shards, "finish", lambda folder: events.append(folder) or manifest)
    assert pseudo_data._gathered(Path("f"), 0) == {"count": 3} and events == ["gloo", "barrier", Path("f")]
    assert pseudo_data._gathered(Path("f"), 1) == {} and len(events) == 5
    manifest = None
    assert pseudo_data._gathered(Path("f"), 0) == {}


def test_a_damaged_set_is_known_by_its_manifest_and_its_shards(monkeypatch, tmp_path):
    run: Any = SimpleNamespace(path=tmp_path)
    monkeypatch.setattr(pseudo_data.pseudo, "read_manifest", lambda folder: {"of": folder})
    monkeypatch.setattr(pseudo_data.shards, "damaged", lambda folder, manifest: [folder, manifest])
    assert pseudo_data.damaged(run) == [tmp_path / "shards", {"of": tmp_path / "shards"}]
    monkeypatch.setattr(pseudo_data.pseudo, "read_manifest", lambda _: (_ for _ in ()).throw(UserError("no")))
    assert pseudo_data.damaged(run) == ["manifest.json"]


def test_a_file_of_onnx_has_one_name_for_the_batch_and_large_weights_beside(monkeypatch, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    shapes = {"inputs": ["s0", 3], "outputs": ["s0", "s1"]}
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["inputs"], ["outputs"])], "g", [ends["inputs"]], [ends["outputs"]]
        )
    )
    asked: list[Any] = []

    def write(program, given, file, **words):
        asked.append(words["external_data"])
        onnx.save(made, file)

    monkeypatch.setattr(export, "_program", lambda *words: "program")
    monkeypatch.setattr(torch.onnx, "export", write)
    served: Any = nn.Linear(3, 5)  # 20 numbers of 4 bytes
    names = {"large": ["s0", 3, "s0", "s1"], "small": ["batch", 3, "batch", "s1"]}
    for limit, large in ((79, True), (80, False)):
        monkeypatch.setattr(export, "_LARGE", limit)
        export._onnx(served, torch.zeros(1, 3), None, tmp_path / "n.onnx")
        graph = onnx.load(tmp_path / "n.onnx").graph
        sides = [side for end in (*graph.input, *graph.output) for side in end.type.tensor_type.shape.dim]
        assert [side.dim_param or side.dim_value for side in sides] == names["large" if large else "small"]
        assert asked.pop() is large
    for side in ends["inputs"].type.tensor_type.shape.dim:
        side.dim_value = 4  # a batch without a name is left as it is
    made.graph.input[0].CopyFrom(ends["inputs"])
    export._onnx(served, torch.zeros(1, 3), None, tmp_path / "n.onnx")
    assert onnx.load(tmp_path / "n.onnx").graph.output[0].type.tensor_type.shape.dim[0].dim_param == "s0"
