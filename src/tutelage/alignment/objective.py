"""The alignment of a network with its guide: taps, pairs and similarity put together into one loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.alignment.features import per_sample, per_token
from tutelage.alignment.gather import gather, world_size
from tutelage.alignment.guides import FeatureGuide, Sample
from tutelage.alignment.pairing import Pair, Pairing
from tutelage.alignment.similarity import Similarity
from tutelage.alignment.taps import Layer, Taps, probe, weight_layers
from tutelage.errors import UserError


class Alignment:
    """Pairs a network with a guide and turns the step's activations into one loss, the sum over pairs of 1 - similarity.

    network, inputs: the module being trained, and a tuple of what its forward takes. guide: a module, or a FeatureGuide.
    run, run_guide: called in place of the network, and of the guide, while their layers are looked for: what wraps them.
    example: a few samples for it: anything with `inputs`, `targets` and `mask`, as a batch has. Both on the modules' device.
    pairing: which layer guides which. similarity: how they are compared. per_token: compare (n * length, d) token rows instead of
    (n, everything) samples; of them a random `tokens_per_step` (over all ranks), the same for every layer; None: all.

    A step: `alignment.guide(guide, batch)`; `with alignment.recording(): output = network(inputs)`; `alignment.loss()`. A guide's
    activation is encoded the moment its layer returns it and let go; its forward ends with its last paired layer. In distributed
    training all is computed on the global batch.
    Raises UserError for pairs that cannot be.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Sequence[Any],
        guide: nn.Module,
        example: Sample,
        *,
        pairing: Pairing,
        similarity: Similarity,
        per_token: bool = False,
        tokens_per_step: int | None = None,
        run: Callable[..., Any] | None = None,
        run_guide: Callable[..., Any] | None = None,
    ) -> None:
        if example.mask is not None and not bool(example.mask.any(dim=1).all()):
            raise UserError(
                "a sample without a single real position cannot be aligned: its mask is False everywhere. Drop such samples from the data"
            )
        if isinstance(guide, FeatureGuide):
            found = guide(example)
            guide_layers = [Layer(name, "feature", tuple(x.shape[1:])) for name, x in found.items()]
        else:
            seen = _arguments(guide, example) if run_guide is None else (example.inputs, example.mask)
            guide_layers = probe(guide, *seen, run=run_guide)
        layers = probe(network, *inputs, run=run)
        self.pairs: list[Pair] = pairing(guide_layers, layers)
        self.similarity = similarity
        self.per_token, self.tokens_per_step = per_token, tokens_per_step
        if tokens_per_step is not None:
            similarity.check_rows(tokens_per_step)
        if per_token:
            self._check_lengths()
        self._by_network: dict[str, list[str]] = {}
        for pair in self.pairs:
            self._by_network.setdefault(pair.network.name, []).append(pair.guide.name)
        self._guide_names = tuple(dict.fromkeys(pair.guide.name for pair in self.pairs))
        # Scores come network layer by network layer, in the order of their first pairs, and go back to the order of pairs.
        order = [(layer, name) for layer, names in self._by_network.items() for name in names]
        self._order = [order.index((pair.network.name, pair.guide.name)) for pair in self.pairs]
        self._last_shared = _last_shared([layer.name for layer in weight_layers(layers)], self.pairs)
        self._taps = Taps(network, self._by_network)
        # Called directly only if it is a FeatureGuide.
        self._function: Callable[..., Mapping[str, Tensor]] = guide
        self._guide_taps = (
            None
            if isinstance(guide, FeatureGuide)
            else Taps(guide, self._guide_names, consume=self._encode, stop=True)
        )
        self._references: dict[str, Any] = {}
        self._mask: Tensor | None = None
        self._picked: tuple[Tensor | None, Tensor | None] | None = None

    def _check_lengths(self) -> None:
        for pair in self.pairs:
            lengths = [layer.shape[0] if len(layer.shape) > 1 else None for layer in pair]
            if lengths[0] is None or lengths[0] != lengths[1]:
                raise UserError(
                    f"similarity per token needs two sequences of one length: the guide's '{pair.guide.name}' is "
                    f"{pair.guide.shape}, the network's '{pair.network.name}' {pair.network.shape} (length first)"
                )

    def describe(self) -> list[dict[str, Any]]:
        """Return the pairs as rows of plain values, for the record and for `doctor`."""
        return [
            {
                f"{role}{what}": value
                for role, layer in (("guide", pair.guide), ("network", pair.network))
                for what, value in (("", layer.name), ("_kind", layer.kind), ("_shape", list(layer.shape)))
            }
            for pair in self.pairs
        ]

    def guide(self, run: Callable[..., Any], batch: Sample) -> None:
        """Run the guide on a batch and encode its paired layers.

        run: called as run(inputs, mask); the guide or what wraps it (its input normalisation, say). A FeatureGuide is called itself.
        """
        if self._guide_taps is None:
            self.guide_by(self._function(batch), batch)
            return
        self._start(batch)
        with self._guide_taps.recording(), torch.no_grad():
            run(batch.inputs, batch.mask)

    def guide_by(self, features: Mapping[str, Tensor], batch: Sample) -> None:
        """Encode what the guide's paired layers gave on a batch, by name, instead of running it."""
        self._start(batch)
        for name in self._guide_names:
            if name not in features:
                raise UserError(
                    f"the guide returned no feature '{name}', only {', '.join(features) or 'none'}"
                )
            self._encode(name, features[name])

    def show(self, run: Callable[..., Any], batch: Sample, keep: Callable[[str, Tensor], None]) -> None:
        """Run the guide network on a batch and hand each paired layer's activation, as it appears, to `keep(name, activation)`."""
        assert isinstance(self._function, nn.Module)
        with (
            Taps(self._function, self._guide_names, consume=keep, stop=True) as taps,
            taps.recording(),
            torch.no_grad(),
        ):
            run(batch.inputs, batch.mask)

    def _start(self, batch: Sample) -> None:
        self._references.clear()
        self._mask, self._picked = batch.mask, None

    def _encode(self, name: str, activation: Tensor) -> None:
        with torch.no_grad():
            rows, keep = self._rows(activation)
            if not self._references:
                self.similarity.check_rows(_count(rows, keep))
            self._references[name] = self.similarity.encode(rows, keep)

    def _rows(self, activation: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows of a layer that are compared, over all ranks, and which of them count (None: all)."""
        if not self.per_token:
            return gather(per_sample(activation, self._mask)), None
        rows = per_token(activation)
        if self._picked is None:
            self._picked = self._pick(rows)
        index, keep = self._picked
        return gather(rows if index is None else rows.index_select(0, index)), keep

    def _pick(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Which tokens this step compares: their indices (None: all), and which of them count, over all ranks."""
        keep = None if self._mask is None else self._mask.flatten()
        most = None if self.tokens_per_step is None else max(1, self.tokens_per_step // world_size())
        if most is None or most >= len(rows):
            return None, None if keep is None else gather(keep)
        order = torch.rand(len(rows), device=rows.device)
        if keep is not None:
            order = order.masked_fill(~keep, 2.0)  # padding comes last
        index = order.argsort()[:most].sort().values
        return index, None if keep is None else gather(keep[index])

    def recording(self) -> AbstractContextManager[Taps]:
        """Hold the network's paired activations during the one forward made inside."""
        return self._taps.recording()

    def scores(self) -> Tensor:
        """Return the similarity of every pair, (pairs,), in the order of `pairs`, differentiable in the network's activations."""
        layers = self._taps.collect()
        rows = [self._rows(activation) for activation in layers.values()]
        references = [[self._references[name] for name in self._by_network[layer]] for layer in layers]
        scores = self.similarity.scores([x for x, _ in rows], references, rows[0][1])
        self._references.clear()
        return scores if self._order == list(range(len(self._order))) else scores[self._order]

    def loss(self) -> tuple[Tensor, Tensor]:
        """Return the sum over pairs of 1 - similarity, and the similarities, (pairs,), detached."""
        scores = self.scores()
        return len(self.pairs) - scores.sum(), scores.detach()

    def shared_parameter(self, network: nn.Module) -> nn.Parameter:
        """Return the latest weight that both the task and the alignment reach: where gradient norms are cheap to compare."""
        parameters = list(network.get_submodule(self._last_shared).parameters())
        if not parameters:
            raise UserError(
                f"the network's paired layer '{self._last_shared}' has no parameters to balance gradients on"
            )
        return parameters[0]

    def remove(self) -> None:
        """Remove every hook from both networks."""
        self._taps.remove()
        if self._guide_taps is not None:
            self._guide_taps.remove()


def _arguments(guide: nn.Module, example: Sample) -> tuple[Any, ...]:
    takes_mask = "mask" in inspect.signature(guide.forward).parameters
    return (example.inputs, example.mask) if takes_mask else (example.inputs,)


def _last_shared(layers: list[str], pairs: Sequence[Pair]) -> str:
    paired = {pair.network.name for pair in pairs}
    return next((name for name in reversed(layers[:-1]) if name in paired), pairs[-1].network.name)


def _count(rows: Tensor, keep: Tensor | None) -> int:
    # Counting a mask on a device would wait for it; there an empty batch is not noticed here.
    return int(keep.sum()) if keep is not None and keep.device.type == "cpu" else len(rows)
