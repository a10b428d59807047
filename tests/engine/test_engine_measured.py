"""What is packed, measured and shown of networks that leave, and the sets and pictures of runs: by slow versions, word by word."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from expected import refused
from tutelage.engine import build, export, mirror_kinds, mirrors, pseudo_data, quantise, run_pictures
from tutelage.engine.validation_intervals import ValidationIntervals
from tutelage.runs.layer_pairs import LayerPairs


def packed_slowly(values, axis):
    """Return int8 weights with a scale for each place along an axis, one number at a time."""
    scales = []
    found = np.zeros(values.shape, dtype=np.int8)
    for place in range(values.shape[axis]):
        part = np.take(values, place, axis)
        scales.append(np.float32(max(np.abs(part).max(), 1e-12)) / np.float32(127))
        index = [slice(None)] * values.ndim
        index[axis] = place
        found[tuple(index)] = np.rint(part / scales[-1])
    return found, np.array(scales, dtype=np.float32)


@pytest.mark.parametrize(("kind", "shape", "axis", "more"), [
    ("MatMul", (24, 32), 1, {}), ("MatMul", (3, 16, 12), 2, {}), ("Gemm", (24, 32), 1, {}), ("Gemm", (24, 32), 1, {"transB": 0}),
    ("Gemm", (24, 32), 0, {"transB": 1}), ("Gemm", (24, 32), 0, {"alpha": 1.0, "transB": 1}), ("Conv", (8, 9, 3, 3), 0, {}),
    ("ConvTranspose", (8, 9, 3, 3), 1, {}), ("Gather", (32, 16), 0, {}), ("MatMul", (16, 32), 1, {}), ("MatMul", (16, 31), None, {}),
    ("Add", (24, 32), None, {}), ("MatMul", (600,), None, {}),
])  # fmt: skip
def test_weights_are_packed_along_their_outputs(tmp_path, monkeypatch, kind, shape, axis, more):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values.reshape(-1)[:3] = 0
    order = ["w", "x"] if kind == "Gather" else ["x", "w"]
    node = helper.make_node(kind, order, ["y"], **more)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(values, "w")],
    )  # fmt: skip
    monkeypatch.setattr(quantise, "_prepared", lambda source: helper.make_model(graph))
    quantise._weights(tmp_path / "a", tmp_path / "b.onnx", None, None, False)
    made = onnx.load(tmp_path / "b.onnx").graph
    held = {one.name: numpy_helper.to_array(one) for one in made.initializer}
    if axis is None:
        assert list(held) == ["w"] and [one.op_type for one in made.node] == [kind]
        return
    integers, scales = packed_slowly(values, axis)
    assert list(held) == ["w_int8", "w_scale"]
    assert np.array_equal(held["w_int8"], integers) and np.allclose(held["w_scale"], scales, rtol=1e-6)
    assert [one.op_type for one in made.node] == ["DequantizeLinear", kind]
    assert made.node[0].attribute[0].i == axis and quantise._quantised(SimpleNamespace(graph=made)) == 1


@pytest.mark.parametrize(("first", "second", "share"), [
    ([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 2.0]], [[2.0, 0.0], [1.0, 0.0], [1.0, 2.0], [0.0, 1.0]], 0.5),
    ([[1.0], [2.0]], [[2.0], [1.0]], None), ([1.0, 2.0], [2.0, 1.0], None), ([[[1.0, 2.0]]], [[[2.0, 1.0]]], None),
])  # fmt: skip
def test_the_share_of_answers_that_are_others(first, second, share):
    assert quantise._changed(torch.tensor(first), torch.tensor(second)) == share


def measured(accuracy, size, fast, slow):
    return {
        "metrics": {"accuracy": accuracy}, "n": 40, "size_mb": size,
        "latency_ms": {"batch 1, 1 thread": fast, "batch 64, 2 threads": slow},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [(0.0125, "; 1.2 % of the answers are others"), (0.0, "; 0 % of the answers are others"), (None, "")],
)
def test_both_networks_side_by_side(changed, said):
    facts = {
        "kind": "static", "machine": "a CPU", "answers_changed": changed,
        "measured": {"float": measured(0.98765, 12.3456, 0.01234, 5.0), "static": measured(0.9, 3.0999, 0.005, 12.25)},
    }  # fmt: skip
    assert quantise.table(facts, "accuracy") == [
        "                     float      int8, static",
        "test accuracy        0.9877     0.9",
        "size                 12.3 MiB   3.1 MiB",
        "batch 1, 1 thread    0.0123 ms  0.005 ms",
        "batch 64, 2 threads  5 ms       12.2 ms",
        f"n = 40 test samples{said}; latency: a CPU, onnxruntime, median of 50",
    ]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_latencies_are_medians_of_warm_batches(monkeypatch, threads, masked):
    clock, seen = [0.0], []

    def tick():
        return clock[0]

    def of_onnx(file, threads, unpack):
        calls = [0]

        def run(inputs, mask):
            seen.append((threads, len(inputs), None if mask is None else len(mask), unpack))
            assert inputs[-1].item() == (len(inputs) - 1) % 5
            calls[0] += 1
            clock[0] += 100.0 if calls[0] <= quantise.WARM else 0.002 * threads * len(inputs)
            return inputs

        def again(inputs, mask):
            if calls[0] == quantise.WARM + quantise.TIMED:
                calls[0] = 0
            return run(inputs, mask)

        return again

    monkeypatch.setattr(quantise, "of_onnx", of_onnx)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(time, "thread_time", tick)
    monkeypatch.setattr(
        time, "perf_counter", (lambda: pytest.fail("another clock")) if threads == 1 else tick
    )
    found = quantise.latencies("file", torch.arange(5.0), torch.ones(5) if masked else None, unpack=True)
    expected = {"batch 1, 1 thread": 2.0, "batch 64, 1 thread": 128.0}
    assert found == (
        expected if threads == 1 else expected | {"batch 1, 3 threads": 6.0, "batch 64, 3 threads": 384.0}
    )
    assert len(seen) == len(found) * 55 and {one[2] for one in seen} == ({1, 64} if masked else {None})


class Data:
    """Two batches of three and two samples, normalised."""

    def __init__(self, mask=True):
        self.mask = mask

    def batches(self, split, device):
        assert split == "train"
        for rows in ([[1.0], [2.0], [3.0]], [[4.0], [5.0]]):
            mask = torch.tensor(rows).bool() if self.mask else None
            yield SimpleNamespace(inputs=torch.tensor(rows), mask=mask)


@pytest.mark.parametrize(
    ("most", "rows"),
    [(1, [[1]]), (3, [[1, 2, 3]]), (4, [[1, 2, 3], [4]]), (5, [[1, 2, 3], [4, 5]]), (9, [[1, 2, 3], [4, 5]])],
)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_so_many_samples_calibrate(most, rows, masked, there):
    served = SimpleNamespace(raw=lambda inputs: inputs * 10)
    names = ["inputs", "mask"] if masked else ["inputs"]
    found = list(quantise._feeds(served, Data(there), "train", masked, names, most=most))
    assert [one["inputs"].reshape(-1).tolist() for one in found] == [
        [10.0 * x for x in part] for part in rows
    ]
    assert [one["mask"].shape if masked else None for one in found] == [
        (len(part), 1) if masked else None for part in rows
    ]
    assert not masked or all(one["mask"].all() for one in found)


@pytest.mark.parametrize(("text", "there"), [("flags: avx512_vnni fma", True), ("flags: fma", False)])
def test_whether_the_processor_sums_products_of_bytes(monkeypatch, tmp_path, text, there):
    file = tmp_path / "cpuinfo"
    assert (lambda: monkeypatch.setattr(quantise, "Path", lambda _: file) or quantise._has_vnni())() is False
    file.write_text(text)
    assert quantise._has_vnni() == there


def test_a_kind_of_quantising_that_is_none(tmp_path):
    said = "quantise=int4: expected one of none, dynamic, static, weights"
    assert refused(quantise.quantise, "int4", tmp_path, None, None, masked=False) == said
    said = "quantise=static is of format=onnx, got format=openvino"
    assert refused(export.export, None, tmp_path, "openvino", key="x", quantised="static") == said


@pytest.mark.parametrize(("theirs", "outcome"), [
    (lambda y: y, (0.0, 9)), (lambda y: y + 0.0039, (0.0039, 9)), (lambda y: y + 0.0041, "by up to 0.0041 where its outputs reach 4"),
    (lambda y: y - 0.0041, "by up to 0.0041 where its outputs reach 4"),
    (lambda y: y * float("nan"), "by up to nan"), (lambda y: y.where(y != -4, float("nan")), "by up to nan"),
    (lambda y: y[:, :1], "out: a batch of 1 gives outputs (1, 1), the network's are (1, 2)"),
])  # fmt: skip
def test_what_was_exported_answers_as_the_network_does(tmp_path, monkeypatch, theirs, outcome):
    inputs = torch.linspace(-4, 4, 18).reshape(9, 2)
    sizes = []

    def read(folder, code):
        return lambda part, mask: (
            sizes.append((len(part), None if mask is None else len(mask))) or theirs(part)
        )

    monkeypatch.setattr(export, "load_exported", read)
    monkeypatch.setattr(export, "_vouched", lambda folder: [])
    own = []

    def call(network, rows, mask):
        own.append(None if mask is None else len(mask))
        return rows

    served = SimpleNamespace(network=None, _call=call)
    masks = {"given": torch.ones(9, 2), "seen": torch.ones(9, 2)}

    def verify():
        batch = SimpleNamespace(inputs=inputs, mask=masks["seen"])
        return export._verify(served, batch, inputs, masks["given"], tmp_path / "out")

    if isinstance(outcome, tuple):
        assert verify() == (pytest.approx(outcome[0], abs=1e-6), outcome[1])
        assert sizes == [(1, 1), (2, 2), (7, 7), (9, 9)] and own == [1, 2, 7, 9]
        for name in masks:  # a network that heeds none has none to give
            masks[name] = None
            verify()
        assert sizes[4:] == [(1, None), (2, None), (7, None), (9, None)] * 2 and own[4:] == [
            1,
            2,
            7,
            9,
            None,
            None,
            None,
            None,
        ]
    else:
        assert outcome in refused(verify)


def test_outputs_may_lie_as_far_apart_as_the_tolerance(monkeypatch, tmp_path):
    monkeypatch.setattr(export, "TOLERANCE", 2**-10)
    monkeypatch.setattr(export, "load_exported", lambda folder, code: lambda part, mask: part + 2**-8)
    served = SimpleNamespace(network=None, _call=lambda network, rows, mask: rows)
    for reach, fine in ((4.0, True), (3.984375, False)):
        inputs = torch.full((8, 1), reach)
        batch = SimpleNamespace(inputs=inputs, mask=None)
        monkeypatch.setattr(export, "_vouched", lambda folder: [])
        if fine:
            assert export._verify(served, batch, inputs, None, tmp_path) == (2**-8, 8)
        else:
            assert "by up to 0.00391" in refused(export._verify, served, batch, inputs, None, tmp_path)


def test_modules_of_an_export_that_was_just_written_are_vouched_for(tmp_path):
    config = {"model": {"_target_": "mine.Net"}, "data": {"_target_": "tutelage.data.images.Digits"}}
    (tmp_path / export.FACTS).write_text(json.dumps({"config": config}))
    assert export._vouched(tmp_path) == ["torch_export", "mine", "tutelage"]
    (tmp_path / export.FACTS).write_text("{}")
    assert export._vouched(tmp_path) == ["torch_export"]


@pytest.mark.parametrize("masked", [True, False])
def test_a_network_is_traced_on_four_samples_of_any_number(monkeypatch, masked):
    asked = []
    monkeypatch.setattr(
        torch.export, "export", lambda *words, **more: asked.append((words, more)) or "program"
    )
    inputs, mask = torch.arange(18.0).reshape(9, 2), torch.ones(9, 1) if masked else None
    assert export._program("served", inputs, mask, "onnx") == "program"
    ((served, given), more) = asked.pop()
    assert served == "served" and torch.equal(given[0], inputs[:4]) and more["strict"] is False
    assert [len(one) for one in given] == [4] * (1 + masked)
    assert [{axis: side.__name__ for axis, side in one.items()} for one in more["dynamic_shapes"]] == [
        {0: "batch"}
    ] * (1 + masked)


def test_weights_are_stored_with_what_was_taken_out_of_them(monkeypatch, tmp_path):
    from safetensors import safe_open

    network = nn.Linear(3, 2)
    network.again = network  # two names of one tensor
    for facts, metadata in (({"a": "b"}, {"a": "b"}), ({}, None)):
        monkeypatch.setattr(export, "shrunk", lambda network, facts=facts: facts)
        export._weights(SimpleNamespace(network=nn.Linear(3, 2)), None, None, tmp_path / "w")
        with safe_open(tmp_path / "w", framework="pt") as file:
            assert file.metadata() == metadata and sorted(file.keys()) == ["bias", "weight"]


@pytest.mark.parametrize(("error", "said"), [
    (RuntimeError("\nno kernel for aten::roll.default here\nmore"),
     ": the operation aten::roll.default (no kernel for aten::roll.default here)"),
    (ValueError(), " (KeyError)"),
    (RuntimeError("batch was specialized it to be a constant (8)"),
     " (its code turns the number of samples into a fixed number: take `x.shape[0]` there, not `len(x)`)"),
])  # fmt: skip
def test_what_cannot_be_exported_is_one_message(error, said):
    def failing():
        with export._unable("onnx"):
            raise KeyError("outer") from error

    assert (
        refused(failing)
        == f"this network cannot be exported as onnx{said}. Other formats: safetensors, torch_export, openvino"
    )


def chained(*texts, by_cause=()):
    """Return an error that was raised while handling another, and so on: the last text is the deepest's."""
    error = None
    for place, text in reversed(list(enumerate(texts))):
        above = RuntimeError(text)
        if place in by_cause:
            above.__cause__ = error
        else:
            above.__context__ = error
        error = above
    return error


