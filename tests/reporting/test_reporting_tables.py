"""Tables as data: reading, choosing on validation only, what is left to run, and the report with published numbers."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tutelage.errors import NoValue, UserError
from tutelage.reporting import render
from tutelage.reporting.collect import row_of
from tutelage.reporting.committed import committed_report, write_table
from tutelage.reporting.quantities import better
from tutelage.reporting.table_file import load
from tutelage.reporting.table_report import build
from tutelage.reporting.tables import Arm, Cell, choose, finder, unfinished
from tutelage.runs.run import State

FILE = """
title: Guided learning
metric: accuracy
percent: true
seeds: 3
grid: {optimizer.lr: [1.0e-2, 1.0e-3]}
base: [experiment=base]
arms:
  base: []
  guided: [experiment=guided]
  fixed: {words: [experiment=fixed], grid: {}}
compare: base
published:
  Table 4: {base: 60.58, guided: 70.15}
notes: reduced networks
"""


@pytest.fixture
def path(tmp_path):
    def write(text=FILE):
        path = tmp_path / "table.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def find(store):
    """Stands for compose and plan: a cell's words become the configuration that `make` writes."""
    by_words = {}

    def note(arm, seed, lr, run):
        by_words[(f"experiment={arm}", *([f"optimizer.lr={lr}"] if lr else []), f"seed={seed}")] = run

    def find(cell):
        words = tuple(word for word in cell.overrides if not word.startswith("name="))
        run = by_words.get(words)
        return row_of(run or store.run("never/made", "0" * 12), store)

    find.note = note
    return find


@pytest.fixture
def cells(make, find):
    def cells(arm, lr, validations, tests=None, **more):
        for seed, validation in enumerate(validations):
            test = None if validation is None else (tests or validations)[seed]
            run = make(f"t/{arm}", seed, test, validation, optimizer__lr=lr or 1.0, **more)
            find.note(arm, seed, lr, run)

    return cells


def test_choice_is_made_on_validation_and_never_on_test(path, find, cells):
    cells("base", 0.01, [0.50, 0.52, 0.51], tests=[0.40, 0.41, 0.42])
    cells("base", 0.001, [0.49, 0.50, 0.50], tests=[0.90, 0.91, 0.92])
    table = load(path())
    choice = choose(table, table.arms[0], find)
    assert choice.point == ("optimizer.lr=0.01",) and not choice.pending
    assert choice.sentence == "lr=0.01 (of 2 points, 3 seeds; the grid's largest lr)"
    line = build(table, find).lines[0]
    assert line.values == pytest.approx({0: 40, 1: 41, 2: 42})


def test_smaller_is_better_where_the_task_says_so(path, find, cells):
    text = FILE.replace("metric: accuracy", "metric: perplexity").replace("percent: true", "percent: false")
    cells("base", 0.01, [50, 52, 51], metric="perplexity", mode="min")
    cells("base", 0.001, [40, 41, 42], metric="perplexity", mode="min")
    table = load(path(text))
    assert choose(table, table.arms[0], find).point == ("optimizer.lr=0.001",)
    unmonitored = load(path(text.replace("metric: perplexity", "metric: accuracy")))
    assert choose(unmonitored, unmonitored.arms[0], find).sentence == "nothing to choose from yet"
    told = load(path(text.replace("metric: perplexity", "metric: perplexity\nmode: max")))
    assert choose(told, told.arms[0], find).point == ("optimizer.lr=0.01",)


def test_points_that_failed_are_out_and_named(path, find, cells):
    cells("base", 0.01, [0.9, 0.9, None], failed=None)
    cells("base", 0.001, [0.1, 0.1, 0.1])
    table = load(path())
    choice = choose(table, table.arms[0], find)
    assert choice.point == ("optimizer.lr=0.001",)
    assert choice.notes == ("base: lr=0.01 was not eligible (interrupted at step 200)",)
    assert len(choice.pending) == 1 and "provisional" in choice.sentence


def test_nan_on_validation_is_out(path, find, cells):
    cells("base", 0.01, [0.9, float("nan"), 0.9])
    cells("base", 0.001, [0.1, 0.1, 0.1])
    table = load(path())
    assert choose(table, table.arms[0], find).point == ("optimizer.lr=0.001",)


