"""`tutelage list runs`: filters and what the table shows."""

import io

import pytest
from rich.console import Console

from tutelage.errors import UserError
from tutelage.reporting.runs_table import filtered_rows, render_runs_table


@pytest.fixture
def runs(make, store):
    make("demo/plain", 0, 0.3)
    make("demo/guided", 0, 0.8, method___target_="tutelage.methods.guidance.Guidance")
    make("demo/guided", 1, failed="the loss is NaN", method___target_="tutelage.methods.guidance.Guidance")
    make("other/text", 0, data___target_="tutelage.data.text.WikiText")
    return store


def names(store, **filters):
    return [f"{row.name}:{row.seed}" for row in filtered_rows(store, **filters)]


def test_filters(runs):
    assert len(names(runs)) == 4
    assert sorted(names(runs, under="demo")) == ["demo/guided:0", "demo/guided:1", "demo/plain:0"]
    assert names(runs, state="failed") == ["demo/guided:1"]
    assert names(runs, method="guidance", state="complete") == ["demo/guided:0"]
    assert names(runs, method="Guidance", state="complete") == ["demo/guided:0"]
    assert names(runs, data="wikitext") == names(runs, data="text") == ["other/text:0"]
    assert len(names(runs, since="2026-01-01")) == 4
    assert names(runs, since="2026-01-02") == [
        n for n in names(runs) if n != "other/text:0"
    ]  # ended after it
    assert names(runs, since="9999-01-01") == []


def test_settings_choose_runs_by_the_values_that_these_have(make, store):
    more = {"model__size": [1, 2], "model__on": True, "model__kind": "Two Words"}
    for seed, lr in ((0, 0.1), (1, 0.1), (2, 0.01)):
        make("a/x", seed, 0.5, optimizer__lr=lr, **(more if seed else {}))
    for words, seeds in (
        (["seed=1"], [1]), (["optimizer.lr=1e-1"], [0, 1]), (["optimizer.lr=.01"], [2]), (["optimizer.lr=0.1", "seed=1"], [1]),
        (["model.size=[1,2]"], [1, 2]), (["model.on=true"], [1, 2]), (["model.kind=Two Words"], [1, 2]),
        (["method=supervised"], [0, 1, 2]),
    ):  # fmt: skip
        assert sorted(names(store, settings=words)) == [f"a/x:{seed}" for seed in seeds]
    for words, said in (
        (["seed=7"], r"no run has seed '7'; known: 0, 1, 2"), (["optimizer.lr=1"], r"no run has optimizer.lr '1'"),
        (["optimizer.rl=0.1"], r"no run has a setting 'optimizer.rl'; did you mean 'optimizer.lr'"),
        (["model.kind=two words"], "did you mean 'Two Words'"), (["model.on=1"], "known: true"),
        (["+seed=1"], r"as they have them, such as model.width=64, got '\+seed=1'"), (["seed"], "got 'seed'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            filtered_rows(store, settings=words)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"state": "complet"}, "did you mean 'complete'"),
        ({"method": "guidence"}, "did you mean 'guidance'"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"since": "yesterday"}, "2026-01-31"),
        ({"under": "../x"}, "not below"),
    ],
)
def test_mistakes(runs, filters, message):
    with pytest.raises(UserError, match=message):
        filtered_rows(runs, **filters)


def shown(table):
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_table(runs):
    text = shown(render_runs_table(runs))
    assert (
        "4 runs" in text
        and "accuracy" in text.splitlines()[1]
        and " 0.8000 " in text
        and "NonFiniteLoss: the loss is NaN" in text
        and "interrupted" in text
    )
    assert "guidance" in text and "digits" in text
    assert "0 runs" in shown(render_runs_table(runs, state="running"))


def test_empty_store(store):
    assert "0 runs" in shown(render_runs_table(store))
