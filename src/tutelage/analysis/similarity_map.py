"""Layer-by-layer similarity of two networks over a whole set of samples, whatever the batches: unbiased linear CKA, or another measure.

Of the samples as one batch, never a mean over mini-batches: the n x n Gram matrix of each layer is filled block by block, one
block of samples against another, so that no layer's features are held for more than one block. Exact for any batch split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tutelage.alignment.comparisons import MEASURES, Centred, chance
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.taps import Layer, probe, weight_layers
from tutelage.analysis.analysis_request import Outcome, Request, Subject
from tutelage.analysis.drawing import heat_map, literal, mark_cells
from tutelage.analysis.gram_blocks import GramBlocks, matrices
from tutelage.analysis.opening import beside, opened, whole
from tutelage.engine.shared_work import shared
from tutelage.errors import UserError, choices
from tutelage.models.frozen import FrozenNetwork
from tutelage.reporting.palette import save
from tutelage.runs.layer_pairs import described
from tutelage.runs.records import read_json
from tutelage.tasks import Batch

FEWEST_SAMPLES = 4  # below, the unbiased estimator is not defined
CKA = "unbiased_cka"
MOST_GIB = 8.0  # of Gram matrices; 1,000 samples and 100 layers need 0.4


@dataclass(frozen=True)
class SimilarityMap:
    """The similarity of every layer of one network with every layer of another.

    values: (first's layers, second's layers), at most 1; NaN where a layer does not vary over the samples.
    samples: how many it was computed on.
    measure: unbiased_cka, about 0 for unrelated layers, or a name of `alignment.comparisons`.
    chance: each pair's value where the second network's samples are in a random order of its own; None for unbiased CKA, whose mean
        there is 0 by construction. It depends on the widths of both layers: one number does not stand for a map.
    """

    first: tuple[Layer, ...]
    second: tuple[Layer, ...]
    values: np.ndarray
    samples: int
    measure: str = CKA
    chance: np.ndarray | None = None


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
    each layer of width d; memory 4 n^2 bytes a layer, and one batch's features. Measures other than CKA: twice that, and n^3 for each
    layer and pair.
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
    dtype = torch.float32 if measure == CKA else torch.float64
    need = dtype.itemsize * samples**2 * (len(ours) + len(theirs)) / 2**30
    if need > MOST_GIB:
        raise UserError(
            f"the similarity of {len(ours)} by {len(theirs)} layers over {samples} samples needs {need:.1f} GiB, allowed are "
            f"{MOST_GIB}: use fewer samples or layers"
        )
    read = GramBlocks.unit if measure == CKA else GramBlocks.centred
    ours_read = matrices(first, [layer.name for layer in ours], batches, read, dtype)
    theirs_read = (
        ours_read if second is first else matrices(second, [x.name for x in theirs], batches, read, dtype)
    )
    if measure != CKA:
        values, chance = _compared(measure, ours_read, theirs_read)
        return SimilarityMap(tuple(ours), tuple(theirs), values, samples, measure, chance)
    ours_unit, theirs_unit = torch.stack(ours_read), torch.stack(theirs_read)
    values = (ours_unit.flatten(1) @ theirs_unit.flatten(1).T).double().cpu().numpy()
    return SimilarityMap(tuple(ours), tuple(theirs), values, samples)


def _compared(
    name: str, first: Sequence[Centred], second: Sequence[Centred]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the measure of every pair, and what it gives by chance."""
    compare = MEASURES[name]

    def row(i: int) -> list[tuple[float, float]]:
        x = first[i]
        return [
            (compare(x, y), chance(compare, x, y, permutations=1, seed=i * len(second) + j)[0])
            for j, y in enumerate(second)
        ]

    found = np.array([*shared(range(len(first)), row)])
    return found[..., 0], found[..., 1]


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
        | ({} if found.chance is None else {"by_chance": float(found.chance[i, j])})
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
    level = found.chance
    by_chance = (
        {}
        if level is None or np.isnan(level).all()
        else {"chance": {"mean": np.nanmean(level), "min": np.nanmin(level), "max": np.nanmax(level)}}
    )
    return {"samples": found.samples, "estimator": estimator, **by_chance, **layers}


def draw(
    found: SimilarityMap, path: Path, *, first: str, second: str, aligned: Sequence[tuple[int, int]] = ()
) -> None:
    """Write the map as a PNG; first, second: what the networks are called. aligned: cells (row, column) to frame."""
    names = [layer.name for layer in found.first], [layer.name for layer in found.second]
    figure, axes = heat_map(
        found.values,
        rows=names[0],
        columns=names[1],
        low=0.0,
        high=1.0,
        label=found.measure.replace("_", " ").replace("cka", "CKA"),
    )
    axes.set(ylabel=literal(first), xlabel=literal(second))
    mark_cells(axes, aligned)
    framed = "; framed: the pairs that were aligned" if aligned else ""
    gaps = "; grey: the layer does not vary" if np.isnan(found.values).any() else ""
    level = "" if found.chance is None else f"; by chance {_between(found.chance, 2)}"
    axes.set_title(f"Layer by layer, {found.samples:,} samples{level}{framed}{gaps}", fontsize=10)
    save(figure, path)


def outcome(request: Request) -> Outcome:
    """Layer-by-layer map of exactly two networks on the same inputs."""
    names = [subject.label for subject in request.subjects]
    if len(names) != 2:
        raise UserError(f"similarity compares two networks, got {len(names)}: {', '.join(names)}")
    first, data, batches = opened(request.subjects[0], request, samples=whole("samples", request.options))
    second, theirs, _ = opened(request.subjects[1], request)
    second = beside(second, theirs, data, (names[1], names[0])).to(request.options["device"])
    found = similarity_map(
        first, second, batches, layers=request.options["layers"], measure=request.options["measure"]
    )
    layers = f"{len(found.first)} by {len(found.second)} layers"
    measure = "unbiased CKA" if found.chance is None else found.measure
    by_chance = (
        ""
        if found.chance is None
        else f"; by chance, each pair in one random order, {_between(found.chance)}"
    )
    shown = f"{measure} {_range(found.values)}{by_chance}"
    lines = [f"{names[0]} | {names[1]}: {layers}, {found.samples} samples, {shown}"]
    record, table = describe(found), rows(found)
    aligned = _aligned(request.subjects, found)
    return (
        lines,
        record,
        table,
        lambda path: draw(found, path, first=names[0], second=names[1], aligned=aligned),
    )


def _aligned(subjects: list[Subject], found: SimilarityMap) -> list[tuple[int, int]]:
    """The cells (row, column) of a map whose layers one of the two networks was trained to align, as its run recorded them."""
    first, second = ([layer.name for layer in part] for part in (found.first, found.second))
    cells = []
    for subject, other in (subjects, subjects[::-1]):
        path = subject.run.path / "setup.json"
        if subject.role or not path.is_file() or other.role != "guide":
            continue
        for pairs in described(read_json(path).get("method") or {}).values():
            for pair in pairs:
                own, theirs = pair.get("network"), pair.get("guide")
                row, column = (own, theirs) if subject is subjects[0] else (theirs, own)
                if row in first and column in second:
                    cells.append((first.index(row), second.index(column)))
    return cells


def _between(values: np.ndarray, digits: int = 3) -> str:
    if np.isnan(values).all():
        return "undefined"
    return f"{np.nanmin(values):.{digits}f} to {np.nanmax(values):.{digits}f}"


def _range(values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "undefined: no layer varies over these samples"
    return f"from {np.nanmin(values):.3f} to {np.nanmax(values):.3f}, mean {np.nanmean(values):.3f}"
