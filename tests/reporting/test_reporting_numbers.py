"""How numbers, times, counts and settings are written, at every boundary; and which values a metric can have."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from tutelage.reporting import arm_labels, costs, curves, page, page_data, page_tables, quantities, render
from tutelage.reporting.palette import PALETTE, style
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.run_details import Share, rounded, thin
from tutelage.reporting.runs_table import duration, kinds, snake
from tutelage.reporting.statistics import Summary, bounds_of
from tutelage.reporting.verdict import Published
from tutelage.runs.run import State

NAN, INF = math.nan, math.inf


def said(function, table):
    assert {
        given: function(*given) if isinstance(given, tuple) else function(given) for given in table
    } == table


def test_numbers_are_written_with_their_places_and_names_where_they_are_not_finite():
    said(render.number, {(0.12345, 3): "0.123", (-2.0, 2): "-2.00", (INF, 2): "inf", (-INF, 2): "-inf"})
    assert render.number(NAN, 2) == "NaN" and render.signed(NAN, 2) == "-"
    said(render.signed, {(0.5, 2): "+0.50", (-0.5, 1): "-0.5", (0.0, 2): "+0.00", (INF, 2): "-"})
    said(render.p_text, {0.0001: "0.0001", 0.000099: "< 0.0001", 1.0: "1.0000", 0.03125: "0.0312"})
    assert render.p_text(NAN) == "-"


@pytest.mark.parametrize(
    ("summary", "mean_std", "interval", "signed"),
    [
        (Summary(0, NAN, NAN, NAN, NAN), "-", "-", "-"),
        (Summary(1, 0.5, NAN, NAN, NAN), "0.50", "-", "-"),
        (Summary(2, NAN, NAN, NAN, NAN), "NaN", "-", "-"),
        (Summary(2, 0.5, 0.25, -0.1, 1.1), "0.50 ± 0.25", "-0.10 to 1.10", "-0.10 to +1.10"),
    ],
)
def test_a_summary_is_written_as_far_as_it_is_defined(summary, mean_std, interval, signed):
    assert render.mean_std(summary, 2) == mean_std
    assert render.interval(summary, 2) == interval
    assert render.interval(summary, 2, sign=True) == signed


@pytest.mark.parametrize(
    ("values", "places"),
    [({}, 2), ({0: 1.0}, 3), ({0: -1.0, 1: 0.2}, 3), ({0: 1.001}, 2), ({0: -1.001, 1: 0.1}, 2)],
)
def test_numbers_within_one_have_three_decimals_and_others_two(values, places):
    report = Report("t", (Line("a", "test/x", values, {}), Line("b", "test/y", {0: 50.0}, {})))
    assert render.decimals(report) == {
        "test/x": places,
        "test/y": 2,
        "": 2,
    }  # "": of a comparison that no line has


def test_a_published_number_has_its_error_and_source_where_it_has_them():
    lines = [
        Line("a", "m", {}, {}, published=one)
        for one in (None, Published(1.5), Published(2.0, 0.0), Published(3, 0.25, "T 1"))
    ]
    assert list(map(render._published, lines)) == ["-", "1.5", "2 ± 0", "3 ± 0.25 (T 1)"]


def test_texts_of_files_are_text_in_markdown():
    said(render._prose, {"a\nb": "a b", "<b>": "&lt;b>", "</b>": "&lt;/b>", "<!--": "&lt;!--", "<?x": "&lt;?x", "a < b": "a < b",
                         "<1": "<1", "![x](y)": "![x]\\(y)", "\x07": "\\x07"})  # fmt: skip
    said(render._code, {"a\nb": "a\\nb", "```": "` ` `", "\x1b[2J": "\\x1b[2J"})
    assert (
        render._markdown_table(["a", "b|c"], [["d", "e|f"]]) == "| a | b\\|c |\n| --- | --- |\n| d | e\\|f |"
    )


def test_cells_of_csv_are_no_formulas():
    assert render.csv_text(["=a", "b"], [["=1+1", "-2"], ["@x", "-"]]) == "=a,b\n'=1+1,-2\n'@x,-\n"


def test_times_are_read_as_a_person_reads_them():
    said(
        duration,
        {
            0.0: "0 s",
            59.4: "59 s",
            59.9: "60 s",
            60.0: "1:00",
            3599.4: "59:59",
            3599.6: "1:00:00",
            36610.0: "10:10:10",
        },
    )
    assert duration(None) == ""
    said(
        page_tables._duration,
        {
            0.4: "0 s",
            99.9: "100 s",
            100.0: "2 min",
            150.0: "2 min",
            5399.0: "90 min",
            5400.0: "1.5 h",
            36000.0: "10.0 h",
        },
    )


def test_counts_have_three_digits_and_a_letter():
    said(
        costs.short,
        {
            0.0: "0",
            999.0: "999",
            999.6: "1k",
            1000.0: "1k",
            1234.0: "1.23k",
            1e6: "1M",
            999_400.0: "999k",
            999_999.0: "1M",
            2.5e9: "2.5G",
            1e12: "1T",
            3e15: "3000T",
        },
    )


def test_classes_are_written_as_files_are_called():
    said(
        snake,
        {
            "NormPenalty": "norm_penalty",
            "WikiText": "wiki_text",
            "HTTPServer": "http_server",
            "CIFAR10": "cifar10",
            "A1B": "a1_b",
            "plain": "plain",
        },
    )
    row = Row(
        "k",
        "n",
        0,
        State.COMPLETE,
        {"method._target_": '"a.b.norm_penalty.NormPenalty"', "data._target_": '"Digits"'},
        {},
    )
    assert (
        kinds(row, "method") == ["norm_penalty"]
        and kinds(row, "data") == ["digits"]
        and kinds(row, "model") == []
    )


@pytest.mark.parametrize(
    ("metric", "ends", "mode"),
    [
        *(
            (f"test/{name}", (0.0, 1.0), "max")
            for name in (
                *(
                    "accuracy",
                    "balanced_accuracy",
                    "top5_accuracy",
                    "precision",
                    "recall",
                    "specificity",
                    "jaccard",
                ),
                *("exact_match", "auroc", "average_precision", "f1", "f1_micro", "f1_weighted"),
            )
        ),
        *(
            (name, (0.0, INF), "min")
            for name in (
                "loss",
                "mse",
                "mae",
                "task",
                "alignment",
                "train_s",
                "frechet_distance",
            )
        ),
        ("perplexity", (1.0, INF), "min"),
        ("test/ece", (0.0, 1.0), "min"),
        ("train/similarity", (-1.0, 1.0), None),
        ("kappa", (-1.0, 1.0), None),
        ("share", (0.0, 1.0), None),
        ("test/mcc", (-1.0, 1.0), "max"),
        ("test/r2", (-INF, 1.0), "max"),
        ("test/bleu", (-INF, INF), None),
    ],
)
def test_what_values_a_metric_can_have_and_which_are_better(metric, ends, mode):
    assert bounds_of(metric) == ends
    assert bounds_of(metric, 100.0) == tuple(100 * end for end in ends)
    assert quantities.usual_mode(metric) == mode
    assert (
        quantities.direction(metric)
        == {"max": "; higher is better", "min": "; lower is better", None: ""}[mode]
    )
    below, above = max(ends[0], -7e3) - 1, min(ends[1], 7e3) + 1
    assert quantities.clipped(below, metric) == max(below, ends[0]) and quantities.clipped(
        above, metric
    ) == min(above, ends[1])
    assert quantities.clipped(1.0, metric) == 1.0 and math.isnan(quantities.clipped(NAN, metric))
    assert quantities.base(metric) == metric.rpartition("/")[2]


def test_axes_call_metrics_as_people_do():
    said(
        quantities.spoken,
        {
            "test/r2": "R²",
            "mse": "MSE",
            "test/balanced_accuracy": "balanced accuracy",
            "a/b/f1_micro": "b/f1 micro",
        },
    )


def test_better_is_said_where_all_runs_agree():
    def lines(*directions):
        rows = tuple(
            Row(str(i), "n", 0, State.COMPLETE, {}, {}, directions=d) for i, d in enumerate(directions)
        )
        return [Line("a", "test/x", {}, {}, rows)]

    up, down = {"x": "max"}, {"x": "min"}
    assert quantities.better(lines(up, up, {})) == "higher is better"
    assert quantities.better(lines(down)) == "lower is better"
    assert (
        quantities.better(lines(up, down))
        == quantities.better(lines())
        == quantities.better(lines({"y": "max"}))
        == ""
    )


def test_lines_have_eight_colours_and_then_other_dashes():
    assert [style(place) for place in (0, 1, 7, 8, 15, 16, 31, 32)] == [
        (PALETTE[0], "-"), (PALETTE[1], "-"), (PALETTE[7], "-"), (PALETTE[0], "--"), (PALETTE[7], "--"), (PALETTE[0], ":"),
        (PALETTE[7], "-."), (PALETTE[0], "-"),
    ]  # fmt: skip
    said(
        page_tables.colour,
        {0: "var(--c0)", 7: "var(--c7)", 8: "var(--c0)", 9: "var(--c1)", None: "var(--quiet)"},
    )


def test_values_are_thinned_evenly_with_both_ends():
    assert thin(range(5), 5) == [0, 1, 2, 3, 4] and thin(range(6), 5) == [0, 1, 2, 4, 5]
    assert thin(range(101), 3) == [0, 50, 100] and thin((), 8) == []
    assert rounded([1.0, 0.1234567, 123456.7, NAN, INF]) == [1.0, 0.12346, 123460.0, None, None]


@pytest.mark.parametrize(
    ("runs", "share"),
    [
        (0, (9752, 400, 16384)),
        (1, (9752, 400, 16384)),
        (61, (9752, 400, 16384)),
        (62, (9664, 400, 16384)),
        (100, (5991, 400, 16384)),
        (200, (2995, 374, 12582)),
        (1000, (599, 74, 2516)),
        (2000, (599, 74, 2516)),
        (9999, (599, 74, 2516)),
    ],
)
def test_the_share_of_a_run_of_the_page(runs, share):
    assert Share.of(runs) == Share(*share)


def test_settings_are_shown_short():
    digest = "a1" * 16
    said(arm_labels.shown, {("a", None): "-", ("a", '"x.y"'): "x.y", ("a._target_", '"x.y"'): "y", ("a", f'"{digest}"'): "a1a1a1a1",
                            ("a", digest[1:]): digest[1:], ("a", "3"): "3"})  # fmt: skip
    said(
        arm_labels.is_digest,
        {digest: True, f'"{digest}"': True, digest[1:]: False, digest + "g": False, "": False, None: False},
    )
    said(
        arm_labels.is_seed,
        {
            "seed": True,
            "guide.init_seed": True,
            "a.seed": True,
            "reseed": False,
            "seeds": False,
            "seed.x": False,
        },
    )
    said(page_data.shown_value, {("a", "x" * 200): "x" * 200, ("a", "x" * 201): "x" * 199 + "…"})
    said(page_data._number, {"1e-3": 0.001, "null": None, "": None, "inf": None, "nan": None, "-2": -2.0})


def test_what_scripts_are_given_is_json_without_infinity_and_control_characters():
    given = {"a\x07": [1.5, NAN, -INF, (True, None, "\x1b")], 3: {"b": 2}}
    assert page_data.clean(given) == {"a\\x07": [1.5, None, None, [True, None, "\\x1b"]], "3": {"b": 2}}
    text = page._json({"b": "</script>\u2028\u2029é", "a": [1, 2]})
    assert (
        text == '{"a":[1,2],"b":"\\u003c/script>\\u2028\\u2029é"}'
        and json.loads(text)["b"] == "</script>\u2028\u2029é"
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        page._json(NAN)


def test_a_served_page_may_ask_its_server_and_a_file_nobody():
    assert "connect-src 'self';" in page._policy(True) and "connect-src 'none';" in page._policy(False)


def test_labels_take_lines_of_about_one_length_and_are_never_cut():
    said(
        curves._lines,
        {
            ("one two", 7): "one two",
            ("one two", 6): "one\ntwo",
            ("one two six four", 12): "one two\nsix four",
            ("a b c d e f g", 7): "a b c d\ne f g",
            ("", 5): "",
        },
    )
    x, y = "x" * 17, "y" * 18
    assert curves._difference(x, y) == f"{x} - {y}" and curves._difference(y, y) == f"{y}\n- {y}"
    said(curves._axis, {"a; " + "b" * 35: "a; " + "b" * 35, "a; " + "b" * 36: "a\n" + "b" * 36})


@pytest.mark.parametrize(
    ("labels", "height"),
    [
        ([], 0.0),
        (["a"], 1.5),
        (["a", "b"], 1.8),
        (["a", "b\nc"], 1.96),
        (["a\nb\nc"], 1.72),
        (["a\nb\nc\nd", "e"], 2.52),
    ],
)
def test_panels_are_as_high_as_their_labels(labels, height):
    assert curves._height(labels) == pytest.approx(height)


@pytest.mark.parametrize("last", [1200, 20_000, 31_200])
def test_numbers_below_a_small_panel_are_few_enough_not_to_touch(last):
    found = {str(arm): [(last * i // 6, 0.5, 0.0, 3) for i in range(1, 7)] for arm in range(7)}
    points = {label: {0: 0.5} for label in found}
    figure = curves._Drawing("test/accuracy", "", 1.0, "", found, points, ()).figure()
    for panel in figure.subfigs[0].axes:
        low, high = panel.get_xlim()
        assert sum(low <= tick <= high for tick in panel.get_xticks()) <= 3


def network(parameters, nonzero, operations):
    return {"parameters": parameters, "nonzero": nonzero, "operations": operations}


@pytest.mark.parametrize(
    ("found", "name", "text"),
    [
        (network(1000, 900, None), "parameters", "1k"),  # a tenth of zeros is not said
        (network(1000, 899, None), "parameters", "1k, 10% of them 0"),
        (network(1000, 0, None), "parameters", "1k, 100% of them 0"),
        (network(0, 0, None), "parameters", "0"),
        (network(1000, 900, None), "flops", "-"),
        (network(1000, 900, 0), "flops", "0"),
        (network(1000, 900, 2_500_000), "flops", "2.5M"),
    ],
)
def test_what_a_network_costs_in_words(found, name, text):
    assert costs._number(found, name) == text


def test_costs_are_those_of_the_first_complete_run_of_each_arm(make, store):
    small, large = make("c/a", 0, 0.5), make("c/b", 0, 0.5)
    (small.path / "network.safetensors").write_bytes(b"x" * 2**19)
    result = json.loads((large.path / "result.json").read_text())
    networks = {"model": network(2000, 1000, 5e6), "guide": network(10, 10, None)}
    (large.path / "result.json").write_text(json.dumps(result | {"networks": networks}))

    def row(run, state=State.COMPLETE):
        return Row(run.key, run.name, 0, state, {}, {})

    lines = (
        Line("a", "m", {}, {}, (row(large, State.FAILED), row(small), row(large))),
        Line("b", "m", {}, {}, (row(large),)),
        Line("none", "m", {}, {}, (row(large, State.INTERRUPTED),)),
    )
    report = Report("t", lines, notes=("first",))
    asked = []

    def measure(run, root):
        asked.append((run.key, root))
        return {"latency (ms)": "1.5", "memory (MiB)": "7", "energy": "9"}

    found = costs.with_costs(report, store, ("parameters", "flops", "size", "latency"), measure, "a machine")
    assert [dict(line.costs) for line in found.lines] == [
        {"parameters": "not recorded", "flops": "not recorded", "size": "0.5 MiB", "latency (ms)": "1.5"},
        {
            "parameters": "2k, 50% of them 0 (guide 10)",
            "flops": "5M (guide -)",
            "size": "-",
            "latency (ms)": "1.5",
        },
        {},
    ]
    assert asked == [(small.key, store.root), (large.key, store.root)]
    assert found.notes == (
        "first",
        "Latency and memory: a machine; median of many warm forwards",
        "flops: operations of one sample's forward, a multiplication and an addition being two; products, convolutions and attention",
    )
    plain = costs.with_costs(report, store, ("size",))
    assert (
        plain.notes == ("first",)
        and plain.lines[0].costs == {"size": "0.5 MiB"}
        and costs.with_costs(report, store, ()) is report
    )


def test_the_seeds_of_an_arm_are_links_of_which_twenty_four_are_shown():
    line = SimpleNamespace(label="a")
    links = {f"#run-{i}": (f"seed {i}", i / 10) for i in range(25)}
    text = page_tables._seeds(line, links, 2)
    assert text.startswith('<span class="seeds"><a href="#run-0">0.00</a> <a href="#run-1">0.10</a> ')
    assert text.endswith('<a href="#run-23">2.30</a> <span>and 1 more</span></span>')
    assert page_tables._seeds(line, dict(list(links.items())[:24]), 1).endswith(
        '<a href="#run-23">2.3</a></span>'
    )
    assert page_tables._seeds(line, {}, 2) == '<span class="seeds">-</span>'