def test_what_is_left_to_run(path, find, cells):
    table = load(path(FILE.replace("seeds: 3", "seeds: 3\ntuning_seeds: [0]")))
    first = unfinished(table, find)
    assert [cell.overrides for cell in first] == [
        ["experiment=base", "name=table/base", "optimizer.lr=0.01", "seed=0"],
        ["experiment=base", "name=table/base", "optimizer.lr=0.001", "seed=0"],
        ["experiment=guided", "name=table/guided", "optimizer.lr=0.01", "seed=0"],
        ["experiment=guided", "name=table/guided", "optimizer.lr=0.001", "seed=0"],
    ]
    cells("base", 0.01, [0.2])
    cells("base", 0.001, [0.3])
    cells("guided", 0.01, [0.9])
    cells("guided", 0.001, [0.3])
    then = [" ".join(cell.overrides) for cell in unfinished(table, find)]
    assert then == [
        *(f"experiment=base name=table/base optimizer.lr=0.001 seed={seed}" for seed in (1, 2)),
        *(f"experiment=guided name=table/guided optimizer.lr=0.01 seed={seed}" for seed in (1, 2)),
        *(f"experiment=fixed name=table/fixed seed={seed}" for seed in (0, 1, 2)),
    ]


@pytest.fixture
def full(path, find, cells):
    cells("base", 0.01, [0.60, 0.61, 0.59])
    cells("base", 0.001, [0.1, 0.1, 0.1])
    cells("guided", 0.01, [0.69, 0.71, 0.70])
    cells("guided", 0.001, [0.1, 0.1, 0.1])
    cells("fixed", None, [0.6, 0.2])
    return load(path()), find


def test_report_beside_the_published_numbers(full):
    table, find = full
    assert [cell.overrides for cell in unfinished(table, find)] == [
        ["experiment=fixed", "name=table/fixed", "seed=2"]
    ]
    report = build(table, find)
    page = render.markdown(report)
    assert (
        "| base | 60.00 ± 1.00 | 3 | 57.52 to 62.48 | 60.58 (Table 4) | lr=0.01 (of 2 points, 3 seeds; the grid's largest lr) |"
        in page
    )
    assert "| guided | 70.00 ± 1.00 | 3 |" in page and "| fixed | 40.00 ± 28.28 | 2 |" in page
    guided, fixed = report.comparisons
    assert str(guided.verdict) == "reproduced in direction" and guided.published == pytest.approx(9.57)
    assert fixed.sentence == "undecided (2 common seeds, at least 3 needed)"
    assert "reduced networks" in page and "- fixed, seed 2: missing" in page
    assert render.table_csv(report).splitlines()[1] == "base,test/accuracy,60,1,3"


def test_words_added_to_every_command_stand_in_those_of_the_page(full):
    page = render.markdown(build(*full, ["fit.max_steps=10"]))
    assert (
        "tutelage train -m experiment=base name=table/base optimizer.lr=0.01 fit.max_steps=10 seed=0,1,2"
        in page
    )


def test_size_needs_the_papers_setting(full, path):
    _, find = full
    report = build(load(path(FILE.replace("seeds: 3", "seeds: 3\nsetting: paper"))), find)
    assert str(report.comparisons[0].verdict) == "reproduced in size"


def test_an_empty_table_is_all_gaps(path, find):
    report = build(load(path()), find)
    page = render.markdown(report)
    for arm in ("base", "guided", "fixed"):
        assert f"| {arm} | - | 0 | - |" in page
    assert "nothing to choose from yet" in page


