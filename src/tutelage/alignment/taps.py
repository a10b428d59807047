"""Named activations of any module: which layers there are, and the tensors of the one forward that runs anyway."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from tutelage.errors import UserError, choices

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (_ConvNd,),
    "linear": (nn.Linear,),
    "recurrent": (nn.RNNBase,),
    "attention": (nn.MultiheadAttention,),
    "layer_norm": (nn.LayerNorm, nn.RMSNorm),
    "feature": (),  # what a guide that is a function, not a network, calls its layers
}
"""The weight layers of arXiv 2410.20035: these count in a pairing; non-linearities and batch norms do not."""

POOLING = "adaptive_average_pooling"
_OTHER_KINDS = {POOLING: (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)}
"""Kinds with a name that count only where a pairing says so: the paper's released code counts this one."""


@dataclass(frozen=True)
class Layer:
    """One module's place in a forward pass.

    name: its path in the module. kind: a key of `KINDS`, `POOLING`, else its class's name. shape: of its output, without the batch axis.
    obstacle: why its activation cannot be tapped; empty if it can.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    obstacle: str = ""


def probe(module: nn.Module, *inputs: Any, run: Callable[..., Any] | None = None) -> list[Layer]:
    """Return the layers that one forward calls, in the order in which they finish.

    inputs: what the module's forward takes; the first one's leading axis is the batch.
    run: called on the inputs in place of the module, which it runs in its own way (as a `FrozenNetwork` does, with its own resolution).
    Runs without gradients and in eval mode; modes, buffers and the random state are as before afterwards.
    Raises UserError when the module cannot run on these inputs.
    """
    seen: dict[str, Layer] = {}
    count = len(inputs[0])

    def note(name: str, kind: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = _first(output)
        if name in seen:
            obstacle = "it runs more than once in a forward"
        elif not isinstance(tensor, Tensor):
            obstacle = f"it returns {type(tensor).__name__}, no tensor"
        elif tensor.ndim < 2 or len(tensor) != count:
            obstacle = f"its output {tuple(tensor.shape)} has no leading batch axis of {count}"
        else:
            obstacle = ""
        shape = tuple(tensor.shape[1:]) if isinstance(tensor, Tensor) else ()
        seen[name] = Layer(name, kind, shape, obstacle)

    handles = [
        child.register_forward_hook(partial(note, name, _kind(child)))
        for name, child in module.named_modules()
        if name and not _inside_attention(module, name)
    ]
    modes = [(child, child.training) for child in module.modules()]
    buffers = [(child, key, value) for child in module.modules() for key, value in child._buffers.items()]
    saved = [None if value is None else value.clone() for _, _, value in buffers]
    try:
        module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            (run or module)(*inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
        raise UserError(f"{type(module).__name__} cannot run on inputs of shape {shapes}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
        for child, mode in modes:
            child.training = mode
        for (child, key, value), before in zip(buffers, saved, strict=True):
            child._buffers[key] = value
            if before is not None:
                assert value is not None
                value.copy_(before)
    return list(seen.values())


def weight_layers(layers: Sequence[Layer], kinds: Iterable[str] | None = None) -> list[Layer]:
    """Return the layers that a pairing counts, where they can be tapped.

    kinds: those that count; None: `KINDS`, convolution, linear, recurrent, attention and layer norm.
    """
    counted = set(KINDS if kinds is None else kinds)
    return [layer for layer in layers if layer.kind in counted and not layer.obstacle]


_INPUT = ":input"


def input_of(layer: str) -> str:
    """Return the name by which `Taps` knows what a layer is given."""
    return f"{layer}{_INPUT}"


class _AllRan(BaseException):
    """Ends a forward whose remaining layers nobody wants; no module's own `except Exception` may catch it."""


class _Recording:
    """The context of one recorded forward.

    A class and no generator: the exception that ends a forward early must take its frames along, which hold activations. Through a
    generator it would come into a cycle (seen on Python 3.12), and a guide's activations would pile up until a garbage collection.
    """

    def __init__(self, taps: Taps) -> None:
        self.taps = taps

    def __enter__(self) -> Taps:
        self.taps._start()
        return self.taps

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> bool:
        ended = isinstance(error, _AllRan)
        if ended:
            traceback.clear_frames(trace)
        self.taps._end(whole=error is None or ended)
        return ended


