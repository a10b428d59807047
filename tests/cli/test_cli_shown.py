"""What lists, pages, reports and analyses show, and which card a rank takes: whom they ask, and every line."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.cli import (
    in_ranks,
    listing,
    serve,
)
from tutelage.cli.reader import Given
from tutelage.errors import UserError


def test_sweeps_are_listed_with_every_table_and_a_table_with_its_title(monkeypatch, tmp_path, capsys):
    from tutelage.config import groups

    files = {}
    for name, text in (("p/a", "# x\ntitle: 'The first'\nmetric: m\n"), ("p/b", "metric: m\n")):
        files[name] = tmp_path / f"{name.replace('/', '-')}.yaml"
        files[name].write_text(text)
    monkeypatch.setattr(groups, "abouts", lambda group: {f"{group} itself": "described"})
    monkeypatch.setattr(listing, "tables", lambda: files)
    monkeypatch.setattr(listing, "width", lambda: 80)
    expected = {
        "sweeps": "sweep itself  described\np/a           The first\np/b\n",
        "tables": "p/a  The first\np/b\n",
        "cases": "scale itself  described\n",
    }
    for what, shown in expected.items():
        listing.run(Given(names=[what]))
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"under": "", "sort": None, "most": None, "state": None}),
        ({"last": "1"}, {"under": "", "sort": "-started", "most": 1, "state": None}),
        ({"last": "3", "sort": "seed", "name": "a", "state": "failed"},
         {"under": "a", "sort": "seed", "most": 3, "state": "failed"}),
    ],
)  # fmt: skip
def test_which_runs_are_listed(monkeypatch, capsys, given, asked):
    from tutelage.reporting import runs_table

    seen: list[Any] = []
    monkeypatch.setattr(
        runs_table, "render_runs_table", lambda store, **words: seen.append((str(store.root), words)) or "all"
    )
    name = given.get("name")
    options = dict.fromkeys(listing.OF_RUNS, "") | {"runs_dir": "R"} | given
    assert listing.run(Given(names=["runs", *filter(None, [name])], options=options)) == 0
    others = {"method": None, "data": None, "since": None, "before": None, "settings": []}
    assert seen == [("R", asked | others)] and capsys.readouterr().out == "all\n"
    with pytest.raises(UserError, match=r"^--watch needs a terminal: elsewhere give `tutelage list runs`"):
        listing.run(Given(names=["runs"], options=options, flags=["--watch"]))


@pytest.mark.parametrize(
    ("path", "settings", "runs_first", "made"),
    [
        ("t.yaml", [], False, ["table t.yaml", "table t.yaml"]),
        ("t.yaml", ["a=1"], True, ["table t.yaml", "table t.yaml"]),
        ("t.yaml", [], True, ["free below/x", "free below/x"]),
        (None, [], False, ["free below/x", "free below/x"]),
        (None, ["a=1"], False, r"^a page of runs takes runs_dir=<folder>, got 'a=1'$"),
    ],
)
def test_the_report_of_a_page(monkeypatch, path, settings, runs_first, made):
    from tutelage.reporting import index, runs_report
    from tutelage.runs import store

    built: list[Any] = []
    monkeypatch.setattr(
        store, "Store", lambda root: SimpleNamespace(root=root, name_in=lambda what: f"below/{what}")
    )
    monkeypatch.setattr(index, "Index", lambda root: f"index of {root}")
    monkeypatch.setattr(
        runs_report, "free_report", lambda store, name, index: f"free {name}" if index == "index of R" else ""
    )
    monkeypatch.setattr(serve, "table_path", lambda what: path and Path(path))
    monkeypatch.setattr(
        serve, "table_path_unless_runs", lambda what, runs: None if runs_first or not path else Path(path)
    )
    monkeypatch.setattr(serve, "_of_table", lambda path, *_: built.append(path) or (lambda: f"table {path}"))
    with serve._reports("x", Given(settings=settings, options={"runs_dir": "R"})) as make:
        if isinstance(made, str):
            with pytest.raises(UserError, match=made):
                make()
            return
        assert [make(), make()] == made and len(built) == (made[0] != "free below/x")


def test_words_of_a_page_that_count_are_those_of_its_runs(monkeypatch):
    from tutelage.config import compose, planner
    from tutelage.reporting import table_file, table_report, tables

    found: list[Any] = []
    monkeypatch.setattr(compose, "hydra_ready", nullcontext)
    monkeypatch.setattr(planner, "plan_of", "plan_of")
    monkeypatch.setattr(table_file, "load", lambda path: f"table of {path}")
    monkeypatch.setattr(tables, "finder", lambda *words, recorded: found.append((words, recorded)) or "find")
    monkeypatch.setattr(table_report, "build", lambda *words: words)
    words = ["+hardware.threads=1", "fit.max_steps=3", "~guide"]
    given = Given(settings=words, options={"runs_dir": "R"}, spoken=["runs_dir"])
    entered: list[Any] = []
    made = serve._of_table(Path("t"), given, SimpleNamespace(enter_context=entered.append))
    assert made() == ("table of t", "find", ["fit.max_steps=3", "~guide"]) and len(entered) == 1
    assert found == [(([*words, "runs_dir=R"], "plan_of", "table of t"), True)]


@pytest.mark.parametrize(("name", "of"), [(["a"], "a"), ([], "all runs")])
def test_a_page_is_served_until_it_is_interrupted(monkeypatch, capsys, name, of):
    from tutelage.reporting import live

    events: list[Any] = []

    class View:
        def __init__(self, store, make, every_s):
            events.append((str(store.root), make, every_s))

        def now(self):
            events.append("now")

    def forever(poll_interval):
        events.append(poll_interval)
        raise KeyboardInterrupt

    serving = SimpleNamespace(server_address=("127.0.0.1", 80, "more"), serve_forever=forever)
    monkeypatch.setattr(live, "View", View)
    monkeypatch.setattr(live, "server", lambda view, port: events.append(port) or nullcontext(serving))
    monkeypatch.setattr(serve, "_reports", lambda what, given: nullcontext(f"reports {what}"))
    options = {"runs_dir": "R", "port": "8", "every": "3600"}
    assert serve.run(Given(names=name, options=options)) == 0
    assert events == [("R", f"reports {''.join(name)}", 3600), "now", 8, 0.2]
    assert capsys.readouterr().out == f"http://127.0.0.1:80 shows {of} in R; Ctrl-C ends it\n"
    for every in ("0", "3601"):
        with pytest.raises(UserError, match="every must be a whole number from 1 to 3600"):
            serve.run(Given(options=options | {"every": every}))


@pytest.mark.parametrize(
    ("device", "cards", "chosen"),
    [("cuda", 2, [1]), ("gpu", 4, [3]), ("cpu", 2, []), ("cuda", 0, []), ("mps", 2, [])],
)
def test_a_rank_takes_the_card_of_its_place_on_the_machine(monkeypatch, device, cards, chosen):
    import torch

    from tutelage.engine import shared_work
    from tutelage.jobs import parallel

    taken: list[int] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(in_ranks, "in_ranks", lambda: True)
    monkeypatch.setattr(in_ranks, "join_environment", lambda: (3, 4))
    monkeypatch.setattr(parallel, "die_with_parent", lambda: None)
    monkeypatch.setattr(shared_work, "ranks_together", nullcontext)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    given = Given(options={in_ranks.KEY: "1", "device": device})
    assert in_ranks.run_in_ranks("do", given, lambda given: 6) == 6 and taken == chosen


def test_the_files_of_a_report_that_are_there_are_named_the_page_first(monkeypatch, tmp_path, capsys):
    from tutelage.cli import report
    from tutelage.reporting import render, runs_report
    from tutelage.runs import store

    asked: list[Any] = []
    files = runs_report.FILES
    for name in (files["html"], files["table"]):
        (tmp_path / name).touch()
    monkeypatch.setattr(
        store,
        "Store",
        lambda root: SimpleNamespace(name_in=lambda name: f"in {name}", folder_of=lambda name: tmp_path),
    )
    monkeypatch.setattr(report, "_finish", lambda columns, store: f"finish {columns}")
    monkeypatch.setattr(
        runs_report, "write_report", lambda store, name, finish: asked.append((name, finish)) or "report"
    )
    monkeypatch.setattr(render, "terminal", lambda report: f"shown {report}")
    report.report_runs("x", "R", columns="macs")
    assert asked == [("in x", "finish macs")]
    assert capsys.readouterr().out == f"shown report\nwritten: {tmp_path}/{files['html']}, {files['table']}\n"


def test_installed_packages_are_asked_where_one_of_them_speaks_of_commands(monkeypatch):
    from tutelage.cli import added

    asked: list[Any] = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: asked.append(group) or ("one",))
    monkeypatch.setattr(sys, "path", ["a", "b"])
    for speaks, found in (("b", ("one",)), ("", ())):
        monkeypatch.setattr(added, "_may_add", lambda place, speaks=speaks: place == speaks)
        assert added._entries() == found
    assert asked == ["tutelage.commands"]


def test_what_an_analysis_found_is_kept_for_runs_and_written(monkeypatch, tmp_path, capsys):
    from tutelage.cli import analyse

    kept: list[Any] = []
    monkeypatch.setattr(analyse, "remember", lambda *words: kept.append(words))

    def subject(label, role=""):
        return SimpleNamespace(label=label, role=role, run=SimpleNamespace(key=f"run of {label}"), seed=3)

    subjects = [subject("a"), subject("b"), subject("a", "teacher"), subject("none")]
    request: Any = SimpleNamespace(
        subjects=subjects, options={"runs_dir": "R"}, asked={"k": "1"}, folder=tmp_path / "new/deep"
    )
    rows = [{"network": "a", "x": 1}, {"network": "b", "y": "=2"}, {"network": "a", "x": 3}, {"x": 4}]
    analyse._keep(request, "ranks", rows)
    assert kept == [
        (Path("R"), subjects[0].run, "ranks", {"k": "1"}, [rows[0], rows[2]]),
        (Path("R"), subjects[1].run, "ranks", {"k": "1"}, [rows[1]]),
    ]
    analyse.write(request, "ranks", {"found": 5}, rows, lambda path: path.with_suffix(".webp").touch())
    assert capsys.readouterr().out == f"written: {tmp_path}/new/deep/ranks.webp, ranks.csv, ranks.json\n"
    text = (tmp_path / "new/deep/ranks.csv").read_text()
    assert text == "network,x,y\na,1,\nb,,'=2\na,3,\n,4,\n"
    record = json.loads((tmp_path / "new/deep/ranks.json").read_text())
    assert record.pop("subjects")[2] == {"label": "a", "run": "run of a", "role": "teacher", "seed": 3}
    assert record == {"analysis": "ranks", "options": {"runs_dir": "R"}, "found": 5}


@pytest.mark.parametrize(
    ("columns", "measures"), [((), False), (("flops",), False), (("flops", "latency"), True)]
)
def test_torch_is_loaded_where_a_column_is_measured(monkeypatch, columns, measures):
    from tutelage.analysis import network_cost
    from tutelage.cli import report
    from tutelage.reporting import costs

    monkeypatch.setattr(
        costs, "with_costs", lambda report, store, names, *measured: (report, names, measured)
    )
    monkeypatch.setattr(network_cost, "machine_said", lambda: "a CPU")
    store: Any = "store"
    found = report._finish(",".join(columns), store)("report")  # type: ignore[arg-type]
    assert found == ("report", columns, (network_cost.of_run, "a CPU") if measures else ())


@pytest.mark.parametrize("verb", ["predict", "measure"])
def test_what_scale_does_by_its_verb(monkeypatch, verb):
    from tutelage.cli import scale
    from tutelage.scaling import measure_command, predict_command

    monkeypatch.setattr(scale, "read", lambda *words: words)
    monkeypatch.setattr(predict_command, "run", lambda request: ("predict", request))
    monkeypatch.setattr(measure_command, "run", lambda request: ("measure", request))
    given = Given(verb, ["n"], ["--f"], {"o": "1"}, [], ["s=1"])
    assert scale.run(given) == (verb, (verb, ["n"], {"--f"}, {"o": "1"}, ["s=1"]))
