"""Everything that is written of one report, word for word: its pages, tables, figures and what a terminal shows."""

from __future__ import annotations

import io
import json
import math
import re
import zlib
from dataclasses import replace

import pytest
from rich.console import Console

from drawn import drawn, figures
from expected import same_as
from tutelage.reporting import curves, page, page_data, page_tables, render
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.run_details import Record
from tutelage.reporting.runs_report import free_report
from tutelage.reporting.runs_table import render_runs_table
from tutelage.reporting.verdict import Published, compare, correct
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import read_json, write_json
from tutelage.runs.run import State

SHOWN = ("<guided-0>", "<guided-4>", "<distilled-1>")
GPU = {"cpu": "Another", "cores_usable": 8, "gpus": ["H100", "H100"]}


@pytest.fixture(scope="module")
def runs(make_at, tmp_path_factory):
    """Three arms, a teacher, layer pairs, a failure, a run at half its steps, other code, another machine; times of three sizes."""
    store, make = make_at(tmp_path_factory.mktemp("whole"))
    ends = iter(f"2026-01-{day:02d}T03:04:05+00:00" for day in range(2, 29))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tutelage.runs.run.now", lambda: next(ends))
        teacher = make("s/teacher", 0, 0.912, model__width=64)
        needs = {"teacher": {"command": ["x"], "run": teacher.key}}
        short, long = ({"model__width": 8, "fit__max_steps": steps} for steps in (200, 400))
        for seed in range(3):
            value = (0.5, 0.54, 0.52)[seed]
            took(make("s/plain", seed, value, value + 0.01, **short), 30.0 + seed)
            guided = make("s/guided", seed, (0.7, 0.75, 0.71)[seed], **long, method__weight=2)
            took(aligned(guided, seed), 400.0)
        make("s/guided", 3, failed="the loss is NaN\nat step 7", **long, method__weight=2)
        make("s/guided", 4, **long, method__weight=2, validation=0.61)
        changed = {"commit": "b" * 40, "changed": True, "digest": "c" * 16}
        took(make("s/distilled", 0, 0.61, needs=needs, code=changed, **short), 6000.0)
        last = took(make("s/distilled", 1, 0.655, needs=needs, **short), 6300.0)
    record = read_json(last.path / "provenance.json")
    record["attempts"][0] |= {
        "machine": GPU,
        "command": ["tutelage", "train", "a b"],
        "packages": {"torch": "2.9", "numpy": "2", "x": "1"},
    }
    write_json(last.path / "provenance.json", record)
    last.log.write_text("first line\nlast line\n")
    return store


def took(run, seconds):
    result = read_json(run.path / "result.json")
    write_json(run.path / "result.json", result | {"cost": {"train_s": seconds, "steps": 200}})
    return run


def aligned(run, seed):
    pairs = [{"guide": "stem", "network": "layers.0"}, {"guide": "head", "network": "head"}]
    write_json(run.path / "setup.json", {"method": {"objectives": {"alignment": {"pairs": pairs}}}})
    with MetricsWriter(run.path / "metrics.jsonl") as writer:
        for step in (250, 300, 400):
            similar = {"train/similarity/01": step / 800, "train/similarity/02": step / 400}
            loss = {"train/alignment": 2 - sum(similar.values()), "train/loss": 0.01 * (seed + 1) * step}
            writer.write({"step": step, **loss, **similar})
    return run


def told(store, text):
    """Return a text with the runs by name and seed in the place of their identities, and the version by its name."""
    for run in store.runs():
        text = text.replace(run.identity, f"<{run.name.rpartition('/')[2]}-{run.config['seed']}>")
    return text.replace(str(store.root), "RUNS")


def test_the_markdown_and_the_tables_of_a_report(runs):
    report = free_report(runs, "s")
    same_as("report.md", told(runs, render.markdown(report, figures=["curves.png"])))
    same_as("report.csv", told(runs, render.table_csv(report)))
    same_as("report-cells.csv", told(runs, render.cells_csv(report)))


@pytest.mark.parametrize("width", [60, 130])
def test_what_a_terminal_shows_of_a_report(runs, width):
    console = Console(width=width, file=io.StringIO())
    console.print(render.terminal(free_report(runs, "s")))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    same_as(f"terminal-{width}.txt", told(runs, "\n".join(line.rstrip() for line in shown.splitlines())))


@pytest.mark.parametrize("width", [50, 90, 150])
def test_what_a_terminal_shows_of_the_runs(runs, width):
    console = Console(width=width, file=io.StringIO())
    table = render_runs_table(runs, sort="-value")
    console.print(replace_title(table))
    shown = [line.rstrip() for line in console.file.getvalue().splitlines()]
    same_as(f"runs-{width}.txt", by_six(runs, "\n".join(shown)))