def test_experiments_of_two_keys_and_odd_values(path):
    table = load(
        path(FILE.replace("{optimizer.lr: [1.0e-2, 1.0e-3]}", "{a.x: [true, null, [1, 2]], b: [word, 3]}"))
    )
    assert table.arms[0].points[0] == ("a.x=true", "b=word") and len(table.arms[0].points) == 6
    assert table.arms[0].points[-1] == ("a.x=[1, 2]", "b=3")
    assert len(table.arms[2].points) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric: accuracy", "metrics: accuracy", "did you mean 'metric'"),
        ("metric: accuracy\n", "", "the setting 'metric' is missing"),
        ("seeds: 3", "seeds: []", "seeds must be a number of seeds or a list"),
        ("seeds: 3", "seeds: 0", "seeds must be a number of seeds or a list"),
        ("seeds: 3", "seeds: [1, 1]", "different seeds"),
        ("seeds: 3", "seeds: true", "seeds must be a number of seeds or a list"),
        ("seeds: 3", "seeds: 3\nsetting: papre", "setting must be one of reduced, paper, got 'papre'"),
        ("seeds: 3", "seeds: 3\nsplit: train", "split must be one of test, validation"),
        ("  fixed: {", "  base: {", "stand once"),
        ("fixed: {words:", "fixed: {wrods:", "did you mean 'words'"),
        ("base: [experiment=base]", "base: [experiment=base, seed=0]", "no seed"),
        ("  base: []", "  base: [seed=0]", "no seed"),
        ("[experiment=guided]", "[experiment=base]", "'base' and 'guided' are the same runs"),
        ("compare: base", "compare: bsae", "did you mean 'base'"),
        ("compare: base", "compare: [[guidde, base]]", "did you mean 'guided'"),
        ("compare: base", "compare: [[guided]]", "pairs"),
        ("compare: base", "compare: [[base, base]]", "that differ"),
        ("base: [experiment=base]", "base: experiment=base", "list of words"),
        ("guided: [experiment=guided]", "guided: experiment=guided", "list of words"),
        ("base: 60.58", "base: sixty", "a number"),
        ("guided: 70.15}", "guidde: 70.15}", "did you mean 'guided'"),
        (
            "{base: 60.58, guided: 70.15}",
            "60.58",
            "published.Table 4 must be a mapping to a number or a list",
        ),
        ("[1.0e-2, 1.0e-3]", "1.0e-2", "list of values"),
        (
            "[experiment=guided]",
            "[experiment=guided, optimizer.lr=1.0]",
            "the arm 'guided' sets optimizer.lr=1.0, which its grid sets, too: .*words: .*, grid: ",
        ),
        ("title: Guided learning", "- a list", "damaged"),
        ("[1.0e-2, 1.0e-3]", "[2024-01-01, 2024-01-02]", "a date in quotes"),
        ("percent: true", 'percent: "no"', "true or false"),
        ("seeds: 3", "seeds: 3\nprocesses: 0", "at least 1"),
        ("base: 60.58", "base: [60.58, -1]", "published.Table 4.base must be a number or a list of 2 values"),
    ],
)
def test_mistakes_in_a_table_are_named(path, old, new, message):
    assert old in FILE
    with pytest.raises(UserError, match=message):
        load(path(FILE.replace(old, new, 1)))


def test_a_metric_that_no_run_has_is_named_as_soon_as_there_is_a_run(path, find, cells):
    table = load(path(FILE.replace("metric: accuracy", "metric: acuracy")))
    assert unfinished(table, find)  # nothing can be known before the first run
    cells("base", 0.01, [0.5, None, None])
    for ask in (unfinished, build):
        with pytest.raises(UserError, match=r"no run has the metric 'acuracy'; did you mean 'accuracy'"):
            ask(table, find)


def test_arms_are_base_words_and_their_own(path):
    text = FILE.replace("[experiment=base]", "[experiment=base, model=fcn, a=1]", 1).replace(
        "[experiment=guided]", "[a=2, experiment=guided, b=3]"
    )
    base, guided, fixed = load(path(text)).arms
    assert base.command == ("experiment=base", "model=fcn", "a=1", "name=table/base")
    assert guided.command == ("experiment=guided", "model=fcn", "a=2", "b=3", "name=table/guided")
    assert fixed.command == ("experiment=fixed", "model=fcn", "a=1", "name=table/fixed")


def test_runs_are_called_after_the_table_and_the_label(tmp_path):
    text = (
        FILE.replace("  guided:", "  Guided (untrained), 5 %:")
        .replace("  base: []", "  base: [name=mine]")
        .replace("guided: 70.15", "base: 1")
    )
    for place, name in (
        ("experiments/paper/one.yaml", "paper/one"),
        ("experiments/one/one.yaml", "one"),
        ("two.yaml", "two"),
    ):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{base: 60.58, base: 1}", "{}"))
        table = load(path)
        assert table.name == name
        assert [arm.command[-1] for arm in table.arms] == [
            "name=mine",
            f"name={name}/guided-untrained-5",
            f"name={name}/fixed",
        ]


