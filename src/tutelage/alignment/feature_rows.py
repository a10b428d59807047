"""From a layer's activation to the matrix that a similarity compares: one row per sample, per token, or per patch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.errors import UserError


@dataclass(frozen=True)
class Padding:
    """Where features of sequences, (n, length * width), hold padding: whole stretches of memory, on the CPU.

    positions: places among the n * length. length: of the sequences.
    """

    positions: Tensor
    length: int

    @classmethod
    def of(cls, mask: Tensor | None) -> Padding | None:
        """Read it from a mask, (n, length) bool, True where real. None on a device, which looking for it would wait for."""
        if mask is None or not on_cpu(mask):
            return None
        return cls((~mask).flatten().nonzero().squeeze(1), mask.shape[1])

    def lies_in(self, activation: Tensor) -> bool:
        """Whether an activation has these positions, in the order of its memory."""
        return activation.ndim > 2 and activation.shape[1] == self.length and activation.is_contiguous()

    def zeroed(self, features: Tensor) -> Tensor:
        """Return a copy with zeros in the padding, which takes a third of the time of a choice for each value."""
        if not len(self.positions):
            return features
        return self._rows(features).index_fill(0, self.positions, 0.0).view(features.shape)

    def zero_(self, features: Tensor) -> Tensor:
        """Set the padding to zero in place, and return the features."""
        self._rows(features).index_fill_(0, self.positions, 0.0)
        return features

    @contextmanager
    def emptied(self, features: Tensor) -> Iterator[Tensor]:
        """Give contiguous features with zeros in the padding for the length of a block, in which nothing is differentiated.

        They themselves, of which the padding is put aside meanwhile; a copy where their memory is not torch's own and may be read-only.
        """
        if not len(self.positions):
            yield features
        elif features.is_inference() or not features.untyped_storage().resizable():
            yield self.zeroed(features)
        else:
            rows = self._rows(features.data)  # autograd need not notice what is put back
            held = rows.index_select(0, self.positions)
            try:
                yield self.zero_(features.data)
            finally:
                rows.index_copy_(0, self.positions, held)

    def _rows(self, features: Tensor) -> Tensor:
        return features.view(-1, features.shape[-1] // self.length)


def emptied(padding: Padding | None, features: Tensor) -> AbstractContextManager[Tensor]:
    """Return `Padding.emptied`, or a block of the features as they are where there is no padding."""
    return nullcontext(features) if padding is None else padding.emptied(features)


def per_sample(activation: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return (n, everything else). No copy without a mask: a channels-last map is read in its memory order.

    The order of columns is that of the memory, which no similarity depends on (a random projection only in its draw).
    mask: (n, length) bool, True where real; padded positions of a sequence become zeros. Tensors (n, width) have no positions.
    Raises UserError when a sequence and the mask disagree in length.
    """
    if mask is not None and activation.ndim > 2:
        padding = Padding.of(mask)
        if padding is not None and padding.lies_in(activation):
            return padding.zeroed(activation.flatten(1))
        activation = torch.where(_over_positions(activation, mask), activation, activation.new_zeros(()))
    if activation.ndim == 4 and activation.is_contiguous(memory_format=torch.channels_last):
        activation = activation.permute(0, 2, 3, 1)
    return activation.flatten(1)


def per_token(activation: Tensor) -> Tensor:
    """Return (n * length, everything else) of a sequence (n, length, ...)."""
    if activation.ndim < 3:
        raise UserError(
            f"similarity per token needs activations (n, length, width), got {tuple(activation.shape)}"
        )
    return activation.flatten(0, 1).flatten(1)


def per_patch(activation: Tensor, side: int) -> Tensor:
    """Return (n * side * side, everything else) of maps (n, channels, height, width), each cut into `side` x `side` equal patches."""
    n, channels, height, width = activation.shape
    cut = activation.reshape(n, channels, side, height // side, side, width // side)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).flatten(1)


def to_single(features: Tensor) -> Tensor:
    """Return the features in float32, whatever half precision they come in; float64 stays."""
    return features if features.dtype in (torch.float32, torch.float64) else features.float()


def on_cpu(features: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device."""
    return features.device.type == "cpu"


def wide(features: Tensor) -> torch.dtype:
    """Return a type in which sums of squares of any float32 stay in range, where the device has one."""
    return torch.float32 if features.device.type == "mps" else torch.float64


def rescaled(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return each matrix (..., n, d) times the power of two, (..., 1, 1), that brings its largest value near 1, and that power.

    Squares and sums then stay inside the floating range; a power of two rounds nothing, so that a spread far below the mean survives.
    """
    largest = features.detach().abs().amax((-2, -1), keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(-126, 126)
    power = torch.ldexp(torch.ones_like(largest), -exponent)
    return features * power, power


def bounded(scale: Tensor) -> Tensor:
    """Return a factor of gradients kept finite: that of tiny features is legitimately huge."""
    return scale.clamp(max=1e30)


def _over_positions(activation: Tensor, mask: Tensor) -> Tensor:
    """The mask, shaped to broadcast over the axis of positions: the second, or the last of a 1-d convolution's."""
    if activation.shape[1] == mask.shape[1]:
        return mask.view(*mask.shape, *[1] * (activation.ndim - 2))
    if activation.shape[-1] == mask.shape[1]:
        return mask.view(len(mask), *[1] * (activation.ndim - 2), mask.shape[1])
    raise UserError(
        f"the mask has {mask.shape[1]} positions, which is no axis of the activation {tuple(activation.shape)}: "
        "padding cannot be left out of this layer"
    )
