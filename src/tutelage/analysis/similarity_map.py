"""Layer-by-layer similarity of two networks over a whole set of samples, whatever the batches: unbiased linear CKA, or another measure.

Of the samples as one batch, never a mean over mini-batches: the n x n Gram matrix of each layer is filled block by block, one
block of samples against another, so that no layer's features are held for more than one block. Exact for any batch split.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.alignment.comparisons import MEASURES, Centred, chance
from tutelage.alignment.features import per_sample, to_single
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.taps import Layer, Taps, probe, weight_layers
from tutelage.errors import UserError, choices
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch

FEWEST_SAMPLES = 4  # below, the unbiased estimator is not defined
CKA = "unbiased_cka"
CHANCE_PAIRS = 12  # of layers, evenly spaced over the map; a permutation costs what the pair itself does
MOST_GIB = 8.0  # of Gram matrices; 1,000 samples and 100 layers need 0.4


@dataclass(frozen=True)
class SimilarityMap:
    """The similarity of every layer of one network with every layer of another.

    values: (first's layers, second's layers), at most 1; NaN where a layer does not vary over the samples.
    samples: how many it was computed on.
    measure: unbiased_cka, about 0 for unrelated layers, or a name of `alignment.comparisons`.
    chance: mean and largest value where the second network's samples are in random order, over CHANCE_PAIRS pairs of
        layers; None for unbiased CKA, whose mean there is 0 by construction.
    """

    first: tuple[Layer, ...]
    second: tuple[Layer, ...]
    values: np.ndarray
    samples: int
    measure: str = CKA
    chance: tuple[float, float] | None = None


def similarity_map(
    first: FrozenNetwork,
    second: FrozenNetwork,
    batches: Iterable[Batch],
    *,
    layers: str = "weights",
    measure: str = CKA,
) -> SimilarityMap:
    """Return the map of two networks over the samples of the batches; both see the same inputs, with their own normalisation.

    layers: see `layers_of`, of both networks. Cost for b batches: b (b + 1) / 2 forwards of a batch by each network, and n^2 d for
    each layer of width d; memory 4 n^2 bytes a layer, and one batch's features. Measures other than CKA: n^3 for each layer and pair.
    measure: unbiased_cka, or a name of `alignment.comparisons`.
    Raises UserError for an unknown measure, below four samples, beyond MOST_GIB of matrices, or for a layer that does not exist.
    """
    if measure != CKA and measure not in MEASURES:
        raise UserError(f"there is no measure '{measure}'; {choices(measure, (CKA, *MEASURES))}")
    batches = list(batches)
    samples = sum(len(batch.index) for batch in batches)
    if samples < FEWEST_SAMPLES:
        raise UserError(f"a similarity of layers needs at least {FEWEST_SAMPLES} samples, got {samples}")
    ours, theirs = layers_of(first, batches[0], layers), layers_of(second, batches[0], layers)
    need = 4 * samples**2 * (len(ours) + len(theirs)) / 2**30
    if need > MOST_GIB:
        raise UserError(
            f"the similarity of {len(ours)} by {len(theirs)} layers over {samples} samples needs {need:.1f} GiB, allowed are "
            f"{MOST_GIB}: use fewer samples or layers"
        )
    read = _Blocks.unit if measure == CKA else _Blocks.centred
    ours_read = _matrices(first, [layer.name for layer in ours], batches, read)
    theirs_read = ours_read if second is first else _matrices(second, [x.name for x in theirs], batches, read)
    if measure != CKA:
        values, chance = _compared(measure, ours_read, theirs_read)
        return SimilarityMap(tuple(ours), tuple(theirs), values, samples, measure, chance)
    ours_unit, theirs_unit = torch.stack(ours_read), torch.stack(theirs_read)
    values = (ours_unit.flatten(1) @ theirs_unit.flatten(1).T).double().cpu().numpy()
    return SimilarityMap(tuple(ours), tuple(theirs), values, samples)


def _compared(
    name: str, first: Sequence[Centred], second: Sequence[Centred]
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Return the measure of every pair, and its mean and largest value by chance over some of them."""
    compare = MEASURES[name]
    values = np.array([[compare(x, y) for y in second] for x in first])
    defined = np.argwhere(~np.isnan(values))
    if not len(defined):
        return values, None
    some = defined[np.linspace(0, len(defined) - 1, min(CHANCE_PAIRS, len(defined))).astype(int)]
    found = [chance(compare, first[i], second[j], permutations=3) for i, j in some]
    return values, (float(np.mean([mean for mean, _ in found])), max(largest for _, largest in found))


