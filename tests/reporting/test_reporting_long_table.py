"""The quick table prints what rich's own prints."""

import io

import pytest
from rich.console import Console

from tutelage.reporting.long_table import LongTable


def printed(table, **options):
    console = Console(file=io.StringIO(), **options)
    console.print(table)
    return console.file.getvalue()


ROWS = [
    ("a/0123", "7", "complete", ""),
    ("longer/0123456", "12", "failed", "a reason"),
    ("b", "0", "running", ""),
]


@pytest.mark.parametrize("width", [160, 60, 41, 40])  # 40: just fits
@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [],
        [("é ± 1", "7", "x", "…")],
        [("測定", "7", "x", "")],
        [("é/1", "1", "failed", "two\nlines")],
        [("a\x1b[2J", "1", "x", "")],
    ],
)
def test_rows_put_together_by_padding_are_those_of_rich(rows, width):
    table = LongTable("3 runs in runs", ("run", "seed", "state", "result"), rows, left=("state", "result"))
    assert printed(table, width=width) == printed(table._by_rich(table.header, rows, width - 6), width=width)


def test_a_state_has_its_colour_on_a_terminal_and_no_other_text():
    styles = {"state": {"complete": "green", "failed": "red"}}
    table = LongTable("", ("run", "seed", "state", "result"), ROWS, left=("state", "result"), styles=styles)
    shown = printed(table, width=80, force_terminal=True, color_system="standard")
    assert "\x1b[32mcomplete\x1b[0m" in shown and "\x1b[31mfailed  \x1b[0m" in shown
    assert shown.count("\x1b[3") == 2
