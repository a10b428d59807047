"""Generated sequence tasks: copy-paste and parity, a function of the sizes and `split_seed` alone."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache
from tutelage.data import splits as splitting
from tutelage.data.base import DataModule
from tutelage.data.streams import Resident
from tutelage.errors import UserError
from tutelage.tasks import Batch, Classification, Tokens
from tutelage.typed import Count, Range


@dataclasses.dataclass(frozen=True)
class SequenceStore(Resident):
    """Padded sequences: tokens (N, width) uint8 and lengths (N,), their real positions.

    targets: one for each position, (N, width), of which those from counted_from (N,) on count; or one for each sequence, (N,).
    """

    tokens: Tensor
    targets: Tensor
    lengths: Tensor
    counted_from: Tensor | None

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`."""
        position = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        mask = position < self.lengths.index_select(0, index)[:, None]
        counted = None
        if self.counted_from is not None:
            counted = mask & (position >= self.counted_from.index_select(0, index)[:, None])
        tokens, targets = (
            self.tokens.index_select(0, index).long(),
            self.targets.index_select(0, index).long(),
        )
        return Batch(tokens, targets, index, mask, counted)


class Sequences(NamedTuple):
    """Generated sequences as arrays, named as in `SequenceStore`."""

    tokens: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray
    counted_from: np.ndarray | None


class GeneratedSequences(DataModule):
    """Sequences made by a rule. A split's sequences do not depend on the size of the others.

    train_size, validation_size, test_size: sequences in each split. min_length, max_length: of a string, uniformly drawn.
    """

    vocab_size: int

    def __init__(
        self,
        *,
        train_size: Count,
        validation_size: Count,
        test_size: Count,
        min_length: Count,
        max_length: Count,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.sizes = {"train": train_size, "validation": validation_size, "test": test_size}
        if min_length > max_length:
            raise UserError(f"`min_length` must be at most `max_length`, got {min_length} and {max_length}")
        self.min_length, self.max_length = min_length, max_length

    @abstractmethod
    def generate(self, count: int, seed: int) -> Sequences:
        """Return `count` sequences."""

    @abstractmethod
    def content(self) -> tuple[Any, ...]:
        """Return what, beside the sizes and `split_seed`, the sequences depend on."""

    def load(self) -> None:
        """See `DataModule`."""
        seeds = {name: splitting.derive_seed("sequences", name, self.split_seed) for name in self.sizes}
        key = (type(self).__name__, *self.content(), *self.sizes.items(), self.split_seed)
        made = cache.remember(
            key, lambda: [self.generate(self.sizes[name], seeds[name]) for name in self.sizes]
        )
        tokens, targets, lengths = (
            torch.from_numpy(np.concatenate([sequences[k] for sequences in made])) for k in range(3)
        )
        counted_from = [sequences.counted_from for sequences in made if sequences.counted_from is not None]
        counted = torch.from_numpy(np.concatenate(counted_from)) if counted_from else None
        self.store = SequenceStore(tokens, targets, lengths, counted)
        self.splits = splitting.one_after_another(self.sizes)
        # Short strings must recur, so repeats are recorded here without a warning.
        content = cache.remember(("content", *key), lambda: splitting.content_numbers(tokens.numpy()))
        self.facts["repeated_samples"] = splitting.repeated_samples(content, self.splits)
        self.input_shape = (tokens.shape[1],)

    def _lengths(self, count: int, seed: int) -> np.ndarray:
        spread = self.max_length - self.min_length + 1
        return self.min_length + _whole(count, spread, splitting.derive_seed("length", seed))


class CopyPaste(GeneratedSequences):
    """A string of numbers, a separator, and the same string again: x1 ... xL, S, x1 ... xL-1 as inputs, the next token as target.

    Only the copy counts: from the separator, where x1 is due, to the last. Tokens: 1 ... numbers, 0 is padding, numbers + 1 the
    separator. Numbers, lengths and sizes are those of arXiv 2410.20035; its format is not released, so this one is ours.
    """

    def __init__(self, *, numbers: Annotated[int, Range(2, 250)] = 10, **options: Any) -> None:
        super().__init__(**options)
        self.numbers = numbers
        self.vocab_size = numbers + 2
        self.task = Tokens(self.vocab_size, monitor="accuracy", next_token=True)

    def content(self) -> tuple[Any, ...]:
        """See `GeneratedSequences`."""
        return self.numbers, self.min_length, self.max_length

    def generate(self, count: int, seed: int) -> Sequences:
        """See `GeneratedSequences`."""
        lengths, width = self._lengths(count, seed), self.max_length
        drawn = 1 + _whole(count * width, self.numbers, splitting.derive_seed("numbers", seed)).reshape(
            count, width
        )
        place = np.arange(2 * width + 1)
        length = lengths[:, None]
        # Position p of the whole sequence holds x_p before the separator at L, and x_(p - L - 1) behind it.
        source = np.clip(np.where(place < length, place, place - length - 1), 0, width - 1)
        whole = np.take_along_axis(drawn, source, axis=1)
        whole[np.broadcast_to(place == length, whole.shape)] = self.numbers + 1
        whole[np.broadcast_to(place > 2 * length, whole.shape)] = 0
        whole = whole.astype(np.uint8)
        inputs = np.where(place[:-1] < 2 * length, whole[:, :-1], 0).astype(np.uint8)
        return Sequences(inputs, whole[:, 1:].copy(), 2 * lengths, lengths)


class Parity(GeneratedSequences):
    """Bit strings and the parity of their ones. Tokens: 0 and 1, 2 is padding.

    target: "whole", the parity of the string as its class; or "prefix", at each position the parity of the bits up to it.
    """

    def __init__(self, *, target: Literal["whole", "prefix"] = "whole", **options: Any) -> None:
        super().__init__(**options)
        self.target = target
        self.vocab_size = 3
        self.task = Classification(2) if target == "whole" else Tokens(2, monitor="accuracy")

    def content(self) -> tuple[Any, ...]:
        """See `GeneratedSequences`."""
        return self.target, self.min_length, self.max_length

    def generate(self, count: int, seed: int) -> Sequences:
        """See `GeneratedSequences`."""
        lengths, width = self._lengths(count, seed), self.max_length
        bits = _whole(count * width, 2, splitting.derive_seed("bits", seed)).reshape(count, width)
        real = np.arange(width) < lengths[:, None]
        parity = np.cumsum(bits, axis=1) % 2
        tokens = np.where(real, bits, 2).astype(np.uint8)
        if self.target == "whole":
            return Sequences(
                tokens, np.take_along_axis(parity, lengths[:, None] - 1, axis=1)[:, 0], lengths, None
            )
        return Sequences(tokens, (parity * real).astype(np.uint8), lengths, np.zeros_like(lengths))


def _whole(count: int, below: int, seed: int) -> np.ndarray:
    return (splitting.uniform(count, seed) * below).astype(np.int64)
