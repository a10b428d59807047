"""The report of a folder of runs: its files, gaps, comparisons, figure, and that it is the same each time."""

import csv
import io
import json
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest

from tutelage.errors import UserError
from tutelage.reporting import curves, render
from tutelage.reporting.curves import curve, draw
from tutelage.reporting.runs_report import _baselines, free_report, write_report

ARMS = {"plain": 0.3, "distilled": 0.26, "guided-untrained": 0.82, "guided-trained": 0.9}


@pytest.fixture
def demo(make, store):
    cnn = make("demo/cnn", 0, 0.99)
    for seed in range(3):
        for arm, mean in ARMS.items():
            needs = {"teacher": {"command": ["x"], "run": cnn.key}} if arm != "plain" else {}
            make(f"demo/{arm}", seed, mean + 0.01 * seed, needs=needs)
    return store


def test_the_curve_of_an_arm_is_mean_and_spread_over_its_seeds(make, store):
    for seed, best in enumerate((0.5, 0.6, 0.9)):  # recorded: the half at step 100, all at step 200
        make("plain", seed, best)
    (line,) = free_report(store).lines
    assert curve(line, store, 100.0) == [
        (100, pytest.approx(100 / 3), pytest.approx(statistics.stdev([25, 30, 45])), 3),
        (200, pytest.approx(200 / 3), pytest.approx(statistics.stdev([50, 60, 90])), 3),
    ]


def read_csv(text):
    return list(csv.reader(io.StringIO(text)))


def test_the_demo_table(demo):
    report = write_report(demo, "demo")
    folder = demo.root / "demo"
    rows = read_csv((folder / "table.csv").read_text())
    assert rows[0] == ["arm", "metric", "mean", "std", "n"]
    assert [row[0] for row in rows[1:]] == list(ARMS)
    assert rows[1] == ["plain", "test/accuracy", "0.31", "0.01", "3"]
    page = (folder / "table.md").read_text()
    assert "| plain | 0.310 ± 0.010 | 3 | 0.285 to 0.335 |" in page
    assert "demo/cnn/" in page and "![curves](curves.png)" in page
    assert [c.first for c in report.comparisons] == ["distilled", "guided-untrained", "guided-trained"]
    assert {c.second for c in report.comparisons} == {"plain"}
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG" and (
        folder / "curves.png"
    ).stat().st_size < 150_000


def test_every_cell_leads_to_its_run(demo):
    cells = read_csv(render.cells_csv(free_report(demo, "demo")))
    header = cells[0]
    assert header[:8] == ["arm", "run", "seed", "state", "reason", "code", "best_step", "train_s"]
    for row in cells[1:]:
        cell = dict(zip(header, row, strict=True))
        run = demo.at(cell["run"])
        assert run.config["seed"] == int(cell["seed"])
        assert float(cell["test/accuracy"]) == pytest.approx(run.result["best"]["test"]["accuracy"])
        assert cell["code"] == "aaaaaaaaa"
    assert len(cells) == 1 + 12


def test_the_same_runs_give_the_same_bytes_and_nothing_is_written_twice(demo):
    write_report(demo, "demo")
    folder = demo.root / "demo"
    names = ("table.md", "table.csv", "cells.csv", "curves.png")
    before = {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names}
    write_report(demo, "demo")
    assert before == {
        name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names
    }
    (folder / "curves.png").unlink()
    write_report(demo, "demo")
    assert (folder / "curves.png").read_bytes() == before["curves.png"][0]


def test_new_data_give_a_new_figure(demo, make):
    write_report(demo, "demo")
    before = (demo.root / "demo" / "curves.png").read_bytes()
    make("demo/plain", 3, 0.35)
    write_report(demo, "demo")
    assert (demo.root / "demo" / "curves.png").read_bytes() != before


def test_nothing_private_in_what_is_committed(demo, tmp_path):
    write_report(demo, "demo")
    for name in ("table.md", "table.csv", "cells.csv"):
        assert str(tmp_path) not in (demo.root / "demo" / name).read_text()
    assert str(tmp_path).encode() not in (demo.root / "demo" / "curves.png").read_bytes()


def test_gaps_are_shown_as_gaps(make, store):
    make("demo/plain", 0, 0.3)
    make("demo/plain", 1, 0.4)
    make("demo/guided", 0, 0.8)
    make("demo/guided", 1, failed="the term 'alignment' is NaN at step 7")
    make("demo/distilled", 0)
    report = free_report(store, "demo")
    page = render.markdown(report)
    assert "| guided | 0.800 | 1 | - |" in page
    assert "| distilled | - | 0 | - |" in page
    assert "- guided, seed 1: failed: NonFiniteLoss: the term 'alignment' is NaN at step 7" in page
    assert "- distilled, seed 0: interrupted at step 200" in page and "- distilled, seed 1: missing" in page
    rows = read_csv(render.table_csv(report))
    assert ["distilled", "test/accuracy", "", "", "0"] in rows and [
        "guided",
        "test/accuracy",
        "0.8",
        "",
        "1",
    ] in rows


