"""A finished run's network, written in a format that leaves: verified against the network itself on real samples."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.data.base import DataModule
from tutelage.engine.encoding import encoding_of, keep
from tutelage.engine.exported import ARCHITECTURE, FACTS, FILES, Served, extra, load_exported
from tutelage.engine.load import HUGGING_FACE, LoadedRun
from tutelage.engine.networks import example_of, sizes_of
from tutelage.engine.predictions import answer_of
from tutelage.engine.quantise import quantise
from tutelage.errors import UserError
from tutelage.models.int8 import in_floats
from tutelage.models.weights_files import shrunk
from tutelage.runs.model_folders import model_folder
from tutelage.runs.records import write_json
from tutelage.tasks import Batch

BATCHES = (1, 2, 7)
SAMPLES = 64
TOLERANCE = 1e-3
"""How far outputs may lie apart, as a share of the largest of the network's own: beyond, something else was written."""
_LARGE = 1_800_000_000  # bytes; a protobuf message ends at two gigabytes
_OPERATION = re.compile(r"(?:aten|prims|torchvision|quantized|_c10d_functional)(?:::|\.)\w+(?:\.\w+)?")


def export(
    loaded: LoadedRun, folder: Path, kind: str, *, key: str, normalise: bool = True, quantised: str = "none"
) -> dict[str, Any]:
    """Write a folder with the network and what `load_exported` needs; return its facts.

    Args:
        loaded: the run.
        folder: made here; it must not exist.
        kind: one of `FILES`.
        key: the run's name and identity, for the record.
        quantised: of an ONNX file, one of `quantise.KINDS`; what it measures stands in `quantised` of the facts.
        normalise: have the network take inputs as they are before the data module normalises them, where it does.

    Raises:
        UserError: an operation that the format has not, a library that is missing, or outputs that are not the network's.
    """
    if quantised != "none" and kind != "onnx":
        raise UserError(f"quantise={quantised} is of format=onnx, got format={kind}")
    data = loaded.data
    normalization = data.normalization if normalise else None
    network = loaded.network if kind == "safetensors" else in_floats(copy.deepcopy(loaded.network))
    served = Served(network, normalization).eval()
    batch = example_of(data, SAMPLES)
    inputs = served.raw(batch.inputs)
    masked = batch.mask is not None and served._call.takes_mask
    mask = batch.mask if masked else None
    facts: dict[str, Any] = {
        "format": kind,
        "run": key,
        "input_shape": [int(one) for one in data.input_shape],
        "inputs": str(inputs.dtype).removeprefix("torch."),
        "masked": masked,
        "normalise": normalization is not None,
        "normalization": None if data.normalization is None else [list(part) for part in data.normalization],
        "answer": answer_of(data),
        "encoding": encoding_of(data),
    }
    if kind == "safetensors":
        facts |= {
            "config": {
                "model": loaded.config["model"],
                "seed": loaded.config["seed"],
                "hardware": {"accelerator": "cpu"},
            },
            "sizes": {key: value for key, value in sizes_of(data).items() if key != "tables"}
            | {"input_shape": facts["input_shape"], "class_names": facts["answer"]["names"]},
        }
    folder.mkdir(parents=True)
    try:
        keep(data, folder)
        model = loaded.config["model"]
        if kind == "safetensors" and model.get("_target_") == HUGGING_FACE:
            shutil.copy(
                model_folder(model["name"], model.get("revision")) / ARCHITECTURE, folder / ARCHITECTURE
            )
        with torch.no_grad():
            _WRITERS[kind](served, inputs, mask, folder / FILES[kind])
        write_json(folder / FACTS, facts)
        facts["largest_difference"], facts["compared"] = _verify(served, batch, inputs, mask, folder)
        if quantised != "none":
            facts["quantised"] = quantise(quantised, folder / FILES[kind], served, data, masked=masked)
        write_json(folder / FACTS, facts)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return facts


@torch.inference_mode()
def _verify(
    served: Served, batch: Batch, inputs: Tensor, mask: Tensor | None, folder: Path
) -> tuple[float, int]:
    """Return the largest difference between what the folder and the network answer, and the number of samples.

    The network sees the batch as in evaluation; the folder, read back, the inputs that it asks for, in batches of several sizes.
    """
    found = load_exported(folder, code=_vouched(folder))
    network = served.network
    apart, reach = [], [torch.ones(())]
    for size in (*BATCHES, len(inputs)):
        part = slice(0, size)
        own = served._call(network, batch.inputs[part], None if batch.mask is None else batch.mask[part])
        theirs = found(inputs[part], None if mask is None else mask[part])
        if own.shape != theirs.shape:
            raise UserError(
                f"{folder.name}: a batch of {len(own)} gives outputs {tuple(theirs.shape)}, the network's are {tuple(own.shape)}"
            )
        apart.append((own - theirs).abs().max())
        reach.append(own.abs().max())
    # of tensors, whose largest value is NaN where one is: Python's `max` would pass over it
    largest, scale = (float(torch.stack(one).max()) for one in (apart, reach))
    if not largest <= TOLERANCE * scale:  # NaN is no agreement
        raise UserError(
            f"what was exported answers otherwise than the network, by up to {largest:.3g} where its outputs reach {scale:.3g}: nothing is "
            "written"
        )
    return largest, len(inputs)


