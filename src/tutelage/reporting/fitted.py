"""What fits a terminal of any width without cutting a word: columns wrap, others are left out, and last the rows are stacked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tutelage.wrapping import wrapped

MOST_LINES = 3
"""A cell that would take more lines than this makes its table too narrow."""
_SEPARATOR = " · "


def shown_columns(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    gap: int,
    edges: int = 0,
    wraps: Collection[str] = (),
    drop: Sequence[str] = (),
    whole: int = 0,
) -> list[int] | None:
    """Return the places of the columns that fit side by side, as few as possible left out; None: not even without those of `drop`.

    Args:
        header: the columns' names.
        rows: texts, as many as there are columns.
        width: of the terminal.
        gap: between two columns.
        edges: beside the first and the last.
        wraps: columns whose cells may take up to `MOST_LINES` lines, never within a word.
        drop: columns that may be left out, in this order.
        whole: how long a cell may be that is not wrapped, though its column's may be.
    """
    columns = list(zip(header, *rows, strict=True))
    least = [
        max((least_width(cell, whole) if name in wraps else len(cell)) for cell in column)
        for name, column in zip(header, columns, strict=True)
    ]
    for left_out in range(len(drop) + 1):
        places = [place for place, name in enumerate(header) if name not in drop[:left_out]]
        if sum(least[place] for place in places) + gap * (len(places) - 1) + edges <= width:
            return places
    return None


def widths(columns: Sequence[Sequence[str]], least: Sequence[int], room: int) -> list[int]:
    """Return how wide columns of texts are printed: as their longest cell, the first as far as there is room beside the least of all."""
    from rich.cells import cell_len

    found = []
    left = room - sum(least)
    for column, own in zip(columns, least, strict=True):
        more = max(0, min(max(map(cell_len, column)) - own, left))
        found.append(own + more)
        left -= more
    return found


def stacked(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[tuple[str, bool]]:
    """Yield the lines of rows one below the other, and whether each is a row's first: its first cell, and below it the others by name."""
    for first, *others in rows:
        yield from ((line, True) for line in wrapped(first, width))
        line = ""
        for item in (f"{name} {cell}" for name, cell in zip(header[1:], others, strict=True) if cell):
            if line and len(line) + len(_SEPARATOR) + len(item) + 2 > width:
                yield from ((one, False) for one in wrapped(line, width, "    ", "  "))
                line = item
            else:
                line = f"{line}{_SEPARATOR}{item}" if line else item
        yield from ((one, False) for one in wrapped(line, width, "    ", "  "))


class Fitted:
    """A table for rich's `Console.print`; too wide, columns are left out that may be, and then its rows are stacked.

    Args:
        title: the line above.
        header: the columns' names.
        rows: texts, as many as there are columns.
        left: columns that are aligned to the left, beside the first.
        wraps: see `shown_columns`.
        drop: see `shown_columns`.
        boxed: whether there are lines around the cells.
        styles: of a column, the style of the texts that begin with a word.
    """

    whole = 0
    """See `shown_columns`."""

    def __init__(
        self,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        left: Collection[str] = (),
        wraps: Collection[str] = (),
        drop: Sequence[str] = (),
        boxed: bool = True,
        styles: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.title, self.header, self.rows = title, list(header), rows
        self.left, self.wraps, self.drop, self.boxed = {*left, *self.header[:1]}, wraps, drop, boxed
        self.styles = styles or {}

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        gap, edges = (3, 4) if self.boxed else (2, 0)
        places = shown_columns(
            self.header,
            self.rows,
            options.max_width,
            gap=gap,
            edges=edges,
            wraps=self.wraps,
            drop=self.drop,
            whole=self.whole,
        )
        if places is None:
            if self.title:
                yield Text(self.title, style="italic")
            for line, first in stacked(self.header, self.rows, options.max_width):
                yield Text(line, style="bold" if first else "")
            return
        header = [self.header[place] for place in places]
        rows = [[row[place] for place in places] for row in self.rows]
        room = options.max_width - edges - gap * (len(places) - 1)
        yield from self._side_by_side(console, header, rows, room)

    def _side_by_side(
        self, console: Any, header: Sequence[str], rows: Sequence[Sequence[str]], room: int
    ) -> Iterator[Any]:
        yield self._by_rich(header, rows, room)

    def _style(self, name: str, cell: str) -> str:
        return self.styles.get(name, {}).get(cell.partition(" ")[0], "")

    def _by_rich(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], room: int, least: Sequence[int] = ()
    ) -> Any:
        from rich.table import Table
        from rich.text import Text

        look: dict[str, Any] = {} if self.boxed else {"box": None, "pad_edge": False}
        table = Table(title=Text(self.title) if self.title else None, title_justify="left", **look)
        columns = list(zip(header, *rows, strict=True))
        least = least or [
            max((least_width(cell, self.whole) if column[0] in self.wraps else len(cell)) for cell in column)
            for column in columns
        ]
        for name, width in zip(header, widths(columns, least, room), strict=True):
            justify: Any = "left" if name in self.left else "right"
            table.add_column(Text(name), justify=justify, overflow="fold", width=width)
        for row in rows:
            table.add_row(
                *(Text(cell, style=self._style(name, cell)) for name, cell in zip(header, row, strict=True))
            )
        return table


def least_width(text: str, whole: int = 0) -> int:
    """Return the width in which a text takes at most `MOST_LINES` lines, its words whole; one of `whole` letters or fewer takes one."""
    if len(text) <= whole:
        return len(text)
    low = max(map(len, text.split()), default=0)
    return next(
        (width for width in range(low, len(text)) if len(wrapped(text, width, "")) <= MOST_LINES),
        len(text),
    )