def test_a_nan_result_is_not_averaged_away(make, store):
    make("demo/plain", 0, 0.3)
    make("demo/plain", 1, float("nan"), validation=0.1)
    report = free_report(store)
    assert "not a finite number at seed 1" in render.markdown(report)
    assert read_csv(render.table_csv(report))[1] == ["plain", "test/accuracy", "NaN", "NaN", "2"]


def test_an_infinite_result_is_shown_as_infinite(make, store):
    make("demo/plain", 0, 0.5, validation=0.5)
    make("demo/plain", 1, float("inf"), validation=0.1)
    report = free_report(store, "demo")
    assert "| inf |" in render.markdown(report) and "NaN" not in render.markdown(report)
    assert render.table_csv(report).splitlines()[1].split(",")[2] == "inf"


def test_cells_from_different_code_are_named(make, store):
    make("demo/plain", 0, 0.3)
    make("demo/plain", 1, 0.3, code={"commit": "b" * 40})
    make("demo/plain", 2, 0.3, code={"commit": "b" * 40, "changed": True, "digest": "c" * 16})
    (note,) = [note for note in free_report(store).notes if "different code" in note]
    for part in (
        "aaaaaaaaa (1 run: plain seed 0)",
        "bbbbbbbbb (1 run",
        "bbbbbbbbb+cccccc (1 run: plain seed 2)",
    ):
        assert part in note


def test_resumed_under_other_code(make, store):
    run = make("demo/plain", 0, 0.3)
    with run.lock():
        run.begin(run.config, {"started": "later", "code": {"commit": "b" * 40}})
    make("demo/plain", 1, 0.3)
    assert "aaaaaaaaa then bbbbbbbbb (1 run: plain seed 0)" in " ".join(free_report(store).notes)


def test_arms_measured_differently_name_their_metric(make, store):
    make("x/class", 0, 0.5)
    make("x/text", 0, 40.0, metric="perplexity", mode="min")
    report = free_report(store, "x")
    page = render.markdown(report)
    assert (
        "| class | test accuracy | 0.500 | 1 |" in page and "| text | test perplexity | 40.00 | 1 |" in page
    )
    assert not report.comparisons


def test_only_needed_runs_are_arms_of_their_own(make, store):
    cnn = make("demo/cnn", 0, 0.99)
    make("guided/one", 0, 0.5, needs={"guide": {"command": ["x"], "run": cnn.key}})
    assert [line.label for line in free_report(store, "demo").lines] == ["cnn"]


def test_a_needed_run_that_is_a_seed_of_an_arm_is_shown_once(make, store):
    first, _ = make("demo/plain", 0, 0.5), make("demo/plain", 1, 0.6)
    make("demo/guided", 0, 0.7, needs={"guide": {"command": ["x"], "run": first.key}})
    report = free_report(store, "demo")
    assert [(line.label, len(line.values)) for line in report.lines] == [("plain", 2), ("guided", 1)]
    assert not report.needed


def test_no_runs(store, make):
    make("demo/plain", 0, 0.3)
    with pytest.raises(UserError, match="did you mean 'demo/plain'"):
        free_report(store, "demo/plin")


def test_unwritable_folder(demo, monkeypatch):
    from tutelage.runs import records

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records, "write_text", denied)
    with pytest.raises(UserError, match="Permission denied"):
        write_report(demo, "demo")


def test_curves_are_means_over_finished_seeds(make, store):
    make("demo/plain", 0, 0.2)
    make("demo/plain", 1, 0.4)
    make("demo/plain", 2)  # interrupted: its rows do not count
    (line,) = free_report(store).lines
    points = curve(line, store)
    assert [(step, n) for step, _, _, n in points] == [(100, 2), (200, 2)]
    assert points[1][1] == pytest.approx(0.3) and points[1][2] == pytest.approx(0.02**0.5)
    assert curve(line, store, scale=100.0)[1][1] == pytest.approx(30)


def test_no_finished_run_no_figure(make, store):
    make("demo/plain", 0)
    write_report(store, "demo")
    assert not (store.root / "demo" / "curves.png").exists()
    assert "curves" not in (store.root / "demo" / "table.md").read_text()