class Taps:
    """Hooks that hold the named activations of a forward, or hand each to `consume` the moment it exists.

    module, names: paths as `probe` gives them, or `input_of` such a path: what that layer is given.
    consume: called as consume(name, activation) inside the forward; the activation is then not held, so that its memory goes back as
    early as without a tap, except for the names in `hold`.
    stop: end the forward once every tapped layer has run, for modules of which nothing else is wanted; the first layers of a
    frozen guide cost no more than themselves.

    Only forwards inside `recording()` are seen: validation passes through untouched. A held activation keeps its place in the
    autograd graph. Holding switches the `inplace` flags of the module's activations off (until `remove`), or a ReLU would overwrite
    the tapped layer's output. Hooks must exist before `torch.compile` traces the module: make the taps first, then compile.
    As a context manager: the hooks are removed at its end.
    Raises UserError for a name the module does not have.
    """

    def __init__(
        self,
        module: nn.Module,
        names: Iterable[str],
        *,
        consume: Callable[[str, Tensor], None] | None = None,
        hold: Iterable[str] = (),
        stop: bool = False,
    ) -> None:
        modules = dict(module.named_modules())
        self.names = tuple(dict.fromkeys(names))
        for name in self.names:
            if not name or name.removesuffix(_INPUT) not in modules:
                raise UserError(
                    f"{type(module).__name__} has no layer '{name}'; {choices(name, filter(None, modules))}"
                )
        self._consume, self._stop = consume, stop
        self._to_hold = self.names if consume is None else tuple(hold)
        self._recording = False
        self._held: dict[str, tuple[Tensor, int | None]] = {}
        self._filled: set[str] = set()
        self._handles = [self._hook(modules, name) for name in self.names]
        self._made_safe: list[nn.Module] = []
        if self._to_hold:
            self._made_safe = [m for m in modules.values() if getattr(m, "inplace", None) is True]
            _set_inplace(self._made_safe, False)

    def _hook(self, modules: Mapping[str, nn.Module], name: str) -> RemovableHandle:
        if not name.endswith(_INPUT):
            return modules[name].register_forward_hook(partial(self._fill, name))
        module = modules[name.removesuffix(_INPUT)]
        return module.register_forward_pre_hook(partial(self._fill_input, name), with_kwargs=True)

    def _fill_input(
        self, name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self._fill(name, module, (), next(iter((*inputs, *named.values())), None))

    def _fill(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not self._recording:
            return
        if name in self._filled:
            raise UserError(f"the layer '{name}' ran twice in one forward: its activation cannot be tapped")
        self._filled.add(name)
        tensor = _first(output)
        if not isinstance(tensor, Tensor):
            raise UserError(f"the layer '{name}' returned {type(tensor).__name__}, expected a tensor")
        if self._consume is not None:
            self._consume(name, tensor)
        if name in self._to_hold:
            self._held[name] = (tensor, _version(tensor))
        if self._stop and len(self._filled) == len(self.names):
            raise _AllRan

    def recording(self) -> _Recording:
        """Record the one forward made inside. Raises UserError at the end if a tapped layer did not run."""
        return _Recording(self)

    def _start(self) -> None:
        self._held.clear()
        self._filled.clear()
        self._recording = True

    def _end(self, *, whole: bool) -> None:
        self._recording = False
        missing = [name for name in self.names if name not in self._filled]
        if missing or not whole:
            self._held.clear()
        if missing and whole:
            raise UserError(f"these tapped layers did not run in the forward: {', '.join(missing)}")

    def collect(self) -> dict[str, Tensor]:
        """Return the held activations in the order of their names, each exactly once, and let go of them.

        Raises UserError when one is missing or was overwritten after its layer had run.
        """
        held, self._held = self._held, {}
        missing = [name for name in self._to_hold if name not in held]
        if missing:
            raise UserError(
                f"no activation is recorded for: {', '.join(missing)}; run one forward inside `recording()`"
            )
        for name in self._to_hold:
            tensor, version = held[name]
            if version is not None and _version(tensor) != version:
                raise UserError(
                    f"the output of the layer '{name}' was overwritten in place after the layer had run (an operation such as "
                    "F.relu(x, inplace=True) or x += y): use the out-of-place form in the network, or tap another layer"
                )
        return {name: held[name][0] for name in self._to_hold}

    def remove(self) -> None:
        """Remove the hooks and give the module its `inplace` flags back."""
        for handle in self._handles:
            handle.remove()
        _set_inplace(self._made_safe, True)
        self._handles, self._made_safe = [], []

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def activations(module: nn.Module, names: Iterable[str], *inputs: Any) -> dict[str, Tensor]:
    """Return the named activations of one forward without gradients, in the module's present mode; no hook stays behind."""
    with Taps(module, names) as taps, torch.no_grad():
        with taps.recording():
            module(*inputs)
        return taps.collect()


def _set_inplace(modules: Iterable[nn.Module], value: bool) -> None:
    for module in modules:
        module.inplace = value  # type: ignore[assignment]


def _first(output: Any) -> Any:
    """A recurrent layer returns (states, last), attention (output, weights): the activation is the first."""
    packed = isinstance(output, nn.utils.rnn.PackedSequence)
    return output[0] if isinstance(output, tuple | list) and len(output) and not packed else output


def _kind(module: nn.Module) -> str:
    if (
        type(module).__module__ == "transformers.pytorch_utils"
    ):  # GPT-2's Conv1D: a linear layer, its weight transposed
        return "linear"
    known = KINDS | _OTHER_KINDS
    return next((kind for kind, types in known.items() if isinstance(module, types)), type(module).__name__)


def _inside_attention(module: nn.Module, name: str) -> bool:
    parents = name.split(".")[:-1]
    return any(
        isinstance(module.get_submodule(".".join(parents[: i + 1])), nn.MultiheadAttention)
        for i in range(len(parents))
    )


def _version(tensor: Tensor) -> int | None:
    # Neither inference tensors nor traced ones count their writes.
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version
