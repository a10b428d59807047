"""The rules of a verdict, one by one."""

import math
import re
from pathlib import Path

import pytest

from tutelage.reporting import render
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.statistics import Summary, summarize
from tutelage.reporting.verdict import (
    Published,
    Verdict,
    compare,
    correct,
    decide,
    exact_test_decides,
    smallest_corrected_p,
)


def around(low, high, n=6):
    return Summary(n, (low + high) / 2, 1.0, low, high)


@pytest.mark.parametrize(
    ("low", "high", "published", "same", "verdict"),
    [
        (8, 12, 10, True, Verdict.SIZE),
        (8, 12, 10, False, Verdict.DIRECTION),  # another setting cannot reproduce a size
        (3, 5, 10, True, Verdict.DIRECTION),
        (20, 30, 10, True, Verdict.DIRECTION),
        (-2, 12, 10, True, Verdict.UNDECIDED),
        (-12, -8, 10, True, Verdict.NOT),
        (-0.5, 0.9, 10, True, Verdict.NOT),  # no effect, precisely: below a tenth of the published one
        (0.1, 0.9, 10, True, Verdict.NOT),
        (-0.5, 1.1, 10, True, Verdict.UNDECIDED),
        (-12, -8, -10, True, Verdict.SIZE),  # a published loss, such as perplexity
        (8, 12, -10, True, Verdict.NOT),
        (1, 2, None, True, Verdict.ABOVE),
        (-2, -1, None, True, Verdict.BELOW),
        (-1, 1, None, True, Verdict.UNDECIDED),
        (1, 2, 0, True, Verdict.ABOVE),
    ],
)
def test_rules(low, high, published, same, verdict):
    assert decide(around(low, high), published=published, same_setting=same) is verdict


def test_published_error_widens_the_size():
    assert decide(around(3, 5), published=6, error=1.5, same_setting=True) is Verdict.SIZE
    assert decide(around(3, 5), published=6, error=0.5, same_setting=True) is Verdict.DIRECTION
    assert decide(around(7, 9), published=6, error=1.5, same_setting=True) is Verdict.SIZE
    assert decide(around(7, 9), published=6, error=0.5, same_setting=True) is Verdict.DIRECTION


def test_too_few_seeds_decide_nothing():
    assert decide(around(8, 12, n=2), published=10, same_setting=True) is Verdict.UNDECIDED
    assert decide(Summary(6, math.nan, math.nan, math.nan, math.nan), published=10) is Verdict.UNDECIDED


def test_compare_uses_common_seeds_and_says_how_many_would_decide():
    guided = {0: 5.0, 1: 3.0, 2: 9.0, 3: 4.0, 9: 100.0}
    base = {0: 4.0, 1: 4.0, 2: 4.0, 3: 4.0, 8: -100.0}
    item = compare(("guided", guided, Published(70.15)), ("base", base, Published(60.58)), same_setting=False)
    assert item.seeds == (0, 1, 2, 3) and item.difference.mean == 1.25
    assert item.published == pytest.approx(9.57)
    assert item.verdict is Verdict.UNDECIDED and item.seeds_needed > 6
    assert item.sentence == f"undecided (about {item.seeds_needed} seeds would decide)"
    two = compare(("a", {0: 1.0, 1: 2.0}, None), ("b", {0: 0.0, 1: 0.0}, None), same_setting=False)
    assert two.sentence == "undecided (2 common seeds, at least 3 needed)"
    none = compare(("a", {0: 1.0}, None), ("b", {1: 0.0}, None), same_setting=False)
    assert none.seeds == () and math.isnan(none.p)
    level = compare(
        ("a", {0: 1.0, 1: -1.0, 2: 0.0}, None), ("b", {0: 0.0, 1: 0.0, 2: 0.0}, None), same_setting=False
    )
    assert "more than 1,000" in level.sentence


def test_errors_of_both_published_numbers_count():
    values = {seed: 10.0 + seed % 2 for seed in range(6)}
    base = dict.fromkeys(range(6), 0.0)
    wide = compare(("a", values, Published(15, 3.0)), ("b", base, Published(0, 4.0)), same_setting=True)
    assert wide.verdict is Verdict.SIZE  # 15 ± 5 meets the interval around 10.5
    narrow = compare(("a", values, Published(15, 3.0)), ("b", base, Published(0)), same_setting=True)
    assert narrow.verdict is Verdict.DIRECTION


def test_correction_over_a_table():
    base = dict.fromkeys(range(6), 0.0)
    one = compare(("a", {s: 1.0 + s for s in range(6)}, None), ("b", base, None), same_setting=False)
    other = compare(("c", {s: (-1.0) ** s for s in range(6)}, None), ("b", base, None), same_setting=False)
    corrected = correct([one, other])
    assert corrected[0].p == 2 / 64 and corrected[0].p_holm == pytest.approx(4 / 64)
    assert corrected[1].p_holm == 1.0


