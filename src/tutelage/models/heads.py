"""The final layer of a network, found by following its outputs back to the last parameters they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tutelage.errors import UserError, choices
from tutelage.models.forward_calls import Call, as_tensor, undisturbed

# A parameter that these take scales, shifts or joins; one that any other operation takes mixes its inputs, as a linear layer does.
_BESIDE = frozenset(
    {"add", "sub", "rsub", "mul", "div", "addcmul", "addcdiv", "lerp", "pow", "_prelu_kernel"}
    | {"maximum", "minimum", "where", "cat", "stack", "copy", "clamp"}
)
_KEPT = "declared_head"  # set on a network by `declare`


@dataclass(frozen=True)
class Head:
    """What turns a network's features into its outputs.

    layers: the modules, by their paths, in the order in which they run.
    reads: those of them that the features enter: one in most networks, several in one that adds the answers of several heads.
    names: of its parameters and buffers in the network's state.
    shared: those of its parameters that other layers use too, such as embeddings that are tied to the output.
    """

    layers: tuple[str, ...]
    reads: tuple[str, ...]
    names: tuple[str, ...]
    shared: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.layers or self.names)


def find_head(
    network: nn.Module,
    inputs: Tensor,
    mask: Tensor | None = None,
    *,
    run: Callable[[Tensor, Tensor | None], Any] | None = None,
) -> Head:
    """Return the final layer: the parameters that the outputs of one forward come from, with none that mix in between.

    It is found by what runs, whatever the order of declaration: operations are recorded and followed back from the output through those
    without parameters, and through what scales or shifts (biases, norms, a temperature), to those whose parameters mix (a linear map, a
    convolution, an embedding). Of several such, only those count whose result has an axis as long as one of the outputs.
    inputs, mask: an example.
    run: runs the network on them (one that converts its inputs, say); None: the network itself, as `Call` would.
    Modes, buffers and the random state stay as they are. Cost: one forward of two samples.
    Raises UserError where the network does not run on the example, or no parameter leads to its outputs.
    """
    inputs = inputs[:2].clone()  # a forward may write into them
    mask = None if mask is None else mask[:2]
    call = Call.of(network)
    trace = _Trace(network, [inputs] if mask is None else [inputs, mask])
    try:
        with undisturbed(network), plain_attention(), trace.following(network), trace:
            output = as_tensor(run(inputs, mask) if run else call.raw(network, inputs, mask), network)
    except UserError:
        raise
    except Exception as error:  # whatever a network raises on data that are not for it
        raise UserError(
            f"the final layer of {type(network).__name__} is found by running it, which fails on inputs of shape {tuple(inputs.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    head = trace.head(network, output)
    if not head.names:
        raise UserError(
            f"no parameter of {type(network).__name__} leads to its outputs: name its final layer, head=<layer>"
        )
    return head


def named_head(network: nn.Module, layers: str | Sequence[str]) -> Head:
    """Return the final layer that a configuration names: a module's path, a parameter's name, or a list of them.

    Raises UserError for a name that the network does not have.
    """
    wanted = [layers] if isinstance(layers, str) else layers
    if not isinstance(wanted, Sequence) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise UserError(f"head must name a layer, or be a list of names, got {layers!r}")
    modules, state = dict(network.named_modules()), network.state_dict()
    found: list[str] = []
    for name in wanted:
        below = [key for key in state if key == name or (name in modules and key.startswith(f"{name}."))]
        if not name or not below:
            with_weights = {key.rpartition(".")[0] or key for key in state}
            raise UserError(
                f"head={name}: {type(network).__name__} has no such layer with weights; {choices(name, with_weights)}"
            )
        found += [key for key in below if key not in found]
    kept = tuple(name for name in wanted if name in modules)
    return Head(kept, kept, tuple(found))


def declare(network: nn.Module, head: Head) -> None:
    """Note on a network which layer is its final one, for `head_of`."""
    object.__setattr__(network, _KEPT, head)


def head_of(
    network: nn.Module,
    inputs: Tensor,
    mask: Tensor | None = None,
    *,
    run: Callable[[Tensor, Tensor | None], Any] | None = None,
) -> Head:
    """Return the final layer that was declared for a network, else `find_head`'s."""
    known: Head | None = getattr(network, _KEPT, None)
    return known or find_head(network, inputs, mask, run=run)


class HeadInput:
    """What a network's final layer was given in its latest forward: the features a classifier decides on.

    head: that layer. name: its path; empty where the network does not end in one layer.
    """

    def __init__(self, network: nn.Module, head: Head) -> None:
        self.name = head.reads[0] if len(head.reads) == 1 else ""
        self._seen: Tensor | None = None
        if self.name:
            network.get_submodule(self.name).register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._seen = next(iter((*inputs, *named.values())))

    def take(self) -> Tensor | None:
        """Return the features once and let go of them; None if no forward has left any."""
        seen, self._seen = self._seen, None
        return seen


