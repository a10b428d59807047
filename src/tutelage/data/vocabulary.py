"""From text files to token numbers, with a vocabulary taken from the training part alone (no torch)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tutelage.data.splits import SPLITS
from tutelage.errors import UserError, extra

Level = Literal["word", "character", "tokenizer"]
PADDING, UNKNOWN, END_OF_LINE = "<pad>", "<unk>", "<eos>"


def write_tokens(
    paths: Mapping[str, Path],
    fractions: Mapping[str, float],
    folder: Path,
    *,
    level: str,
    min_count: int,
    tokenizer: Path | None,
) -> dict[str, Any]:
    """Write the token numbers of train, validation and test, one after the other, to `tokens.npy`, and return facts about them.

    paths: a file per part; a part without one is cut from the end of the training text, by its fraction of the tokens.
    Facts: `parts` (first and last + 1 token of each), `vocab_size`, `unknown` (tokens of each part outside the vocabulary) and
    `vocabulary_sha256`. The vocabulary itself goes to `vocabulary.npy`: UTF-8 bytes, entries separated by NUL.
    """
    numbers: dict[str, int] = {}
    if tokenizer is not None:
        pieces, vocab_size = _tokenised(paths, tokenizer)
        tokens, parts = _joined(pieces, fractions)
        vocabulary = tokenizer.read_bytes()
        unknown = dict.fromkeys(SPLITS, 0)
    else:
        read = _words if level == "word" else _characters
        tokens, parts = _joined({part: read(path, numbers) for part, path in paths.items()}, fractions)
        entries, table = _vocabulary(numbers, tokens[slice(*parts["train"])], min_count)
        tokens, vocab_size = table[tokens], len(entries)
        vocabulary = "\0".join(entries).encode()
        unknown = {part: int((tokens[slice(*ends)] == 0).sum()) for part, ends in parts.items()}
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "vocabulary.npy", np.frombuffer(vocabulary, dtype=np.uint8))
    return {
        "parts": parts,
        "vocab_size": vocab_size,
        "unknown": unknown,
        "vocabulary_sha256": hashlib.sha256(vocabulary).hexdigest(),
    }


def _joined(
    pieces: Mapping[str, np.ndarray], fractions: Mapping[str, float]
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    whole = len(pieces["train"])
    sizes = {
        part: len(pieces[part]) if part in pieces else round(fractions[part] * whole) for part in SPLITS[1:]
    }
    cut = sum(size for part, size in sizes.items() if part not in pieces)
    parts, done = {"train": (0, whole - cut)}, whole - cut
    order, rest = [pieces["train"][: whole - cut]], pieces["train"][whole - cut :]
    for part in SPLITS[1:]:
        if part in pieces:
            order.append(pieces[part])
        else:
            order.append(rest[: sizes[part]])
            rest = rest[sizes[part] :]
        parts[part] = (done, done + sizes[part])
        done += sizes[part]
    return np.concatenate(order), parts


def _vocabulary(
    numbers: Mapping[str, int], train: np.ndarray, min_count: int
) -> tuple[list[str], np.ndarray]:
    """Entries, <unk> first, then by falling count; and the table from provisional numbers to theirs."""
    counts = np.bincount(train, minlength=len(numbers))
    kept = [entry for entry, number in numbers.items() if counts[number] >= min_count and entry != UNKNOWN]
    kept.sort(key=lambda entry: (-counts[numbers[entry]], entry))
    table = np.zeros(len(numbers), dtype=np.int32)
    table[[numbers[entry] for entry in kept]] = np.arange(1, len(kept) + 1)
    return [UNKNOWN, *kept], table


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: {error}") from error


def _words(path: Path, numbers: dict[str, int]) -> np.ndarray:
    def found() -> Iterator[int]:
        for line in _lines(path):
            for word in (*line.split(), END_OF_LINE):
                yield numbers.setdefault(word, len(numbers))

    return np.fromiter(found(), dtype=np.int32)


def _characters(path: Path, numbers: dict[str, int]) -> np.ndarray:
    codes = np.frombuffer("".join(_lines(path)).encode("utf-32-le"), dtype="<u4")
    present, places = np.unique(codes, return_inverse=True)
    table = np.asarray([numbers.setdefault(chr(code), len(numbers)) for code in present], dtype=np.int32)
    return table[places]


def _tokenised(paths: Mapping[str, Path], tokenizer: Path) -> tuple[dict[str, np.ndarray], int]:
    encoder = tokeniser(tokenizer)
    pieces = {}
    for part, path in paths.items():
        encoded = pieces_of(encoder, list(_lines(path)), str(tokenizer), special=False)
        pieces[part] = np.fromiter(chain.from_iterable(line.ids for line in encoded), dtype=np.int32)
    return pieces, encoder.get_vocab_size(with_added_tokens=True)


def checked_level(level: Level, tokenizer: object) -> Level:
    """Return the level of the tokens: that of a tokeniser where there is one. Raises UserError where it asks for one that is not given."""
    if level == "tokenizer" and tokenizer is None:
        raise UserError(
            "`tokenizer` must name a tokenizer.json, or a folder with it, where `level`=tokenizer"
        )
    return level if tokenizer is None else "tokenizer"


def masking(mask: int | None, tokenizer: object) -> int:
    """Return the token for what is masked. Raises UserError where a tokeniser has none."""
    if mask is None:
        raise UserError(f"{tokenizer} has a token neither for what is masked nor for what is unknown")
    return mask


def tokenizer_file(tokenizer: str | os.PathLike[str], root: Path | None = None) -> Path:
    """Return the file that `tokenizer` names: itself, the tokenizer.json of a folder, or of either in the folder `root`."""
    path = Path(tokenizer).expanduser()
    if root is not None and (root / path).exists():
        path = root / path
    return path / "tokenizer.json" if path.is_dir() else path


def tokeniser(path: Path, expected: str = "a Hugging Face tokenizer.json, or a folder with it") -> Any:
    """Return the tokeniser of a tokenizer.json. expected: what `tokenizer` must name. Raises UserError.

    Settings for batches of sentences, which the file may carry, are left out: nothing is padded or cut off.
    """
    with extra("text", "`tokenizer` needs the package tokenizers"):
        from tokenizers import Tokenizer
    if not path.is_file():
        raise UserError(f"there is no tokenizer file {path}: `tokenizer` must name {expected}")
    try:
        encoder = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise UserError(f"{path} is no Hugging Face tokenizer.json: {error}") from error
    encoder.no_padding()
    encoder.no_truncation()
    return encoder


def pieces_of(encoder: Any, texts: list[str], said: str, *, special: bool) -> Any:
    """Return what a tokeniser makes of texts. said: what it is called. Raises UserError where it has no token for what it does not know."""
    try:
        return encoder.encode_batch(texts, add_special_tokens=special)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{said} cannot read a text: {error}") from error


class Special(NamedTuple):
    """The numbers of what is no text: padding, what is unknown, what is masked, and all of them; None where there is none."""

    padding: int | None
    unknown: int | None
    mask: int | None
    all: list[int]


def special_tokens(encoder: Any) -> Special:
    """Return a tokeniser's special tokens, by the names that they usually have; what masks is else what is unknown."""
    known = encoder.get_vocab(with_added_tokens=True)

    def first(*names: str) -> int | None:
        return next((known[name] for name in names if name in known), None)

    unknown = first("[UNK]", UNKNOWN)
    mask = first("[MASK]", "<mask>")
    return Special(
        first("[PAD]", PADDING, "<|endoftext|>"),
        unknown,
        unknown if mask is None else mask,
        [number for number, token in encoder.get_added_tokens_decoder().items() if token.special],
    )
