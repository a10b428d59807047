"""Tables and programmes as files, verdicts at their boundaries, axes of figures, settings of a page, and the server's answers."""

from __future__ import annotations

import http.client
import json
import math
import threading
from types import SimpleNamespace

import pytest

from drawn import drawn, figures
from tutelage.errors import UserError
from tutelage.reporting import curves, live, page_data, pareto_figure, programme_file, table_paths
from tutelage.reporting.page_data import _Settings
from tutelage.reporting.report_model import Line, Report
from tutelage.reporting.row import Row
from tutelage.reporting.runs_report import free_report
from tutelage.reporting.statistics import Summary
from tutelage.reporting.table_file import load
from tutelage.reporting.table_report import _gap, _gaps_of, _shown, build, command_of
from tutelage.reporting.tables import Arm, Cell, Table, _recorded, check_metric
from tutelage.reporting.verdict import Published, Verdict, compare, decide
from tutelage.runs.run import State

# --- figures of many arms


@pytest.mark.parametrize(("arms", "seeds"), [(61, 3), (61, 1), (2_000, 2)])
def test_a_figure_of_more_arms_than_rows_can_be_read_shows_their_means_in_order(
    tmp_path, arms, seeds, monkeypatch
):
    values = [{seed: (7 * arm % arms) / arms + seed / 1000 for seed in range(seeds)} for arm in range(arms)]
    lines = [Line(f"w={arm}", "test/accuracy", own, {}) for arm, own in enumerate(values)]
    lines.append(Line("away", "test/accuracy", {0: math.inf}, {}))
    monkeypatch.setattr(curves, "curve", None)  # no run's record is read
    made = figures(monkeypatch)
    assert curves.draw(Report("t", tuple(lines)), None, tmp_path / "x.png")
    (axes,) = made[0].axes
    (dots,) = axes.lines
    means = sorted(math.fsum(own.values()) / seeds for own in values)
    assert list(dots.get_ydata()) == pytest.approx(means)
    said = f"the means of {arms + 1:,} arms over n = {'1 to ' * (seeds > 1)}{seeds} seeds"
    said += " with their 95 % intervals" * (seeds > 1) + ", less 1 without a finite mean, in order"
    assert axes.get_title() == f"{said}; tables name them all"
    whole = [path.vertices for path in axes.collections[0].get_paths() if math.isfinite(path.vertices[0, 1])]
    assert len(whole) == (arms if seeds > 1 else 0)
    first = next(f"w={arm}" for arm in range(arms) if 7 * arm % arms == 0)
    assert axes.get_xlabel().startswith(f"arms in the order of their means ({first} to ")


# --- verdicts


@pytest.mark.parametrize(
    ("low", "high", "more", "verdict"),
    [
        (0.0, 1.0, {}, "undecided"),
        (0.001, 1.0, {}, "interval above 0"),
        (-1.0, 0.0, {}, "undecided"),
        (-1.0, -0.001, {}, "interval below 0"),
        (0.0, 12.0, {"published": 10.0}, "undecided"),
        (0.001, 12.0, {"published": 10.0}, "reproduced in direction"),
        (0.001, 1.0, {"published": 10.0}, "reproduced in direction"),  # a tenth of it is reached
        (0.001, 0.999, {"published": 10.0}, "not reproduced"),
        (-1.0, 1.0, {"published": 10.0}, "undecided"),
        (-1.0, 0.999, {"published": 10.0}, "not reproduced"),
        (-12.0, -0.001, {"published": -10.0}, "reproduced in direction"),
        (-12.0, 0.0, {"published": -10.0}, "undecided"),
        (-1.0, 3.0, {"published": -10.0}, "undecided"),
        (-0.999, 3.0, {"published": -10.0}, "not reproduced"),
        (11.0, 14.0, {"published": 10.0, "error": 1.0, "same_setting": True}, "reproduced in size"),
        (11.001, 14.0, {"published": 10.0, "error": 1.0, "same_setting": True}, "reproduced in direction"),
        (2.0, 9.0, {"published": 10.0, "error": 1.0, "same_setting": True}, "reproduced in size"),
        (2.0, 8.999, {"published": 10.0, "error": 1.0, "same_setting": True}, "reproduced in direction"),
        (-14.0, -11.0, {"published": -10.0, "error": 1.0, "same_setting": True}, "reproduced in size"),
        (-14.0, -11.001, {"published": -10.0, "error": 1.0, "same_setting": True}, "reproduced in direction"),
        (-9.0, -2.0, {"published": -10.0, "error": 1.0, "same_setting": True}, "reproduced in size"),
        (-8.999, -2.0, {"published": -10.0, "error": 1.0, "same_setting": True}, "reproduced in direction"),
        (1.0, 2.0, {"published": 2.0, "error": 2.0}, "interval above 0"),  # no larger than its own error
        (1.0, 2.0, {"published": 2.0, "error": 1.999}, "reproduced in direction"),
        (1.0, 2.0, {"published": -2.0, "error": 2.0}, "interval above 0"),
        (1.0, 2.0, {"published": 0.0}, "interval above 0"),
    ],
)
def test_verdicts_at_their_boundaries(low, high, more, verdict):
    assert decide(Summary(3, (low + high) / 2, 1.0, low, high), **more) == verdict
    assert decide(Summary(2, (low + high) / 2, 1.0, low, high), **more) == "undecided"