def layers_of(network: FrozenNetwork, batch: Batch, which: str) -> list[Layer]:
    """Return the layers meant, in the order in which they run.

    which: "weights" (those a pairing counts), "all" that can be tapped, or names separated by commas.
    """
    example = Batch(*(None if part is None else part[:2] for part in batch))  # type: ignore[arg-type]
    if isinstance(network.network, FeatureGuide):
        found = [Layer(name, "feature", tuple(x.shape[1:])) for name, x in network.network(example).items()]
    else:
        found = [
            layer
            for layer in probe(network.network, example.inputs, example.mask, run=network)
            if not layer.obstacle
        ]
    if isinstance(network.network, FeatureGuide) and which in ("weights", "all"):
        return found
    if which in ("weights", "all"):
        chosen = weight_layers(found) if which == "weights" else found
        if not chosen:
            raise UserError(
                f"{type(network.network).__name__} has no layer of weights; layers=all compares every module"
            )
        return chosen
    by_name = {layer.name: layer for layer in found}
    for name in which.split(","):
        if name not in by_name:
            raise UserError(
                f"{type(network.network).__name__} has no layer '{name}'; {choices(name, by_name, limit=40)}"
            )
    return [by_name[name] for name in which.split(",")]


class _Blocks:
    """Gram matrices (n, n) of named layers, filled one block of samples against another.

    Features are shifted by the mean and divided by the size that their first block has: CKA depends on neither, and float32 keeps
    the digits that a mean far above the spread would take. Sequences with padding are not shifted, which would fill the padding.
    """

    def __init__(self, names: Sequence[str], samples: int, device: torch.device) -> None:
        self.grams = {name: torch.empty(samples, samples, device=device) for name in names}
        self.widths: dict[str, int] = {}
        self.mask: Tensor | None = None
        self.rows, self.columns = slice(0, 0), slice(0, 0)
        self._held: dict[str, Tensor] = {}
        self._frames: dict[str, tuple[Tensor | float, Tensor]] = {}

    def take(self, name: str, activation: Tensor) -> None:
        """Fill one layer's block (rows, columns) from the columns' activation; a diagonal block is held as the next rows."""
        features = self._framed(name, to_single(per_sample(activation, self.mask)))
        if self.rows == self.columns:
            self._held[name] = features
        held = self._held[name]
        width = min(
            held.shape[1], features.shape[1]
        )  # padded to two lengths: what is beyond is zero in one of them
        block = held[:, :width] @ features[:, :width].T
        self.grams[name][self.rows, self.columns] = block
        self.grams[name][self.columns, self.rows] = block.T
        self.widths[name] = max(width, self.widths.get(name, 0))

    def _framed(self, name: str, features: Tensor) -> Tensor:
        if name not in self._frames:
            largest = features.abs().amax()
            mean = 0.0 if self.mask is not None else features.mean(0)
            self._frames[name] = (mean, torch.where(largest > 0, largest, 1))
        mean, size = self._frames[name]
        return (features - mean) / size

    def centred(self, name: str) -> Centred:
        """Let go of a layer's Gram matrix and return it centred, for any measure; zero where the layer does not vary."""
        gram = self.grams.pop(name)
        found = Centred.of_gram(gram)
        spread, level = found.gram.diagonal().sum(), gram.double().diagonal().sum()
        rounding = spread <= 4 * torch.finfo(gram.dtype).eps * level
        return Centred(torch.zeros_like(found.gram)) if rounding else found

    def unit(self, name: str) -> Tensor:
        """Let go of a layer's Gram matrix and return it U-centred and of unit norm; NaN where the layer does not vary.

        U-centring: Szekely and Rizzo 2014 (Annals of Statistics 42, definition 2). The inner product of two such matrices is
        unbiased CKA, HSIC_1 of Song et al. 2012 (JMLR 13, eq. 5) in all three places.
        """
        gram = self.grams.pop(name)
        n, eps = len(gram), torch.finfo(gram.dtype).eps
        gram = gram.double()
        length = gram.diagonal().mean()  # in units of the first block's largest value
        gram.fill_diagonal_(0)
        rows = gram.sum(1, keepdim=True) / (n - 2)
        gram -= rows
        gram -= rows.T - rows.sum() / (n - 1)
        gram.fill_diagonal_(0)
        norm = torch.linalg.matrix_norm(gram)
        rounding = (norm <= 4 * eps * n * length) | (length <= self.widths[name] * (4 * eps) ** 2)
        return torch.where(rounding, torch.nan, gram / norm).float()


