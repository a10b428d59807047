"""Attention maps: where a network's positions look, as its teacher's do."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from tutelage.alignment.pairing import Pairing
from tutelage.errors import UserError
from tutelage.losses.attention_maps import attention_divergence, attention_weights
from tutelage.objectives.base import Setup
from tutelage.objectives.paired_features import PairObjective
from tutelage.objectives.projector import Projector


class AttentionMaps(PairObjective):
    """The divergence of a network's attention from a frozen network's; the second part of HASTE (Wang et al. 2025, arXiv 2505.16792).

    pairing: of the layers that make queries, keys and values side by side, by name: `blocks.3.attn.qkv` of timm's Transformers,
    `attention.qkv` of our diffusion model. Numbers of heads are read beside them (`num_heads`; 1 where there is none), and tokens before
    the positions (a class token) are left out. Made for generators in training (method=diffusion) beside `repa`; any network can be
    trained so. See `losses.attention_maps`. Deviations: where numbers of heads differ the means over heads are compared, and a grid may
    be coarser.
    Raises UserError without named pairs, and for layers that make no queries and keys as they are compared.
    """

    needs = "samples"

    def __init__(self, *, pairing: Pairing | None = None, **common: Any) -> None:
        if pairing is None or pairing.strategy != "explicit":
            raise UserError(
                "attention maps need the names of the layers that make queries, keys and values: pairing={strategy: explicit, k: null, "
                "pairs: [[blocks.3.attn.qkv, attention.qkv]]}, of the frozen network and of the network"
            )
        super().__init__(pairing=pairing, **common)

    def prepare(self, setup: Setup) -> None:
        """See `Objective.prepare`: find the heads beside the layers."""
        self._roots = (setup.network, self.frozen_in(setup).network)  # in a tuple: no parts of this one
        super().prepare(setup)

    def make_projectors(self) -> nn.ModuleList:
        """See `PairObjective.make_projectors`: none changes anything, each knows the heads of its pair."""
        network, frozen = self._roots
        return nn.ModuleList(
            Maps(
                pair.network.shape,
                pair.guide.shape,
                heads_of(network, pair.network.name),
                heads_of(frozen, pair.guide.name),
            )
            for pair in self.pairs
        )

    def compare_pair(self, projector: Projector, student: Tensor, teacher: Tensor) -> Tensor:
        """See `PairObjective.compare_pair`."""
        assert isinstance(projector, Maps)
        mine, theirs = (
            attention_weights(x, heads=heads, prefix=prefix)
            for x, (heads, prefix) in zip((student, teacher), projector.read, strict=True)
        )
        return attention_divergence(mine, theirs)


class Maps(Projector):
    """Both features as they are. read: heads, and tokens before the positions, of the student and of the teacher."""

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...], mine: int, theirs: int) -> None:
        super().__init__(student, teacher, "samples")
        shapes = ((student, mine), (teacher, theirs))
        self.read = tuple((heads, 0 if len(shape) == 3 else before(shape)) for shape, heads in shapes)


def before(shape: tuple[int, ...]) -> int:
    """Return how many of a sequence's tokens come before a square grid of positions."""
    if len(shape) != 2:
        raise UserError(f"attention is among positions: a layer of shape {shape} has none")
    return shape[0] - math.isqrt(shape[0]) ** 2


def heads_of(network: nn.Module, layer: str) -> int:
    """Return the heads of the attention that a layer belongs to.

    Raises UserError where the layer makes no three of what it is given, or queries or keys are changed before they are compared.
    """
    made = network.get_submodule(layer)
    given, out = (
        getattr(made, f"{side}_features", getattr(made, f"{side}_channels", 0)) for side in ("in", "out")
    )
    if out != 3 * given or not out:
        raise UserError(
            f"{layer} ({type(made).__name__}) gives {out} numbers of {given}: queries, keys and values side by side are three times as many"
        )
    parent = network.get_submodule(layer.rpartition(".")[0])
    changed = [
        name
        for name in ("q_norm", "k_norm")
        if not isinstance(getattr(parent, name, nn.Identity()), nn.Identity)
    ]
    if changed:
        raise UserError(
            f"{layer}: {type(parent).__name__} changes queries and keys before they are compared ({', '.join(changed)}), so that its "
            "attention cannot be read from this layer"
        )
    return int(getattr(parent, "num_heads", 1))