@pytest.mark.parametrize(
    ("ours", "published", "error"),
    [
        ((Published(5.0, 3.0), Published(3.0, 4.0)), 2.0, 5.0), ((Published(5.0), Published(3.0, 4.0)), 2.0, 4.0),
        ((None, Published(1.0)), None, 0.0), ((Published(1.0), None), None, 0.0),
    ],
)  # fmt: skip
def test_a_published_difference_is_that_of_two_numbers_with_the_errors_of_both(ours, published, error):
    from tutelage.reporting.verdict import _published_difference

    assert _published_difference(*ours) == (published, error)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({}, {}, "undecided (0 common seeds, at least 3 needed)"),
        ({0: 1.0}, {0: 1.0}, "undecided (1 common seed, at least 3 needed)"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, "undecided (equal in all 3 seeds)"),
        (
            {0: 1.0, 1: 2.0, 2: 3.0},
            {0: 2.0, 1: 2.0, 2: 2.0},
            "undecided (more than 1,000 seeds would decide)",
        ),
        ({0: 1.0, 1: 2.0, 2: 4.0}, {0: 1.5, 1: 1.5, 2: 1.5}, "undecided (about 16 seeds would decide)"),
        ({0: 1.0, 1: 2.0, 2: math.nan}, {0: 1.5, 1: 1.5, 2: 1.5}, "undecided (a value is no finite number)"),
        ({0: 3.0, 1: 3.1, 2: 3.2}, {0: 1.0, 1: 1.0, 2: 1.0}, "interval above 0"),
    ],
)
def test_a_comparison_in_words(ours, theirs, said):
    found = compare(("a", ours, None), ("b", theirs, None), same_setting=False)
    assert found.sentence == said and (found.first, found.second) == ("a", "b")
    assert (found.seeds_needed is None) is ("about" not in said)
    apart = compare(("a", ours, None), ("b", theirs, None), same_setting=False, same_test_data=False)
    assert apart.verdict is Verdict.APART and apart.seeds == () and math.isnan(apart.p)


def test_a_difference_lies_within_the_width_of_what_the_values_lie_between():
    found = compare(
        ("a", {0: 3.0, 1: 0.0}, None), ("b", {0: 0.5, 1: 1.0}, None), same_setting=False, bounds=(-1.0, 3.0)
    )
    assert (found.difference.low, found.difference.high) == (-4.0, 4.0)


# --- tables and programmes as files


def test_where_tables_and_programmes_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "experiments/own/one.yaml",
        "experiments/two/two.yaml",
        "experiments/programmes/p.yaml",
        "runs/own/x.txt",
        "runs/two/x.txt",
        "alone.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("title: T\nstages: {a: {command: [x]}}\n")
    own = tmp_path / "experiments"
    found = table_paths.tables()
    assert (
        found["own/one"] == table_paths.TABLES / "own/one.yaml"
        and found["two"] == table_paths.TABLES / "two/two.yaml"
    )
    assert (
        not any("programmes" in name for name in found) and list(found) == sorted(found) and len(found) > 20
    )
    assert (
        table_paths.table_path("own/one/") == table_paths.TABLES / "own/one.yaml"
        and table_paths.table_path("none") is None
    )
    assert str(table_paths.table_path("alone.yaml")) == "alone.yaml"
    with pytest.raises(UserError, match=r"there is no table no\.yaml; "):
        table_paths.table_path("no.yaml")
    at = table_paths.table_path_unless_runs
    assert (
        at("two", "runs") is None
        and at("two", "other") == found["two"]
        and at("own/one", "runs") == found["own/one"]
    )
    assert str(at("alone.yaml", "runs")) == "alone.yaml"
    programmes = programme_file.programmes()
    assert "p" in programmes and programmes == sorted(programmes)
    assert (
        programme_file.programme_path("p") == table_paths.TABLES / "programmes/p.yaml"
        and programme_file.programme_path("no") is None
    )
    given = str(own / "programmes/p.yaml")
    assert (
        str(programme_file.programme_path(given)) == given
        and programme_file.programme_path(str(own / "own/one.yaml")) is None
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/experiments/paper/table.yaml", "paper/table"), ("experiments/a/a.yaml", "a"), ("experiments/b/a/a.yaml", "b/a"),
        ("a/a.yaml", "a"),
        ("experiments/experiments/t.yaml", "t"), ("experiments/a.yaml", "a"), ("t.yaml", "t"), ("/tmp/experiments.yaml", "experiments"),
    ],
)  # fmt: skip
def test_what_a_table_file_is_called(path, name):
    assert table_paths.name_of(table_paths.Path(path)) == name


