"""How signal and gradients pass the layers of a network, on a few batches, without any training.

The network runs as in a training step: batch norms on the batch, dropout drawn. Nothing of it changes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tutelage.alignment.feature_rows import per_sample
from tutelage.alignment.taps import Layer, Taps, input_of, probe, weight_layers
from tutelage.errors import UserError
from tutelage.models.forward_calls import Call, undisturbed
from tutelage.tasks import Batch, Task

KINDS = ("conv", "linear", "recurrent", "attention")
"""Layers that are looked at: those with a weight matrix."""
SAMPLES = 64
"""Of how many samples of a batch the statistics are, so that a rank compares across batch sizes."""
_TINY = 1e-30


@dataclass(frozen=True)
class LayerSignal:
    """One layer, before training.

    scale: root mean square of what the layer gives out.
    correlation: mean cosine between what it is given for two different samples; 1: it cannot tell samples apart.
    rank: effective rank (participation ratio) of what it is given, centred: how many directions the samples of a batch span.
    dead: share of its inputs that are the same for every sample.
    gradient: root mean square of the loss's gradient by its weights, over that of the weights.
    agreement: mean cosine between the gradients of two batches; 0: what one batch teaches it says nothing of the next.
    steadiness: cosine between the gradient and that of the same batch after a small step against it; 0: the loss is so rugged that a
    gradient says nothing of the next step (after Santurkar et al. 2018, arXiv 1805.11604, gradient predictiveness). NaN: not asked for.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    scale: float
    correlation: float
    rank: float
    dead: float
    gradient: float
    agreement: float
    steadiness: float = math.nan


@dataclass(frozen=True)
class Signal:
    """The layers in their order, the loss, and the effective rank of the network's inputs."""

    layers: tuple[LayerSignal, ...]
    loss: float
    input_rank: float

    @property
    def gradient_ratio(self) -> float:
        """Gradient of the first layer over that of the last."""
        return self.layers[0].gradient / max(self.layers[-1].gradient, _TINY)

    @property
    def agreement(self) -> float:
        """Median over layers of how far two batches' gradients agree."""
        values = sorted(layer.agreement for layer in self.layers)
        middle = len(values) // 2
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2

    @property
    def rank_left(self) -> float:
        """Effective rank of what the last layer is given, over that of the network's inputs."""
        return self.layers[-1].rank / max(self.input_rank, _TINY)

    @property
    def correlation(self) -> float:
        """Correlation of two samples at the last layer."""
        return self.layers[-1].correlation

    @property
    def dead(self) -> float:
        """The largest share of dead units that a layer is given, the first one's aside, which sees the data."""
        return max((layer.dead for layer in self.layers[1:]), default=0.0)


def participation_ratio(features: Tensor) -> float:
    """Return (sum of eigenvalues)^2 / sum of squared eigenvalues of the covariance of features (n, d).

    From 1 to min(n - 1, d); 0 for constant features. Invariant to rotation and scale. From the n x n Gram matrix: no spectrum is computed.
    """
    centred = features.double() - features.double().mean(dim=0)
    largest = centred.abs().max()
    if not largest > 1e-7 * features.abs().max():  # rounding alone
        return 0.0
    centred = centred / largest
    gram = centred @ centred.T
    return float(gram.trace().square() / gram.square().sum())


def mean_cosine(features: Tensor) -> float:
    """Return the mean cosine between different rows of features (n, d), n > 1; a row of zeros counts as equal to all."""
    rows = features.double()
    lengths = rows.norm(dim=1, keepdim=True)
    units, count = rows / lengths.clamp_min(_TINY), len(rows)
    cosines = units @ units.T
    zero = (lengths < _TINY).flatten()
    cosines[zero] = 1.0
    cosines[:, zero] = 1.0
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))


def dead_share(features: Tensor) -> float:
    """Return the share of columns of features (n, d) that are the same in every row."""
    return float((features == features[:1]).all(dim=0).double().mean())


