"""Nothing that matters is cut, at any width: verdicts, identities, reasons."""

import io
import re

import pytest
from rich.console import Console

from tutelage.errors import UserError
from tutelage.reporting import render
from tutelage.reporting.fitted import Fitted, least_width, shown_columns, stacked
from tutelage.reporting.runs_report import free_report
from tutelage.reporting.runs_table import duration, filtered_rows, render_runs_table, sorted_rows
from tutelage.wrapping import wrapped

WIDTHS = [40, 60, 80, 140, 200]


def lines(shown, width):
    console = Console(width=width, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue().splitlines()


def words(text):
    return set(re.findall(r"[^\s│┃┏┓┡┩└┘┳╇┴━─·]+", text))


@pytest.fixture
def guided(make, store):
    for seed in range(3):
        make("demo/plain", seed, 0.3 + 0.01 * seed)
        make("demo/guided-by-an-untrained-network", seed, 0.8 + 0.1 * seed**2 / 4)
        make("demo/distilled", seed, 0.3 - 0.02 * (seed % 2))
    make("demo/plain", 3, failed="the loss is NaN at step 100 of 2000, in the term that is called alignment")
    return store


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_keeps_every_word_of_its_verdicts_and_arms(guided, width):
    report = free_report(guided, "demo")
    shown = lines(render.terminal(report), width)
    assert max(map(len, shown)) <= width and "…" not in "".join(shown)
    wanted = " ".join(
        [*(item.sentence for item in report.comparisons), *(line.label for line in report.lines)]
    )
    assert words(wanted) <= words(" ".join(shown))


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_listed_runs_keep_every_identity_and_reason(guided, width):
    shown = lines(render_runs_table(guided), width)
    assert max(map(len, shown)) <= width and "…" not in "".join(shown)
    text = " ".join(shown)
    for row in filtered_rows(guided):
        assert f"{row.key[:-6]}" in text and f"{row.key[:-5]}" not in text  # six of twelve digits
        assert words(row.reason.removeprefix("failed: ")) <= words(text)


def test_digits_grow_until_they_tell_the_runs_apart_and_every_command_takes_them(store):
    from tutelage.runs.store import shortest

    assert shortest([]) == shortest(["0" * 12]) == 6
    assert shortest(["00000000aaaa", "00000000bbbb"]) == 9


def test_the_first_of_what_may_go_goes_first():
    header, rows = ("run", "a", "b"), [("x" * 10, "y" * 10, "z" * 10)]
    shown = [shown_columns(header, rows, width, gap=2, drop=("b", "a")) for width in (34, 33, 22, 21, 10, 9)]
    assert shown == [[0, 1, 2], [0, 1], [0, 1], [0], [0], None]


def test_a_cell_takes_three_lines_at_most_and_breaks_between_words():
    assert least_width("undecided (about 9 seeds would decide)") == 14
    assert least_width("short words", 24) == 11 and least_width("") == 0
    assert [least_width("a b", whole) for whole in (2, 3)] == [1, 3]
    assert wrapped("a/long/path/that/is/one/word and more", 12) == [
        "a/long/path/that/is/one/word",
        "  and more",
    ]


def test_stacked_rows_name_their_cells():
    found = list(stacked(("arm", "n", "verdict"), [("guided", "3", "interval above 0")], 24))
    assert found == [
        ("guided", True),
        ("  n 3", False),
        ("  verdict interval above", False),
        ("    0", False),
    ]


def test_a_narrow_table_has_the_width_of_its_words():
    table = Fitted(
        "t", ("arm", "verdict"), [("guided", "undecided (about 9 seeds would decide)")], wraps=("verdict",)
    )
    assert max(map(len, lines(table, 30))) <= 30 and "undecided" in " ".join(lines(table, 30))


def test_runs_are_sorted_by_what_they_have(guided):
    rows = filtered_rows(guided)
    values = [row.value for row in sorted_rows(rows, "-value")]
    assert values[:-1] == sorted(values[:-1], reverse=True) and values[-1] is None
    assert [row.seed for row in sorted_rows(rows, "seed")] == sorted(row.seed for row in rows)
    with pytest.raises(UserError, match="did you mean 'value'"):
        sorted_rows(rows, "-valeu")
    assert "3 of 10 runs" in lines(render_runs_table(guided, sort="-value", most=3), 80)[0]


def test_a_run_at_work_has_its_progress_and_its_best_value_so_far(make, store):
    from tutelage.runs.records import write_json

    run = make("demo/plain", 0, None, validation=0.5, steps=(100, 200))
    selection = {"monitor": "accuracy", "mode": "max", "split": "validation"}
    write_json(run.path / "setup.json", {"data": {}, "steps": 800, "selection": selection})
    with run.lock():
        text = " ".join(lines(render_runs_table(store), 100))
    assert "running 25 %" in text and " accuracy " in text and "0.5000 (val.)" in text
    assert "interrupted 25 %" in " ".join(lines(render_runs_table(store), 100))


def test_durations():
    assert [duration(s) for s in (None, 0.4, 59, 725, 11525)] == ["", "0 s", "59 s", "12:05", "3:12:05"]