PROGRAMME = """
title: A programme
places: {photos: photographs}
stages:
  one: {table: own/table, arms: [b], seeds: [5], words: ["data.root={photos}", "x={photos}{{y}}"]}
  two: {table: own/table, grid: true}
  three: {command: [-c, pass], minutes: 2, gpu: true}
"""


@pytest.fixture
def programme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments/own").mkdir(parents=True)
    table = "title: T\nmetric: accuracy\nseeds: 2\ngrid: {lr: [1, 2]}\narms: {a: [m=1], b: [m=2], c: [m=3]}\ncompare: [b, [c, a]]\n"
    (tmp_path / "experiments/own/table.yaml").write_text(table)
    path = tmp_path / "p.yaml"

    def write(old="", new=""):
        assert old in PROGRAMME
        path.write_text(PROGRAMME.replace(old, new, 1))
        return path

    return write


def test_stages_have_the_arms_seeds_and_grids_they_name(programme):
    found = programme_file.load(programme())
    one, two, three = found.stages
    assert (found.name, found.title, found.places) == ("p", "A programme", {"photos": "photographs"})
    assert (
        one.needs == ["photos", "photos"]
        and two.needs == []
        and three.command == ("-c", "pass")
        and three.minutes == 2
        and three.gpu
    )
    path, table = one.read_table()
    assert path == table_paths.TABLES / "own/table.yaml"
    assert (
        [arm.label for arm in table.arms] == ["b"]
        and table.seeds == (5,)
        and table.arms[0].points == ((),)
        and table.compare == ()
    )
    _, whole = two.read_table()
    assert (
        [arm.label for arm in whole.arms] == ["a", "b", "c"]
        and whole.seeds == (0, 1)
        and len(whole.arms[0].points) == 2
    )
    assert whole.compare == (("a", "b"), ("c", "b"), ("c", "a"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("arms: [b]", "arms: [d]", r"has no arm 'd'; known: a, b, c"),
        ("table: own/table, arms", "table: no/table, arms", r"the table no/table is not in this checkout"),
    ],
)
def test_a_stage_of_what_is_not_there_is_a_message(programme, old, new, said):
    stage = programme_file.load(programme(old, new)).stages[0]
    with pytest.raises(UserError, match=said):
        stage.read_table()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "places: {photos",
            "places: {photo",
            r"p.yaml: 'one' names the place 'photos'; did you mean 'photo'",
        ),
        (
            "three: {command",
            "three: {table: own/table, command",
            r"p.yaml: the stage 'three' must name a table or a command",
        ),
        (
            "two: {table: own/table, grid",
            "two: {grid",
            r"p.yaml: the stage 'two' must name a table or a command",
        ),
        ("minutes: 2", "minutes: 0", r"p.yaml: stages.three.minutes must be a number above 0, got 0"),
        (
            "minutes: 2",
            "minuets: 2",
            r"p.yaml: there is no setting 'stages.three.minuets'; did you mean 'minutes'",
        ),
        (
            PROGRAMME[PROGRAMME.index("stages:") :],
            "stages: {}",
            r"p.yaml: stages must be a mapping from a stage's label to what it does, got none",
        ),
        ("title: A programme", "", r"p.yaml: the setting 'title' is missing"),
    ],
)
def test_mistakes_in_a_programme_are_named(programme, old, new, said):
    with pytest.raises(UserError, match=said):
        programme_file.load(programme(old, new))


TABLE = """
title: T
metric: accuracy
seeds: [3, 1]
processes: 2
analyses: {robustness: {epsilon: 0.1, kinds: [a, b]}, calibration: null}
beside: [calibration.ece, loss, calibration.ece]
base: [m=1, k=2]
grid: {lr: [0.1, "null"]}
arms:
  1: []
  Größe (ß): {words: [k=3], grid: {lr: [5]}}
  own: {words: [k=4, name=mine]}
  none: {words: null, grid: {w: [1, 2, 3]}}
compare: [1]
notes: "  said  "
"""


@pytest.fixture
def written(tmp_path):
    def write(old="", new=""):
        assert old in TABLE
        path = tmp_path / "t.yaml"
        path.write_text(TABLE.replace(old, new, 1))
        return path

    return write


