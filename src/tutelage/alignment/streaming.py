"""The layer-by-layer CKA of two networks over a data set, accumulated batch by batch: the same for any batch split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.alignment.features import per_sample, to_single
from tutelage.alignment.gram import embed
from tutelage.alignment.taps import Taps, probe, weight_layers
from tutelage.alignment.tokens import hsic
from tutelage.errors import UserError

_GIB = 2**30


class StreamedCKA:
    """CKA between every layer of one network and every layer of another, over all samples of all batches.

    It is the CKA of the whole data set, not a mean over batches (which would depend on the batch size): either moments are summed in
    float64, enough for the exact value at the end (memory d_a d_b for each pair of layers), or, where layers are too wide for that,
    the features themselves are kept (memory n d). Which of the two is decided by the widths alone.

    unbiased: HSIC_1 (Song et al. 2012) in place of the paper's biased HSIC. memory_gib: most memory to use.
    Raises UserError when it does not suffice, naming ways out.
    """

    def __init__(self, *, unbiased: bool = True, memory_gib: float = 2.0) -> None:
        self.unbiased, self.memory_gib = unbiased, memory_gib
        self.count = 0
        self._sums: dict[tuple[str, ...], _Moments] | None = None
        self._kept: tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]] | None = None
        self._first: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self._names: tuple[list[str], list[str]] = ([], [])

    def update(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
        """Add a batch: features (n, d) by layer of both networks, for the same n samples."""
        if not self.count:
            self._begin(one, other)
        count = {len(x) for x in (*one.values(), *other.values())}
        if len(count) != 1:
            raise UserError(f"the features of a batch must have equally many rows, got {sorted(count)}")
        self.count += count.pop()
        if self._kept is not None:
            for kept, layers in zip(self._kept, (one, other), strict=True):
                for name, x in layers.items():
                    kept[name].append(to_single(x.detach()).cpu())
            self._check_kept()
            return
        assert self._sums is not None
        # Around the first sample, which every split shares, sums lose least to a mean far above the spread.
        shifted = [
            {name: x.detach().double() - first[name] for name, x in layers.items()}
            for first, layers in zip(self._first, (one, other), strict=True)
        ]
        for key, moments in self._sums.items():
            x, y = (shifted[int(part[0])][part[1:]] for part in key)
            moments.add(x, y)

    def _begin(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
        self._names = (list(one), list(other))
        widths = [{name: x.shape[1] for name, x in layers.items()} for layers in (one, other)]
        squares = sum(d * d for layer in widths for d in layer.values())
        if 8 * (squares + sum(widths[0].values()) * sum(widths[1].values())) > self.memory_gib * _GIB:
            self._kept = ({name: [] for name in one}, {name: [] for name in other})
            return
        self._first = tuple(
            {name: x[0].detach().double() for name, x in layers.items()} for layers in (one, other)
        )  # type: ignore[assignment]
        pairs = [(f"0{a}", f"1{b}") for a in one for b in other]
        pairs += [(f"{side}{name}",) * 2 for side, layers in enumerate((one, other)) for name in layers]
        self._sums = {pair: _Moments() for pair in pairs}

    def _check_kept(self) -> None:
        assert self._kept is not None
        width = sum(x[0].shape[1] for kept in self._kept for x in kept.values())
        layers = len(self._names[0]) + 1
        need = 4 * (self.count * width + self.count**2 * layers) / _GIB
        if need > self.memory_gib:
            raise UserError(
                f"the CKA of {self.count} samples over layers of {width} features in all needs {need:.1f} GiB, allowed are "
                f"{self.memory_gib}: use fewer samples or layers, pool the widest layers, or allow more memory_gib"
            )

    def compute(self) -> Tensor:
        """Return the similarities, (layers of one, layers of the other), float64 on the CPU; 0 where a layer does not vary."""
        least = 4 if self.unbiased else 2
        if self.count < least:
            raise UserError(f"CKA over a data set needs at least {least} samples, got {self.count}")
        if self._kept is not None:
            kind: Any = "unbiased_cka" if self.unbiased else "cka"

            def units(kept: Mapping[str, list[Tensor]]) -> Iterable[Tensor]:
                return (embed(torch.cat(parts).unsqueeze(0), kind).unit.flatten() for parts in kept.values())

            rows = torch.stack(list(units(self._kept[0])))
            return torch.stack([rows @ column for column in units(self._kept[1])], dim=1).double()
        assert self._sums is not None
        values = {key: moments.hsic(self.count, self.unbiased) for key, moments in self._sums.items()}
        result = torch.zeros(len(self._names[0]), len(self._names[1]), dtype=torch.float64)
        for i, a in enumerate(self._names[0]):
            for j, b in enumerate(self._names[1]):
                norm = (values[f"0{a}", f"0{a}"] * values[f"1{b}", f"1{b}"]).sqrt()
                result[i, j] = values[f"0{a}", f"1{b}"] / norm if norm > 0 else 0.0
        return result


@dataclass
class _Moments:
    """Sums over samples x (d), y (e) from which the HSIC of the centred samples follows, whatever their means turn out to be."""

    parts: tuple[Tensor, ...] | None = None

    def add(self, x: Tensor, y: Tensor) -> None:
        k, l = x.square().sum(1), y.square().sum(1)  # noqa: E741
        new = (x.T @ y, x.sum(0), y.sum(0), k.sum(), l.sum(), k @ l, k @ y, l @ x)
        self.parts = (
            new if self.parts is None else tuple(a.add_(b) for a, b in zip(self.parts, new, strict=True))
        )

    def hsic(self, n: int, unbiased: bool) -> Tensor:
        assert self.parts is not None
        cross, x, y, k, l, kl, ky, lx = (part.cpu() for part in self.parts)  # noqa: E741
        mx, my = x / n, y / n
        xx, yy = mx @ mx, my @ my
        # Squared lengths of centred samples, k - 2 x mx + |mx|^2 and likewise for y, multiplied out and summed.
        products = kl - 2 * ky @ my + k * yy - 2 * lx @ mx + 4 * mx @ cross @ my + l * xx - 3 * n * xx * yy
        return hsic(cross - torch.outer(x, my), k - n * xx, l - n * yy, products, n, unbiased=unbiased)


def cka_map(
    one: nn.Module,
    other: nn.Module,
    batches: Iterable[Tensor | Sequence[Any]],
    *,
    names: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
    unbiased: bool = True,
    memory_gib: float = 2.0,
) -> tuple[list[str], list[str], Tensor]:
    """Return the layer names of both networks and their CKA over all batches, (layers of one, layers of the other).

    batches: inputs, or tuples of what both forwards take. names: layers to compare; None: every weight layer.
    Both networks are run without gradients in the mode they are in. Raises UserError for unknown layers or no batches.
    """
    streamed: StreamedCKA | None = None
    chosen: list[list[str]] = []
    with ExitStack() as stack, torch.no_grad():
        taps: list[Taps] = []
        for batch in batches:
            inputs = batch if isinstance(batch, tuple | list) else (batch,)
            if streamed is None:
                streamed = StreamedCKA(unbiased=unbiased, memory_gib=memory_gib)
                for network, given in zip((one, other), names, strict=True):
                    chosen.append(
                        list(given) if given else [x.name for x in weight_layers(probe(network, *inputs))]
                    )
                    taps.append(stack.enter_context(Taps(network, chosen[-1])))
            features = []
            for network, tap in zip((one, other), taps, strict=True):
                with tap.recording():
                    network(*inputs)
                features.append({name: per_sample(x) for name, x in tap.collect().items()})
            streamed.update(*features)
    if streamed is None:
        raise UserError("a CKA map needs at least one batch, got none")
    return chosen[0], chosen[1], streamed.compute()
