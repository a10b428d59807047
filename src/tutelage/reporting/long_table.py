"""A table of text for the terminal that stays quick with ten thousand rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

GAP = "  "


class LongTable:
    """What rich's table without a box prints, its rows put together by plain padding where every cell fits into one line.

    Args:
        title: the line above.
        header: the columns' names.
        rows: texts, as many as there are columns.
        right: columns that are aligned to the right.
        styles: of a column, the style of each text.
    """

    def __init__(
        self,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: Sequence[str] = (),
        styles: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.title = title
        self.header = tuple(header)
        self.rows = rows
        self.right = right
        self.styles = dict(styles or {})

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        columns = list(zip(self.header, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        simple = all(cell.isascii() and cell.isprintable() for column in columns for cell in column)
        if not self.rows or not simple or sum(widths) + len(GAP) * (len(widths) - 1) > options.max_width:
            yield self._by_rich(self.rows, None)
            return
        yield self._by_rich([], widths)
        yield from self._lines(console, widths)

    def _lines(self, console: Any, widths: Sequence[int]) -> Iterator[Any]:
        from rich.segment import Segment

        styled = {
            place: {text: console.get_style(style) for text, style in self.styles[name].items()}
            for place, name in enumerate(self.header)
            if name in self.styles
        }
        pads = [str.rjust if name in self.right else str.ljust for name in self.header]
        for row in self.rows:
            cells = [pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)]
            start = 0
            for place, styles in styled.items():
                yield Segment(GAP.join([*cells[start:place], ""]))
                yield Segment(cells[place], styles.get(row[place]))
                start = place + 1
            yield Segment(GAP.join(["", *cells[start:]] if start else cells))
            yield Segment.line()

    def _by_rich(self, rows: Sequence[Sequence[str]], widths: Sequence[int] | None) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title), title_justify="left", box=None, pad_edge=False)
        for place, name in enumerate(self.header):
            justify: Any = "right" if name in self.right else "left"
            table.add_column(
                name, justify=justify, overflow="fold", width=None if widths is None else widths[place]
            )
        for row in rows:
            styles = (
                self.styles.get(name, {}).get(cell, "") for name, cell in zip(self.header, row, strict=True)
            )
            table.add_row(*(Text(cell, style=style) for cell, style in zip(row, styles, strict=True)))
        return table