def test_every_setting_of_a_table(written):
    found = load(written())
    assert [arm.label for arm in found.arms] == ["1", "Größe (ß)", "own", "none"]
    assert [arm.command for arm in found.arms] == [
        ("m=1", "k=2", "name=t/1"), ("m=1", "k=3", "name=t/groe"), ("m=1", "k=4", "name=mine"), ("m=1", "k=2", "name=t/none"),
    ]  # fmt: skip
    assert [arm.points for arm in found.arms] == [
        (("lr=0.1",), ("lr=null",)), (("lr=5",),), (("lr=0.1",), ("lr=null",)), (("w=1",), ("w=2",), ("w=3",)),
    ]  # fmt: skip
    assert (found.seeds, found.tuning_seeds, found.processes, found.split, found.mode) == (
        (3, 1),
        (3, 1),
        2,
        "test",
        None,
    )
    assert found.analyses == {"robustness": {"epsilon": "0.1", "kinds": '["a", "b"]'}, "calibration": {}}
    assert (
        found.beside == ("calibration.ece", "loss")
        and found.notes == "said"
        and not found.percent
        and not found.paper_setting
    )
    assert (
        found.compare == (("Größe (ß)", "1"), ("own", "1"), ("none", "1"))
        and found.name == "t"
        and found.title == "T"
    )
    assert load(written("seeds: [3, 1]", "seeds: 4\ntuning_seeds: [7]")).tuning_seeds == (7,)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "Größe (ß)",
            "???",
            r"arms must be labels with a letter or a digit, after which the runs are named, got '\?\?\?'",
        ),
        (
            "name=mine",
            "name=t/1",
            r"the arms '1' and 'own' have one name for their runs, name=t/1: give each its own",
        ),
        ("k=3], grid: {lr: [5]}", "k=2]", r"the arms '1' and 'Größe \(ß\)' are the same runs"),
        (
            "beside: [calibration.ece",
            "beside: [calibratio.ece",
            r"the metric 'calibratio.ece' is of the analysis 'calibratio', which 'analyses' does not name: add",
        ),
        ("metric: accuracy", "metric: ranks.best", r"the metric 'ranks.best' is of the analysis 'ranks'"),
        ("lr: [5]", "lr: []", r"Größe \(ß\).grid must be of lists of values"),
        ("compare: [1]", "compare: [[1, 1]]", r"compare must be labels, and pairs"),
        ("compare: [1]", "compare: [[1, own, none]]", r"compare must be labels, and pairs"),
        (
            "compare: [1]",
            "compare: [[1, 2]]",
            r"'compare' names the arm '2', which does not exist; known: 1, Größe",
        ),
        ("  own: {words", "  1: {words", r"the file must be keys and labels that stand once, got \['1'\]"),
        (
            "{epsilon: 0.1, kinds",
            "{epsilon: 0.1, epsilon: 0.2, kinds",
            r"keys and labels that stand once, got \['epsilon'\]",
        ),
        (
            "words: [k=3]",
            "words: [seed=3]",
            r"arms.Größe \(ß\) must be words with no seed: `seeds` gives those of every arm, got \['seed=3'\]",
        ),
        (
            "seeds: [3, 1]",
            "seeds: [3, 3]",
            r"seeds must be a number of seeds or a list of different seeds, got \[3, 3\]",
        ),
        (
            TABLE[TABLE.index("arms:") : TABLE.index("compare")],
            "arms: {}\n",
            r"arms must be a mapping from an arm's label to its words",
        ),
    ],
)
def test_mistakes_in_a_table_are_said_where_they_are(written, old, new, said):
    with pytest.raises(UserError, match=said):
        load(written(old, new))


# --- reports of tables


def cell_row(cell: Cell, metrics, state=State.COMPLETE, **more):
    return Row(
        f"t/{cell.arm.label}/{cell.seed}",
        "t",
        99,
        state,
        {"x": "1"},
        metrics,
        "x",
        "max",
        directions={"x": "max"},
        **more,
    )


def test_the_report_of_a_table_has_a_section_for_what_stands_beside_and_says_what_it_lacks():
    arms = (
        Arm("base", ("a=1",), published=Published(40.0)),
        Arm("more", ("a 2",), published=Published(60.0)),
        Arm("none", ()),
    )
    table = Table(
        "T", "x", arms, (0, 1), (0, 1), split="validation", percent=True, compare=(("more", "base"), ("none", "base")), notes="as said",
        analyses={"ranks": {}}, beside=("ranks.accuracy", "loss"),
    )  # fmt: skip
    values = {
        ("base", 0): {"validation/x": 0.4, "validation/ranks.accuracy": 0.5, "validation/loss": 2.0, "validation/ranks.best": 1.0},
        ("base", 1): {"validation/x": 0.5, "test/x": 9.0},
        ("more", 0): {"validation/x": 0.625, "validation/ranks.accuracy": 0.75, "validation/loss": 1.0},
        ("more", 1): {"validation/x": 0.75, "validation/ranks.best": 1.0},
    }  # fmt: skip

    def find(cell):
        key = (cell.arm.label, cell.seed)
        return cell_row(cell, values.get(key, {}), State.COMPLETE if key in values else State.FAILED)

    report = build(table, find, ["b=2"])
    assert [(r.title, r.unit, r.scale) for r in (report, *report.sections)] == [
        ("T", "%", 100.0), ("validation ranks.accuracy", "%", 100.0), ("validation loss", "", 1.0),
    ]  # fmt: skip
    assert [[dict(line.values) for line in r.lines] for r in (report, *report.sections)] == [
        [{0: 40.0, 1: 50.0}, {0: 62.5, 1: 75.0}, {}], [{0: 50.0}, {0: 75.0}, {}], [{0: 2.0}, {0: 1.0}, {}],
    ]  # fmt: skip
    assert [[c.first for c in r.comparisons] for r in (report, *report.sections)] == [
        ["more", "none"],
        ["more"],
        ["more"],
    ]
    assert [
        [line.published and line.published.value for line in r.lines] for r in (report, *report.sections)
    ] == [[40.0, 60.0, None], [None] * 3, [None] * 3]
    assert report.lines[1].command == "tutelage train -m 'a 2' b=2 seed=0,1" and [
        row.seed for row in report.lines[0].rows
    ] == [0, 1]
    assert report.comparisons[0].published == 20.0 and report.complete == 4
    assert report.notes == (
        "as said",
        "none, seed 0, 1: failed",
        "validation ranks.accuracy, base, seed 1: not analysed (tutelage analyse ranks, or reproduce)",
        "validation ranks.accuracy, more, seed 1: the analysis ranks has no such number of it",
        "validation loss, base, seed 1: no validation/loss in its result",
        "validation loss, more, seed 1: no validation/loss in its result",
    )
    assert all("validation/ranks.best" not in row.metrics for line in report.lines for row in line.rows)
    assert "test/x" in report.lines[0].rows[1].metrics