@pytest.mark.parametrize(("error", "said"), [
    (chained("first"), " (first)"), (chained("first", "second"), " (second)"), (chained("first", "second", "third"), " (third)"),
    (chained("first", "second", "aten::third.x", by_cause=(0, 1)), ": the operation aten::third.x (aten::third.x)"),
    (chained("aten.first.x", "second", by_cause=(0,)), ": the operation aten.first.x (second)"),
    (chained("aten.first.x", "second", "aten::third.x"), ": the operation aten::third.x (aten::third.x)"),
])  # fmt: skip
def test_the_deepest_error_says_why_and_the_deepest_operation_which(error, said):
    def failing():
        with export._unable("onnx"):
            raise error

    assert refused(failing).startswith(f"this network cannot be exported as onnx{said}. Other formats: ")


# --- sets, pictures, intervals, frozen networks ---------------------------------------------------------------


@pytest.mark.parametrize(("asked", "cuda", "mps", "device"), [
    ("cpu", 2, True, "cpu"), ("auto", 0, False, "cpu"), ("auto", 2, True, "cuda:1"), ("auto", 0, True, "mps"), ("gpu", 2, False, "cuda:1"),
    ("mps", 2, True, "mps"), ("gpu", 0, True, None), ("mps", 2, False, None),
])  # fmt: skip
def test_the_device_of_a_set_that_is_made(monkeypatch, asked, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("LOCAL_RANK", "3")
    if device is None:
        said = f"hardware.accelerator={asked}: this machine has none; choose hardware=cpu"
        assert refused(pseudo_data._device, asked) == said
    else:
        assert str(pseudo_data._device(asked)) == device


def test_the_share_of_images_that_a_classifier_recognises(monkeypatch, tmp_path):
    images = torch.arange(70 * 3, dtype=torch.uint8).reshape(70, 3, 1, 1)
    labels = torch.arange(70) % 3
    labels[50:] = 0
    seen = []

    def source(part):
        seen.append(part)
        return torch.eye(3)[torch.arange(sum(map(len, seen[:-1])), sum(map(len, seen))) % 3]

    monkeypatch.setattr(
        pseudo_data.pseudo, "read", lambda folder: SimpleNamespace(images=images, labels=labels)
    )
    monkeypatch.setattr(pseudo_data, "JUDGED", 68)
    scale, shift = (
        torch.tensor([2.0, 3.0, 4.0]).reshape(3, 1, 1),
        torch.tensor([0.5, 0.0, -1.0]).reshape(3, 1, 1),
    )
    monkeypatch.setattr(
        pseudo_data, "byte_affine", lambda normalization, channels: (scale, shift) if channels == 3 else None
    )
    found = pseudo_data._recognised(tmp_path, source, SimpleNamespace(normalization="n"), torch.device("cpu"))
    right = sum(int(labels[place]) == place % 3 for place in range(68))
    assert found == {"source_accuracy": pytest.approx(right / 68)} and 50 < right < 68
    assert torch.allclose(torch.cat(seen), images[:68].float() * scale + shift)


@pytest.mark.parametrize(("node", "brings"), [
    ({"input_shape": [1, 4, 4], "num_classes": 3}, True), ({"input_shape": [1, 4, 4]}, False), ({"num_classes": 3}, False), ({}, False),
])  # fmt: skip
def test_a_generator_that_states_its_images_and_classes(monkeypatch, node, brings):
    monkeypatch.setattr(pseudo_data, "resolve", lambda target, where: target)
    monkeypatch.setattr(
        pseudo_data, "parameters_of", lambda _: ({"input_shape": 1, "num_classes": 1, "width": 1}, {}, False)
    )
    assert pseudo_data.brings_sizes(node) == brings
    monkeypatch.setattr(pseudo_data, "parameters_of", lambda _: ({"width": 1}, {}, False))
    assert pseudo_data.brings_sizes({})  # it knows them from its own files


def test_a_run_that_makes_a_set_needs_a_generator(monkeypatch):
    monkeypatch.setattr(pseudo_data, "build_network", lambda *_: nn.Linear(2, 2))
    said = "synthesis needs a generator, got model Linear; choose one of model=generator/..."
    assert refused(pseudo_data.build_generator, {}, {}) == said


@pytest.mark.parametrize(
    ("start", "length", "sought"), [(0, 12, (0, 12)), (3, 12, (9, 21)), (8, 6, (24, 30)), (10, 3, (30, 30))]
)
def test_a_stream_in_intervals(start, length, sought):
    class Stream(list):
        def seek(self, first, last):
            self.append((first, last))

    stream = Stream()
    intervals = ValidationIntervals(stream, lambda: start, every=4, max_steps=10, accumulate=3)
    assert len(intervals) == length
    iter(intervals)
    assert stream == [sought]


@pytest.mark.parametrize(("values", "limits"), [
    ([[0.5, -0.25], [0.75, 1.5]], (-0.25, 1.5)), ([[0.5, 0.25], [0.75, 0.5]], (0.0, 1.0)), ([[np.nan, 0.25], [np.inf, 2.5]], (0.0, 2.5)),
    ([[np.nan, np.nan], [np.nan, np.nan]], (0.0, 1.0)),
])  # fmt: skip
@pytest.mark.parametrize("names", [2, 40, 41])
def test_layer_pairs_are_drawn_a_pair_a_row(tmp_path, monkeypatch, values, limits, names):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, part, format: drawn.append(self) or part.touch())
    rows = np.resize(np.array(values), (names, 2))
    pairs = LayerPairs(
        tuple((f"a$_{number}", "b") for number in range(names)), (1000, 2500), rows, rows.mean(0)
    )
    run_pictures._draw(pairs, "hint", tmp_path / "p.png")
    (figure,) = drawn
    axes, bar = figure.axes
    (image,) = axes.get_images()
    assert image.get_clim() == limits and image.get_array().shape == (names, 2)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1,000", "2,500"]
    assert axes.get_title() == "hint: similarity of layer pairs, frozen > network"
    assert (axes.get_xlabel(), bar.get_ylabel()) == ("step", "similarity")
    assert figure.get_size_inches().tolist() == pytest.approx([8.0, 1.4 + 0.17 * min(names, 40)])
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert (shown == pairs.names) == (names <= 40)


