"""Texts in lines broken between words. The standard library's `textwrap` has more to it, and every command would wait for it."""

from __future__ import annotations


def wrapped(text: str, width: int, indent: str = "  ", first: str = "") -> list[str]:
    """Return a text's lines within a width, broken between words alone: a word that is longer than the width runs on.

    Args:
        text: its own line ends stay, and spaces at the beginning of a line and between words that stay together.
        width: letters of a line.
        indent: what further lines of a long one begin with.
        first: what each line of the text begins with.
    """
    return [line for part in text.split("\n") for line in _of_a_line(part, width, indent, first)]


def _of_a_line(text: str, width: int, indent: str, first: str) -> list[str]:
    word, *words = text.strip().split(" ")
    lines = [first + text[: len(text) - len(text.lstrip())] + word]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        elif word:
            lines.append(indent + word)
    return [line.rstrip() for line in lines]