def test_a_gap_of_an_analysis_is_no_gap_of_the_run():
    table = Table("T", "x", (), (0,), (0,), analyses={"ranks": {}})
    cell = Cell(Arm("a", ()), (), 0)
    complete, failed = cell_row(cell, {}), cell_row(cell, {}, State.FAILED, reason="broke")
    assert (
        _gap(failed, "test/ranks.best", table) == "broke"
        and _gap(complete, "test/x", table) == "no test/x in its result"
    )
    assert (
        _gap(complete, "test/ranks", table) == "no test/ranks in its result"
        and _gap(complete, "test/other.x", table) == "no test/other.x in its result"
    )
    plain = Table("T", "x", (), (0,), (0,))
    assert _shown(complete, plain) is complete
    assert _gaps_of(
        [
            Line("a", "m", {}, {1: "y", 2: "z"}, (complete,)),
            Line("b", "m", {}, {1: "y"}, (failed,)),
            Line("c", "m", {}, {}, (complete,)),
        ]
    ) == ["a, seed 1, 2: y"]
    assert command_of(plain, Arm("a", ("m=1",)), ("lr=2",)) == "tutelage train -m m=1 lr=2 seed=0"


def test_a_metric_is_looked_for_among_those_of_its_analysis_or_split():
    table = Table("T", "x", (), (0,), (0,), analyses={"ranks": {}})
    rows = [
        Row("k", "n", 0, State.COMPLETE, {}, {"test/x": 1.0, "test/ranks.best": 1.0, "validation/y": 1.0})
    ]
    for metric in ("x", "ranks.best"):
        check_metric(table, metric, rows)
    check_metric(table, "anything", [])
    check_metric(
        Table("T", "x", (), (0,), (0,), analyses={"ece": {}}), "ece.value", rows
    )  # nothing of it yet
    with pytest.raises(UserError, match=r"'T': no run has the metric 'y'; known: ranks.best, x"):
        check_metric(table, "y", rows)
    with pytest.raises(
        UserError,
        match=r"'T': no run has the metric 'ranks.bset'; did you mean 'ranks.best'\? Known: ranks.best$",
    ):
        check_metric(table, "ranks.bset", rows)


# --- figures


def test_a_search_with_two_costs_is_drawn_in_two_panels(tmp_path, monkeypatch):
    saved = figures(monkeypatch)
    trials = tmp_path / "trials.csv"
    trials.write_text(
        "trial,state,run,latency,parameters,pareto,validation/accuracy,lr\n"
        "0,complete,a,1.0,100,yes,0.5,1\n1,complete,b,9.0,300,no,0.4,1\n2,failed,c,1.0,1,yes,0.9,1\n"
        "3,complete,d,4.0,900,yes,0.7,1\n4,complete,a,1.0,100,yes,0.5,1\n5,complete,e,nan,500,yes,0.6,1\n"
    )
    assert pareto_figure.draw(trials) == tmp_path / "pareto.png"
    assert drawn(saved[0]) == [
        "figure 10.4 3.8 inches, title 'Trials of the search by number; each one seed, judged on validation'",
        "  legend: ['other trials', 'Pareto front']",
        "  axes",
        "    x log 'latency (ms, one sample, one thread); lower is better' 0.896 10.05",
        "    y 'validation accuracy; higher is better' 0.385 0.715",
        "    line o #b2b2b2 'other trials': 9,0.4",
        "    line o #0072b2 'Pareto front': 1,0.5 1,0.5 4,0.7",
        "    text '0' at 1 0.5",
        "    text '3' at 4 0.7",
        "  axes",
        "    x log 'parameters; lower is better' 89.6 1005",
        "    y 'validation accuracy; higher is better' 0.385 0.715",
        "    line o #b2b2b2 'other trials': 300,0.4",
        "    line o #0072b2 'Pareto front': 100,0.5 100,0.5 500,0.6 900,0.7",
        "    text '5' at 500 0.6",
        "    text '0' at 100 0.5",
        "    text '3' at 900 0.7",
    ]
    trials.write_text(
        "trial,state,run,flops,pareto,validation/loss\n0,complete,a,1,yes,0.5\n1,complete,b,8,yes,0.4\n"
    )
    pareto_figure.draw(trials)
    assert drawn(saved[1])[2:] == [
        "  axes",
        "    x 'operations per sample (forward); lower is better' 0.65 8.35",
        "    y 'validation loss; lower is better' 0.395 0.505",
        "    line o #b2b2b2 'other trials': ",
        "    line - o #0072b2 'Pareto front': 1,0.5 8,0.4",
        "    text '1' at 8 0.4",
        "    text '0' at 1 0.5",
    ]
    trials.write_text(
        "trial,state,run,flops,pareto,validation/loss\n0,complete,a,0,yes,0.5\n1,complete,b,9,no,0.4\n"
    )
    pareto_figure.draw(trials)
    assert saved.pop().axes[0].get_xscale() == "linear"  # a cost of 0 has no logarithm
    trials.write_text("trial,state,run,flops,pareto,validation/loss\n0,failed,a,1,yes,0.5\n")
    assert pareto_figure.draw(trials) is None and len(saved) == 2


