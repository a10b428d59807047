"""Numbers of explanations: are the places that they name those that count, do two networks agree, and do the weights matter?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.alignment.taps import probe
from tutelage.analysis.question import Question
from tutelage.models.frozen import FrozenNetwork

FRACTIONS = 20
"""Steps in which places are shown or hidden."""


def curves(question: Question, maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the class asked for (n, steps + 1) as places are shown, and as they are hidden, the highest first.

    maps: (n, *places). Deletion and insertion of Petsiuk et al. 2018 (RISE, arXiv 1806.07421), with nothing in place of their blur.
    """
    flat, real = maps.flatten(1), question.real.flatten(1)
    # a place that is not there comes last, and is never shown or hidden
    order = flat.masked_fill(~real, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(flat.shape[1]).to(order).expand_as(order))
    steps = min(FRACTIONS, flat.shape[1])
    shown, hidden = [], []
    for step in range(steps + 1):
        count = (real.sum(1, keepdim=True) * step / steps).round()
        first = ((rank < count) | ~real).view(len(maps), *question.places)
        rest = ((rank >= count) | ~real).view(len(maps), *question.places)
        shown.append(question.probability(question.kept(first)))
        hidden.append(question.probability(question.kept(rest)))
    insertion, deletion = (torch.stack(part, dim=1).cpu().double().numpy() for part in (shown, hidden))
    return insertion, deletion


def area(curve: np.ndarray) -> np.ndarray:
    """Return the area (n,) under curves (n, steps + 1) over the share of places, by the trapezoid rule."""
    return np.asarray((curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2)


def rank_correlations(first: Tensor, second: Tensor, real: Tensor) -> np.ndarray:
    """Return Spearman's correlation (n,) of each two maps (n, *places) over the places that are there; NaN where one is constant."""
    from scipy.stats import rankdata

    found = []
    for a, b, there in zip(first.flatten(1), second.flatten(1), real.flatten(1), strict=True):
        x, y = (rankdata(one[there].cpu().numpy()) for one in (a, b))
        x, y = x - x.mean(), y - y.mean()
        with np.errstate(invalid="ignore"):  # 0 / 0 of a constant map is NaN
            found.append(float(x @ y / np.sqrt((x @ x) * (y @ y))))
    return np.array(found)


def by_chance(first: Tensor, second: Tensor, real: Tensor) -> np.ndarray:
    """Return the correlations (n,) of each map with that of another sample: what places alone, such as the middle, bring about."""
    turned = torch.arange(len(first)).roll(1)
    return rank_correlations(first, second[turned], real & real[turned])


def randomised(
    question: Question, explain: Callable[[Question], Tensor], maps: Tensor
) -> list[tuple[int, float]]:
    """Return (layers, mean rank correlation): how like the maps those of the same network are whose last layers' weights are shuffled.

    The sanity check of Adebayo et al. 2018 (arXiv 1810.03292), cascading from the output, by the size of what maps say: the last layer,
    half of the layers, all of them. A layer's numbers are shuffled, so that their distribution is the trained one.
    """
    network = copy.copy(question.network)
    object.__setattr__(network, "_network", copy.deepcopy(question.network.network))
    inner = network.network
    batch = question.batch
    inputs = network.converted(batch.inputs[:1])
    ran = probe(inner, inputs, *(() if batch.mask is None else (batch.mask[:1],)), run=_runs(network))
    layers = [name for name in (layer.name for layer in ran) if _own_parameters(inner.get_submodule(name))]
    asked = replace(question, network=network)
    draw = torch.Generator().manual_seed(0)
    found, done = [], 0
    for count in sorted({1, -(-len(layers) // 2), len(layers)}):
        for name in reversed(layers[len(layers) - count : len(layers) - done]):
            _shuffle(_own_parameters(inner.get_submodule(name)), draw)
        if count == len(layers):  # class tokens and positions, which are no layer's
            of_layers = {id(p) for name in layers for p in _own_parameters(inner.get_submodule(name))}
            _shuffle([p for p in inner.parameters() if id(p) not in of_layers], draw)
        done = count
        values = rank_correlations(maps.abs(), explain(asked).abs(), question.real)
        found.append((count, float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")))
    return found


def _runs(network: FrozenNetwork) -> Callable[..., Tensor]:
    from tutelage.models.forward_calls import Call

    call = Call.of(network.network)
    return lambda inputs, mask=None: call(network.network, inputs, mask)


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters(recurse=False) if p.numel() > 1]


@torch.no_grad()
def _shuffle(parameters: Sequence[nn.Parameter], draw: torch.Generator) -> None:
    for parameter in parameters:
        order = torch.randperm(parameter.numel(), generator=draw).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