def test_the_pictures_of_a_run_are_its_figures_and_its_last_grid(tmp_path):
    assert run_pictures.pictures_in(tmp_path) == {}
    (tmp_path / "samples").mkdir()
    for name in ("b.png", "a.png", "samples/1.png", "samples/2.png", "samples/3.png", "note.txt"):
        (tmp_path / name).touch()
    found = run_pictures.pictures_in(tmp_path)
    assert found == {
        "a": tmp_path / "a.png",
        "b": tmp_path / "b.png",
        "samples": tmp_path / "samples" / "3.png",
    }


TASK = {"method": {"_target_": "a.Guidance", "objectives": {"hint": {"network": "guide"}, "task": {}}}}


@pytest.mark.parametrize(("more", "own", "outcome"), [
    ({"guide": {"x": 1}}, [], ["guide"]), ({"guide": {"x": 1}, "teacher": {"x": 1}}, ["teacher", "guide"], ["guide", "teacher"]),
    ({"guide": {"x": 1}, "frozen": {"teacher": {"x": 1}}}, [], "frozen.teacher: this name is taken by model@teacher; choose another"),
    ({"guide": {"x": 1}}, ["teacher"], "method Guidance needs a teacher: add model@teacher=<model>, for instance model@teacher=resnet18 "
                                       "(`tutelage list models` shows all)"),
    ({"guide": {"x": 1}, "frozen": {"b": {"x": 1}}}, [],
     "nothing in method Guidance reads the frozen network 'b' (read: guide): drop model@frozen.b, choose a method that does, or add an "
     "objective with network=b"),
    ({"method": {"_target_": "a.Plain"}, "guide": {"x": 1}}, [],
     "nothing in method Plain reads the frozen network 'guide' (read: none): drop model@guide, choose a method that does, or add an "
     "objective with network=guide"),
])  # fmt: skip
def test_frozen_networks_are_given_and_read(more, own, outcome):
    if isinstance(outcome, list):
        assert build.check_frozen(TASK | more, own) == outcome
    else:
        assert refused(build.check_frozen, TASK | more, own) == outcome
    assert "guide" in refused(build.check_frozen, TASK, [])