@pytest.mark.parametrize(
    ("metric", "means", "scale"),
    [
        ("test/loss", (1.0, 50.0), "linear"), ("test/loss", (1.0, 50.1), "log"), ("test/loss", (0.0, 99.0), "linear"),
        ("test/loss", (-1.0, 99.0), "linear"),
        ("test/accuracy", (0.01, 0.9), "linear"), ("test/bleu", (1.0, 51.0), "log"), ("test/loss", (), "linear"),
    ],
)  # fmt: skip
def test_curves_over_a_factor_of_fifty_are_logarithmic_but_for_shares(metric, means, scale):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    known = {str(i): [(10, mean, 0.0, 1)] for i, mean in enumerate(means)}
    drawing = curves._Drawing(metric, "", 1.0, "", known, {}, ())
    drawing._axis(axes)
    assert axes.get_yscale() == scale


def test_curves_are_of_steps_that_all_complete_runs_have(make, store):
    make("f/a", 0, 0.5, steps=(10, 20, 40))
    make("f/a", 1, 0.7, steps=(20, 30, 40))
    make("f/a", 2, steps=(20,))
    (line,) = free_report(store).lines
    found = curves.curve(line, store, 10.0)
    assert [(step, n) for step, _, _, n in found] == [(20, 2), (40, 2)]
    assert [mean for _, mean, _, _ in found] == pytest.approx([10 * (0.25 + 0.35) / 2, 6.0])
    assert [spread for _, _, spread, _ in found] == pytest.approx([10 * 0.1 / 2**0.5, 10 * 0.2 / 2**0.5])
    assert curves.curve(Line("none", "test/accuracy", {}, {}), store) == []


@pytest.mark.parametrize(("labels", "height"), [
    ([], 0.0), (["a"], 1.5), (["a", "b"], 1.8), (["a\nb", "c"], 1.96), (["a\nb\nc", "d"], 1.96 + 0.28), (["a\nb\nc\nd"], 1.2 + 0.38 + 0.28),
])  # fmt: skip
def test_the_height_of_a_panel_by_the_lines_of_its_labels(labels, height):
    assert curves._height(labels) == pytest.approx(height)


def test_labels_in_lines_of_about_one_length():
    assert curves._lines("one two three four", 18) == "one two three four"
    assert curves._lines("one two three four", 17) == "one two\nthree four"
    assert curves._lines("aaaa bbbb cccc d", 14) == "aaaa bbbb\ncccc d" and curves._lines("", 9) == ""
    assert curves._difference("a" * 17, "b" * 18) == "a" * 17 + " - " + "b" * 18
    assert curves._difference("a" * 18, "b" * 18) == "a" * 18 + "\n- " + "b" * 18
    assert (
        curves._axis("a" * 34 + "; up") == "a" * 34 + "; up"
        and curves._axis("a" * 35 + "; up") == "a" * 35 + "\nup"
    )


def test_how_many_seeds_a_figure_has_in_words():
    def n(*counts):
        points = {str(i): dict.fromkeys(range(count), 1.0) for i, count in enumerate(counts)}
        return curves._Drawing("test/x", "%", 1.0, "", {}, points, ())

    assert [n(*counts).n for counts in ((3,), (3, 3), (1, 4, 2), (0, 2), ())] == ["3", "3", "1 to 4", "2", ""]
    assert (
        n(1).name == "x (%)"
        and curves._Drawing("test/top5_accuracy", "", 1.0, "", {}, {}, ()).name == "top5 accuracy"
    )