def signal(
    network: nn.Module, task: Task, batches: Sequence[Batch], *, seed: int = 0, step: float | None = None
) -> Signal:
    """Look at a network as it is.

    network: in any mode, on the device of the batches.
    batches: at least two of the training data, with at least two samples each. Activations are those of the first.
    seed: of what the forward draws, such as dropout.
    step: of steadiness, in units of the weights' length (all layers together); None leaves it out.
    Cost: as many training steps without the update as there are batches, and one for `step`. The network stays as it is, bit for bit, as
    do modes, buffers, gradients and the random state.

    Raises:
        UserError: the network cannot run on these data, has no layer to look at, or a batch is a single sample.
    """
    if len(batches) < 2 or min(len(batch.inputs) for batch in batches) < 2:
        raise UserError(
            "signal is measured between samples and between batches: at least two batches of at least two samples"
        )
    first, *others = batches
    call = Call.of(network)
    layers = _layers(network, first, call)
    weights = {layer.name: _weights(network.get_submodule(layer.name)) for layer in layers}
    names = [tap for layer in layers for tap in (layer.name, input_of(layer.name))]
    with undisturbed(network, training=True), torch.random.fork_rng(devices=[]), _wanting_gradients(weights):
        torch.manual_seed(seed)
        with Taps(network, names) as taps:
            with taps.recording():
                output = call(network, first.inputs, first.mask)
            seen = {name: tensor.detach() for name, tensor in taps.collect().items()}
        loss = task.loss(output, first)
        gradients = [_gradients(loss, weights)]
        del output
        gradients += [_gradients(task.loss(call(network, b.inputs, b.mask), b), weights) for b in others]
        after = None
        if step is not None:
            with _moved(weights, gradients[0], step):
                torch.manual_seed(seed)
                after = _gradients(task.loss(call(network, first.inputs, first.mask), first), weights)
    rows = [
        _layer_signal(
            layer, seen, weights[layer.name], [found[layer.name] for found in gradients], first.mask
        )
        for layer in layers
    ]
    if after is not None:
        rows = [
            replace(row, steadiness=_agreement([gradients[0][row.name], after[row.name]])) for row in rows
        ]
    inputs = _few(first.inputs, first.mask) if first.inputs.is_floating_point() else None
    rank = participation_ratio(inputs) if inputs is not None else rows[0].rank
    return Signal(tuple(rows), float(loss.detach()), rank)


def _layers(network: nn.Module, batch: Batch, call: Call) -> list[Layer]:
    found = weight_layers(
        probe(network, batch.inputs, run=lambda inputs: call(network, inputs, batch.mask)), KINDS
    )
    found = [layer for layer in found if _weights(network.get_submodule(layer.name))]
    if not found:
        raise UserError(
            f"{type(network).__name__} has no layer to look at: expected modules of the kinds {', '.join(KINDS)} that run once in a forward"
        )
    return found


def _weights(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.ndim > 1]


@contextmanager
def _wanting_gradients(weights: Mapping[str, list[nn.Parameter]]) -> Iterator[None]:
    frozen = [p for group in weights.values() for p in group if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _gradients(loss: Tensor, weights: Mapping[str, list[nn.Parameter]]) -> dict[str, Tensor]:
    """Return each layer's gradient as one vector; zeros where the loss does not depend on it."""
    flat = list(dict.fromkeys(p for group in weights.values() for p in group))
    found = torch.autograd.grad(loss, flat, allow_unused=True)
    of = {
        p: torch.zeros_like(p) if gradient is None else gradient
        for p, gradient in zip(flat, found, strict=True)
    }
    return {name: torch.cat([of[p].flatten() for p in group]) for name, group in weights.items()}


@contextmanager
def _moved(
    weights: Mapping[str, list[nn.Parameter]], gradients: Mapping[str, Tensor], step: float
) -> Iterator[None]:
    """Move weights against their gradients, by `step` of their joint length, for the length of a block."""
    of = {
        p: part.view_as(p)
        for name, group in weights.items()
        for p, part in zip(group, gradients[name].split([p.numel() for p in group]), strict=True)
    }
    length, slope = (_length(tensors) for tensors in (of, of.values()))
    before = [p.detach().clone() for p in of]
    try:
        with torch.no_grad():
            for p, gradient in of.items():
                p.sub_(gradient, alpha=step * length / max(slope, _TINY))
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(of, before, strict=True):
                p.copy_(value)


def _length(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def rows_of(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Return what a layer is given as (n, everything else) in float32, padded positions of a sequence as zeros."""
    fits = mask is not None and tensor.ndim > 2 and tensor.shape[1] == mask.shape[1]
    return per_sample(tensor, mask if fits else None).float()


def _few(tensor: Tensor, mask: Tensor | None) -> Tensor:
    return rows_of(tensor[:SAMPLES], None if mask is None else mask[:SAMPLES])


def _layer_signal(
    layer: Layer,
    seen: Mapping[str, Tensor],
    weights: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    mask: Tensor | None,
) -> LayerSignal:
    given, flat = seen[input_of(layer.name)], torch.cat([p.detach().flatten() for p in weights])
    features = _few(given, mask)
    return LayerSignal(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        scale=_rms(seen[layer.name]),
        correlation=mean_cosine(features),
        rank=participation_ratio(features),
        dead=dead_share(features),
        gradient=_rms(gradients[0]) / max(_rms(flat), _TINY),
        agreement=_agreement(gradients),
    )


def _agreement(gradients: Sequence[Tensor]) -> float:
    """Mean cosine between vectors, over pairs; those of zeros agree with none."""
    units = [g.double() / g.double().norm().clamp_min(_TINY) for g in gradients]
    pairs = itertools.combinations(units, 2)
    return float(torch.stack([a @ b for a, b in pairs]).mean())


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())
