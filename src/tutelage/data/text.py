"""Language modelling on plain text files: words, characters, or a tokeniser's pieces, in windows of a fixed length."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from tutelage.data import cache
from tutelage.data.base import DataModule
from tutelage.data.fingerprint import both, check_same
from tutelage.data.fingerprint import fingerprint as fingerprint_of
from tutelage.data.splits import SPLITS
from tutelage.data.streams import Resident
from tutelage.data.vocabulary import (
    Level,
    checked_level,
    masking,
    special_tokens,
    tokeniser,
    tokenizer_file,
    write_tokens,
)
from tutelage.errors import UserError
from tutelage.runs.digests import file_digest
from tutelage.tasks import Batch, Tokens
from tutelage.typed import Count, Range


@dataclasses.dataclass(frozen=True)
class WindowStore(Resident):
    """Tokens (T,) int32, and the first token of each window, starts (W,). A window's targets are its tokens one step ahead."""

    tokens: Tensor
    starts: Tensor
    length: int

    def batch(self, index: Tensor, noise: Tensor | None) -> Batch:
        """See `Resident`."""
        first = self.starts.index_select(0, index)[:, None]
        window = self.tokens[first + torch.arange(self.length + 1, device=first.device)].long()
        return Batch(window[:, :-1].contiguous(), window[:, 1:].contiguous(), index)


Minor = Annotated[float, Range(0, 0.5, above=True, below=True)]
"""A share below one half."""


class Text(DataModule):
    """Next-token prediction on text files, in non-overlapping windows of `length` tokens, each read without what precedes it.

    root: a text file, or a folder that holds the files named `train`, `validation`, `test` and `tokenizer`. Parts without a file are
    cut from the end of the training text, by the fractions validation_fraction and test_fraction of its tokens.
    level: "word" (split at whitespace, every line ended by <eos>) or "character". tokenizer: a Hugging Face tokenizer.json, or a folder
    with it, here or in `root`; level is then "tokenizer".
    min_count: a word or character rarer than that in the training part becomes <unk>; the vocabulary comes from that part alone.
    The tokens of a part that do not fill its last window are left out, and counted in `summary`.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        length: Count,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        level: Level = "word",
        min_count: Count = 1,
        tokenizer: str | None = None,
        validation_fraction: Minor = 0.05,
        test_fraction: Minor = 0.05,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.root = Path(root).expanduser()
        self.length, self.min_count = length, min_count
        self.tokenizer = None if tokenizer is None else tokenizer_file(tokenizer, self.root)
        self.level = checked_level(level, tokenizer)
        self.files = {"train": train, "validation": validation, "test": test}
        self.fractions = {"validation": validation_fraction, "test": test_fraction}

    def prepare(self) -> None:
        """Check that the files exist, and tokenise them into the cache. Raises UserError where one is missing or no text."""
        self._tokens()

    def load(self) -> None:
        """See `DataModule`."""
        arrays, facts = self._tokens()
        starts: list[np.ndarray] = []
        self.splits = {}
        done = 0
        for name in SPLITS:
            first, last = facts["parts"][name]
            count = (last - first - 1) // self.length
            if count < 1:
                raise UserError(
                    f"the {name} text has {last - first} tokens: too few for one window of `length`={self.length}"
                )
            starts.append(first + self.length * np.arange(count))
            self.splits[name] = np.arange(done, done + count)
            done += count
        self.store = WindowStore(
            torch.from_numpy(arrays["tokens"]), torch.from_numpy(np.concatenate(starts)), self.length
        )
        self.vocab_size = facts["vocab_size"]
        self.task = Tokens(facts["vocab_size"], monitor="perplexity", next_token=True)
        self.input_shape = (self.length,)
        sizes = {name: last - first for name, (first, last) in facts["parts"].items()}
        self.facts |= {
            "tokens": sizes,
            "unused_tokens": {n: sizes[n] - 1 - self.length * len(self.splits[n]) for n in SPLITS},
            "unknown_tokens": facts["unknown"],
            "vocabulary_sha256": facts["vocabulary_sha256"],
        }

    def unlabelled_tokens(self, which: str) -> tuple[np.ndarray, int, list[int]]:
        """See `TextRows.unlabelled_tokens`: the training windows."""
        if self.tokenizer is None:
            return self.splits["train"], 0, [0]
        found = special_tokens(tokeniser(self.tokenizer))
        return self.splits["train"], masking(found.mask, self.tokenizer), found.all

    def vocabulary(self) -> list[str]:
        """Return the words or characters by token number; a tokeniser keeps its own."""
        if self.tokenizer is not None:
            raise UserError(f"the vocabulary is in {self.tokenizer}")
        return self._tokens()[0]["vocabulary"].tobytes().decode().split("\0")

    def paths(self) -> dict[str, Path]:
        """Return the file of each part that has one. Raises UserError where a file is missing."""
        if self.root.is_file():
            if any(self.files.values()):
                raise UserError(
                    f"`root`={self.root} is a file: `train`, `validation` and `test` name files of a folder"
                )
            return {"train": self.root}
        if self.files["train"] is None:
            raise UserError(f"`root`={self.root} must be a text file, or a folder with `train`=<file in it>")
        paths = {part: self.root / name for part, name in self.files.items() if name is not None}
        for part, path in paths.items():
            if not path.is_file():
                raise UserError(f"there is no text file {path} (`{part}` in `root`)")
        return paths

    def _tokens(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        paths = self.paths()
        self.fingerprint = self.fingerprint or fingerprint_of(self.root)
        key = (
            "text 2",
            self.fingerprint,
            *((part, path.name) for part, path in paths.items()),
            *self.fractions.items(),
            self.level,
            self.min_count,
            self.tokenizer and file_digest(self.tokenizer),
        )
        name = cache.entry_name(*key)
        return cache.remember(key, lambda: cache.stored(name, lambda folder: self._tokenise(paths, folder)))

    def _tokenise(self, paths: dict[str, Path], folder: Path) -> dict[str, Any]:
        now = fingerprint_of(self.root)
        if self.fingerprint != now:  # of texts and tokeniser, as a command gives it
            now = now if self.tokenizer is None else both(now, file_digest(self.tokenizer))
            check_same(self.fingerprint, now, self.root, "texts")
        return write_tokens(
            paths,
            self.fractions,
            folder,
            level=self.level,
            min_count=self.min_count,
            tokenizer=self.tokenizer,
        )