def test_the_figure_has_the_metric_of_most_arms_that_have_values():
    lines = [
        Line("a", "test/y", {0: 1.0}, {}),
        Line("b", "test/x", {0: 1.0}, {}),
        Line("c", "test/z", {}, {}),
        Line("d", "test/z", {}, {}),
    ]
    assert (
        curves._shared_metric(Report("t", tuple(lines))) == "test/x"
        and curves._shared_metric(Report("t", (*lines, lines[0]))) == "test/y"
    )
    assert (
        curves._shared_metric(Report("t", tuple(lines[2:]))) is None
        and page_data._metric(Report("t", tuple(lines))) == "test/z"
    )


# --- settings of a page


def with_settings(*settings):
    return [
        Row(
            f"n/{i:012x}",
            "n",
            i,
            State.COMPLETE,
            {key.replace("__", "."): str(value) for key, value in one.items()},
            {},
        )
        for i, one in enumerate(settings)
    ]


def test_settings_of_a_page_are_numbered_values_and_what_all_share(monkeypatch):
    rows = with_settings(
        {"a": 1, "b": 5, "c": 7, "seed": 0}, {"a": 2, "b": 5, "seed": 0}, {"a": 1, "b": 5, "c": 7, "seed": 0}
    )
    found = _Settings([*rows, Row("x/1", "x", 0, State.FAILED, {}, {})])
    assert (
        found.keys == ["a", "c", "seed"]
        and found.values == [["1", "2"], ["7"], ["0"]]
        and found.shared == {"b": "5"}
    )
    assert found.numbers == [[0, 0, 0], [1, -1, 0], [0, 0, 0], [-1, -1, -1]] and found.left_out == []
    for settings, shared, cut in ((2, 1, 1), (3, 0, 1), (1, 0, 3), (3, 1, 0)):
        monkeypatch.setattr(page_data, "MOST_SETTINGS", settings)
        monkeypatch.setattr(page_data, "MOST_SHARED", shared)
        assert _Settings(rows).left_out == ([f"{cut} further settings of the runs"] if cut else [])


def test_axes_are_settings_that_all_have_the_simplest_of_those_that_go_hand_in_hand():
    rows = with_settings(
        {"optimizer__lr": 0.1, "m__deep__k": 0, "m__k": 0, "data__seed": 0, "x": "1"},
        {"optimizer__lr": 0.2, "m__deep__k": 1, "m__k": 1, "data__seed": 1},
        {"optimizer__lr": 0.1, "m__deep__k": 1, "m__k": 1, "data__seed": 2, "x": "2"},
    )  # fmt: skip
    assert _Settings(rows).axes() == [
        {"key": "m.k", "place": 2, "numbers": [0.0, 1.0]}, {"key": "optimizer.lr", "place": 3, "numbers": [0.1, 0.2]},
    ]  # fmt: skip
    methods = with_settings(
        {"method___target_": "a.A", "method__k": "x"}, {"method___target_": "a.B", "method__k": "y"}
    )
    assert _Settings(methods).axes() == []  # arms of different methods
    one = with_settings(
        {"method___target_": "a.A", "method__k": "x"}, {"method___target_": "a.A", "method__k": "y"}
    )
    assert _Settings(one).axes() == [{"key": "method.k", "place": 0, "numbers": None}]
    digests = with_settings({"d__a": f'"{"a" * 32}"', "d__bb": 1}, {"d__a": f'"{"b" * 32}"', "d__bb": 2})
    assert [axis["key"] for axis in _Settings(digests).axes()] == ["d.bb"]


def test_seven_axes_are_offered():
    rows = with_settings(*({f"s__k{i}": int(i == j) for i in range(8)} for j in range(9)))
    assert [axis["key"] for axis in _Settings(rows).axes()] == [f"s.k{i}" for i in range(7)]


def test_curves_of_a_page_are_offered_the_metric_first_and_thinned():
    lines = tuple(Line(name, "test/accuracy", {}, {}) for name in "ab")
    arms = [
        {"train/loss": 1, "validation/loss": 1, "train/z": 1, "other": 1},
        {"validation/accuracy": 1, "train/z": 1, "train/accuracy": 1},
    ]
    report = Report("t", lines, scale=100.0)
    assert page_data._offered(arms, report) == [
        "validation/accuracy",
        "validation/loss",
        "train/accuracy",
        "train/loss",
        "train/z",
        "other",
    ]
    assert len(page_data._offered([{f"q{i}": 1 for i in range(12)}], report)) == 10
    at = {step: [0.123456, 0.3] for step in range(500)}
    assert (
        page_data._scale_of("validation/accuracy", report) == 100.0
        and page_data._scale_of("validation/loss", report) == 1.0
    )
    found = page_data._curve(at, 100.0, 2)
    assert (
        len(found["steps"]) == 240
        and found["mean"][0] == 21.173
        and found["std"][0] == 12.48
        and found["n"][0] == 2
    )
    assert page_data._curve({1: [0.5]}, 1.0, 2) == {
        "steps": [1],
        "mean": [0.5],
        "std": [0.0],
        "n": [1],
    }
    for arms, points in ((25, 240), (26, 230), (100, 60), (1000, 24)):
        assert len(page_data._curve(at, 1.0, arms)["steps"]) == points
    assert page_data._bounds("validation/accuracy", 100.0) == [0.0, 100.0]
    assert page_data._bounds("train/loss", 1.0) == [0.0, None]