def test_terminal(demo):
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render.terminal(free_report(demo, "demo")))
    text = console.export_text()
    assert "guided-untrained" in text and "0.830 ± 0.010" in text and "needed: demo/cnn/" in text


def test_bars_in_names_do_not_break_the_table(make, store):
    make("demo/plain", 0, 0.3, model__depth="a|b")
    make("demo/plain", 0, 0.3, model__depth="c")
    assert "depth=a\\|b" in render.markdown(free_report(store))


def test_a_report_loads_no_torch(demo):
    code = (
        "import sys, json; from tutelage.reporting.runs_report import write_report; from tutelage.runs.store import Store\n"
        "write_report(Store(sys.argv[1]), 'demo')\n"
        "print(json.dumps([m for m in ('torch', 'hydra', 'omegaconf', 'pytorch_lightning', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(demo.root)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


def test_html_page_is_whole_and_leads_to_the_runs(demo, make):
    import re

    make("demo/odd", 0, 0.3, model__depth="<b>&")
    make("demo/odd", 0, 0.3, model__depth="x")
    write_report(demo, "demo")
    folder = demo.root / "demo"
    page = (folder / "report.html").read_text()
    links = [link for link in re.findall(r'<a href="([^"]+)"', page) if not link.startswith("#")]
    assert len(links) == 15 and all((folder / link / "config.yaml").is_file() for link in links)
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page
    write_report(demo, "demo")
    assert (folder / "report.html").read_text() == page


def test_the_cost_counts_the_runs_that_others_need(demo):
    assert any(
        "13 runs (of these 1 that others need), 6.5 minutes of training, on:" in note
        for note in free_report(demo, "demo").notes
    )


def test_a_figure_shows_what_has_values_of_the_metric_and_nothing_is_no_figure(
    make, store, tmp_path, monkeypatch
):
    make("demo/plain", 0)
    assert not draw(free_report(store, "demo"), store, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
    make("demo/guided", 0, 0.8)
    shown = []

    class Drawing(curves._Drawing):
        def figure(self):
            shown.append((self.metric, dict(self.points)))
            return super().figure()

    monkeypatch.setattr(curves, "_Drawing", Drawing)
    make("demo/slow", 0, 3.0, metric="loss", mode="min")
    assert draw(free_report(store, "demo"), store, tmp_path / "curves.png")
    assert shown == [
        ("test/accuracy", {"guided": {0: 0.8}})
    ]  # neither what has no value nor one of another metric


def test_names_are_whole_and_the_curve_of_one_step_is_a_point():
    from matplotlib.figure import Figure

    long = "PP + P-SSL (UDA, soft labels, lambda 1), four thousand images of a generator"
    assert curves._lines("x" * 38, 38) == "x" * 38
    for said in (curves._lines(long, 38), curves._difference("PP", long)):
        assert long in said.replace("\n", " ") and max(map(len, said.split("\n"))) <= 40
    assert curves._difference("x" * 17, "y" * 18) == f"{'x' * 17} - {'y' * 18}"
    assert curves._difference("x" * 18, "y" * 18) == f"{'x' * 18}\n- {'y' * 18}"
    axes = Figure().subplots()
    known = {"one": [(100, 0.5, 0.0, 1)], "two": [(100, 0.5, 0.0, 1), (200, 0.6, 0.0, 1)]}
    drawing = curves._Drawing("test/accuracy", "", 1.0, "", known, {}, ())
    for label in known:
        drawing._curve(axes, label, "C0", "-")
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]


def test_each_arm_of_a_sweep_is_compared_with_the_baseline_of_its_own_settings(make, store):
    for seed in range(3):
        for depth in (10, 30):
            words = f"model.depth={depth} seed={seed}"
            make("s", seed, 0.2, model__depth=depth, words=f"experiment=demo/plain {words}")
            make("s", seed, 0.5, model__depth=depth, method__k=1, words=f"experiment=demo/guided {words}")
    report = free_report(store, "s")
    assert {(one.first, one.second) for one in report.comparisons} == {
        ("guided, model.depth=10", "plain, model.depth=10"),
        ("guided, model.depth=30", "plain, model.depth=30"),
    }
    plain = [replace(line, label=f"plain, x={i}") for i, line in enumerate(report.lines[:2])]
    assert list(_baselines(plain)) == ["plain, x=1"]  # nothing stands beside them
    (base, *others) = [
        replace(report.lines[0], label=label) for label in ("a (lr=1)", "a (lr=2)", "b (lr=2)")
    ]
    assert _baselines([base, *others]) == {"a (lr=2)": base, "b (lr=2)": base}
