"""The plots beside tables: where marks, ticks and numbers stand, exactly."""

from __future__ import annotations

import math

import pytest

from tutelage.reporting import forest
from tutelage.reporting.forest import Axis


def elements(svg: str) -> list[str]:
    return svg.replace("><", ">\n<").splitlines()


@pytest.mark.parametrize(
    ("values", "zero", "ends"),
    [
        ((2.0, 4.0), False, (1.88, 4.12)),  # 6 % of what they span
        ((2.0, 4.0), True, (-0.24, 4.24)),
        ((-4.0, -2.0), True, (-4.24, 0.24)),
        ((20.0,), False, (19.0, 21.0)),  # 5 % of one value
        ((-20.0,), False, (-21.0, -19.0)),
        ((0.0, 0.0), False, (-0.5, 0.5)),
        ((), False, (-0.06, 1.06)),
        ((), True, (-0.5, 0.5)),
        ((math.nan, 3.0, math.inf, 5.0, -math.inf), False, (2.88, 5.12)),
    ],
)
def test_an_axis_holds_the_finite_values_with_a_margin(values, zero, ends):
    axis = Axis.over(values, zero=zero)
    assert (axis.low, axis.high) == pytest.approx(ends)


def test_a_value_stands_at_its_share_of_the_width_and_never_beside_it():
    axis = Axis(-2.0, 6.0)
    shares = {-9.0: "0.00%", -2.0: "0.00%", 0.0: "25.00%", 3.0: "62.50%", 6.0: "100.00%", 7.0: "100.00%"}
    assert {value: axis.at(value) for value in shares} == shares


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 10.0, [0, 5, 10]),
        (-0.54, 9.54, [0, 2, 4, 6, 8]),
        (0.1, 9.6, [2, 4, 6, 8]),
        (0.0, 1.0, [0, 0.5, 1.0]),
        (0.31, 0.95, [0.4, 0.6, 0.8]),
        (-1.06, 3.03, [-1, 0, 1, 2, 3]),
        (-1.0, 0.3, [-1.0, -0.5, 0.0]),
        (0.51, 1.99, [0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8]),
        (1234.0, 1236.0, [1234, 1235, 1236]),
        (0.00012, 0.00019, [0.00012, 0.00014, 0.00016, 0.00018]),
    ],
)
def test_ticks_are_round_values_inside(low, high, ticks):
    found = Axis(low, high).ticks()
    assert found == pytest.approx(ticks)


def test_there_are_three_to_seven_ticks_whatever_the_ends():
    for start in range(-40, 41):
        for span in range(8, 190):
            low, high = start * 0.37, start * 0.37 + span * 0.11
            ticks = Axis(low, high).ticks()
            assert 3 <= len(ticks) <= 7, (low, high, ticks)
            assert low <= ticks[0] < ticks[-1] <= high


def test_a_plot_has_ticks_interval_dots_published_value_and_mean_in_this_order():
    dots = {"#one": ("one & two", 1.0), "#odd": ("odd", math.nan), "x?a=1&b": ("<b>\x1b", 12.0)}
    shown = forest.plot(
        Axis(0.0, 10.0),
        4.0,
        (2.5, 7.5),
        dots=dots,
        colour="red",
        said='a "mean" <\x07>',
        published=9.0,
        zero=True,
    )
    assert elements(shown) == [
        '<svg class="forest" width="100%" height="26" role="img" aria-label="a &quot;mean&quot; &lt;\\x07&gt;">',
        '<line class="tick" x1="0.00%" x2="0.00%" y1="0" y2="26"/>',
        '<line class="tick" x1="50.00%" x2="50.00%" y1="0" y2="26"/>',
        '<line class="tick" x1="100.00%" x2="100.00%" y1="0" y2="26"/>',
        '<line class="zero" x1="0.00%" x2="0.00%" y1="0" y2="26"/>',
        '<line x1="25.00%" x2="75.00%" y1="13.0" y2="13.0" stroke="red" stroke-width="3"/>',
        '<line x1="25.00%" x2="25.00%" y1="8.0" y2="18.0" stroke="red" stroke-width="2"/>',
        '<line x1="75.00%" x2="75.00%" y1="8.0" y2="18.0" stroke="red" stroke-width="2"/>',
        '<a href="#one" tabindex="-1">',
        '<title>one &amp; two</title>',
        '<circle class="dot" cx="10.00%" cy="13.0" r="4" fill="red"/>',
        "</a>",
        '<a href="x?a=1&amp;b" tabindex="-1">',
        "<title>&lt;b&gt;\\x1b</title>",
        '<circle class="dot" cx="100.00%" cy="13.0" r="4" fill="red"/>',
        "</a>",
        '<text class="published" x="90.00%" y="18.0" text-anchor="middle">◇</text>',
        '<line class="mean" x1="40.00%" x2="40.00%" y1="5.0" y2="21.0"/>',
        "</svg>",
    ]  # fmt: skip