def test_the_runs_of_a_page_are_those_with_a_folder_once():
    rows = [
        Row(f"n/{i}", "n", i, state, {}, {"test/x": 5.0}, "x")
        for i, state in enumerate((State.COMPLETE, State.MISSING, State.FAILED))
    ]
    report = Report(
        "t",
        (Line("a", "test/x", {0: 0.5}, {}, tuple(rows)), Line("b", "test/x", {2: 0.7}, {}, tuple(rows[2:]))),
        needed=(rows[0], Row("n/9", "n", 9, State.COMPLETE, {}, {"test/y": 3.0}, "y")),
    )
    assert [(cell.arm, cell.row.seed, cell.value) for cell in page_data.cells(report)] == [
        (0, 0, 0.5),
        (0, 2, None),
        (None, 9, 3.0),
    ]
    assert list(page_data.states(report)) == [("missing", 1), ("failed", 2), ("complete", 1)]


# --- the server


@pytest.fixture
def served(make, store):
    make("s/a", 0, 0.5)
    made = []

    def report():
        made.append(1)
        return free_report(store, "s")

    view = live.View(store, report, every_s=3)
    with live.server(view, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield serving.server_address[1], view, made
        serving.shutdown()
        thread.join()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_every_answer_of_the_server(served):
    port, view, _ = served
    safe = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    run = next(page_data.cells(view.now()[0])).id
    page = ask(port, "/")
    for method, path, status, kind in (
        ("GET", "/", 200, "text/html"), ("HEAD", "/", 200, "text/html"),
        ("GET", "/overview.json?known=x", 200, "application/json"),
        ("GET", f"/run/{run}.json", 200, "application/json"), ("GET", "/run/0123456789ab.json", 404, "application/json"),
        ("GET", "/x", 404, "text/plain"),
    ):  # fmt: skip
        found, headers, body = ask(port, path, method)
        assert (
            found == status
            and headers["Content-Type"] == f"{kind}; charset=utf-8"
            and safe.items() <= headers.items()
        )
        assert headers["Server"].strip() == "Tutelage"
        assert len(body) == (0 if method == "HEAD" else int(headers["Content-Length"]))
    assert page[2].decode().count("Live: looks again every 3 s.") == 1
    digest = json.loads(ask(port, "/overview.json")[2])["data"]["digest"]
    status, headers, body = ask(port, f"/overview.json?known={digest}")
    assert (
        (status, body) == (204, b"")
        and "Content-Type" not in headers
        and "Content-Length" not in headers
        and safe.items() <= headers.items()
    )


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("localhost:99", 200), ("[::1]:5", 200), ("LOCALHOST", 403), ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(served, host, status):
    assert ask(served[0], "/x" if status == 403 else "/overview.json", Host=host)[0] == status


def test_a_report_that_cannot_be_made_is_said_and_a_second_look_within_a_second_reads_nothing(
    served, monkeypatch
):
    port, view, made = served
    view.now(), view.now()
    assert len(made) == 1
    clock = [1000.0]
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    view._read_at = 1000.0
    for now, count in ((1000.9, 1), (1001.0, 1), (1001.1, 2), (1002.0, 2), (1002.2, 3)):
        clock[0] = now
        view.now()
        assert len(made) == count, now
    clock[0] = 2000.0

    def broken():
        raise UserError("no runs")

    monkeypatch.setattr(view, "_make", broken)
    status, _, body = ask(port, "/")
    assert (status, body) == (503, b"no runs")


def test_what_a_run_recorded_is_read_again_where_its_files_changed(make, store, monkeypatch):
    run = make("s/a", 0, 0.5)
    view, read = live.View(store, lambda: free_report(store, "s")), []
    monkeypatch.setattr(live, "record_of", lambda one: read.append(one.key))
    row = free_report(store, "s").lines[0].rows[0]
    view.record(row), view.record(row)
    assert len(read) == 1
    (run.path / "setup.json").write_text("{}")
    view.record(row), view.record(row)
    assert len(read) == 2
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write("\n")
    view.record(row)
    assert len(read) == 3


def test_values_that_runs_recorded_of_a_setting(tmp_path):
    """The named one alone, each once and as text, but for those that are None; of runs whose configuration can be read."""

    class Unreadable:
        @property
        def config(self):
            raise UserError("no configuration")

    configs = [
        {"data": {"root": 3, "size": 8}},
        {"data": {"root": None}},
        {"data": {"root": "a"}},
        {"data": {"root": 3}},
    ]
    runs = [Unreadable(), *(SimpleNamespace(config=config) for config in configs)]
    store = SimpleNamespace(root=tmp_path, runs=lambda name: runs)
    assert (
        _recorded(store, "mine", "data.root") == [] == _recorded(store, "", "data.root")
    )  # there is no folder
    (tmp_path / "mine").mkdir()
    assert _recorded(store, "mine", "data.root") == ["3", "a"]
