"""What an export folder holds, and a network read back from it, anywhere and without the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.engine import trust
from tutelage.engine.load import HUGGING_FACE, restored
from tutelage.errors import UserError, choices
from tutelage.models.forward_calls import Call
from tutelage.models.frozen import Normalization
from tutelage.runs.records import read_json

FACTS = "export.json"
FILES = {
    "safetensors": "weights.safetensors",
    "torch_export": "network.pt2",
    "onnx": "network.onnx",
    "openvino": "network.xml",
}
"""Each format, with the file that holds the network."""
ARCHITECTURE = "config.json"
"""What says in a folder of transformers which model it is: an export carries it."""


class Served(nn.Module):
    """A network as it leaves: inputs, and a mask where it heeds one, to its one tensor.

    network: in eval mode.
    normalization: mean and deviation of each channel, brought into the network: inputs are then as they were before; None: inputs come as
        the data module gave them.
    """

    def __init__(self, network: nn.Module, normalization: Normalization | None = None) -> None:
        super().__init__()
        self.network = network
        self._call = Call.of(network)
        self.normalises = normalization is not None
        for name, part in zip(("mean", "std"), normalization or ((), ()), strict=True):
            self.register_buffer(name, torch.tensor(list(part), dtype=torch.float32), persistent=False)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the outputs (n, ...) of images (n, channels, height, width), series (n, length, channels), rows or tokens."""
        if self.normalises:
            inputs = (inputs - self._shaped(self.mean, inputs)) / self._shaped(self.std, inputs)
        return self._call(self.network, inputs, mask)

    def raw(self, inputs: Tensor) -> Tensor:
        """Return normalised inputs as they were before."""
        if not self.normalises:
            return inputs
        return inputs * self._shaped(self.std, inputs) + self._shaped(self.mean, inputs)

    @staticmethod
    def _shaped(part: Any, inputs: Tensor) -> Tensor:
        shaped: Tensor = part.view(-1, 1, 1) if inputs.ndim == 4 else part
        return shaped


@dataclass(frozen=True)
class Exported:
    """A network out of an export folder.

    facts: what `export.json` says: `format`, `input_shape` (of one sample), `inputs` (their type), `normalise` (whether normalisation is
    inside), `normalization`, `answer` (task, classes), `run`; of tables and texts `encoding`, how rows become inputs.
    folder: where it lies.
    """

    facts: dict[str, Any]
    folder: Path
    _run: Callable[[Tensor, Tensor | None], Tensor]

    @torch.inference_mode()
    def __call__(self, inputs: Tensor | np.ndarray, mask: Tensor | np.ndarray | None = None) -> Tensor:
        """Return the outputs (n, ...) of a batch of any size, as logits or values.

        mask: (n, length), True where real, where the network heeds one; default: everywhere.
        Raises UserError for inputs of another shape.
        """
        inputs = torch.as_tensor(inputs)
        inputs = inputs.long() if self.facts["inputs"] == "int64" else inputs.float()
        expected = tuple(self.facts["input_shape"])
        if tuple(inputs.shape[1:]) != expected:
            raise UserError(
                f"this network takes a batch (n, {', '.join(map(str, expected))}), got {tuple(inputs.shape)}"
            )
        if not self.facts["masked"]:
            return self._run(inputs, None)
        real = (
            torch.ones(inputs.shape[:2], dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
        )
        return self._run(inputs, real)

    def encode(self, rows: Any, name: str = "the rows") -> tuple[Tensor, Tensor | None]:
        """Return inputs and mask of rows as the training file had them, for calling this network.

        Args:
            rows: a pandas data frame with the columns of the inputs.
            name: what messages call it.

        Raises:
            UserError: the network takes images, or numbers as they are; or the rows do not fit.
        """
        from tutelage.engine.encoding import TOKENISER, encode

        encoding = self.facts.get("encoding")
        if encoding is None:
            raise UserError(
                "this network takes its inputs as they are: it was not trained on a table or texts"
            )
        return encode(encoding, rows, name, self.folder / TOKENISER)


def load_exported(folder: str | Path, *, code: Collection[str] = ()) -> Exported:
    """Read what `tutelage export` wrote. The run and its data need not be there.

    Args:
        folder: with `export.json`.
        code: modules that a safetensors export may name, as of `load_run`; "torch_export" for a file of that format, which can execute
            code where it is read.

    Raises:
        UserError: it is no such folder, is damaged, needs a library that is not here, or names what it may not.
    """
    folder = Path(folder).expanduser()
    if not (folder / FACTS).is_file():
        raise UserError(f"{folder} is no folder of `tutelage export`: it has no {FACTS}")
    facts = read_json(folder / FACTS)
    needed = {"format", "input_shape", "inputs", "masked", "normalise", "normalization", "answer"}
    if not isinstance(facts, dict) or needed - set(facts):
        raise UserError(f"{folder / FACTS} is damaged: expected {', '.join(sorted(needed))}")
    kind = facts["format"]
    if kind not in FILES:
        raise UserError(f"{folder / FACTS}: there is no format '{kind}'; {choices(str(kind), FILES)}")
    file = folder / FILES[kind]
    if not file.is_file():
        raise UserError(f"{folder} lacks {file.name}, the network itself")
    readers = {
        "safetensors": lambda: _of_weights(folder, file, facts, code),
        "torch_export": lambda: _of_program(file, code),
        "onnx": lambda: of_onnx(file, unpack=(facts.get("quantised") or {}).get("kind") == "weights"),
        "openvino": lambda: of_openvino(file),
    }
    return Exported(facts, folder, readers[kind]())


def _of_weights(
    folder: Path, file: Path, facts: Mapping[str, Any], code: Collection[str]
) -> Callable[[Tensor, Tensor | None], Tensor]:
    config = facts.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict) or "sizes" not in facts:
        raise UserError(
            f"{folder / FACTS} is damaged: expected `config` and `sizes`, which build the network"
        )
    trust.check_stored(config, folder, code=code)
    if config["model"].get("_target_") == HUGGING_FACE and (folder / ARCHITECTURE).is_file():
        config = config | {"model": config["model"] | {"name": str(folder), "revision": None}}
    try:
        sizes = facts["sizes"] | {"input_shape": tuple(facts["sizes"]["input_shape"]), "tables": {}}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / FACTS} is damaged: expected `sizes` with the shape of a sample"
        ) from error
    network = restored(str(folder), config, sizes, file, advice="Export the run anew")
    return Served(network, facts["normalization"] if facts["normalise"] else None).eval()


