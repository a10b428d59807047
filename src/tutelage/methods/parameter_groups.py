"""Which parameters are trained, at which rate and decay: by their names, which patterns with * match as file names."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from tutelage.errors import UserError

log = logging.getLogger("tutelage")
Named = Sequence[tuple[str, nn.Parameter]]


def check_patterns(patterns: Iterable[str], names: Iterable[str], key: str) -> None:
    """Raise UserError for a pattern that matches none of the names, listing their beginnings."""
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = list(dict.fromkeys(part_of(name) for name in names))
            shown = ", ".join(f"{part}.*" if part not in names else part for part in parts[:40])
            raise UserError(
                f"{key}: no parameter's name matches '{pattern}'; the network has {shown}"
                + (f" ... ({len(parts)} parts in all)" if len(parts) > 40 else "")
            )


def warn_of_resting(patterns: Iterable[str], named: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Say which patterns of rates match nothing that is trained."""
    named = list(named)
    for pattern in patterns:
        if not any(p.requires_grad for name, p in named if fnmatchcase(name, pattern)):
            log.warning(
                "optimizer.lr_factors: '%s' has no effect, for nothing that it matches is trained", pattern
            )


def freeze(network: nn.Module, patterns: Sequence[str]) -> tuple[nn.Module, ...]:
    """Take the parameters whose names match out of the training, and return the modules that rest with all of theirs.

    Those belong into eval mode: their batch norms' statistics must not move either, and their dropout is off. Raises UserError for a
    pattern that matches nothing, or where nothing is left to train.
    """
    named = list(network.named_parameters())
    check_patterns(patterns, [name for name, _ in named], "optimizer.frozen")
    for name, parameter in named:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for _, parameter in named):
        raise UserError(f"optimizer.frozen={list(patterns)} leaves no parameter of the network to train")
    resting: list[nn.Module] = []
    for module in network.modules() if patterns else ():
        inside = list(module.parameters())
        if inside and not any(parameter.requires_grad for parameter in inside):
            resting.append(module.eval())
    return tuple(resting)


def part_of(name: str) -> str:
    """Return the part of a network that a parameter belongs to: its name up to the first number, `blocks.3` or `layer1`."""
    found = re.match(r"(?:[^.]*[^.\d]\.)*?[^.]*\d(?=\.)", name)
    return found.group() if found else name.split(".")[0]


def depths(network: nn.Module) -> dict[str, int]:
    """Return how many parts lie between each parameter and the last part, by the parameter's name.

    Parts are timm's own where the network knows them (`group_matcher`), else those of `part_of`, in the order in which they were made.
    """
    if hasattr(network, "group_matcher"):
        from timm.models import group_parameters

        numbers = group_parameters(network, network.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    else:
        numbers = _in_order([name for name, _ in network.named_parameters()])
    last = max(numbers.values())
    return {name: last - number for name, number in numbers.items()}


def _in_order(names: Sequence[str]) -> dict[str, int]:
    """Return the number of each parameter's part, from 0; what follows numbered blocks under their prefix is a part of its own."""
    numbers: dict[str, int] = {}
    found: dict[str, int] = {}
    blocks: str | None = None
    for name in names:
        part = part_of(name)
        if part[-1].isdigit() and part != name:
            blocks = part
        elif blocks is not None and blocks.startswith(f"{part}."):
            part = f"{part} after {blocks}"
        numbers[name] = found.setdefault(part, len(found))
    return numbers


def grouped(
    named: Named,
    *,
    lr: float,
    weight_decay: float,
    decay_all: bool,
    layer_decay: float | None,
    lr_factors: Mapping[str, float],
    network: nn.Module | None,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimiser, one for each pair of rate and weight decay, in the order of the parameters.

    decay_all: if not, parameters of one dimension (norms, biases) and those that `network.no_weight_decay()` names do not decay.
    layer_decay: the rate of each part is that of the next one times this (Bao et al. 2021, arXiv 2106.08254). lr_factors: factors by
    pattern; of several that match, the last one counts.
    """
    depth = depths(network) if layer_decay is not None and network is not None else {}
    spared = set(network.no_weight_decay()) if hasattr(network, "no_weight_decay") else set()  # type: ignore[operator, union-attr]
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        factor = (layer_decay or 1.0) ** depth.get(name, 0)
        matching = [value for pattern, value in lr_factors.items() if fnmatchcase(name, pattern)]
        factor *= matching[-1] if matching else 1.0
        decay = weight_decay if decay_all or (parameter.ndim > 1 and name not in spared) else 0.0
        group = groups.setdefault((factor, decay), {"params": [], "lr": lr * factor, "lr_factor": factor})
        group["params"].append(parameter)
        group["weight_decay"] = decay
    return list(groups.values())
