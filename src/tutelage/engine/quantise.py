"""An exported ONNX network with int8 weights, and what that costs and saves: accuracy, size and latency, beside the one in floats."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tutelage.engine.exported import Served, extra, of_onnx, one_message
from tutelage.errors import UserError
from tutelage.runs.provenance import cpu_model
from tutelage.tasks import Batch

if TYPE_CHECKING:
    from tutelage.data.base import DataModule

KINDS = ("none", "dynamic", "static", "weights")
CALIBRATION = 256
"""Training samples by which static quantisation learns the ranges of activations."""
WARM, TIMED = 5, 50
BATCHES = (1, 64)
_SMALL = 512
"""Tensors of fewer numbers stay floats."""
_AXES = {"MatMul": 1, "Gemm": 0, "Conv": 0, "ConvTranspose": 1, "Gather": 0}
"""The axis of a weight along which each has its own scale: outputs; of embeddings, entries."""


def quantise(kind: str, file: Path, served: Served, data: DataModule, *, masked: bool) -> dict[str, Any]:
    """Replace an ONNX file by its quantised form, and return what both measure.

    Args:
        kind: dynamic: int8 weights and, from each batch's own range, int8 activations of linear and recurrent layers. static: int8
            weights and activations of all layers, whose ranges are those of `CALIBRATION` training samples. weights: int8 weights
            that are unpacked when the file is read: smaller, not faster.
        file: the network in floats.
        served: the same in PyTorch, for its inputs.
        data: its data; the test split is judged on.
        masked: whether the network heeds a mask.

    Raises:
        UserError: nothing of it can be quantised, a library that is missing, or a machine without the kernels.
    """
    if kind not in KINDS[1:]:
        raise UserError(f"quantise={kind}: expected one of {', '.join(KINDS)}")
    with extra("onnx"):
        import onnx
        import onnxruntime.quantization  # noqa: F401
    whole = file.with_name("float.onnx")
    file.rename(whole)
    try:
        with _quiet(), one_message(f"quantise={kind} cannot quantise this network"):
            _MAKERS[kind](whole, file, served, data, masked)
        count = _quantised(onnx.load(file))
        if not count:
            raise UserError(f"quantise={kind} finds nothing to quantise in this network: {_WANTS[kind]}")
        with one_message(
            f"quantise={kind}: onnxruntime has no kernels for it on this machine (quantise=weights needs none)"
        ):
            of_onnx(file)
        found = {
            "float": _measured(whole, served, data, masked),
            kind: _measured(file, served, data, masked, unpack=kind == "weights"),
        }
        changed = _changed(found["float"].pop("answers"), found[kind].pop("answers"))
        return {
            "kind": kind,
            "machine": cpu_model(),
            "operations": count,
            "answers_changed": changed,
            "measured": found,
        }
    finally:
        whole.unlink(missing_ok=True)


def _dynamic(source: Path, target: Path, served: Served, data: DataModule, masked: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # convolutions of signed integers have no kernel on CPUs
    kinds = ["MatMul", "Gemm", "Attention", "LSTM", "GRU", "Gather"]
    quantize_dynamic(
        _prepared(source), target, op_types_to_quantize=kinds, per_channel=True, weight_type=QuantType.QInt8
    )


def _static(source: Path, target: Path, served: Served, data: DataModule, masked: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    names = _input_names(source)

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = _feeds(served, data, "train", masked, names, most=CALIBRATION)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            return next(self.batches, None)

    quantize_static(
        _prepared(source),
        target,
        Samples(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        # sums of two products overflow 16 bits on processors without VNNI
        reduce_range=not _has_vnni(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _weights(source: Path, target: Path, served: Served, data: DataModule, masked: bool) -> None:
    """Store weights as int8 with a scale for each output (symmetric, rounded to nearest), and unpack them in the graph."""
    import onnx
    from onnx import helper, numpy_helper

    model = _prepared(source)
    graph = model.graph
    held = {one.name: one for one in graph.initializer}
    unpacked: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type not in _AXES:
            continue
        for name in node.input:
            if name not in held or name in unpacked:
                continue
            values = numpy_helper.to_array(held[name])
            if values.dtype != np.float32 or values.ndim < 2 or values.size < _SMALL:
                continue
            transposed = node.op_type == "Gemm" and not any(
                one.name == "transB" and one.i for one in node.attribute
            )
            axis = values.ndim - 1 if node.op_type == "MatMul" else 1 if transposed else _AXES[node.op_type]
            others = tuple(one for one in range(values.ndim) if one != axis)
            scale = np.maximum(np.abs(values).max(axis=others), 1e-12).astype(np.float32) / 127
            shape = [-1 if one == axis else 1 for one in range(values.ndim)]
            packed = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
            graph.initializer.remove(held[name])
            graph.initializer.extend(
                [
                    numpy_helper.from_array(packed, f"{name}_int8"),
                    numpy_helper.from_array(scale, f"{name}_scale"),
                ]
            )
            unpacked[name] = helper.make_node(
                "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], f"{name}_unpacked", axis=axis
            )
    for node in reversed(list(unpacked.values())):
        graph.node.insert(0, node)
    onnx.save(model, target)


_WANTS = {
    "dynamic": "it takes linear and recurrent layers; quantise=static takes convolutions, too",
    "static": "it takes convolutions and linear layers",
    "weights": f"it packs weights of at least {_SMALL} numbers, since smaller ones would not make the file smaller",
}
_MAKERS: dict[str, Callable[[Path, Path, Served, Any, bool], None]] = {
    "dynamic": _dynamic,
    "static": _static,
    "weights": _weights,
}


def _prepared(source: Path) -> Any:
    """The graph with its constants folded, such as recurrent weights in another order, and the shapes of its tensors."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    folded = source.with_name("folded.onnx")
    options.optimized_model_filepath = str(folded)
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        model = onnx.load(folded)
    finally:
        folded.unlink(missing_ok=True)
    del model.graph.value_info[:]  # it has the shapes of weights, too, which quantisation transposes
    return onnx.shape_inference.infer_shapes(model)