def _matrices(
    network: FrozenNetwork,
    names: Sequence[str],
    batches: Sequence[Batch],
    read: Callable[[_Blocks, str], Any],
) -> list[Any]:
    """Return what `read` makes of each layer's Gram matrix over all samples."""
    starts = np.cumsum([0, *(len(batch.index) for batch in batches)]).tolist()
    parts = [slice(a, b) for a, b in itertools.pairwise(starts)]
    blocks = _Blocks(names, starts[-1], batches[0].inputs.device)
    rule = network.network if isinstance(network.network, FeatureGuide) else None
    with torch.inference_mode(), Taps(network.network, () if rule else names, consume=blocks.take) as taps:
        for i, rows in enumerate(parts):
            blocks.rows = rows
            for j in range(i, len(parts)):
                blocks.columns, blocks.mask = parts[j], batches[j].mask
                if rule is not None:
                    features = rule(batches[j])
                    for name in names:
                        blocks.take(name, features[name])
                    continue
                with taps.recording():
                    network(batches[j].inputs, batches[j].mask)
        return [read(blocks, name) for name in names]


def rows(found: SimilarityMap) -> list[dict[str, object]]:
    """Return the map as rows for a CSV: both layers, their place in depth, and their similarity."""
    return [
        {
            "first": a.name,
            "second": b.name,
            "first_place": i,
            "second_place": j,
            found.measure: float(found.values[i, j]),
        }
        for i, a in enumerate(found.first)
        for j, b in enumerate(found.second)
    ]


def describe(found: SimilarityMap) -> dict[str, object]:
    """Return what the record says beside the values: samples and both lists of layers."""
    layers = {
        role: [dataclasses.asdict(x) for x in part]
        for role, part in (("first", found.first), ("second", found.second))
    }
    estimator = "unbiased linear CKA" if found.measure == CKA else found.measure
    by_chance = {} if found.chance is None else {"chance": {"mean": found.chance[0], "max": found.chance[1]}}
    return {"samples": found.samples, "estimator": estimator, **by_chance, **layers}


def draw(
    found: SimilarityMap, path: Path, *, first: str, second: str, aligned: Sequence[tuple[int, int]] = ()
) -> None:
    """Write the map as a PNG; first, second: what the networks are called. aligned: cells (row, column) to frame."""
    from tutelage.analysis.drawing import heat_map, literal, mark_cells, save

    names = [layer.name for layer in found.first], [layer.name for layer in found.second]
    figure, axes = heat_map(
        found.values,
        rows=names[0],
        columns=names[1],
        low=0.0,
        high=1.0,
        label=found.measure.replace("_", " "),
    )
    axes.set(ylabel=literal(first), xlabel=literal(second))
    mark_cells(axes, aligned)
    framed = "; framed: the pairs that were aligned" if aligned else ""
    gaps = "; grey: the layer does not vary" if np.isnan(found.values).any() else ""
    level = "" if found.chance is None else f"; by chance {found.chance[0]:.2f}"
    axes.set_title(f"Layer by layer, {found.samples:,} samples{level}{framed}{gaps}", fontsize=10)
    save(figure, path)
