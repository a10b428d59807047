"""How any network is run: which arguments its forward takes, and the one tensor among what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import UserError

_MASKS = ("mask", "attention_mask")
HALF = (torch.float16, torch.bfloat16)


class UnknownCall(UserError):
    """A network that cannot be run on any data: nobody gives all its arguments, or its output is no one tensor."""


def as_tensor(output: Any, network: nn.Module) -> Tensor:
    """Return the one tensor that a network's output stands for.

    output: a tensor; or a dictionary, tuple, list or an object with fields, as Hugging Face's: then what is called `logits`, else the only
    tensor in it.
    network: for the message.
    Raises UnknownCall where nothing or more than one thing could be meant.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = {str(key): value for key, value in output.items()}
    elif isinstance(output, tuple | list):
        fields = getattr(output, "_fields", None) or [f"[{place}]" for place in range(len(output))]
        named = dict(zip(fields, output, strict=True))
    else:
        named = dict(getattr(output, "__dict__", {}))
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if "logits" in tensors:
        return tensors["logits"]
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in tensors.items())
    raise UnknownCall(
        f"{_name(network)} must return one tensor, the task's outputs, or a dictionary, tuple or object that holds one, or one called "
        f"'logits'; got {type(output).__name__} with {found or 'no tensor'}"
    )


@dataclass(frozen=True)
class Call:
    """How a network's forward takes a batch; see `of`.

    inputs: the keyword of the inputs, None where they go first.
    mask: the keyword of the mask (True where real), None where it takes none.
    missing: further arguments that it cannot do without.
    """

    inputs: str | None
    mask: str | None
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: nn.Module) -> Call:
        """Read the signature of a network's forward."""
        try:
            parameters = list(inspect.signature(network.forward).parameters.values())
        except (TypeError, ValueError):  # compiled code that has no signature
            return cls(None, None)
        masks = [p.name for p in parameters if p.name in _MASKS and p.kind is not p.POSITIONAL_ONLY]
        first = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
        ]
        by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in masks]
        taken = first[0] if first else min(by_name, key=lambda p: p.default is not p.empty, default=None)
        needed = [
            p.name
            for p in parameters
            if p.default is p.empty
            and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and p is not taken
            and p.name not in masks
        ]
        keyword = taken.name if taken is not None and not first else None
        return cls(keyword, masks[0] if masks else None, tuple(needed))

    @property
    def takes_mask(self) -> bool:
        """Whether the forward takes a mask."""
        return self.mask is not None

    def raw(self, network: nn.Module, inputs: Tensor, mask: Tensor | None = None) -> Any:
        """Run the network and return what it returns. Raises UnknownCall where its forward needs further arguments."""
        if self.missing:
            raise UnknownCall(
                f"the forward of {_name(network)} needs {', '.join(self.missing)} beside the inputs: give them defaults, or wrap it in a "
                "class of yours whose forward takes the inputs, and a `mask` where it heeds one"
            )
        if self.mask == "attention_mask" and mask is not None:
            mask = mask.long()  # Hugging Face's: 1 where real
        named = {} if self.mask is None else {self.mask: mask}
        return network(inputs, **named) if self.inputs is None else network(**{self.inputs: inputs}, **named)

    def __call__(self, network: nn.Module, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run the network and return its one tensor, see `as_tensor`; in single precision where the inputs are, unless under autocast."""
        output = as_tensor(self.raw(network, inputs, mask), network)
        if (
            output.dtype in HALF
            and inputs.dtype == torch.float32
            and not torch.is_autocast_enabled(inputs.device.type)
        ):
            return output.float()
        return output


@contextmanager
def undisturbed(network: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Run a network inside without leaving a trace: in eval mode, without gradients; modes, buffers and the random state return.

    training: in training mode and with gradients instead.
    """
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(module, key, value) for module in network.modules() for key, value in module._buffers.items()]
    saved = [None if value is None else value.clone() for _, _, value in buffers]
    try:
        network.train(training)
        with torch.set_grad_enabled(training), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for (module, key, value), before in zip(buffers, saved, strict=True):
            module._buffers[key] = value
            if value is not None and before is not None:
                value.copy_(before)


def _name(network: nn.Module) -> str:
    kind = type(network)
    return f"{kind.__module__}.{kind.__qualname__}"
