"""Gram matrices of a network's layers over a whole set of samples, one block of samples against another, whatever the batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.alignment.comparisons import Centred
from tutelage.alignment.feature_rows import per_sample
from tutelage.alignment.guides import FeatureGuide
from tutelage.alignment.taps import Taps
from tutelage.engine.shared_work import shared
from tutelage.models.frozen import FrozenNetwork
from tutelage.tasks import Batch


class GramBlocks:
    """Gram matrices (n, n) of named layers, filled one block of samples against another.

    Features are shifted by the mean and divided by the size that their first block has: CKA depends on neither, and float32 keeps
    the digits that a mean far above the spread would take. Sequences with padding are not shifted, which would fill the padding.
    dtype: of the products. In float32 directions below a hundredth of the largest are lost in rounding, which CKA does not see.
    """

    def __init__(
        self, names: Sequence[str], samples: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = device
        self.grams = {name: torch.empty(samples, samples, device=device, dtype=dtype) for name in names}
        self.widths: dict[str, int] = {}
        self.mask: Tensor | None = None
        self.rows, self.columns = slice(0, 0), slice(0, 0)
        self._held: dict[str, Tensor] = {}
        self._frames: dict[str, tuple[Tensor | float, Tensor]] = {}

    def take(self, name: str, activation: Tensor) -> None:
        """Fill one layer's block (rows, columns) from the columns' activation; a diagonal block is held as the next rows."""
        features = per_sample(activation, self.mask)
        features = self._framed(
            name, features.to(torch.promote_types(features.dtype, self.grams[name].dtype))
        )
        if self.rows == self.columns:
            self._held[name] = features
        held = self._held[name]
        width = min(
            held.shape[1], features.shape[1]
        )  # padded to two lengths: what is beyond is zero in one of them
        self.grams[name][self.rows, self.columns] = held[:, :width] @ features[:, :width].T
        self.widths[name] = max(width, self.widths.get(name, 0))

    @property
    def framed(self) -> bool:
        """Whether the first block was seen."""
        return bool(self._frames)

    def filled(self) -> dict[str, tuple[Tensor, int]]:
        """Return of each layer the rows that were filled, from their diagonal block on, and its width."""
        return {
            name: (gram[self.rows, self.rows.start :].clone(), self.widths[name])
            for name, gram in self.grams.items()
        }

    def put(self, rows: slice, found: Mapping[str, tuple[Tensor, int]]) -> None:
        """Put what was filled of some rows into its place and, mirrored, below the diagonal."""
        for name, (part, width) in found.items():
            self.grams[name][rows, rows.start :] = part
            self.grams[name][rows.start :, rows] = part.T
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


def matrices(
    network: FrozenNetwork,
    names: Sequence[str],
    batches: Sequence[Batch],
    read: Callable[[GramBlocks, str], Any],
    dtype: torch.dtype = torch.float32,
) -> list[Any]:
    """Return what `read` makes of each layer's Gram matrix over all samples."""
    starts = np.cumsum([0, *(len(batch.index) for batch in batches)]).tolist()
    parts = [slice(a, b) for a, b in itertools.pairwise(starts)]
    blocks = GramBlocks(names, starts[-1], batches[0].inputs.device, dtype)
    rule = network.network if isinstance(network.network, FeatureGuide) else None
    with torch.inference_mode(), Taps(network.network, () if rule else names, consume=blocks.take) as taps:

        def see(i: int, j: int) -> None:
            blocks.rows, blocks.columns, blocks.mask = parts[i], parts[j], batches[j].mask
            if rule is not None:
                features = rule(batches[j])
                for name in names:
                    blocks.take(name, features[name])
                return
            with taps.recording():
                network(batches[j].inputs, batches[j].mask)

        def row(i: int) -> dict[str, tuple[Tensor, int]]:
            if i and not blocks.framed:
                see(0, 0)
            for j in range(i, len(parts)):
                see(i, j)
            return blocks.filled()

        for rows, found in zip(parts, shared(range(len(parts)), row, blocks.device), strict=True):
            blocks.put(rows, found)
        return [read(blocks, name) for name in names]