@pytest.mark.parametrize(
    ("compare", "pairs"),
    [
        ("base", [("guided", "base"), ("fixed", "base")]),
        ("[base, [fixed, guided]]", [("guided", "base"), ("fixed", "base"), ("fixed", "guided")]),
        (
            "[[[base, fixed], guided], [fixed, base]]",
            [("base", "guided"), ("fixed", "guided"), ("fixed", "base")],
        ),
        ("[]", []),
    ],
)
def test_what_is_compared(path, compare, pairs):
    assert list(load(path(FILE.replace("compare: base", f"compare: {compare}"))).compare) == pairs


def test_published_numbers_name_their_source_once(path):
    text = FILE.replace("  Table 4: {base: 60.58", "  Table 5: {fixed: [1, 0.5]}\n  Table 4: {base: 60.58")
    base, guided, fixed = (arm.published for arm in load(path(text)).arms)
    assert (base.value, base.error, base.source) == (60.58, None, "Table 4")
    assert (fixed.value, fixed.error, fixed.source) == (1.0, 0.5, "Table 5") and guided.value == 70.15


def test_missing_table(path):
    with pytest.raises(UserError, match="did you mean 'table'"):
        load(path().with_name("tabel.yaml"))


def test_files_of_a_table(full, store, tmp_path):
    table, find = full
    write_table(table, find, store, tmp_path / "results", "layers")
    names = sorted(p.name for p in (tmp_path / "results").iterdir())
    assert names == ["layers-cells.csv", "layers.csv", "layers.html", "layers.md", "layers.png"]
    page = (tmp_path / "results" / "layers.md").read_text()
    assert "tutelage train -m experiment=base name=table/base optimizer.lr=0.01 seed=0,1,2" in page
    assert "![layers](layers.png)" in page and str(tmp_path) not in page


def test_a_table_of_more_runs_stays_unless_replacing_is_asked_for(full, store, tmp_path):
    table, find = full
    _, said = write_table(table, find, store, tmp_path / "results", "layers")
    assert said.startswith("written")
    written = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    fewer = replace(table, arms=table.arms[:1], compare=())
    report, said = write_table(fewer, find, store, tmp_path / "results", "layers")
    assert len(report.lines) == 1 and "--replace" in said
    now = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    assert {**written, "layers.html": b""} == {**now, "layers.html": b""}
    _, said = write_table(fewer, find, store, tmp_path / "results", "layers", replace=True)
    assert (
        said.startswith("written")
        and (tmp_path / "results" / "layers.md").read_bytes() != written["layers.md"]
    )


def test_replacing_draws_the_figure_anew_though_its_numbers_are_the_same(full, store, tmp_path):
    table, find = full
    write_table(table, find, store, tmp_path / "results", "layers")
    figure = tmp_path / "results" / "layers.png"
    drawn = figure.read_bytes()
    figure.write_bytes(drawn + b"older")
    write_table(table, find, store, tmp_path / "results", "layers")
    assert figure.read_bytes() == drawn + b"older"  # a committed figure does not change with the machine
    write_table(table, find, store, tmp_path / "results", "layers", replace=True)
    assert figure.read_bytes() == drawn


def test_elsewhere_the_cells_that_came_with_the_table_are_reported(full, store, tmp_path):
    table, find = full
    before, _ = write_table(table, find, store, tmp_path / "results", "layers")
    cells = tmp_path / "results/layers-cells.csv"
    missing = finder(
        [], lambda words: (_ for _ in ()).throw(NoValue("data.root has no value", "data.root")), recorded=True
    )
    report, said = write_table(table, missing, store, tmp_path / "here", "layers", committed=cells)
    assert [line.values for line in report.lines] == [line.values for line in before.lines]
    assert str(cells) in said and "of the runs themselves 0 are here" in said
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["layers.html", "layers.png"]
    report, said = write_table(
        table, missing, store, tmp_path / "there", "layers", committed=cells, replace=True
    )
    assert report.complete == 0 and ".png" not in said


