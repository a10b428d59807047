"""The outputs of a Hugging Face classifier in the order of the data's classes, where its configuration names them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import UserError
from tutelage.models.forward_calls import Call, undisturbed

log = logging.getLogger("tutelage")


def answer_in_order(label: str, network: nn.Module, classes: Sequence[str], example: Tensor) -> None:
    """Let a network's outputs stand in the order of `classes`, by the names in its configuration (`id2label`), in its weights.

    Upper and lower case, and `_` or `-` for a space, are no difference. Outputs without names of their own are left as they are; names
    that are none of the data's are said. Raises UserError where some are, at other places, or the head cannot be put into that order.
    """
    named = getattr(network.config, "id2label", None) or {}
    theirs = [_plain(named.get(place, "")) for place in range(len(named))]
    ours = [_plain(name) for name in classes]
    if theirs == ours or len(theirs) != len(ours) or all(re.fullmatch(r"label \d+", name) for name in theirs):
        return
    said = (
        f"{label} calls its outputs {_listed(named.values())}, the classes of the data are {_listed(classes)}"
    )
    if len(set(ours)) == len(ours) and sorted(theirs) == sorted(ours):
        _reorder(label, network, [theirs.index(name) for name in ours], example)
        log.info("%s: each is taken for the class of its name", said)
    elif any(name in theirs and theirs[place] != name for place, name in enumerate(ours)):
        raise UserError(
            f"{said}: some are the same, at other places. Take a model of these classes, keep its classes (data.classes=[...]), or name "
            "its outputs in `id2label` of its config.json"
        )
    else:
        log.warning("%s: they are taken to be the same ones, in this order", said)


def _reorder(label: str, network: Any, order: Sequence[int], example: Tensor) -> None:
    body = f"{network.base_model_prefix}."
    heads = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == len(order) and not name.startswith(body)
    ]
    before = _answers(network, example)
    with torch.no_grad():
        for head in heads:
            for values in (head.weight, head.bias):
                if values is not None:
                    values.copy_(values[list(order)])
    if not torch.allclose(_answers(network, example), before[:, list(order)], rtol=1e-4, atol=1e-6):
        raise UserError(
            f"{label} answers in another order than that of the data's classes, and its head cannot be put into it: name `data.classes` in "
            "the order of its outputs"
        )


def _answers(network: nn.Module, example: Tensor) -> Tensor:
    with undisturbed(network):
        return Call.of(network)(network, example)


def _plain(name: object) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
