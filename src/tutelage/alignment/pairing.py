"""Which guide layer guides which network layer: strategies that build one ordered, printable list of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from tutelage.alignment.taps import KINDS, POOLING, Layer, weight_layers
from tutelage.errors import UserError, choices

STRATEGIES = ("even", "first", "last", "type", "one_to_many", "explicit")


class Pair(NamedTuple):
    """One term of the alignment loss."""

    guide: Layer
    network: Layer


def even_index(i: int, guide_count: int, network_count: int) -> int:
    """Return the network layer of guide layer `i`: round(i * step), step = (t - 1) / (l - 1), which is t - 1 at most.

    Algorithm 1 of arXiv 2410.20035, in exact arithmetic, halves rounded to even as Python does. A lone guide layer goes to layer 0.
    """
    if guide_count == 1:
        return 0
    return round(Fraction(i * (network_count - 1), guide_count - 1))


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """A strategy and its arguments; calling it with both networks' layers gives the pairs.

    strategy: "even": every guide weight layer, by Algorithm 1. "first", "last": only the first or last `k` guide layers. "type": only
    guide layers of the kind `layer_type`. "one_to_many": every network layer meets the guide layer at its relative depth, so that
    one guide layer may guide several. "explicit": `pairs`, a list of (guide layer, network layer) names of any tappable layers.
    positions: where a chosen subset of guide layers goes. "keep": to the network layers that the even pairing of *all* guide layers
    gives them, so that "first 5" differs from "all" in the number of terms alone: early guide layers go on guiding early network
    layers. "spread": the chosen layers are paired evenly over the whole network. The paper (its table of which guide layers) does
    not say which; "keep" is the default as the only one under which first k and last k are parts of "all".
    many_to_one: "sum": guide layers that meet on one network layer are a term each (paper); "last": only the last of them counts
    (released code).
    exclude_output: leave out the last weight layer of both networks, the logits, as the released code does; None: as the objective does
    by default, which for alignment is no.
    kinds: which kinds of layers count, for the guide and the network: None for the paper's, `taps.KINDS`; names of those, of
    `taps.POOLING` or of classes such as "MaxPool2d" otherwise.
    Raises UserError for arguments that do not fit each other.
    """

    strategy: str = "even"
    k: int | None = None
    layer_type: str | None = None
    pairs: Sequence[Sequence[str]] | None = None
    positions: str = "keep"
    many_to_one: str = "sum"
    exclude_output: bool | None = None
    kinds: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("positions", self.positions, ("keep", "spread")),
            ("many_to_one", self.many_to_one, ("sum", "last")),
        ):
            if value not in known:
                raise UserError(f"`{name}`={value!r} is not known; {choices(str(value), known)}")
        if self.strategy == "explicit" and self.exclude_output:
            raise UserError(
                "`exclude_output` does not go with `strategy`=explicit, whose pairs say all: leave the output out of them"
            )
        if self.strategy in ("explicit", "one_to_many") and self.positions != "keep":
            raise UserError(
                f"`positions`={self.positions} does not go with `strategy`={self.strategy}, which places the guide's layers itself"
            )
        for name, given, strategies in (
            ("k", self.k, ("first", "last")),
            ("layer_type", self.layer_type, ("type",)),
            ("pairs", self.pairs, ("explicit",)),
        ):
            if self.strategy in strategies and given is None:
                raise UserError(f"`strategy`={self.strategy} needs `{name}`")
            if self.strategy not in strategies and given is not None:
                raise UserError(f"`{name}` belongs to `strategy`={'|'.join(strategies)}, got {self.strategy}")

    def __call__(self, guide: Sequence[Layer], network: Sequence[Layer]) -> list[Pair]:
        """Return the pairs, in the order of the guide's layers (for one_to_many, of the network's).

        guide, network: every layer that `taps.probe` found. Raises UserError for what cannot be paired.
        """
        if self.strategy == "explicit":
            return self._thin([_explicit(entry, guide, network) for entry in self._listed()])
        self._check_kinds([*guide, *network])
        guides, networks = weight_layers(guide, self.kinds), weight_layers(network, self.kinds)
        if self.exclude_output:
            guides, networks = guides[:-1], networks[:-1]
        for role, found, layers in (("guide", guides, guide), ("network", networks, network)):
            if not found:
                raise UserError(
                    f"the {role} has no layer to pair{' beside its output' if self.exclude_output else ''}: "
                    f"expected one of {', '.join(self.kinds or KINDS)}, found {_kinds(layers)}"
                )
        if self.strategy == "one_to_many":
            return [
                Pair(guides[even_index(j, len(networks), len(guides))], layer)
                for j, layer in enumerate(networks)
            ]
        chosen = self._chosen(guides)
        if self.positions == "spread":
            places = {i: even_index(place, len(chosen), len(networks)) for place, i in enumerate(chosen)}
        else:
            places = {i: even_index(i, len(guides), len(networks)) for i in chosen}
        return self._thin([Pair(guides[i], networks[place]) for i, place in places.items()])

    def _check_kinds(self, layers: Sequence[Layer]) -> None:
        known = {*KINDS, POOLING, *(layer.kind for layer in layers)}
        for kind in self.kinds or ():
            if kind not in known:
                raise UserError(
                    f"`pairing.kinds`: no layer is of the kind '{kind}'; {choices(str(kind), known)}"
                )

    def _chosen(self, guides: Sequence[Layer]) -> list[int]:
        if self.strategy in ("first", "last"):
            if self.k is None or not 1 <= self.k <= len(guides):
                raise UserError(
                    f"`pairing.k` must be from 1 to {len(guides)}, the guide's layers, got {self.k}"
                )
            return list(
                range(self.k) if self.strategy == "first" else range(len(guides) - self.k, len(guides))
            )
        if self.strategy == "type":
            chosen = [i for i, layer in enumerate(guides) if layer.kind == self.layer_type]
            if not chosen:
                raise UserError(
                    f"the guide has no layer of type '{self.layer_type}'; "
                    f"{choices(str(self.layer_type), {layer.kind for layer in guides})}"
                )
            return chosen
        return list(range(len(guides)))

    def _listed(self) -> Sequence[Sequence[str]]:
        if not self.pairs:
            raise UserError(
                "`pairing.strategy`=explicit needs at least one pair [guide layer, network layer], got an empty list"
            )
        for entry in self.pairs:
            if isinstance(entry, str) or len(entry) != 2:
                raise UserError(f"a pair is [guide layer, network layer], got {entry!r}")
        return self.pairs

    def _thin(self, pairs: list[Pair]) -> list[Pair]:
        if self.many_to_one == "sum":
            return pairs
        return list({pair.network.name: pair for pair in pairs}.values())


def _explicit(entry: Sequence[str], guide: Sequence[Layer], network: Sequence[Layer]) -> Pair:
    return Pair(_named(entry[0], guide, "guide"), _named(entry[1], network, "network"))


def _named(name: str, layers: Sequence[Layer], role: str) -> Layer:
    for layer in layers:
        if layer.name == name:
            if layer.obstacle:
                raise UserError(f"the {role}'s layer '{name}' cannot be paired: {layer.obstacle}")
            return layer
    raise UserError(
        f"the {role} has no layer '{name}'; {choices(name, (x.name for x in layers if not x.obstacle), limit=40)}"
    )


def _kinds(layers: Sequence[Layer]) -> str:
    return (
        ", ".join(dict.fromkeys(f"{x.kind} ({x.obstacle})" if x.obstacle else x.kind for x in layers))
        or "none"
    )


def table(pairs: Sequence[Pair]) -> str:
    """Return the pairs as aligned text: number, guide layer with kind and shape, network layer with kind and shape."""
    rows = [("#", "guide layer", "kind", "shape", "network layer", "kind", "shape")]
    rows += [
        (str(i), g.name, g.kind, "x".join(map(str, g.shape)), t.name, t.kind, "x".join(map(str, t.shape)))
        for i, (g, t) in enumerate(pairs, start=1)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