@pytest.mark.parametrize("published", [None, math.nan, math.inf])
@pytest.mark.parametrize("interval", [(math.nan, math.nan), (1.0, math.inf), (-math.inf, 1.0)])
def test_what_is_no_number_is_not_drawn(published, interval):
    shown = forest.plot(
        Axis(0.0, 10.0), math.nan, interval, dots={}, colour="red", said="-", published=published
    )
    assert len(elements(shown)) == 5 and "red" not in shown  # the three ticks alone


def test_sixty_dots_are_drawn_and_no_more():
    dots = {f"#{i}": (str(i), float(i)) for i in range(61)}
    shown = forest.plot(Axis(0.0, 10.0), 4.0, (2.5, 7.5), dots=dots, colour="red", said="-")
    assert shown.count("<circle") == 60 and "#59" in shown


def test_a_scale_has_the_ticks_and_the_unit_at_the_last():
    assert elements(forest.scale(Axis(0.0, 10.0), "<%>")) == [
        '<svg class="forest scale" width="100%" height="16" aria-hidden="true">',
        '<text x="0.00%" y="13" text-anchor="middle">0</text>',
        '<text x="50.00%" y="13" text-anchor="middle">5</text>',
        '<text x="100.00%" y="13" text-anchor="middle">10 &lt;%&gt;</text>',
        "</svg>",
    ]
    assert ">10</text>" in forest.scale(Axis(0.0, 10.0))


def test_the_number_of_a_point_stands_where_it_covers_no_other():
    placed: list[tuple[float, float]] = []
    points = [(50.0, 50.0), (60.0, 55.0), (68.5, 50.0), (90.0, 50.0), (55.0, 52.0)]
    # Where it is; 20 below; 20 above, since below is the second; where it is; nowhere is room, so where it is.
    assert [forest._free(*point, placed, 100.0) for point in points] == [50.0, 75.0, 30.0, 50.0, 52.0]
    assert placed == [(50.0, 50.0), (60.0, 75.0), (68.5, 30.0), (90.0, 50.0), (55.0, 52.0)]


@pytest.mark.parametrize(
    ("y", "placed", "lowest", "found"),
    [
        (50.0, [(69.1, 50.0)], 100.0, 50.0),
        (50.0, [(69.0, 50.0)], 100.0, 70.0),
        (50.0, [(31.0, 50.0)], 100.0, 70.0),
        (50.0, [(30.9, 50.0)], 100.0, 50.0),
        (50.0, [(50.0, 31.0)], 100.0, 70.0),
        (50.0, [(50.0, 30.9)], 100.0, 50.0),
        (50.0, [(50.0, 69.0)], 100.0, 30.0),
        (50.0, [(50.0, 50.0)], 80.0, 70.0),  # ten pixels above the lowest
        (50.0, [(50.0, 50.0)], 79.9, 30.0),
        (30.0, [(50.0, 30.0)], 59.0, 10.0),  # ten pixels below the upper edge
        (29.9, [(50.0, 30.0)], 59.0, 29.9),
    ],
)
def test_numbers_keep_19_pixels_apart_and_10_from_the_edges(y, placed, lowest, found):
    assert forest._free(50.0, y, list(placed), lowest) == found


