"""What a network holds and computes, counted: the same on every machine."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.models.forward_calls import Call, undisturbed
from tutelage.models.frozen import FrozenNetwork


def parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return a network's parameters, shared ones once."""
    return list({id(one): one for one in network.parameters()}.values())


def operations(network: nn.Module, inputs: Tensor, mask: Tensor | None = None) -> int:
    """Return the operations of a forward: a multiplication and an addition are two.

    Matrix products, convolutions and attention alone, as torch's counter counts them; weights of 0 count like others.
    network: one that is frozen converts its inputs first. It is in eval mode meanwhile, and nothing of it changes.
    """
    from torch.utils.flop_counter import FlopCounterMode

    call, compiled = Call.of(network), network._compiled_call_impl
    try:
        network._compiled_call_impl = None  # compiled code is not looked into
        with undisturbed(network), FlopCounterMode(display=False) as counter:
            network(inputs, mask) if isinstance(network, FrozenNetwork) else call(network, inputs, mask)
    finally:
        network._compiled_call_impl = compiled
    return int(counter.get_total_flops())


def counted(network: nn.Module, inputs: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
    """Return `parameters`, how many of them are not 0 (`nonzero`), and `operations` of one sample; None where it takes other inputs."""
    inner = network.network if isinstance(network, FrozenNetwork) else network
    held = parameters(inner)
    first = next(iter(held), inputs)
    part = None if mask is None else mask[:1].to(first.device)
    try:
        found: int | None = operations(network, inputs[:1].to(first.device), part)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, UserError):
        found = None  # a generator, which begins from noise
    return {
        "parameters": sum(one.numel() for one in held),
        "nonzero": sum(int(one.count_nonzero()) for one in held),
        "operations": found,
    }
