"""One network compared with another over layer pairs: the guide's layers encoded as they appear, then scores of the network's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage.alignment.feature_rows import Padding, per_patch, per_sample, per_token
from tutelage.alignment.gather import gather, world_size
from tutelage.alignment.pairing import Pair
from tutelage.alignment.similarity import Similarity
from tutelage.alignment.taps import Layer, weight_layers
from tutelage.errors import UserError

log = logging.getLogger("tutelage")


class Comparison:
    """Layer pairs and a similarity; it sees activations and runs nothing.

    pairs: which layer guides which. layers: all of the network's, as `taps.probe` found them. similarity: how they are compared.
    per_token: compare (n * length, d) token rows instead of (n, everything) samples; of them a random `tokens_per_step` (over all
    ranks), the same for every layer; None: all. patches: compare the patches of maps cut into so many a side, (n * patches^2, d); None: no.

    A step: `start(mask)`; `encode(name, activation)` for each of `guide_layers`, which need not be held after it; then `loss` of the
    network's activations. In distributed training all is computed on the global batch.
    Raises UserError for pairs that cannot be compared.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        layers: Sequence[Layer],
        similarity: Similarity,
        *,
        per_token: bool = False,
        tokens_per_step: int | None = None,
        patches: int | None = None,
    ) -> None:
        self.pairs = list(pairs)
        self.patches = patches
        self.per_token, self.tokens_per_step = per_token, tokens_per_step if per_token else None
        self.similarity = similarity.for_tokens() if per_token else similarity
        if self.tokens_per_step is not None:
            self.similarity.check_rows(self.tokens_per_step)
        if per_token:
            self._check_lengths()
        if patches is not None:
            self._check_patches(patches)
        self._by_network: dict[str, list[str]] = {}
        for pair in self.pairs:
            self._by_network.setdefault(pair.network.name, []).append(pair.guide.name)
        self.network_layers = tuple(self._by_network)
        self.guide_layers = tuple(dict.fromkeys(pair.guide.name for pair in self.pairs))
        # Scores come network layer by network layer, in the order of their first pairs, and go back to the order of pairs.
        order = [(layer, name) for layer, names in self._by_network.items() for name in names]
        self._order = [order.index((pair.network.name, pair.guide.name)) for pair in self.pairs]
        self.shared_layer = _last_shared([layer.name for layer in weight_layers(layers)], self.pairs)
        self._references: dict[str, Any] = {}
        self._mask: Tensor | None = None
        self._padding: Padding | None = None
        self._picked: tuple[Tensor | None, Tensor | None] | None = None
        self._looked = False

    def _check_lengths(self) -> None:
        for pair in self.pairs:
            lengths = [layer.shape[0] if len(layer.shape) > 1 else None for layer in pair]
            if lengths[0] is None or lengths[0] != lengths[1]:
                raise UserError(
                    f"similarity per token needs two sequences of one length: the guide's '{pair.guide.name}' is "
                    f"{pair.guide.shape}, the network's '{pair.network.name}' {pair.network.shape} (length first)"
                )

    def _check_patches(self, side: int) -> None:
        for layer in (layer for pair in self.pairs for layer in pair):
            if len(layer.shape) != 3 or any(length % side for length in layer.shape[1:]):
                raise UserError(
                    f"similarity by patches needs maps (channels, height, width) that can be cut into {side} x {side}: the layer "
                    f"'{layer.name}' is {layer.shape}. Leave outputs out (pairing.exclude_output=true), name others by pairing.pairs, or "
                    "set `patches` to what divides all"
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

    def _padded(self, activation: Tensor) -> Padding | None:
        """Where the similarity itself has to zero this layer's padding; None: `_rows` did."""
        padding = self._padding
        return padding if padding is not None and padding.lies_in(activation) else None

    def _rows(self, activation: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows of a layer that are compared, over all ranks, and which of them count (None: all)."""
        if self.patches is not None:
            return gather(per_patch(activation, self.patches)), None
        if self._padded(activation) is not None:
            return activation.flatten(1), None
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

    def start(self, mask: Tensor | None) -> None:
        """Begin a step. mask: (n, length) bool, True where a position is real."""
        self._references.clear()
        self._mask, self._picked = mask, None
        whole_rows = not self.per_token and self.patches is None and world_size() == 1
        self._padding = Padding.of(mask) if whole_rows else None

    def encode(self, name: str, activation: Tensor) -> None:
        """Take what a guide's layer returned; of it only what a comparison needs is kept."""
        with torch.no_grad():
            rows, keep = self._rows(activation)
            if not self._references:
                self.similarity.check_rows(_count(rows, keep))
            padding = self._padded(activation)
            self._references[name] = (
                self.similarity.encode(rows, keep)
                if padding is None
                else self.similarity.encode_padded(rows, padding)
            )

    def scores(self, activations: Mapping[str, Tensor]) -> Tensor:
        """Return the similarity of every pair, (pairs,), in the order of `pairs`, differentiable in the network's activations."""
        if missing := [name for name in self.guide_layers if name not in self._references]:
            raise UserError(f"the guide gave nothing for its layer '{missing[0]}' in this step")
        if not self._looked:
            self._looked = True
            self._check_that_it_says_something()
        rows = [self._rows(activations[layer]) for layer in self.network_layers]
        references = [[self._references[name] for name in names] for names in self._by_network.values()]
        features, keep = [x for x, _ in rows], rows[0][1]
        if self._padding is None:
            scores = self.similarity.scores(features, references, keep)
        else:
            padded = [self._padded(activations[layer]) for layer in self.network_layers]
            scores = self.similarity.scores_padded(features, references, padded)
        self._references.clear()
        return scores if self._order == list(range(len(self._order))) else scores[self._order]

    def _check_that_it_says_something(self) -> None:
        """Of the first batch: a guide that is the same for every sample has a score of 0 with everything, and no gradient."""
        blank = [
            name for name, kept in self._references.items() if isinstance(kept, Tensor) and not kept.any()
        ]
        if not blank:
            return
        said = (
            f"the same for every sample, as far as {self.similarity.name} sees: nothing can be aligned with"
        )
        if len(blank) == len(self._references):
            raise UserError(f"all paired layers of the guide are {said} it")
        log.warning("paired layers of the guide are %s them: %s", said, ", ".join(blank))

    def loss(self, activations: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the sum over pairs of 1 - similarity, and the similarities, (pairs,), detached."""
        scores = self.scores(activations)
        return len(self.pairs) - scores.sum(), scores.detach()


def _last_shared(layers: list[str], pairs: Sequence[Pair]) -> str:
    paired = {pair.network.name for pair in pairs}
    return next((name for name in reversed(layers[:-1]) if name in paired), pairs[-1].network.name)


def _count(rows: Tensor, keep: Tensor | None) -> int:
    # Counting a mask on a device would wait for it; there an empty batch is not noticed here.
    return int(keep.sum()) if keep is not None and keep.device.type == "cpu" else len(rows)