def _of_program(file: Path, code: Collection[str]) -> Callable[[Tensor, Tensor | None], Tensor]:
    if "torch_export" not in code:
        raise UserError(
            f"{file} can execute code where it is read (safetensors, onnx and openvino cannot). If you know where it comes from, say so: "
            "code=torch_export"
        )
    with _pickles_refused(), one_message(f"{file} cannot be read"):
        module = torch.export.load(file).module()
    return lambda inputs, mask: module(*_given(inputs, mask))


def _given(inputs: Tensor, mask: Tensor | None) -> list[Tensor]:
    return [inputs] if mask is None else [inputs, mask]


@contextlib.contextmanager
def _pickles_refused() -> Iterator[None]:
    """Have `torch.load` read tensors alone, whatever its caller asks for."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def of_onnx(
    file: Path, *, threads: int = 0, unpack: bool = False
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the network of an ONNX file, run by onnxruntime on the CPU. Raises UserError where that is missing or cannot.

    threads: how many; 0: as many as onnxruntime takes. unpack: weights that are stored as integers become floats once, not in every call.
    """
    with extra("onnx"):
        import onnxruntime
    with one_message(f"{file} cannot be read"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if unpack:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Tensor, mask: Tensor | None) -> Tensor:
        given = [one.numpy() for one in _given(inputs, mask)]
        # a mask that the network turned out not to need is no input of the graph
        return torch.from_numpy(session.run(None, dict(zip(names, given, strict=False)))[0])

    return run


def of_openvino(file: Path) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the network of an OpenVINO file on the CPU, in single precision. Raises UserError where OpenVINO is missing or cannot."""
    with extra("openvino"):
        import openvino
    with one_message(f"{file} cannot be read"):
        # some CPUs would compute in bfloat16 unasked
        model = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # type: ignore[attr-defined]
    count = len(model.inputs)

    def run(inputs: Tensor, mask: Tensor | None) -> Tensor:
        given = [one.numpy() for one in _given(inputs, mask)]
        return torch.from_numpy(np.array(model(given[:count])[0]))

    return run


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Have a missing library name the extra that brings it."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"format={name} needs the package {error.name or name}: pip install 'tutelage[{name}]'"
        ) from error


@contextlib.contextmanager
def one_message(what: str) -> Iterator[None]:
    """Have what a library raises, of whatever kind, end in one message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library has its own exceptions, some of them bare
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{what}: {(lines or [type(error).__name__])[0]:.300}") from error