@pytest.mark.parametrize("masked", [True, False])
def test_a_network_of_a_file_is_judged_on_every_test_sample(tmp_path, monkeypatch, masked):
    file, seen, opened = tmp_path / "n.onnx", [], []
    file.write_bytes(b"x" * 3 * 2**18)

    def run(inputs, mask):
        seen.append((inputs.tolist(), None if mask is None else mask.tolist()))
        return inputs * 2

    class Metrics:
        def __init__(self):
            self.sums = []

        def update(self, outputs, batch):
            self.sums.append(float(outputs.sum()))

        def compute(self):
            return {"accuracy": sum(self.sums), "accuracy/class 1": 9.0}

    class Tested(Data):
        task = SimpleNamespace(metrics=Metrics)

        def open_test(self):
            opened.append(True)

        def batches(self, split, device):
            assert split == "test" and opened
            return super().batches("train", device)

    timed = []
    monkeypatch.setattr(quantise, "of_onnx", lambda path, unpack: run)
    monkeypatch.setattr(
        quantise, "latencies", lambda *words: timed.append(words) or {"batch 1, 1 thread": 0.5}
    )
    served = SimpleNamespace(raw=lambda inputs: inputs + 1)
    found = quantise._measured(file, served, Tested(), masked, unpack=True)
    assert found.pop("answers").flatten().tolist() == [4.0, 6.0, 8.0, 10.0, 12.0]
    assert found == {
        "metrics": {"accuracy": 40.0},
        "n": 5,
        "size_mb": 0.75,
        "latency_ms": {"batch 1, 1 thread": 0.5},
    }
    assert seen[1] == ([[5.0], [6.0]], [[True], [True]] if masked else None)
    ((path, inputs, mask, unpack),) = timed
    assert (path, inputs.tolist(), unpack) == (file, [[2.0], [3.0], [4.0]], True) and (
        mask is not None
    ) == masked


