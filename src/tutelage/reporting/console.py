"""Where a command's results are printed: text as it is, whatever a file put into it.

Tables are as wide as the terminal, and wide enough for every column where there is none.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tutelage.errors import visible
from tutelage.reporting.fitted import wrapped

WIDE = 160
"""Letters of a line where there is no terminal."""
_STYLES = {"bold": "1", "dim": "2", "red": "31"}


def console(**options: Any) -> Any:
    """Return rich's console for standard output, on which control characters of what is printed are spelled out."""
    from rich.console import Console, RenderHook
    from rich.segment import Segment

    class Spelled:
        def __init__(self, what: Any) -> None:
            self.what = what

        def __rich_console__(self, console: Any, settings: Any) -> Iterator[Any]:
            for segment in console.render(self.what, settings):
                yield segment if segment.control else Segment(visible(segment.text), segment.style)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            return [Spelled(one) for one in renderables]

    made = Console(width=None if sys.stdout.isatty() else WIDE, **options)
    made.push_render_hook(Hook())
    return made


def plain_table(rows: Sequence[Mapping[str, str]], title: str = "") -> Any:
    """Return a table without lines, for `console().print`, with those columns of rows of text that hold something."""
    from rich.table import Table

    table = Table(title=f"\n{title}" if title else None, title_justify="left", box=None, pad_edge=False)
    shown = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    for name in shown:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return table


def width() -> int:
    """Return the letters of a line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE


def say(text: str, style: str = "", letters: int | None = None) -> None:
    """Print lines of results, without rich, which takes longer to load than most of them to find.

    On a terminal they are broken between words, but for commands, which are there to be copied, and for lines with a style.

    style: bold, dim or red, on a terminal.
    letters: how many of the first have that style; None: all.
    """
    if not sys.stdout.isatty():
        print(visible(text))
    elif style and letters != 0 and os.environ.get("TERM") != "dumb":
        print(
            f"\x1b[{_STYLES[style]}m{visible(text[:letters])}\x1b[0m{visible(text[len(text) if letters is None else letters :])}"
        )
    else:
        print("\n".join(part for line in visible(text).split("\n") for part in _within(line, width())))


def _within(line: str, most: int) -> list[str]:
    words = line.lstrip()
    if len(line) <= most or words.startswith("tutelage "):
        return [line]
    return wrapped(line, most, " " * (len(line) - len(words) + 2))
