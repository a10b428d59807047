"""From rows of a file to a network's inputs, as its training data were encoded: what an export carries so that nothing else is needed."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tutelage.data.base import DataModule
from tutelage.data.column_cells import is_text
from tutelage.data.column_features import HOLES, UNSEEN, Category, Encoding, Number
from tutelage.data.frame import column
from tutelage.data.table import Table
from tutelage.data.text_rows import TextRows
from tutelage.data.vocabulary import pieces_of, tokeniser
from tutelage.errors import UserError

log = logging.getLogger("tutelage")
TOKENISER = "tokenizer.json"
UNKNOWN = 1
"""The number, in a vocabulary of one's own, of what it does not have."""


def encoding_of(data: DataModule) -> dict[str, Any] | None:
    """Return how rows become inputs, as plain values; None for data that are no tables or texts.

    Tables: `columns`, numbers with mean and deviation, categories with their words; texts: `column`, `level`, `entries`, `length`,
    `padding`. A tokeniser is a file beside, see `keep`.
    """
    if isinstance(data, Table) and data.encoding is not None:
        kept = [dataclasses.asdict(one) for one in data.encoding.columns]
        return {"kind": "table", "columns": kept, "empty": list(data.empty), "decimal": data.decimal}
    if isinstance(data, TextRows):
        return {
            "kind": "text",
            "column": data.text,
            "level": data.level,
            "entries": data.entries if data.level != "tokenizer" else [],
            "special_tokens": data.special_tokens,
            "length": int(data.input_shape[0]),
            "padding": int(data.padding),
        }
    return None


def keep(data: DataModule, folder: Path) -> None:
    """Copy the file of a tokeniser, where the data have one."""
    if isinstance(data, TextRows) and data.level == "tokenizer":
        shutil.copy(data.tokenizer_file(), folder / TOKENISER)


def encode(
    encoding: Mapping[str, Any], frame: Any, name: str, tokenizer: Path | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return inputs (rows, ...) and their mask, which rows of a table have none of.

    Args:
        encoding: as of `encoding_of`, also out of a file.
        frame: the rows, as a pandas data frame with the columns of the training file.
        name: what messages call it.
        tokenizer: the tokeniser's file, where the level is that.

    Raises:
        UserError: a column that is missing or of another kind, or an empty text.
    """
    try:
        if encoding["kind"] == "table":
            columns = tuple(
                Category(one["name"], tuple(one["words"])) if "words" in one else Number(**one)
                for one in encoding["columns"]
            )
            learnt = Encoding(columns)
            values, unknown = learnt.apply(frame, name)
            for words, found in ((UNSEEN, unknown), (HOLES, learnt.holes(frame))):
                for one, rows in found.items():
                    log.warning(words, name, one, f"{int(rows.sum())} of {len(rows)}")
            return torch.from_numpy(values), None
        return _tokens(encoding, frame, name, tokenizer)
    except (KeyError, TypeError) as error:
        raise UserError(f"the encoding of {name} is damaged: {type(error).__name__} {error}") from error


def _tokens(
    encoding: Mapping[str, Any], frame: Any, name: str, tokenizer: Path | None
) -> tuple[Tensor, Tensor]:
    cells = column(frame, encoding["column"], "text", name)
    texts: list[str] = [] if not is_text(cells) else cells.fillna("").astype(str).tolist()
    if not texts:
        raise UserError(f"{name}: the column '{encoding['column']}' holds no texts")
    rows = _numbers(encoding, texts, tokenizer)
    if empty := [place for place, row in enumerate(rows) if not row]:
        raise UserError(
            f"{name}: the text is empty in {len(empty)} of {len(rows)} rows, the first of them row {empty[0] + 1}"
        )
    if encoding["level"] != "tokenizer" and (strange := sum(set(row) == {UNKNOWN} for row in rows)):
        log.warning("%s: %d of %d texts have no word that the training texts have", name, strange, len(rows))
    length = int(encoding["length"])
    tokens = np.full((len(rows), length), encoding["padding"], dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=bool)
    for place, row in enumerate(rows):
        part = row[:length]
        tokens[place, : len(part)], mask[place, : len(part)] = part, True
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def _numbers(encoding: Mapping[str, Any], texts: Sequence[str], tokenizer: Path | None) -> list[list[int]]:
    if encoding["level"] == "tokenizer":
        encoder = tokeniser(cast("Path", tokenizer), "the tokeniser of an export")
        found = pieces_of(encoder, list(texts), str(tokenizer), special=encoding["special_tokens"])
        return [one.ids for one in found]
    number = {entry: place for place, entry in enumerate(encoding["entries"])}
    split = list if encoding["level"] == "character" else str.split
    return [[number.get(word, UNKNOWN) for word in split(text)] for text in texts]