def replace_title(table):
    table.title = re.sub(r"in .*", "in RUNS", table.title)
    return table


def by_six(store, text):
    for run in store.runs():
        text = text.replace(run.identity[:6], f"{run.config['seed']}" * 6)
    return text


def test_the_page_of_a_report(runs):
    report = free_report(runs, "s")
    data, details = page_data.overview(report, runs)
    shown = page_tables.facts(report, data, runs, runs.root / "s")
    same_as("page.html", told(runs, lines_of(page.fragment(shown))))
    same_as("page.json", told(runs, pretty(data)))
    kept = {key: told(runs, key) for key in details}
    same_as(
        "details.json",
        told(runs, pretty({name: details[key] for key, name in kept.items() if name in SHOWN})),
    )
    said = {name: shown[name] for name in ("title", "states", "parts", "has_curves", "has_pairs", "has_axes")}
    assert said == {
        "title": "s",
        "states": [("interrupted", 1), ("failed", 1), ("complete", 8)],
        "parts": [
            ("arms-title", "Arms"),
            ("comparisons-title", "Comparisons"),
            ("curves-title", "Curves"),
            ("pairs-title", "Layer pairs"),
            ("cost-title", "Cost"),
            ("sweep-title", "Settings"),
            ("runs-title", "Runs"),
            ("notes-title", "Notes"),
        ],
        "has_curves": True,
        "has_pairs": True,
        "has_axes": True,
    }  # fmt: skip


def lines_of(html):
    return re.sub(r"\n+", "\n", html.replace("><", ">\n<"))