def test_what_mirrors_show_of_a_result():
    best = {"step": 4, "validation": {"m": 0.5}, "test": {"m": 0.25}}
    assert mirrors.summary_of({"best": best, "cost": {"steps": 8}}) == {
        "validation/m": 0.5, "test/m": 0.25, "best_step": 4, "cost/steps": 8,
    }  # fmt: skip
    assert mirrors.summary_of({}) == {} and mirrors.summary_of({"best": {"test": {"m": 1}}}) == {"test/m": 1}


def test_an_experiment_that_another_run_makes_meanwhile_is_taken(tmp_path):
    about = SimpleNamespace(identity="i", commit="c", group="g", tags=[], layers={}, settings={}, name="n")
    mirror = mirror_kinds.MlflowMirror(tmp_path, about, project="p")

    def refuses(name):
        raise RuntimeError(f"{name} is there")

    def client(*there):
        answers = iter(there)
        return SimpleNamespace(get_experiment_by_name=lambda name: next(answers), create_experiment=refuses)

    mirror.client = client(None, SimpleNamespace(experiment_id=9))
    assert mirror._experiment() == "9"
    mirror.client = client(None, None)
    with pytest.raises(RuntimeError, match="p is there"):
        mirror._experiment()
    mirror.client = SimpleNamespace(
        get_experiment_by_name=lambda name: None, create_experiment=lambda name: 4
    )
    assert mirror._experiment() == "4"