def test_a_published_difference_within_its_own_error_shows_no_direction():
    """The paper's -1.85 +- 2.96 is no loss that could be reproduced."""
    below = summarize([-2.0, -2.1, -1.9])
    assert decide(below, published=-1.85, error=2.96) is Verdict.BELOW
    assert decide(below, published=-1.85, error=1.0) is Verdict.DIRECTION


def report_of(seeds, arms=2):
    """A report of arms that each lie a tenth above the one before, in so many seeds."""
    lines = [
        Line(
            f"arm{i}",
            "test/accuracy",
            {s: 0.7 + 0.1 * i + 0.001 * ((s * (i + 1)) % 5) for s in range(seeds)},
            {},
        )
        for i in range(arms)
    ]
    pairs = [
        compare(*((x.label, x.values, None) for x in pair), same_setting=False, bounds=pair[0].bounds)
        for pair in zip(lines[1:], lines, strict=False)
    ]
    return Report("t", tuple(lines), tuple(correct(pairs)))


@pytest.mark.parametrize(
    ("seeds", "arms", "shown"), [(3, 2, False), (5, 2, False), (6, 2, True), (6, 3, False), (7, 3, True)]
)
def test_p_values_stand_only_where_the_exact_test_could_decide(seeds, arms, shown):
    report = report_of(seeds, arms)
    header, rows = render.comparisons_table(report)
    assert exact_test_decides(report.comparisons) is shown
    assert ("p" in header) is ("p (Holm)" in header) is shown
    assert all(len(row) == len(header) and row[-1] == "interval above 0" for row in rows)
    said = render.comparisons_explained(report)
    assert ("No p values" in said) is not shown and "rests on the interval" in said
    if not shown:
        assert f"p is at least {(arms - 1) * 2 ** (1 - seeds):.2g}" in said
        assert smallest_corrected_p(report.comparisons) == (arms - 1) * 2 ** (1 - seeds)


def test_intervals_of_shares_stay_within_what_is_possible():
    values = {0: 0.99, 1: 0.80, 2: 1.0}
    line, zero = (
        Line("a", "test/accuracy", values, {}),
        Line("b", "test/accuracy", {0: 0, 1: 0.2, 2: 0.0}, {}),
    )
    assert summarize(list(values.values())).high > 1 and line.summary.high == 1
    percent = Line("a", "test/accuracy", {s: 100 * v for s, v in values.items()}, {}, scale=100.0)
    assert percent.summary.high == 100
    pair = compare(("a", values, None), ("b", zero.values, None), same_setting=False, bounds=line.bounds)
    assert pair.difference.high == 1 and pair.verdict is Verdict.ABOVE


def test_committed_reports_have_the_words_and_columns_of_today():
    """No verdict `above` beside a p that decides nothing: such columns are left out, and it is said once why."""
    pages = {p: p.read_text() for p in (Path(__file__).parents[2] / "experiments").rglob("*.md")}
    compared = {path: text for path, text in pages.items() if "## Comparisons" in text}
    assert len(compared) > 20
    for path, text in compared.items():
        assert not re.search(r"\| (above|below) \|$", text, re.MULTILINE), path
        assert ("| p (Holm) |" in text) != ("No p values" in text) or "pairs |" not in text, path
        assert text.count("The verdict rests on the interval alone.") == 1, path


@pytest.mark.parametrize(
    ("metric", "first", "second", "verdict", "said"),
    [
        ("accuracy", [0.9], [0.8], "undecided (1 common seed, at least 3 needed)", None),
        ("accuracy", [0.9, 0.91], [0.8, 0.85], "undecided (2 common seeds, at least 3 needed)", None),
        ("accuracy", [0.9, 0.91, 0.99], [0.8, 0.85, 0.7], "undecided (about 6 seeds would decide)", "p is at least 0.25"),
        ("accuracy", [0.9] * 4, [0.9] * 4, "undecided (equal in all 4 seeds)", "p is at least 0.12"),
        ("accuracy", [math.nan, 0.9, 0.8], [0.7] * 3, "undecided (a value is no finite number)", None),
        ("accuracy", [0.9, 0.91, 0.92, 0.93, 0.94, 0.95], [0.8] * 6, "interval above 0", "sign-flip test; p (Holm)"),
        ("mse", [1.1, 1.2, 1.1], [2.1, 2.0, 2.2], "interval below 0", "Lower is better"),
    ],
)  # fmt: skip
def test_a_verdict_says_what_it_rests_on(metric, first, second, verdict, said):
    lines = [
        Line(label, f"test/{metric}", dict(enumerate(values)), {})
        for label, values in (("guided", first), ("plain", second))
    ]
    pair = compare(*((x.label, x.values, None) for x in lines), same_setting=False, bounds=lines[0].bounds)
    report = Report("t", tuple(lines), tuple(correct([pair])))
    assert report.comparisons[0].sentence == verdict
    explained = render.comparisons_explained(report)
    assert explained.count("rests on the interval alone") == 1
    assert said is None or said in explained
    assert ("No p values" in explained) is bool(said and "p is at least" in said) or metric == "mse"
    assert ("Lower is better" in explained) is (metric == "mse")
    for line in lines:
        assert not (line.summary.low < 0) and not (metric == "accuracy" and line.summary.high > 1)