@dataclass(frozen=True)
class _Step:
    """An operation on data: what it read and wrote (storages), and the parameters it took."""

    kind: str
    layer: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    parameters: frozenset[str]
    sizes: frozenset[int]


class _Trace(TorchDispatchMode):
    """Records every operation of a forward by the storages of its tensors: what comes from the data, and what from parameters alone."""

    def __init__(self, network: nn.Module, data: Iterable[Tensor]) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self._held: list[Any] = []  # so that no storage is used again for another tensor
        self._data = {_storage(tensor) for tensor in data}
        self._parameters: dict[int, set[str]] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            self._parameters.setdefault(_storage(parameter), set()).add(name)
        self._inside = [""]

    @contextmanager
    def following(self, network: nn.Module) -> Any:
        """Know at each operation in which module it happens."""

        def enter(name: str, *_: Any) -> None:
            self._inside.append(name)

        def leave(*_: Any) -> None:
            self._inside.pop()

        with ExitStack() as hooks:
            for name, module in network.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(partial(enter, name)))
                hooks.enter_context(module.register_forward_hook(leave, always_call=True))
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note it."""
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        out = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self._held += made
        reads = tuple(dict.fromkeys(map(_storage, given)))
        writes = tuple(dict.fromkeys(map(_storage, made)))
        data = tuple(key for key in reads if key in self._data)
        used = {name for key in reads if key not in self._data for name in self._parameters.get(key, ())}
        if data:
            self._data.update(writes)
            if (
                used or len(data) > 1 or set(writes) != set(data)
            ):  # a view, or one's own ReLU, changes nothing here
                sizes = frozenset(size for x in made for size in x.shape[1:])
                kind = func._schema.name.partition("::")[2].rstrip("_")
                self.steps.append(_Step(kind, self._inside[-1], data, writes, frozenset(used), sizes))
        elif used:
            for key in writes:
                self._parameters.setdefault(key, set()).update(used)
        return out

    def head(self, network: nn.Module, output: Tensor) -> Head:
        """Follow an output back to the last parameters."""
        found = self._last(output)
        classes = set(output.shape[1:])
        fitting = {place for place in found if self.steps[place].sizes & classes}
        places = sorted(fitting or found)
        mixing = [place for place in places if not _beside(self.steps[place].kind)] or places
        elsewhere = {
            name for place, step in enumerate(self.steps) if place not in places for name in step.parameters
        }
        main = {name for place in mixing for name in self.steps[place].parameters}
        used = {name for place in places for name in self.steps[place].parameters}
        names = main | (used - elsewhere)  # what scales inside the network too is no part of the head
        layers = _unique(self.steps[p].layer for p in places if self.steps[p].parameters & names)
        state = network.state_dict(keep_vars=True)
        for layer in layers:
            module = network.get_submodule(layer)
            own = {f"{layer}.{key}" for key, _ in module.named_parameters(recurse=False)}
            if own and own <= names:
                names |= {f"{layer}.{key}" for key, _ in module.named_buffers(recurse=False)} & state.keys()
        return Head(
            layers=tuple(layers),
            reads=tuple(_unique(self.steps[p].layer for p in mixing)),
            names=tuple(name for name in state if name in names),
            shared=tuple(sorted(main & elsewhere)),
        )

    def _last(self, output: Tensor) -> set[int]:
        """The places of the operations with parameters that lead to the output with none that mixes in between."""
        makers: dict[int, list[int]] = {}
        for place, step in enumerate(self.steps):
            for key in step.writes:
                makers.setdefault(key, []).append(place)
        found: set[int] = set()
        seen: set[int] = set()
        pending = [(_storage(output), len(self.steps))]
        while pending:
            key, before = pending.pop()
            for place in makers.get(key, ()):
                if place >= before or place in seen:
                    continue
                seen.add(place)
                step = self.steps[place]
                if step.parameters:
                    found.add(place)
                if not step.parameters or _beside(step.kind):
                    pending += [(read, place) for read in step.reads]
        return found


def _beside(kind: str) -> bool:
    return kind in _BESIDE or "norm" in kind


def _unique(layers: Iterable[str]) -> list[str]:
    return [layer for layer in dict.fromkeys(layers) if layer]


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return id(tensor)


@contextmanager
def plain_attention() -> Any:
    """Have attention layers computed part by part: their fused form hides their weights, and which parameters are used where."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
