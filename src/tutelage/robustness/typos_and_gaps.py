"""Changes of inputs that are no images: typos in texts, values that are missing from series and tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tutelage.robustness.draws import Draws

TYPOS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Share of words, or of characters a quarter of it, at each severity; ours."""
MISSING = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Share of values at each severity; ours."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPECIAL = 2  # padding and what is unknown stand before all entries


def missing(inputs: Tensor, severity: int, index: Tensor) -> Tensor:
    """Return series (n, length, channels) or rows (n, features) with some values at 0, what hidden values are given as.

    severity: 1 to 5. index: (n,) the samples' positions in their data set. What is missing stays missing at higher severities.
    """
    draws = Draws(index, "missing").uniform(*inputs.shape[1:])
    return inputs.masked_fill(draws < MISSING[severity - 1], 0.0)


def typos(
    tokens: Tensor, real: Tensor, severity: int, index: Tensor, *, entries: Sequence[str], words: bool
) -> Tensor:
    """Return tokens (n, length) of texts with typos: two letters swapped, one left out, doubled, or another in its place.

    real: (n, length) bool, False at padding. entries: what each token stands for; padding and "unknown" first. words: whether tokens are
    words, of which most become unknown to the vocabulary, or characters, which are swapped with the next or replaced.
    severity: 1 to 5. index: (n,) the samples' positions in their data set.
    """
    share = TYPOS[severity - 1] / (1 if words else 4)
    draws = Draws(index, "typos")
    length = tokens.shape[1]
    hit = (draws.uniform(length, name="hit") < share) & real & (tokens >= _SPECIAL)
    kind, place, other = (draws.uniform(length, name=name) for name in ("kind", "place", "other"))
    if not words:
        following = torch.cat([tokens[:, 1:], tokens[:, -1:]], dim=1)
        swap = hit[:, :-1] & real[:, 1:] & (kind[:, :-1] < 0.5)
        after = torch.cat([torch.zeros_like(swap[:, :1]), swap], dim=1)
        swapped = torch.where(torch.cat([swap, torch.zeros_like(swap[:, :1])], dim=1), following, tokens)
        before = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)
        swapped = torch.where(after & ~hit, before, swapped)
        drawn = _SPECIAL + (other * (len(entries) - _SPECIAL)).long()
        return torch.where(hit & (kind >= 0.5), drawn, swapped)
    number = {entry: token for token, entry in enumerate(entries)}
    changed = tokens.clone()
    for row, column in hit.nonzero().tolist():
        one, at = (float(part[row, column]) for part in (kind, place))
        word = misspelt(entries[int(tokens[row, column])], one, at, float(other[row, column]))
        changed[row, column] = number.get(word, 1)
    return changed


def misspelt(word: str, kind: float, place: float, other: float) -> str:
    """Return a word with one typo. kind, place, other: numbers in (0, 1) that choose it."""
    at, letter = int(place * len(word)), _LETTERS[int(other * len(_LETTERS))]
    if kind < 0.25 and at + 1 < len(word):
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind < 0.5 and len(word) > 1:
        return word[:at] + word[at + 1 :]
    if kind < 0.75:
        return word[:at] + word[at] + word[at:]
    return word[:at] + letter + word[at + 1 :]