def test_settings_go_to_mlflow_a_hundred_at_a_time_and_numbers_alone_as_metrics(tmp_path, monkeypatch):
    batches, ended, made = [], [], []
    settings = {f"k{place}": "x" * 7000 for place in range(201)}
    about = SimpleNamespace(
        identity="i", commit="c", group="g", tags=["t"], layers={"a/01": "x > y"}, settings=settings, name="n"
    )
    mirror = mirror_kinds.MlflowMirror(tmp_path, about, project="p")
    client = SimpleNamespace(
        search_runs=lambda *_, **more: [],
     create_run=lambda experiment, run_name, tags: made.append((experiment, run_name, tags)) or SimpleNamespace(
            info=SimpleNamespace(run_id="r")),
        get_experiment_by_name=lambda name: SimpleNamespace(experiment_id=7), log_batch=lambda run, **more: batches.append(more),
        set_terminated=lambda run, how: ended.append(how), log_artifact=lambda *words: batches.append(words),
    )  # fmt: skip
    monkeypatch.setattr("mlflow.tracking.MlflowClient", lambda tracking_uri: client)
    mirror.start()
    ((experiment, name, tags),) = made
    assert (
        (experiment, name) == ("7", "n")
        and tags["layers.a.01"] == "x > y"
        and tags["t"] == "true"
        and tags["tutelage.identity"] == "i"
    )
    assert [len(one["params"]) for one in batches] == [100, 100, 1] and {
        len(one.value) for one in batches[0]["params"]
    } == {6000}
    batches.clear()
    monkeypatch.setattr(mirror_kinds.time, "time", lambda: 12.5)
    mirror.log({"step": 3, "a": 1, "b": 0.5, "c": "text"})
    assert [(one.key, one.value, one.step, one.timestamp) for one in batches[0]["metrics"]] == [
        ("a", 1.0, 3, 12500),
        ("b", 0.5, 3, 12500),
    ]
    mirror.finish({"best_step": 4, "m": 0.5}, lambda: {"p": tmp_path / "p.png"})
    mirror.finish({}, dict)
    assert ended == ["FINISHED", "KILLED"] and ("r", str(tmp_path / "p.png"), "pictures") in batches
    assert [one.step for one in batches[1]["metrics"]] == [4, 4]