def _quantised(model: Any) -> int:
    """How many operations of a graph have to do with integers."""
    kinds = (
        "MatMulInteger",
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DequantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
    )
    return sum(node.op_type in kinds for node in model.graph.node)


def _input_names(file: Path) -> list[str]:
    import onnx

    return [one.name for one in onnx.load(file, load_external_data=False).graph.input]


def _feeds(
    served: Served, data: DataModule, split: str, masked: bool, names: list[str], *, most: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield what a session takes, sample by sample group, of a split in its order."""
    seen = 0
    for batch in data.batches(split, device=torch.device("cpu")):
        if seen >= most:
            return
        part = slice(0, most - seen)
        given = [served.raw(batch.inputs[part])]
        if masked:
            given.append(
                torch.ones(given[0].shape[:2], dtype=torch.bool) if batch.mask is None else batch.mask[part]
            )
        seen += len(given[0])
        yield {name: one.numpy() for name, one in zip(names, given, strict=False)}


def _measured(
    file: Path, served: Served, data: DataModule, masked: bool, *, unpack: bool = False
) -> dict[str, Any]:
    """Metrics on the test split, size in MiB and latency in milliseconds of one file; and the outputs."""
    run = of_onnx(file, unpack=unpack)
    metrics, answers = data.task.metrics(), []
    first: Batch | None = None
    data.open_test()
    for batch in data.batches("test", device=torch.device("cpu")):
        first = first or batch
        outputs = run(served.raw(batch.inputs), batch.mask if masked else None)
        metrics.update(outputs, batch)
        answers.append(outputs)
    found = {name: value for name, value in metrics.compute().items() if "/" not in name}
    assert first is not None
    return {
        "metrics": found,
        "n": sum(map(len, answers)),
        "size_mb": round(file.stat().st_size / 2**20, 4),
        "latency_ms": latencies(file, served.raw(first.inputs), first.mask if masked else None, unpack),
        "answers": torch.cat(answers),
    }


def latencies(
    file: Path, inputs: Tensor, mask: Tensor | None = None, unpack: bool = False
) -> dict[str, float]:
    """Return the median milliseconds of a batch in onnxruntime, warm, by `batch <n>, <t> threads`.

    One thread's is its own processor time: what else a machine does meanwhile is not counted. unpack: see `of_onnx`.
    """
    cores = torch.get_num_threads()
    found = {}
    for threads in sorted({1, cores}):
        run = of_onnx(file, threads=threads, unpack=unpack)
        for size in BATCHES:
            rows = torch.arange(size) % len(inputs)
            part = None if mask is None else mask[rows]
            seconds, clock = [], time.thread_time if threads == 1 else time.perf_counter
            for _ in range(WARM + TIMED):
                started = clock()
                run(inputs[rows], part)
                seconds.append(clock() - started)
            name = f"batch {size}, {threads} thread{'s' * (threads > 1)}"
            found[name] = round(1e3 * statistics.median(seconds[WARM:]), 4)
    return found


def _changed(first: Tensor, second: Tensor) -> float | None:
    """The share of samples whose class is another one; None where outputs are no classes."""
    if first.ndim != 2 or first.shape[1] < 2:
        return None
    return float((first.argmax(1) != second.argmax(1)).float().mean())


def table(facts: dict[str, Any], monitor: str) -> list[str]:
    """Return the lines that show both side by side."""
    kind, found = facts["kind"], facts["measured"]
    rows = [["", "float", f"int8, {kind}"]]
    rows.append([f"test {monitor}", *(f"{one['metrics'][monitor]:.4g}" for one in found.values())])
    rows.append(["size", *(f"{one['size_mb']:.3g} MiB" for one in found.values())])
    rows += [
        [name, *(f"{one['latency_ms'][name]:.3g} ms" for one in found.values())]
        for name in found["float"]["latency_ms"]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    changed = facts["answers_changed"]
    said = f"; {100 * changed:.2g} % of the answers are others" if changed is not None else ""
    return [
        *lines,
        f"n = {found['float']['n']} test samples{said}; latency: {facts['machine']}, onnxruntime, median of {TIMED}",
    ]


def _has_vnni() -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and "vnni" in info.read_text(errors="replace")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the library says meanwhile."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        root.setLevel(level)
