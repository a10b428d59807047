"""A table of text for the terminal that stays quick with ten thousand rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tutelage.reporting.fitted import least_width, shown_columns, stacked, widths

GAP = "  "
WHOLE = 24
"""A cell of so many letters is not wrapped."""


def _takes_its_letters(cell: str) -> bool:
    """Say whether a cell is as wide as it has letters: no line ends, no letters of two columns."""
    if cell.isascii():
        return cell.isprintable()
    from rich.cells import cell_len

    return cell.isprintable() and cell_len(cell) == len(cell)


class LongTable:
    """What rich's table without a box prints, its rows put together by plain padding where every cell fits into one line.

    Where that is too wide, columns are left out that may be; then the rows are stacked.

    Args:
        title: the line above.
        header: the columns' names.
        rows: texts, as many as there are columns.
        right: columns that are aligned to the right.
        styles: of a column, the style of the texts that begin with a word.
        drop: columns that may be left out, in this order.
        wraps: columns whose cells may take several lines.
    """

    def __init__(
        self,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: Sequence[str] = (),
        styles: Mapping[str, Mapping[str, str]] | None = None,
        drop: Sequence[str] = (),
        wraps: Sequence[str] = (),
    ) -> None:
        self.title = title
        self.header = tuple(header)
        self.rows = rows
        self.right = right
        self.styles = dict(styles or {})
        self.drop, self.wraps = drop, wraps

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        places = shown_columns(
            self.header,
            self.rows,
            options.max_width,
            gap=len(GAP),
            wraps=self.wraps,
            drop=self.drop,
            whole=WHOLE,
        )
        if places is None:
            yield from self._stacked(options.max_width)
            return
        header = [self.header[place] for place in places]
        rows = [[row[place] for place in places] for row in self.rows]
        columns = list(zip(header, *rows, strict=True))
        longest = [max(map(len, column)) for column in columns]
        room = options.max_width - len(GAP) * (len(longest) - 1)
        simple = all(map(_takes_its_letters, (cell for column in columns for cell in column)))
        if not rows or not simple or sum(longest) > room:
            yield self._by_rich(header, rows, room)
            return
        yield self._by_rich(header, [], sum(longest), longest)
        yield from self._lines(console, header, rows, longest)

    def _stacked(self, width: int) -> Iterator[Any]:
        from rich.text import Text

        yield Text(self.title, style="italic")
        for line, first in stacked(self.header, self.rows, width):
            yield Text(line, style="bold" if first else "")

    def _style(self, name: str, cell: str) -> str:
        return self.styles.get(name, {}).get(cell.partition(" ")[0], "")

    def _lines(
        self, console: Any, header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
    ) -> Iterator[Any]:
        from rich.segment import Segment

        styled = [place for place, name in enumerate(header) if name in self.styles]
        pads = [str.rjust if name in self.right else str.ljust for name in header]
        for row in rows:
            cells = [pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)]
            start = 0
            for place in styled:
                yield Segment(GAP.join([*cells[start:place], ""]))
                style = self._style(header[place], row[place])
                yield Segment(cells[place], console.get_style(style) if style else None)
                start = place + 1
            yield Segment(GAP.join(["", *cells[start:]] if start else cells))
            yield Segment.line()

    def _by_rich(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], room: int, least: Sequence[int] = ()
    ) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left", box=None, pad_edge=False)
        columns = list(zip(header, *rows, strict=True))
        least = least or [
            max((least_width(cell, WHOLE) if column[0] in self.wraps else len(cell)) for cell in column)
            for column in columns
        ]
        for name, width in zip(header, widths(columns, least, room), strict=True):
            justify: Any = "right" if name in self.right else "left"
            table.add_column(name, justify=justify, overflow="fold", width=width)
        for row in rows:
            table.add_row(
                *(Text(cell, style=self._style(name, cell)) for name, cell in zip(header, row, strict=True))
            )
        return table