def _vouched(folder: Path) -> list[str]:
    """The modules of a run that was loaded already."""
    from tutelage.engine.trust import targets
    from tutelage.runs.records import read_json

    named = {str(target).partition(".")[0] for _, target in targets(read_json(folder / FACTS).get("config"))}
    return ["torch_export", *sorted(named)]


def _weights(served: Served, inputs: Tensor, mask: Tensor | None, file: Path) -> None:
    from safetensors.torch import save_file

    # copies: two names of one tensor cannot be stored as they are
    save_file(
        {name: value.detach().clone().contiguous() for name, value in served.network.state_dict().items()},
        file,
        metadata=shrunk(served.network) or None,
    )


def _program(served: Served, inputs: Tensor, mask: Tensor | None, kind: str) -> torch.export.ExportedProgram:
    """Trace the network with a batch of any size."""
    batch = torch.export.Dim("batch")
    given = (inputs[:4],) if mask is None else (inputs[:4], mask[:4])
    with _unable(kind):
        return torch.export.export(
            served, given, dynamic_shapes=tuple({0: batch} for _ in given), strict=False
        )


def _torch_export(served: Served, inputs: Tensor, mask: Tensor | None, file: Path) -> None:
    program = _program(served, inputs, mask, "torch_export")
    with _unable("torch_export"):
        torch.export.save(program, file)


def _onnx(served: Served, inputs: Tensor, mask: Tensor | None, file: Path) -> None:
    with extra("onnx"):
        import onnx
        import onnxruntime  # noqa: F401 # what reads it back
        import onnxscript  # noqa: F401 # what writes it
    program = _program(served, inputs, mask, "onnx")
    large = sum(p.numel() * p.element_size() for p in served.parameters()) > _LARGE
    with _unable("onnx"):
        torch.onnx.export(
            program, (), file, output_names=["outputs"], external_data=large, verbose=False
        )  # inputs are named as `Served.forward` names them
    if large:
        return
    model = onnx.load(file)
    ends = [*model.graph.input, *model.graph.output]
    symbol = ends[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*ends, *model.graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if symbol and side.dim_param == symbol:
                side.dim_param = "batch"
    onnx.save(model, file)


def _openvino(served: Served, inputs: Tensor, mask: Tensor | None, file: Path) -> None:
    with extra("openvino"):
        import openvino
    program = _program(served, inputs, mask, "openvino")
    with _unable("openvino"):
        model = openvino.convert_model(program)  # type: ignore[attr-defined]
        openvino.save_model(model, str(file), compress_to_fp16=False)  # type: ignore[attr-defined]


def onnx_of(network: nn.Module, data: DataModule, file: Path) -> tuple[Served, bool]:
    """Write a network as an ONNX file, in floats, normalised inside, for measuring it.

    Returns:
        the network as it leaves, and whether it heeds a mask.
    """
    served, batch = Served(in_floats(network), data.normalization).eval(), example_of(data, SAMPLES)
    masked = batch.mask is not None and served._call.takes_mask
    with torch.no_grad():
        _onnx(served, served.raw(batch.inputs), batch.mask if masked else None, file)
    return served, masked


_WRITERS: dict[str, Callable[[Served, Tensor, Tensor | None, Path], None]] = {
    "safetensors": _weights,
    "torch_export": _torch_export,
    "onnx": _onnx,
    "openvino": _openvino,
}


@contextlib.contextmanager
def _unable(kind: str) -> Iterator[None]:
    """Have what cannot be exported end in one message that names the operation; what the libraries say meanwhile is not shown."""
    quiet = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch")
    ]
    levels = [one.level for one in quiet]
    for one in quiet:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # each exporter has its own exceptions
        deepest: BaseException = error
        texts = [str(error)]
        for _ in range(9):
            below = deepest.__cause__ or deepest.__context__
            if below is None:
                break
            deepest = below
            texts.insert(0, str(deepest))
        text = "\n".join(texts)
        found = _OPERATION.search(text)
        lines = [line.strip() for line in texts[0].splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0]
        if "specialized it to be a constant" in text:
            reason = "its code turns the number of samples into a fixed number: take `x.shape[0]` there, not `len(x)`"
        others = ", ".join(one for one in FILES if one != kind)
        raise UserError(
            f"this network cannot be exported as {kind}{f': the operation {found[0]}' if found else ''} ({reason:.300}). Other formats: "
            f"{others}"
        ) from error
    finally:
        for one, level in zip(quiet, levels, strict=True):
            one.setLevel(level)
