"""Texts with a target each: sentences to classify, from a file of rows."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache
from tutelage.data.column_cells import is_text
from tutelage.data.frame import Frame, column
from tutelage.data.rows import Rows
from tutelage.data.splits import digest
from tutelage.data.streams import Resident
from tutelage.data.vocabulary import (
    PADDING,
    UNKNOWN,
    Level,
    checked_level,
    masking,
    pieces_of,
    special_tokens,
    tokeniser,
    tokenizer_file,
)
from tutelage.errors import UserError
from tutelage.tasks import Batch
from tutelage.typed import Count

log = logging.getLogger("tutelage")
_BLOCK = 4096  # texts that are tokenised at a time
_MANY_UNKNOWN = 0.3  # share of unknown tokens that is worth a warning


@dataclasses.dataclass(frozen=True)
class TextStore(Resident):
    """Tokens (N, length) int32, of which the first `lengths` (N,) of each row are real; targets (N,) int64 or (N, outputs) float32."""

    tokens: Tensor
    lengths: Tensor
    targets: Tensor

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`."""
        position = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        mask = position < self.lengths.index_select(0, index)[:, None]
        targets = self.targets.index_select(0, index)
        return Batch(self.tokens.index_select(0, index).long(), targets, index, mask)


class TextRows(Rows):
    """Texts and a target: classes, labels or values. A network sees tokens (length,), and which of them are real.

    text: the column of texts. level: "word" (split at whitespace) or "character": the vocabulary is that of the training rows (also those
    that train_size leaves out, so that it does not change with it), <pad> and <unk> before it; min_count: rarer entries are <unk>.
    "tokenizer": that of a Hugging Face tokenizer.json. tokenizer: that file, or a folder with it; level is then "tokenizer".
    special_tokens: whether the tokeniser adds its own ([CLS], ...). length: the most tokens of a text; the rest of a longer one is cut
    off, and counted. tokenizer_digest: of the tokeniser's content, for the run's identity.
    Other arguments: see `Rows`.
    """

    vocab_size: int
    padding: int
    """The number of padding among the tokens."""

    def __init__(
        self,
        *,
        text: str = "text",
        target: str | Sequence[str] | None = "label",
        length: Count = 128,
        level: Level = "word",
        min_count: Count = 1,
        tokenizer: str | os.PathLike[str] | None = None,
        tokenizer_digest: str | None = None,
        special_tokens: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(target=target, **options)
        self.text, self.length, self.min_count, self.special_tokens = text, length, min_count, special_tokens
        self.tokenizer = None if tokenizer is None else Path(tokenizer).expanduser()
        self.level = checked_level(level, tokenizer)
        self.tokenizer_digest = tokenizer_digest
        self.entries: list[str] = []

    def texts(self) -> Sequence[str]:
        """See `Rows.texts`."""
        return (self.text,)

    def encode(self, frame: Frame, train: np.ndarray, targets: Tensor) -> TextStore:
        """See `Rows.encode`."""
        cells = column(frame, self.text, "text", self.named)
        if not is_text(cells):
            raise UserError(f"{self.named}: the column '{self.text}' (`text`) holds numbers, no texts")
        if odd := {type(cell).__name__ for cell in cells.dropna()} - {"str"}:
            raise UserError(
                f"{self.named}: the column '{self.text}' (`text`) holds {min(odd)} objects, no texts: join them to one text a row"
            )
        empty = cells.isna() | cells.astype(str).str.strip().eq("")
        if empty.any():
            raise UserError(
                f"{self.named}: the text is empty in {int(empty.sum())} of {len(cells)} rows, the first of them row "
                f"{int(np.flatnonzero(empty.to_numpy())[0]) + 1}: remove these rows"
            )
        known = self.training  # no label is read for the vocabulary
        if self.trained is not None:
            self.entries, self.length = self.trained.entries, int(self.trained.input_shape[0])
        key = (
            "text rows 2", self.fingerprint, self.named, self.text, self.level, self.min_count, self.length, str(self.tokenizer),
            self.tokenizer_digest, self.special_tokens, digest(known), hashlib.sha256("\0".join(self.entries).encode()).hexdigest(),
        )  # fmt: skip
        name = cache.entry_name(*key)
        arrays, facts = cache.remember(
            key,
            lambda: cache.stored(name, lambda folder: self._write(folder, cells.astype(str).tolist(), known)),
        )
        self.entries = arrays["entries"].tobytes().decode().split("\0")
        longest = max(1, int(arrays["lengths"][known].max())) if self.trained is None else self.length
        tokens, lengths = arrays["tokens"][:, :longest], np.minimum(arrays["lengths"], longest)
        if missing := longest - tokens.shape[1]:
            tokens = np.pad(tokens, ((0, 0), (0, missing)), constant_values=facts["padding"])
        self.vocab_size, self.padding, self.input_shape = facts["vocab_size"], facts["padding"], (longest,)
        unknown = {split: int(arrays["unknown"][part].sum()) for split, part in self.splits.items()}
        self.facts |= {
            "cut_texts": facts["cut"],
            "unknown_tokens": unknown,
            "vocabulary_sha256": facts["vocabulary_sha256"],
        }
        real = {split: int(arrays["lengths"][part].sum()) for split, part in self.splits.items()}
        for split, count in unknown.items():
            if split != "train" and count > _MANY_UNKNOWN * real[split]:
                why = (
                    "the tokeniser does not know them"
                    if self.level == "tokenizer"
                    else f"no training text has them, or fewer than {self.min_count} times (data.min_count)"
                )
                of = f"{count} of the {real[split]} tokens of the {split} texts"
                log.warning(f"{self.named}: {of} are unknown: {why}")
        self._special, self._mask_token = facts["special"], facts["mask_token"]
        if facts["cut"]:
            long = f"{facts['cut']} texts are longer than {self.length} tokens"
            log.info(f"{self.named}: {long}, the rest of them is cut off (data.length)")
        if self.trained is None:
            # as written: rare words are all <unk>, which makes different texts alike
            self._check_repeats(cells.astype(str).factorize()[0])
        return TextStore(torch.from_numpy(np.ascontiguousarray(tokens)), torch.from_numpy(lengths), targets)

    def unlabelled_tokens(self, which: str) -> tuple[np.ndarray, int, Sequence[int]]:
        """Return texts to be looked at without their targets: (which rows, the token for a masked one, tokens that are no text).

        which: "train" or "all": the training rows, also those that `train_size` leaves out; "rest": the latter alone.
        Raises UserError where there are none, or the tokeniser has a token neither for what is masked nor for what is unknown.
        """
        rows = np.setdiff1d(self.training, self.splits["train"]) if which == "rest" else self.training
        if not len(rows):
            raise UserError(
                f"method.unlabelled={which}: all training rows have their targets; say method.unlabelled=all"
            )
        return rows, masking(self._mask_token, self.tokenizer), self._special

    def _write(self, folder: Path, texts: list[str], train: np.ndarray) -> dict[str, Any]:
        """Write tokens, their numbers and the vocabulary of all rows; return facts."""
        unk: int | None
        mask: int | None
        if self.level == "tokenizer":
            path = self.tokenizer_file()
            encoder = tokeniser(path)
            entries: list[str] = []
            vocabulary = path.read_bytes()
            rows = [
                np.asarray(one.ids, dtype=np.int32)
                for start in range(0, len(texts), _BLOCK)
                for one in pieces_of(
                    encoder, texts[start : start + _BLOCK], str(path), special=self.special_tokens
                )
            ]
            size = encoder.get_vocab_size(with_added_tokens=True)
            found = special_tokens(encoder)
            padding, unk, mask, special = found.padding or 0, found.unknown, found.mask, found.all
        else:
            split: Callable[[str], Iterable[str]] = iter if self.level == "character" else str.split
            entries = (
                self.entries
                if self.trained is not None
                else _entries((split(texts[row]) for row in train), self.min_count)
            )
            number = {entry: place for place, entry in enumerate(entries)}
            rows = [
                np.fromiter((number.get(word, 1) for word in split(text)), dtype=np.int32) for text in texts
            ]
            size, vocabulary, padding, unk = len(entries), "\0".join(entries).encode(), 0, 1
            mask, special = unk, [padding, unk]
        counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        if not counts.all():
            first = int(np.flatnonzero(counts == 0)[0]) + 1
            raise UserError(
                f"{self.named}: the tokeniser makes nothing of the text in row {first}: remove it"
            )
        lengths = np.minimum(counts, self.length)
        tokens = np.full((len(rows), int(lengths.max())), padding, dtype=np.int32)
        for place, row in enumerate(rows):
            tokens[place, : lengths[place]] = row[: self.length]
        np.save(folder / "tokens.npy", tokens)
        np.save(folder / "lengths.npy", lengths)
        np.save(folder / "unknown.npy", [np.count_nonzero(row[: self.length] == unk) for row in rows])
        np.save(folder / "entries.npy", np.frombuffer("\0".join(entries).encode() or b"\0", dtype=np.uint8))
        return {
            "vocab_size": size,
            "padding": padding,
            "mask_token": mask,
            "special": special,
            "cut": int((counts > self.length).sum()),
            "vocabulary_sha256": hashlib.sha256(vocabulary).hexdigest(),
        }

    def tokenizer_file(self) -> Path:
        """Return the file of the tokeniser; only where `level` is that."""
        assert self.tokenizer is not None
        return tokenizer_file(self.tokenizer)


def _entries(rows: Iterable[Iterable[str]], min_count: int) -> list[str]:
    """The vocabulary of the training texts: padding, unknown, then by falling count."""
    counts: dict[str, int] = {}
    for words in rows:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    kept = sorted(
        (word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word)
    )
    return [PADDING, UNKNOWN, *(word for word in kept if word not in (PADDING, UNKNOWN) and "\0" not in word)]