def pretty(value):
    """JSON with what holds no mapping in a line."""
    text = json.dumps(value, indent=1)
    return re.sub(r"\[[^{}\[\]]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


def test_the_figure_of_a_report(runs, tmp_path, monkeypatch):
    (saved := figures(monkeypatch)).clear()
    assert curves.draw(free_report(runs, "s"), runs, tmp_path / "curves.png")
    same_as("figure.txt", "\n".join(drawn(saved[0])))


def arm(label, values, *, metric="test/accuracy", seconds=None, directions=None, **more):
    """An arm whose values are of complete runs; a seed without a value is missing."""
    rows = tuple(
        Row(
            f"t/arm/{zlib.crc32(f'{label} {seed}'.encode()):012x}", "t/arm", seed, State.MISSING if value is None else State.COMPLETE, {},
            {} if value is None else {metric: value}, metric.rpartition("/")[2], directions=directions or {}, train_s=seconds,
            machine="" if value is None else "A processor, 2 cores", reason="missing" if value is None else "",
        )
        for seed, value in values.items()
    )  # fmt: skip
    there = {seed: value for seed, value in values.items() if value is not None}
    gaps = {seed: "missing" for seed, value in values.items() if value is None}
    return Line(label, metric, there, gaps, rows, **more)


@pytest.fixture(scope="module")
def published():
    """A table in percent: one comparison decided by p, one of other data, one of too few; an arm that diverged, one without runs."""
    higher = {"accuracy": "max"}
    lines = (
        arm("base", dict(enumerate((60.0, 61.0, 59.0, 60.5, 60.0, 59.5))), seconds=90.0, directions=higher, scale=100.0,
            published=Published(60.58, None, "Table 4"), choice="lr=0.01 (of 2 points, 3 seeds)", command="tutelage train -m a=1 seed=0,1",
            costs={"parameters": "1.2k", "flops": "3M"}),
        arm("diverged", {0: math.nan, 1: 50.0}, seconds=5400.0, scale=100.0),
        arm("guided <b>", dict(enumerate((70.0, 73.0, 71.0, 70.5, 72.0, 71.5))), seconds=100.0, directions=higher, scale=100.0,
            published=Published(70.15, 0.31), costs={"parameters": "1.2k (guide 5k)"}),
        arm("elsewhere", {0: 88.0, 1: None, 2: 89.5, 3: 91.0}, scale=100.0, command="tutelage train ```b``` \\x1b"),
        arm("without runs", {0: None, 1: None}, scale=100.0),
    )  # fmt: skip
    pairs = [(2, 0, True), (3, 0, False), (1, 0, True)]
    compared = correct(
        [
            compare(
                *((lines[i].label, lines[i].values, lines[i].published) for i in pair),
                same_setting=False, same_test_data=same, bounds=lines[0].bounds,
            )
            for *pair, same in pairs
        ]
    )  # fmt: skip
    losses = (
        arm("base", {0: 1.25, 1: 1.5, 2: 1.3}, metric="test/loss"),
        arm("guided <b>", {0: 0.25, 1: 0.5, 2: 0.35}, metric="test/loss"),
    )
    against = [compare(*((x.label, x.values, None) for x in losses[::-1]), same_setting=False)]
    section = Report("test loss", losses, tuple(correct(against)))
    notes = ("a note of [a link](x), <i>", "elsewhere, seed 1: missing")
    return Report("Guided | learning", lines, tuple(compared), notes, "%", 100.0, sections=(section,))


def test_the_markdown_of_a_table_beside_published_numbers(published):
    same_as("published.md", render.markdown(published, figures=["a.b.png"]))
    same_as("published.csv", render.table_csv(published))


@pytest.mark.parametrize("width", [40, 110, 160])
def test_what_a_terminal_shows_of_a_table_beside_published_numbers(published, width):
    console = Console(width=width, file=io.StringIO())
    console.print(render.terminal(published))
    same_as(
        f"published-{width}.txt", "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
    )


def of_page(report, store):
    data, none = page_data.overview(report, store, lambda row: Record((), {}), detailed=False)
    assert none == {}
    return data, page_tables.facts(report, data, store, None)


def test_the_page_of_a_table_beside_published_numbers(published, store):
    data, shown = of_page(published, store)
    same_as("published.html", lines_of(page.fragment(shown)).partition('<section aria-labelledby="runs')[0])
    assert [(run["test"], run["validation"]) for run in shown["runs"]["rows"][:2]] == [
        ("60.00", "-"),
        ("61.00", "-"),
    ]
    assert {key: data[key] for key in ("unit", "better", "metric", "scale", "bounds", "axes", "left_out", "t")} == {
        "unit": "%", "better": "higher is better", "metric": "test/accuracy", "scale": 100.0, "bounds": {}, "axes": [],
        "left_out": [], "t": {},
    }  # fmt: skip


def test_the_figure_of_a_table_whose_runs_are_elsewhere_has_values_alone(
    published, store, tmp_path, monkeypatch
):
    saved = figures(monkeypatch)
    assert curves.draw(published, store, tmp_path / "values.png")
    same_as("figure-published.txt", "\n".join(drawn(saved[0])))


def test_the_figure_of_many_arms_has_a_panel_for_each(store, tmp_path, monkeypatch):
    saved = figures(monkeypatch)
    name = "an arm with a rather long name, number {:02d}, of a table of as long a name as is shown"
    lines = [arm(name.format(i), {0: 0.5, 1: 0.6 + i / 100}) for i in range(7)]
    line = arm("of another metric", {0: 9.0}, metric="test/loss")
    for one in (*lines, line):
        for row in one.rows:
            folder = store.at(row.key).path
            folder.mkdir(parents=True)
            with MetricsWriter(folder / "metrics.jsonl") as writer:
                for step in (10, 20)[: 2 - (one is lines[6])]:
                    writer.write(
                        {
                            "step": step,
                            "validation/accuracy": row.metrics.get("test/accuracy", 0) - 1 / step,
                            "validation/x": 1.0,
                        }
                    )
    pair = compare(
        *((x.label, x.values, Published(v)) for x, v in ((lines[6], 0.9), (lines[0], 0.7))),
        same_setting=False,
    )
    report = Report("t" * 111, (*lines, line), (pair,))
    assert curves.draw(report, store, tmp_path / "panels.png")
    same_as("figure-panels.txt", "\n".join(drawn(saved[0])))


def test_the_page_of_arms_of_two_metrics_has_an_axis_for_each_and_no_scale(store):
    lines = (
        arm("a", {0: 0.5, 1: 0.75}),
        arm("b", {0: 3.0, 1: 9.0}, metric="test/loss"),
        arm("c", {0: 0.25}, seconds=5.0),
    )
    _, shown = of_page(Report("t", lines), store)
    arms = shown["arms"]
    assert arms["header"] == ["arm", "", "metric", "value", "n", "95 % interval", "by seed"]
    assert [row[2:6] for row in arms["rows"]] == [
        ["test accuracy", "0.625 ± 0.177", "2", "0.000 to 1.000"],
        ["test loss", "6.00 ± 4.24", "2", "0.00 to 44.12"],
        ["test accuracy", "0.250", "1", "-"],
    ]
    assert (
        arms["caption"] == "test accuracy and test loss of every arm; a dot is a seed" and arms["scale"] == ""
    )
    assert 'cx="94.64%"' not in arms["rows"][0][1] and 'x1="5.36%" x2="94.64%"' in arms["rows"][1][1]
    assert shown["comparisons"] is shown["scatter"] is None and shown["better"] == ""
    _, empty = of_page(Report("t", ()), store)
    assert empty["arms"]["rows"] == [] and empty["arms"]["caption"] == "Values of every arm; a dot is a seed"
    assert [name for _, name in empty["parts"]] == ["Arms", "Runs"]


def test_the_page_tells_forty_arms_apart_by_colour_and_dashes(store):
    _, shown = of_page(Report("t", tuple(arm(f"a{i}", {0: 0.5}) for i in range(33))), store)
    swatches = [str(row[0]).partition('" aria')[0] for row in shown["arms"]["rows"]]
    for place, dashes, colour in (
        (0, 0, 0),
        (7, 0, 7),
        (8, 1, 0),
        (15, 1, 7),
        (23, 2, 7),
        (31, 3, 7),
        (32, 0, 0),
    ):
        assert swatches[place] == f'<span class="swatch d{dashes}" style="--c:var(--c{colour})'
    assert 'aria-label="a0: 0.500"' in shown["arms"]["rows"][0][1]


@pytest.mark.parametrize(("runs", "there"), [(2, False), (3, True)])
def test_settings_are_drawn_of_three_runs_or_more(store, runs, there):
    lines = tuple(
        replace(one, rows=tuple(replace(row, inputs={"model.depth": str(i % 2)}) for row in one.rows))
        for i, one in enumerate(arm(f"a{i}", {0: 0.5}) for i in range(runs))
    )
    _, shown = of_page(Report("t", lines), store)
    assert shown["has_axes"] is there


def test_values_on_validation_are_in_the_unit_and_published_differences_widen_the_axis(store):
    lines = (
        arm("a", {0: 50.0, 1: 52.0, 2: 51.0}, scale=100.0),
        arm("b", {0: 40.0, 1: 41.0, 2: 42.5}, scale=100.0),
    )
    lines = tuple(
        replace(one, rows=tuple(replace(row, metrics={"validation/accuracy": 0.625}) for row in one.rows))
        for one in lines
    )
    pair = compare(
        *((one.label, one.values, Published(v)) for one, v in zip(lines, (90.0, 50.0), strict=True)),
        same_setting=False,
    )
    _, shown = of_page(Report("t", lines, (pair,), unit="%", scale=100.0), store)
    assert [(run["validation"], run["validation_v"]) for run in shown["runs"]["rows"]] == [
        ("62.50", 62.5)
    ] * 6
    assert ">40 %</text>" in shown["comparisons"]["scale"]  # as published
    assert 'class="published" x="94.64%"' in shown["comparisons"]["rows"][0][1]


def test_a_band_needs_two_runs_at_a_step(make_at, tmp_path):
    store, make = make_at(tmp_path)
    make("one/a", 0, 0.5)
    data, _ = page_data.overview(free_report(store, "one"), store)
    assert data["t"] == {} and data["curves"]["validation/accuracy"][0]["n"] == [1, 1]


def test_the_details_of_two_runs_of_three_are_left_to_their_folders(runs, monkeypatch):
    monkeypatch.setattr(page_data, "MOST_RUNS", 10)
    monkeypatch.setattr(page_data, "OF_MORE", 9)
    data, details = page_data.overview(free_report(runs, "s"), runs)
    assert len(details) == 9 and len(data["runs"]) == 11
    assert data["left_out"][-1:] == ["the details of 2 runs (their folders hold them, and reports on them)"]


def test_a_page_of_many_runs_says_of_each_table_and_curve_how_many_it_shows(runs, monkeypatch):
    report = free_report(runs, "s")
    everything, _ = page_data.overview(report, runs)
    sizes = [len(line.rows) for line in report.lines]
    monkeypatch.setattr(page_data, "MOST_RUNS", 10)
    monkeypatch.setattr(page_data, "OF_MORE", sizes[0] + 1)  # the second arm is not read by half
    monkeypatch.setattr(page_data, "MOST_VALUES", 22)
    monkeypatch.setattr(page_tables, "MOST_ROWS", 2)
    data, details = page_data.overview(report, runs)
    assert len(details) == sizes[0] + 1 and len(data["runs"]) == len(everything["runs"])
    for key, of_arms in everything["curves"].items():
        assert data["curves"].get(key, of_arms[:1])[0] == of_arms[0]
    assert all(not curve["steps"] for of_arms in data["curves"].values() for curve in of_arms[1:])
    assert len(data["settings"]["keys"]) == 2
    cut = len(everything["settings"]["keys"]) - 2
    assert data["left_out"] == [
        f"{cut} further settings of the runs",
        f"the curves of {len(sizes) - 1} of {len(sizes)} arms",
        f"the details of {11 - len(details)} runs (their folders hold them, and reports on them)",
    ]
    shown = page_tables.facts(report, data, runs, None)
    assert len(shown["arms"]["rows"]) == len(shown["runs"]["rows"]) == 2
    assert shown["arms"]["caption"].startswith(
        "The first 2 of 3 arms; the CSV files beside have all. test accuracy"
    )
    assert shown["runs"]["first"] == "The first 2 of 11 runs; the CSV files beside have all. "
    monkeypatch.setattr(page_data, "MOST_LINES", 2)
    assert page_tables._scatter(report, data)["caption"].startswith("The first 2 of 3 arms; ")
