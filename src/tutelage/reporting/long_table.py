"""A table of text for the terminal that stays quick with ten thousand rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.reporting.fitted import Fitted

GAP = "  "
WHOLE = 24
"""A cell of so many letters is not wrapped."""


def _takes_its_letters(cell: str) -> bool:
    """Say whether a cell is as wide as it has letters: no line ends, no letters of two columns."""
    if cell.isascii():
        return cell.isprintable()
    from rich.cells import cell_len

    return cell.isprintable() and cell_len(cell) == len(cell)


class LongTable(Fitted):
    """A table without lines around its cells; where every cell fits into one line, its rows are put together by plain padding."""

    whole = WHOLE

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, boxed=False, **options)

    def _side_by_side(
        self, console: Any, header: Sequence[str], rows: Sequence[Sequence[str]], room: int
    ) -> Iterator[Any]:
        columns = list(zip(header, *rows, strict=True))
        longest = [max(map(len, column)) for column in columns]
        simple = all(map(_takes_its_letters, (cell for column in columns for cell in column)))
        if not rows or not simple or sum(longest) > room:
            yield self._by_rich(header, rows, room)
            return
        yield self._by_rich(header, [], sum(longest), longest)
        yield from self._lines(console, header, rows, longest)

    def _lines(
        self, console: Any, header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
    ) -> Iterator[Any]:
        from rich.segment import Segment

        styled = [place for place, name in enumerate(header) if name in self.styles]
        pads = [str.ljust if name in self.left else str.rjust for name in header]
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