def test_runs_that_are_there_say_what_the_command_leaves_open_to_a_report_alone(store, make):
    arm = Arm("plain", ("name=table/plain",))
    run = make("table/plain", 0, 0.3, data__root="/far/images")

    def plan_of(words):
        if not any(word.startswith("data.root=") for word in words):
            raise NoValue("the setting 'data.root' has no value", "data.root")
        assert "data.root=/far/images" in words
        return SimpleNamespace(config={"runs_dir": str(store.root)}, name=run.name, identity=run.identity)

    words = [f"runs_dir={store.root}"]
    assert finder(words, plan_of, recorded=True)(Cell(arm, (), 0)).key == run.key
    other = finder(words, plan_of, recorded=True)(Cell(Arm("other", ("name=table/other",)), (), 0))
    assert other.state is State.MISSING and other.reason == "missing; data.root has no value here"
    with pytest.raises(NoValue):
        finder(words, plan_of)(Cell(arm, (), 0))


def test_where_the_runs_are_not_the_report_is_that_of_the_cells_beside_the_table(full, store, tmp_path):
    table, find = full
    results = tmp_path / "results"
    before, _ = write_table(table, find, store, results, "layers")
    written = {path.name: path.read_bytes() for path in results.iterdir()}

    def nothing(cell):
        raise UserError("the setting 'data.root' has no value")

    report, said = write_table(table, nothing, store, results, "layers")
    assert "the setting 'data.root' has no value" in said and "tutelage reproduce" in said
    assert [(line.label, line.values) for line in report.lines] == [
        (line.label, line.values) for line in before.lines
    ]
    assert [(c.difference, c.verdict) for c in report.comparisons] == [
        (c.difference, c.verdict) for c in before.comparisons
    ]
    assert better(report.lines) == "higher is better"
    now = {path.name: path.read_bytes() for path in results.iterdir()}
    assert {**written, "layers.html": b""} == {**now, "layers.html": b""}
    (results / "layers.png").unlink()
    write_table(table, nothing, store, results, "layers")
    assert (results / "layers.png").is_file()


def test_cells_that_are_none_are_one_message(full, store, tmp_path):
    table, find = full
    write_table(table, find, store, tmp_path, "layers")
    cells = tmp_path / "layers-cells.csv"
    cells.write_text(cells.read_text().replace("seed", "sead", 1))
    with pytest.raises(UserError, match=r"layers-cells\.csv does not hold the cells of a table"):
        committed_report(table, cells)


def test_a_choice_inside_the_grid_is_not_at_its_edge(path, find, cells):
    table = load(path(FILE.replace("[1.0e-2, 1.0e-3]", "[1.0e-2, 1.0e-3, 1.0e-1]")))
    for rate, values in ((0.001, [0.4] * 3), (0.01, [0.6] * 3), (0.1, [0.5] * 3)):
        cells("base", rate, values)
    assert choose(table, table.arms[0], find).sentence == "lr=0.01 (of 3 points, 3 seeds)"


def test_a_choice_that_is_a_word_has_no_edge(path, find, cells):
    table = load(path(FILE.replace("[1.0e-2, 1.0e-3]", "[null, 1.0e-3, 1.0e-1]")))
    for rate, values in (("null", [0.6] * 3), (0.001, [0.4] * 3), (0.1, [0.5] * 3)):
        cells("base", rate, values)
    assert choose(table, table.arms[0], find).sentence == "lr=null (of 3 points, 3 seeds)"


def test_the_cost_of_a_table_counts_the_runs_that_only_choose(path, find, cells, make, store):
    guide = make("t/guide", 0, 0.9)
    needs = {"guide": {"command": ["x"], "run": guide.key}}
    cells("base", 0.01, [0.50, 0.52, 0.51])
    cells("base", 0.001, [0.49, 0.50, 0.50])
    cells("guided", 0.01, [0.60, 0.62, 0.61])
    cells("guided", 0.001, [0.59, 0.60, None])
    cells("fixed", None, [0.4, 0.4, 0.4])
    cost = build(load(path()), find).notes[-1]
    assert cost.startswith("14 runs (of these 5 that only choose), 7.0 minutes of training, on: A processor")
    cells("fixed", None, [0.4, 0.4, 0.4], needs=needs)
    assert (
        "7.0 minutes of training, without that of the runs they need, on:"
        in build(load(path()), find).notes[-1]
    )
