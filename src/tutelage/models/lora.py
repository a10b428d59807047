"""Low-rank updates of a network's linear layers: they and the final layer alone are trained (arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from tutelage.arguments import fraction, positive
from tutelage.errors import UserError, choices, extra, reason_of
from tutelage.models.heads import declare, find_head

_LORA = ("rank", "alpha", "dropout", "layers")
_ATTENTION = (
    "query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "c_attn", "query_key_value", "qkv", "qkv_proj", "Wqkv",
)  # fmt: skip
"""What models call the projections to queries and values, which arXiv 2106.09685 adapts; where one layer makes them, keys too."""


def _linear(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":  # GPT-2's linear layer
            yield name, module


def with_lora(network: nn.Module, label: str, lora: Mapping[str, Any], example: Tensor) -> nn.Module:
    """Add low-rank updates to the named layers, in place, and freeze all but them and the final layer.

    label: the network's, for messages. lora: see `huggingface.hugging_face_model`. example: inputs of two samples.
    """
    for key in lora:
        if key not in _LORA:
            raise UserError(f"`lora`.{key} does not exist; {choices(key, _LORA)}")
    rank, dropout = lora.get("rank", 8), lora.get("dropout", 0.0)
    positive("lora", rank=rank)
    fraction("lora", dropout=dropout)
    alpha, layers = lora.get("alpha", 2 * rank), lora.get("layers")
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise UserError(f"`lora`.alpha must be a number above 0, got {alpha!r}")
    with extra("huggingface", "`lora` needs the package peft"):
        from peft import LoraConfig, inject_adapter_in_model
    head = find_head(network, example)
    parameters = dict(network.named_parameters())
    of_head = {id(parameters[key]) for key in head.names if key in parameters and key not in head.shared}
    ends = dict.fromkeys(name.rpartition(".")[2] for name, _ in _linear(network))
    targets = (
        [layers] if isinstance(layers, str) else list(layers or (end for end in ends if end in _ATTENTION))
    )
    try:
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=cast(int, alpha), lora_dropout=dropout, target_modules=targets),
            network,
        )
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{label}: `lora`.layers={layers} chooses no layers of it ({reason_of(error)}); it has {', '.join(ends)}"
        ) from error
    for key, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in key or id(parameter) in of_head)
    if set(head.names) <= network.state_dict().keys():  # unless it was itself among the layers
        declare(network, head)
    return network
