"""The alignment of a network with its guide in a training loop of one's own: hooks, pairs and similarity put together into one loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tutelage.alignment.comparison import Comparison
from tutelage.alignment.guides import FeatureGuide, Sample
from tutelage.alignment.pairing import Pairing
from tutelage.alignment.similarity import CKA, Similarity
from tutelage.alignment.taps import Layer, Taps, probe
from tutelage.errors import UserError


class Inputs(NamedTuple):
    """Plain tensors as a sample: what a guide that is a network needs of a batch."""

    inputs: Tensor
    mask: Tensor | None = None


class Alignment:
    """Pairs a network with a guide; each step gives one loss, the sum over pairs of 1 - similarity (arXiv 2410.20035).

        alignment = Alignment(network, guide, x)
        for x, y in batches:
            alignment.guide(x)
            with alignment.recording():
                output = network(x)
            loss = F.cross_entropy(output, y) + alignment.loss()

    network: the module being trained. guide: another, which gets no gradients and runs in the mode it is in (an own `guide.eval()` is
    the paper's), or a FeatureGuide. example: inputs of a few samples, to find the layers; with a mask as (inputs, mask); a FeatureGuide
    may need a whole batch. pairing: default the paper's Algorithm 1. similarity: default CKA. per_token, tokens_per_step: see `Comparison`.

    A guide's activation is encoded the moment its layer returns it and let go; its forward ends with its last paired layer.
    `similarities` holds the latest scores, (pairs,), detached. Raises UserError for pairs that cannot be.
    """

    def __init__(
        self,
        network: nn.Module,
        guide: nn.Module,
        example: Tensor | tuple[Tensor, Tensor | None] | Sample,
        *,
        pairing: Pairing | None = None,
        similarity: Similarity | None = None,
        per_token: bool = False,
        tokens_per_step: int | None = None,
    ) -> None:
        sample = as_sample(example)
        check_mask(sample.mask)
        # A wrapper such as FrozenNetwork is called itself; its layers are those of what it wraps.
        inner = getattr(guide, "network", guide)
        layers = probe(network, *arguments(network, sample))
        pairs = (pairing or Pairing())(layers_of_guide(inner, sample), layers)
        options: dict[str, Any] = {"per_token": per_token, "tokens_per_step": tokens_per_step}
        self.comparison = Comparison(pairs, layers, similarity or CKA(), **options)
        self.pairs = self.comparison.pairs
        self.similarities: Tensor | None = None
        self._taps = Taps(network, self.comparison.network_layers)
        self._guide: Callable[..., Any] = inner if isinstance(inner, FeatureGuide) else guide
        self._takes_mask = "mask" in inspect.signature(guide.forward).parameters
        self._guide_taps = (
            None
            if isinstance(inner, FeatureGuide)
            else Taps(inner, self.comparison.guide_layers, consume=self.comparison.encode, stop=True)
        )

    def describe(self) -> list[dict[str, Any]]:
        """Return the pairs as rows of plain values."""
        return self.comparison.describe()

    def guide(self, inputs: Tensor | Sample, mask: Tensor | None = None) -> None:
        """Run the guide on a batch and encode its paired layers. inputs: as its forward takes them, or a batch with its mask."""
        sample = as_sample(inputs if mask is None else (inputs, mask))
        self.comparison.start(sample.mask)
        if self._guide_taps is None:
            encode_features(self.comparison, self._guide(sample))
            return
        with self._guide_taps.recording(), torch.no_grad():
            if self._takes_mask:
                self._guide(sample.inputs, sample.mask)
            else:
                self._guide(sample.inputs)

    def recording(self) -> AbstractContextManager[Taps]:
        """Hold the network's paired activations during the one forward made inside."""
        return self._taps.recording()

    def loss(self) -> Tensor:
        """Return the sum over pairs of 1 - similarity of the forward in `recording()` with the guide's, on the same batch."""
        loss, self.similarities = self.comparison.loss(self._taps.collect())
        return loss

    def remove(self) -> None:
        """Remove every hook from both networks."""
        self._taps.remove()
        if self._guide_taps is not None:
            self._guide_taps.remove()


def as_sample(given: Any) -> Any:
    """Return what has `inputs` and `mask`: a batch as it is; a tensor, or a pair (inputs, mask), made one."""
    if isinstance(given, Tensor):
        return Inputs(given)
    if hasattr(given, "inputs"):
        return given
    return Inputs(*given)


def arguments(network: nn.Module, sample: Sample) -> tuple[Any, ...]:
    """Return what a network's forward takes of a sample."""
    takes_mask = "mask" in inspect.signature(network.forward).parameters
    return (sample.inputs, sample.mask) if takes_mask else (sample.inputs,)


def layers_of_guide(guide: nn.Module, sample: Sample) -> list[Layer]:
    """Return a guide's layers: of a network those that one forward calls, of a FeatureGuide its named features."""
    if isinstance(guide, FeatureGuide):
        return [Layer(name, "feature", tuple(x.shape[1:])) for name, x in guide(sample).items()]
    return probe(guide, *arguments(guide, sample))


def check_mask(mask: Tensor | None) -> None:
    """Raise UserError where a sample has no real position."""
    if mask is not None and not bool(mask.any(dim=1).all()):
        raise UserError(
            "a sample without a single real position cannot be aligned: its mask is False everywhere. Drop such samples from the data"
        )


def encode_features(comparison: Comparison, features: Mapping[str, Tensor]) -> None:
    """Encode what a guide's paired layers gave on a batch, by name."""
    for name in comparison.guide_layers:
        if name not in features:
            raise UserError(f"the guide returned no feature '{name}', only {', '.join(features) or 'none'}")
        comparison.encode(name, features[name])