POINTS = [
    ("cheap <b>", 1.0, 2.0, (1.0, 3.0), "red"),
    ("no cost", math.nan, 2.0, (1.0, 3.0), "grey"),
    ("dear", 100.0, 6.0, (math.nan, math.nan), "blue"),
    ("no value", 2.0, math.nan, (1.0, 3.0), "grey"),
]


def test_a_scatter_plot_over_two_decades_is_logarithmic():
    shown = forest.scatter(POINTS, x="cost & time", y="accuracy")

    # across: 8 % to 98 % for -0.12 to 2.12 decades; down: 12 to 260 for 6.3 to 0.7
    def across(value):
        return f"{8 + 0.9 * round(100 * (math.log10(value) + 0.12) / 2.24, 2):.2f}%"

    def down(value, more=0.0):
        return f"{12 + 248 * (6.3 - value) / 5.6 + more:.1f}"

    said = "accuracy against cost &amp; time: cheap &lt;b&gt;: 2 at 1; dear: 6 at 100"
    expected = [f'<svg class="scatter" width="100%" height="300" role="img" aria-label="{said}">']
    for tick in (2, 4, 6):
        expected += [
            f'<line class="tick" x1="8%" x2="98%" y1="{down(tick)}" y2="{down(tick)}"/>',
            f'<text x="7%" y="{down(tick, 4)}" text-anchor="end">{tick}</text>',
        ]
    for tick in (1, 2, 5, 10, 20, 50, 100):
        expected += [
            f'<line class="tick" x1="{across(tick)}" x2="{across(tick)}" y1="12" y2="260"/>',
            f'<text x="{across(tick)}" y="276" text-anchor="middle">{tick}</text>',
        ]
    for number, label, cost, value, colour in (
        (1, "cheap &lt;b&gt;", 1, 2, "red"),
        (2, "dear", 100, 6, "blue"),
    ):
        at, height = across(cost), down(value)
        if number == 1:
            expected.append(
                f'<line x1="{at}" x2="{at}" y1="{down(1)}" y2="{down(3)}" stroke="red" stroke-width="2.5"/>'
            )
        expected += [
            "<g>",
            f"<title>{label}</title>",
            f'<line x1="{at}" x2="{at}" y1="{height}" y2="{height}" stroke="{colour}"/>',
            f'<circle cx="{at}" cy="{height}" r="4" fill="{colour}"/>',
            f'<circle cx="{at}" cy="{height}" r="9" fill="{colour}"/>',
            f'<text class="number" x="{at}" y="{down(value, 4)}" text-anchor="middle">{number}</text>',
            "</g>",
        ]
    expected += ['<text x="53%" y="294" text-anchor="middle">cost &amp; time (logarithmic)</text>', "</svg>"]
    assert elements(shown) == expected


@pytest.mark.parametrize(
    ("costs", "wide"), [((1.0, 8.0), False), ((1.0, 8.1), True), ((0.0, 9.0), False), ((-1.0, 9.0), False)]
)
def test_the_axis_of_costs_is_logarithmic_beyond_a_factor_of_eight(costs, wide):
    shown = forest.scatter([("a", cost, 1.0, (0.5, 1.5), "red") for cost in costs], x="cost", y="y")
    assert ("(logarithmic)" in shown) is wide


def test_numbers_of_a_scatter_plot_keep_apart_in_pixels_of_the_narrowest_plot():
    costs = {
        "a": 0.0,
        "b": 1.0,
        "c": 2.0,
        "d": 2.4,
        "e": 10.0,
    }  # 12.8, 20.9, 28.9, 32.1 and 93.2 % of 340 pixels
    shown = elements(
        forest.scatter([(label, cost, 5.0, (4.0, 6.0), "red") for label, cost in costs.items()], x="x", y="y")
    )
    places = [line.partition(' y="')[2].partition('"')[0] for line in shown if 'class="number"' in line]
    assert places == ["140.0", "140.0", "140.0", "160.0", "140.0"]
    moved = [line for line in shown if line.startswith("<line") and 'y1="136.0" y2="156.0"' in line]
    assert moved == ['<line x1="32.11%" x2="32.11%" y1="136.0" y2="156.0" stroke="red"/>']
