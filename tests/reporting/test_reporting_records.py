"""What is read of a run's files, kept of it and shown of it: every fact, and what is left out where there is too much."""

from __future__ import annotations

import json
import math

import pytest

from tutelage.errors import UserError
from tutelage.reporting import index as index_module
from tutelage.reporting import measured
from tutelage.reporting.collect import _MOST_INPUTS, Known, collect, group, prerequisites, row_of
from tutelage.reporting.committed import _complete_in, _row
from tutelage.reporting.facts import TestData, read_facts, settings_of
from tutelage.reporting.index import Index, _signature, _youngest
from tutelage.reporting.row import Row
from tutelage.reporting.run_details import Record, Share, details, progress
from tutelage.reporting.runs_table import filtered_rows, render_runs_table, sorted_rows
from tutelage.reporting.tables import Arm, Cell, Table, _edges, choose, unfinished
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.layer_pairs import LayerPairs
from tutelage.runs.records import read_json, write_json
from tutelage.runs.run import State

NAN = math.nan


def changed(run, file, **values):
    path = run.path / file
    write_json(path, (read_json(path) if path.is_file() else {}) | values)
    return run


def test_every_fact_of_a_complete_run(make):
    run = make("f/a", 3, 0.8, 0.85, tested_on={"split_sha256": {"test": "aa"}, "fingerprint": "f", "output_size": 10, "test_sha256": "11"},
               words="a=1 b=2", data__dataset="mnist", notes="no fact", optimizer__fused=True)  # fmt: skip
    changed(
        run, "result.json",
        best={"step": 150, "test": {"accuracy": 0.8, "loss": 2, "name": "x", "ok": True}, "validation": {"accuracy": 0.85}},
        best_on_test={"test": {"accuracy": 0.9}}, cost={"train_s": 12.5, "steps": 200},
        selection={"monitor": "accuracy", "mode": "max", "directions": {"accuracy": "min", "f1": "max"}},
    )  # fmt: skip
    found = read_facts(run, State.COMPLETE)
    assert found.settings.seed == 3 and found.complete and "seed" not in found.settings.inputs
    assert found.metrics == {
        "test/accuracy": 0.8,
        "test/loss": 2.0,
        "validation/accuracy": 0.85,
        "best_on_test/accuracy": 0.9,
    }
    assert (found.monitor, found.mode, found.directions) == (
        "accuracy",
        "max",
        {"accuracy": "max", "f1": "max"},
    )
    assert (found.best_step, found.train_s, found.step, found.steps, found.so_far) == (
        150,
        12.5,
        200,
        200,
        None,
    )
    assert (
        found.commits == ("aaaaaaaaa",)
        and found.machine == "A processor, 2 cores"
        and found.words == ("a=1", "b=2")
    )
    assert found.tested_on == TestData("tutelage.data.digits.Digits, mnist", '["aa", "f", 10]', "11")
    assert found.started == "2026-01-01T00:00:00+00:00" and found.finished and found.unfinished == ("", "")
    assert (
        found.reason(State.COMPLETE) == found.reason(State.MISSING) == ""
        and found.reason(State.FAILED) is None
    )


def test_a_result_without_a_best_step_has_its_metrics(make):
    run = make("f/a", 0, 0.5)
    changed(run, "result.json", best={}, metrics={"test": {"fid": 12}}, selection={})
    found = read_facts(run, State.COMPLETE)
    assert found.metrics == {"test/fid": 12.0} and (found.monitor, found.mode, found.directions) == (
        None,
        None,
        {},
    )


def test_a_kept_failure_is_read_again_once_the_run_is_at_work(make, store):
    run = make("f/a", 0, failed="broke")
    known = Known(Index(store.root, fresh_s=-1.0))
    for _ in range(2):
        assert row_of(run, store, known).reason == "failed: NonFiniteLoss: broke"
        known.index.remember()
    with run.lock():
        row = row_of(run, store, known)
        assert (row.state, row.reason) == (State.RUNNING, "running at step 200")


def test_every_fact_of_a_run_that_is_not_complete(make):
    run = make("f/a", 0)
    with MetricsWriter(run.path / "metrics.jsonl") as writer:
        for step, value in ((300, 0.9), (400, 0.3), (500, NAN)):
            writer.write({"step": step, "validation/loss": value, "train_s": step / 100})
    changed(run, "setup.json", steps=800, selection={"monitor": "loss", "mode": "min"})
    found = read_facts(run, State.INTERRUPTED)
    assert (found.complete, found.metrics, found.best_step, found.finished) == (False, {}, None, "")
    assert (found.monitor, found.mode, found.directions, found.so_far) == (
        "loss",
        "min",
        {"loss": "min"},
        0.3,
    )
    assert (found.step, found.steps, found.train_s) == (500, 800, 5.0) and found.words is None
    assert found.unfinished == ("begun", " at step 500")
    assert (
        found.reason(State.INTERRUPTED) == "interrupted at step 500"
        and found.reason(State.RUNNING) == "running at step 500"
    )
    assert found.reason(State.FAILED) is None
    changed(run, "setup.json", selection={"monitor": "loss", "mode": "max"})
    assert read_facts(run, State.RUNNING).so_far == 0.9
    (run.path / "metrics.jsonl").unlink()
    empty = read_facts(run, State.RUNNING)
    assert (empty.unfinished, empty.step, empty.so_far, empty.train_s) == (("begun", ""), None, None, None)


@pytest.mark.parametrize(
    ("error", "message", "said"),
    [
        ("NonFiniteLoss", "the loss is NaN\nand more", "failed: NonFiniteLoss: the loss is NaN"),
        ("UserError", "a mistake", "failed: a mistake"),
        ("UserError", "", "failed"),
        ("KeyError", "", "failed: KeyError"),
        ("StoppedBelow", "stopped at 0.1\nx", "stopped at 0.1"),
        ("StoppedBelow", "", "stopped"),
    ],
)
def test_why_a_run_failed(make, error, message, said):
    run = make("f/a", 0, failed="x")
    changed(run, "failed.json", error=error, message=message)
    found = read_facts(run, State.FAILED)
    assert found.unfinished == ("failed", said)
    assert found.reason(State.FAILED) == said and found.reason(State.INTERRUPTED) is None


@pytest.mark.parametrize(
    ("machine", "accelerator", "said"),
    [
        ({"cpu": "C", "cores_usable": 4, "gpus": ["H100", "A100"]}, "gpu", "2 x H100"),
        ({"cpu": "C", "cores_usable": 4, "gpus": ["H100"]}, "cpu", "C, 4 cores"),
        ({"gpus": None}, None, "unknown processor, ? cores"),
    ],
)
def test_what_a_run_was_made_on(make, machine, accelerator, said):
    run = make("f/a", 0, 0.5, hardware={"accelerator": accelerator})
    record = read_json(run.path / "provenance.json")
    record["attempts"][-1]["machine"] = machine
    write_json(run.path / "provenance.json", record)
    assert read_facts(run, State.COMPLETE).machine == said


@pytest.mark.parametrize(
    ("seed", "read"), [(0, 0), (5, 5), (2**64 - 1, 2**64 - 1), (2**64, 0), (-1, 0), ("x", 0), (1.5, 0)]
)
def test_seeds_are_whole_numbers_of_64_bits(seed, read):
    assert settings_of({"name": "n", "seed": seed}).seed == read


def test_settings_are_what_enters_the_identity_and_the_keys_of_needed_runs():
    config = {
        "name": "n", "seed": 1, "runs_dir": "r", "model": {"_target_": "a.B", "_reads_": "published", "depth": [1, 2]},
        "needs": {"guide": {"run": "g/1"}, "odd": "x", "none": {"command": ["c"]}},
    }  # fmt: skip
    found = settings_of(config)
    assert found.needs == (("guide", "g/1"),)
    assert found.inputs["model._target_"] == '"a.B"' and found.inputs["model.depth"] == "[1, 2]"
    assert not {"seed", "runs_dir", "model._reads_"} & set(found.inputs)


# --- collecting


def test_a_run_whose_record_is_damaged_hides_no_other_and_says_why(make, store):
    good, odd, bad = make("c/a", 0, 0.5), make("c/a", 1, 0.5), make("c/a", 2, 0.5)
    changed(odd, "result.json", best=[1])
    (bad.path / "config.yaml").write_text("[")
    rows = {row.key: row for row in collect(store)}
    assert rows[good.key].reason == "" and rows[good.key].inputs
    assert (
        rows[odd.key].reason.startswith("its record is damaged: AttributeError: ")
        and not rows[odd.key].inputs
    )
    assert (rows[odd.key].seed, rows[odd.key].state, rows[odd.key].metrics) == (0, State.COMPLETE, {})
    assert "config.yaml" in next(row.reason for key, row in rows.items() if key not in (good.key, odd.key))
    assert row_of(store.run("never/made", "0" * 12), store).reason == ""


def test_settings_beyond_the_bound_are_refused(make, store, monkeypatch):
    need = make("c/need", 0, 0.5)
    one = make("c/one", 0, 0.5, needs={"guide": {"command": ["x"], "run": need.key}})
    (row,) = (row for row in collect(store) if row.key == one.key)
    spelled = [key for key in row.inputs if key.startswith("needs.guide.")]
    assert (
        row.inputs["needs.guide.seed"] == "0" and "needs.guide.run" not in row.inputs and _MOST_INPUTS == 4000
    )
    for most, fits in ((len(row.inputs), True), (len(row.inputs) - 1, False)):
        monkeypatch.setattr("tutelage.reporting.collect._MOST_INPUTS", most)
        (again,) = (row for row in collect(store) if row.key == one.key)
        assert (again.reason == "") is fits and len(spelled) > 5
    assert again.reason.endswith(f"with the runs it needs it has more than {most:,} settings")


def test_a_needed_run_that_was_removed_is_told_apart_by_its_key(make, store):
    need = make("c/need", 0, 0.5)
    one = make("c/one", 0, 0.5, needs={"guide": {"command": ["x"], "run": need.key}})
    need.remove()
    (row,) = collect(store)
    assert row.key == one.key and row.inputs["needs.guide.run"] == f'"{need.identity}"'
    assert prerequisites([row]) == {need.identity}


def test_groups_are_in_the_order_of_their_first_start_then_name_and_key():
    def row(key, started, seed=0, **inputs):
        return Row(
            key,
            key.rpartition("/")[0],
            seed,
            State.COMPLETE,
            {"name": f'"{key[0]}"', **inputs},
            {},
            started=started,
        )

    rows = [
        row("c/1", ""),
        row("b/2", "2026-02"),
        row("a/3", "2026-03"),
        row("d/4", "2026-02"),
        row("a/5", "2026-01", 1),
        row("b/0", "2026-02", 1),
    ]
    found = group([*rows, Row("y/1", "y", 0, State.FAILED, {}, {})])
    assert [(one.label, [r.key for r in one.rows]) for one in found] == [
        ("a", ["a/3", "a/5"]), ("b", ["b/2", "b/0"]), ("d", ["d/4"]), ("c", ["c/1"]),
    ]  # fmt: skip


def test_values_and_gaps_of_a_group():
    rows = [Row(f"a/{s}", "a", s, state, {"x": "1"}, metrics, reason=why) for s, state, metrics, why in (
        (0, State.COMPLETE, {"test/x": 1.0}, ""), (1, State.COMPLETE, {}, ""),
        (2, State.FAILED, {"test/x": 5.0}, "broke"), (4, State.RUNNING, {}, ""))]  # fmt: skip
    (found,) = group(rows)
    assert found.name == "a" and found.values("test/x") == {0: 1.0}
    assert found.gaps("test/x", (0, 3)) == {
        1: "no test/x in its result",
        2: "broke",
        3: "missing",
        4: "running",
    }


# --- the index


def test_a_signature_is_sizes_numbers_and_times(make, store):
    run = make("i/a", 0, 0.5)
    status = (run.path / "config.yaml").stat()
    signed = f"{status.st_size}.{status.st_ino}.{status.st_mtime_ns}.{status.st_ctime_ns}"
    assert _signature(run.path, ("config.yaml", "none.json")) == f"{signed},-"
    assert _signature(run.path, ("checkpoints",)) is None
    assert (
        _youngest("5.9.3000000000.7000000000,-,5.9.8500000000.2000000000") == 8.5 and _youngest("-,-") == 0.0
    )


@pytest.mark.parametrize(("runs", "written"), [(2, False), (3, True), (4, True)])
def test_the_index_is_written_once_it_is_worth_it(make, store, runs, written):
    for seed in range(runs):
        make("i/a", seed, 0.5)
    kept = Index(store.root, fresh_s=-1.0, worthwhile=3)
    for run in store.runs():
        kept.read(run, run.state)
    kept.save()
    assert kept.path.is_file() is written and index_module.WORTHWHILE == 64
    if written:
        again = Index(store.root)
        assert all(again.facts(run) == read_facts(run, run.state) for run in store.runs())


def test_what_was_just_written_is_not_kept_and_what_is_large_neither(make, store, monkeypatch):
    run = make("i/a", 0, 0.5)
    for fresh, keeps in ((60.0, False), (-1.0, True)):
        kept = Index(store.root, fresh_s=fresh)
        kept.read(run, State.COMPLETE)
        kept.remember()
        assert (kept.facts(run) is not None) is keeps
    section = max(
        len(json.dumps(one)) for one in read_facts(run, State.COMPLETE).settings.inputs.sections.values()
    )
    line = len(index_module._encode(read_facts(run, State.COMPLETE)))
    for most, keeps in ((max(section, line), True), (line - 1, False), (section - 1, False)):
        monkeypatch.setattr(index_module, "LINE_BYTES", most)
        kept = Index(store.root, fresh_s=-1.0)
        assert kept.read(run, State.COMPLETE) == read_facts(run, State.COMPLETE)
        kept.remember()
        assert (kept.facts(run) is not None) is keeps


def test_a_section_may_be_as_long_as_a_line_and_no_longer(make, store, monkeypatch):
    run = make("i/a", 0, 0.5, model__text="x" * 3000)
    section = max(
        len(json.dumps(one)) for one in read_facts(run, State.COMPLETE).settings.inputs.sections.values()
    )
    for most, keeps in ((section, True), (section - 1, False)):
        monkeypatch.setattr(index_module, "LINE_BYTES", most)
        kept = Index(store.root, fresh_s=-1.0)
        kept.read(run, State.COMPLETE)
        kept.remember()
        assert (kept.facts(run) is not None) is keeps and section > 3000


def test_files_that_changed_within_the_last_seconds_are_not_kept(make, store, monkeypatch):
    run = make("i/a", 0, 0.5)
    youngest = _youngest(_signature(run.path, index_module._OF_COMPLETE))
    for later, keeps in ((1.9, False), (2.0, True), (2.1, True)):
        monkeypatch.setattr(index_module.time, "time", lambda later=later: youngest + later)
        kept = Index(store.root)
        kept.read(run, State.COMPLETE)
        kept.remember()
        assert (kept.facts(run) is not None) is keeps


def test_saving_below_a_name_forgets_there_what_is_gone_and_keeps_the_others(make, store):
    runs = [make(name, 0, 0.5) for name in ("a/x", "a/y", "ab/z")]
    kept = Index(store.root, fresh_s=-1.0, worthwhile=1)
    for run in runs:
        kept.read(run, State.COMPLETE)
    kept.save()
    more = make("b", 0, 0.5)
    again = Index(store.root, fresh_s=-1.0, worthwhile=1)
    again.read(more, State.COMPLETE)
    again.save("a", {runs[0].key})
    text = again.path.read_text()
    assert [run.key in text for run in (*runs, more)] == [True, False, True, True]


# --- details


def record(**series):
    rows = [
        {"step": step}
        | {key.replace("__", "/"): values[i] for key, values in series.items() if values[i] is not None}
        for i, step in enumerate((1, 2, 3))
    ]
    return Record(rows, {})


def test_series_are_of_numbers_on_training_and_validation():
    found = record(
        train__loss=[1, NAN, 2.5],
        validation__x=[True, "a", 3],
        test__x=[1, 2, 3],
        train__similarity__01=[1, 2, 3],
        train_s=[1, 2, 3],
        train__y=[None, 4, None],
    )
    twice = Record([*found.rows, {"step": 3, "train/loss": 9.0}, {"step": 4, "train/loss": 8.0}], {})
    assert twice.series == {
        "train/loss": ([1, 3, 4], [1.0, 2.5, 8.0]),
        "validation/x": ([3], [3.0]),
        "train/y": ([2], [4.0]),
    }
    pairs = LayerPairs((("g", "n"),), (5, 6), ((0.1, 0.2),), (0.3, 0.4))
    assert Record((), {"alignment": pairs}).series == {"train/similarity": ([5, 6], [0.3, 0.4])}
    assert set(Record((), {"one": pairs, "two": pairs}).series) == {
        "train/similarity (one)",
        "train/similarity (two)",
    }


def test_details_say_what_they_leave_out(make):
    run = make("d/a", 0, 0.5)
    run.log.write_text("first\nsecond\nthird\n")
    rows = [
        {"step": step}
        | {f"train/q{i:02d}": step for i in range(15)}
        | {"train/loss": 1.0, "validation/loss": 2.0, "validation/x": 3.0}
        for step in range(20)
    ]
    pairs = {
        "wide": LayerPairs(
            tuple((f"g{i}", f"n{i}") for i in range(20)), tuple(range(20)), ((0.5,) * 20,) * 20, (0.5,) * 20
        ),
        "slim": LayerPairs((("g", "n"),), tuple(range(20)), ((0.12345, NAN) * 10,), (0.5,) * 20),
    }
    found = details(run, Record(rows, pairs), Share(numbers=100, points=16, log_bytes=12))
    assert list(found["series"]) == [
        "validation/x", *(f"train/q{i:02d}" for i in range(15)),
    ]  # fmt: skip
    assert found["left_out"] == [
        "4 of 20 curves",
        "curves are thinned to 8 of 20 points",
        "the 20 layer pairs of wide",
        "layer pairs are thinned to 16 of 20 steps",
        "the log's first 7 bytes",
    ]
    assert found["series"]["train/q00"] == [
        [0, 3, 5, 8, 11, 14, 16, 19],
        [0.0, 3.0, 5.0, 8.0, 11.0, 14.0, 16.0, 19.0],
    ]
    assert list(found["pairs"]) == ["slim"] and found["pairs"]["slim"]["names"] == ["1 g > n"]
    assert (
        found["pairs"]["slim"]["values"][0][:3] == [0.123, None, None]
        and len(found["pairs"]["slim"]["steps"]) == 16
    )
    assert found["log"] == "third\n"
    whole = details(
        run,
        Record(
            rows[:8], {"slim": LayerPairs((("g", "n"),), (1, 2, 3, 4), ((0.1, 0.2, 0.3, 0.4),), (0.1,) * 4)}
        ),
        Share(400, 8, 19),
    )
    assert whole["left_out"] == ["3 of 19 curves"] and whole["log"] == "first\nsecond\nthird\n"
    none = details(
        run,
        Record(
            rows[:1],
            pairs | {"slim": LayerPairs((("g", "n"),) * 12, (1, 2, 3), ((0.1, 0.2, 0.3),) * 12, (0.1,) * 3)},
        ),
        Share(96, 400, 19),
    )
    assert list(none["pairs"]) == ["slim"]  # 96 numbers of 12 pairs of 2 alignments: four steps, the least


def test_as_many_curves_and_steps_as_there_is_room_for_are_whole(make):
    run = make("d/a", 0, 0.5)
    rows = [{"step": step} | {f"train/q{i:02d}": step for i in range(15)} for step in range(6)]
    pairs = {"one": LayerPairs((("g", "n"),), tuple(range(6)), ((0.5,) * 6,), (0.5,) * 6)}
    found = details(run, Record(rows, pairs), Share(numbers=6, points=400, log_bytes=0))
    assert (
        len(found["series"]) == 16
        and found["left_out"] == []
        and found["pairs"]["one"]["steps"] == list(range(6))
    )


def test_of_attempts_the_last_five_are_shown_with_what_is_known(make):
    run = make("d/a", 0, 0.5)
    attempts = [{"started": str(i)} for i in range(6)]
    attempts[5] |= {
        "code": {"commit": None},
        "machine": {"cpu": "C", "gpus": ["G", "H"]},
        "command": "not a list",
        "packages": ["x"],
    }
    attempts[4] |= {"code": "odd", "command": ["a", "x" * 2100], "machine": {"gpus": "odd"}}
    write_json(run.path / "provenance.json", {"attempts": attempts})
    found = details(run, Record((), {}), Share.of(1))["attempts"]
    assert [one["started (UTC)"] for one in found] == ["1", "2", "3", "4", "5"]
    assert found[-1] == {"started (UTC)": "5", "commit": "none", "machine": "C, ? cores, G"}
    assert (
        found[-2]["commit"] == "none"
        and len(found[-2]["command"]) == 2000
        and found[-2]["machine"] == ", ? cores"
    )


@pytest.mark.parametrize(
    ("state", "steps", "step", "done"),
    [
        (State.COMPLETE, "100", 5, 1.0), (State.RUNNING, "100", 5, 0.05), (State.RUNNING, "3", 1, 0.333), (State.RUNNING, "100", 200, 1.0),
        (State.RUNNING, "0", 5, None), (State.RUNNING, "null", 5, None), (State.RUNNING, None, 5, None), (State.FAILED, "100", None, 0.0),
    ],
)  # fmt: skip
def test_how_far_a_run_is(state, steps, step, done):
    inputs = {} if steps is None else {"fit.max_steps": steps}
    assert progress(Row("x/1", "x", 0, state, inputs, {}, step=step)) == done


# --- what analyses found


def test_numbers_of_analyses_are_named_by_column_and_condition():
    rows = [
        {"seed": 1, "n": 5, "severity": 3, "low": 0.1, "high": 0.2, "accuracy": 0.5, "ok": True, "text": "x"},
        {"condition": "gaussian noise", "accuracy": 1},
        {"explainer": "saliency", "condition": "blur", "loss": 2.0},
        {"condition": "", "f1": 0.25},
    ]
    assert measured.named(rows) == {
        "accuracy": 0.5,
        "gaussian_noise_accuracy": 1.0,
        "saliency_blur_loss": 2.0,
        "f1": 0.25,
    }


def test_what_an_analysis_found_is_kept_until_the_run_is_made_anew_and_by_what_was_asked(make, store):
    run = make("m/a", 0, 0.5)
    rows = [{"accuracy": 0.5}]
    measured.remember(store.root, run, "robustness", {"epsilon": "0.1"}, rows)
    assert measured.recall(store.root, run, "robustness", {"epsilon": "0.1"}) == rows
    assert (
        measured.recall(store.root, run, "robustness", {}) is None
        and measured.recall(store.root, run, "other", {"epsilon": "0.1"}) is None
    )
    assert measured.metrics(store.root, run, "test", {"robustness": {"epsilon": "0.1"}, "other": {}}) == {
        "test/robustness.accuracy": 0.5
    }
    (path,) = (store.root / "analysis" / "networks").glob(f"{run.identity}-*")
    assert [one.key for one in store.runs()] == [run.key]  # it is no run
    before = path.stat().st_mtime_ns
    measured.remember(store.root, run, "robustness", {"epsilon": "0.1"}, rows)
    assert path.stat().st_mtime_ns == before
    measured.remember(store.root, run, "robustness", {"epsilon": "0.1"}, [{"accuracy": 0.6}])
    assert measured.recall(store.root, run, "robustness", {"epsilon": "0.1"}) == [{"accuracy": 0.6}]
    write_json(path, read_json(path) | {"asked": {"epsilon": "9"}})
    assert measured.recall(store.root, run, "robustness", {"epsilon": "0.1"}) is None  # another's digest
    attempts = read_json(run.path / "provenance.json")
    write_json(path, read_json(path) | {"asked": {"epsilon": "0.1"}})
    attempts["attempts"][-1]["finished"] = "later"
    write_json(run.path / "provenance.json", attempts)
    assert measured.recall(store.root, run, "robustness", {"epsilon": "0.1"}) is None


# --- tables


def table(**more):
    arms = more.pop("arms", (Arm("a", ("x=1",), (("lr=1",), ("lr=2",), ("lr=3",))),))
    return Table(title="T", metric="x", arms=arms, **({"seeds": (0, 1), "tuning_seeds": (0, 1)} | more))


def finding(values, mode="max", state=State.COMPLETE):
    """Rows by (point, seed): a number on validation, or a state."""

    def find(cell: Cell):
        value = values.get((cell.point, cell.seed), State.MISSING)
        number = isinstance(value, float)
        return Row("k", "n", cell.seed, state if number else value, {}, {"validation/x": value, "test/x": -value} if number else {},
                   directions={"x": mode} if mode and number else {}, reason="" if number else f"it {value}")  # fmt: skip

    return find


def points(*values):
    return {
        ((f"lr={i}",), seed): value
        for i, pair in enumerate(values, start=1)
        for seed, value in enumerate(pair)
    }


@pytest.mark.parametrize(
    ("values", "mode", "point", "sentence"),
    [
        (points((0.1, 0.2), (0.5, 0.5), (0.4, 0.5)), "max", "lr=2", "lr=2 (of 3 points, 2 seeds)"),
        (points((0.1, 0.2), (0.5, 0.5), (0.4, 0.5)), "min", "lr=1", "lr=1 (of 3 points, 2 seeds; the grid's smallest lr)"),
        (points((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)), "max", "lr=1", "lr=1 (of 3 points, 2 seeds; the grid's smallest lr)"),
        (points((0.5, 0.5), (0.5, 0.5), (0.4, 0.7)), "max", "lr=3", "lr=3 (of 3 points, 2 seeds; the grid's largest lr)"),
        (points((0.1, 0.2), (0.9, State.FAILED), (0.4, 0.5)), "max", "lr=3", "lr=3 (of 2 points, 2 seeds; the grid's largest lr)"),
        (points((0.1, 0.2), (0.9, State.RUNNING), (0.4, 0.5)), "max", "lr=3",
         "lr=3 (of 2 points, 2 seeds, provisional; the grid's largest lr)"),
        (points((0.1, 0.2), (0.9, math.inf), (0.4, 0.5)), "max", "lr=3", "lr=3 (of 2 points, 2 seeds; the grid's largest lr)"),
    ],
)  # fmt: skip
def test_the_best_mean_on_validation_is_chosen(values, mode, point, sentence):
    one = table()
    found = choose(one, one.arms[0], finding(values, mode))
    assert found.point == (point,) and found.sentence == sentence


def test_what_could_not_be_chosen_is_said_and_what_is_waited_for_is_named():
    one = table(tuning_seeds=(0,))
    values = {(("lr=1",), 0): 0.5, (("lr=2",), 0): State.FAILED}
    found = choose(one, one.arms[0], finding(values))
    assert found.sentence == "lr=1 (of 1 point, 1 seed, provisional; the grid's smallest lr)"
    assert found.notes == ("a: lr=2 was not eligible (it failed)", "a: lr=3 was not eligible (it missing)")
    assert [cell.point for cell in found.pending] == [("lr=3",)] and [
        c.point for c in unfinished(one, finding(values))
    ] == [("lr=3",)]
    done = values | {(("lr=3",), 0): 0.1}
    assert [(c.point, c.seed) for c in unfinished(one, finding(done))] == [(("lr=1",), 1)]
    with pytest.raises(
        UserError, match="'T': no run says which way x is better; give the table 'mode: max' or 'mode: min'"
    ):
        choose(one, one.arms[0], finding(done, mode=None))
    assert choose(table(mode="min", tuning_seeds=(0,)), one.arms[0], finding(done)).point == ("lr=3",)
    single = Arm("b", (), (("lr=9",),))
    assert (
        choose(one, single, finding({})).point == ("lr=9",)
        and choose(one, single, finding({})).sentence == ""
    )
    assert table(arms=(single,)).tuning_cells() == []


def test_settings_at_the_edge_of_what_was_tried():
    tried = [("m.lr=1e-3", "w=2", "k=a"), ("m.lr=1e-2", "w=2", "k=b"), ("m.lr=0.1", "w=2", "k=null")]
    assert [_edges(point, tried) for point in tried] == [["smallest lr"], [], ["largest lr"]]
    assert _edges(("m.lr=null", "w=2"), tried) == []


def test_the_row_of_a_committed_cell():
    cell = {
        "arm": "a",
        "run": "t/a/0123",
        "seed": "3",
        "state": "complete",
        "reason": "",
        "code": "c1 then c2",
        "best_step": "20",
        "train_s": "1.5",
        "test/loss": "0.25",
        "test/x": "",
    }
    assert _row(cell, table(mode="max", arms=())) == Row(
        "t/a/0123",
        "t/a",
        3,
        State.COMPLETE,
        {},
        {"test/loss": 0.25},
        "x",
        "max",
        {"x": "max"},
        best_step=20,
        commits=("c1", "c2"),
        train_s=1.5,
    )
    bare = _row(cell | {"code": "", "best_step": "", "train_s": ""}, Table("T", "loss", (), (0,), (0,)))
    assert (bare.commits, bare.best_step, bare.train_s, bare.mode) == ((), None, None, "min")
    assert (
        bare.directions == {"loss": "min"} and _row(cell, Table("T", "odd", (), (0,), (0,))).directions == {}
    )


def test_complete_cells_are_counted(tmp_path):
    path = tmp_path / "cells.csv"
    assert _complete_in(path) == 0
    path.write_text("arm,state\na,complete\nb,failed\nc,complete\n")
    assert _complete_in(path) == 2


# --- listed runs


def test_runs_are_filtered_by_the_day_they_ended_or_began(make, store):
    for seed, (began, ended) in enumerate((("2026-01-02T01", "2026-02-01T01"), ("2026-01-31T23", ""))):
        run = make("r/a", seed, 0.5)
        record = read_json(run.path / "provenance.json")
        record["attempts"][0] |= {"started": began, "finished": ended}
        write_json(run.path / "provenance.json", record)

    def seeds(**given):
        return [row.seed for row in sorted(filtered_rows(store, **given), key=lambda row: row.seed)]

    assert (
        seeds(since="2026-01-31") == [0, 1]
        and seeds(since="2026-02-01") == [0]
        and seeds(since="2026-02-02") == []
    )
    assert (
        seeds(before="2026-01-31") == []
        and seeds(before="2026-02-01") == [1]
        and seeds(before="2026-02-02") == [0, 1]
    )
    assert seeds(since="2026-01-31", before="2026-02-01") == [1]
    with pytest.raises(UserError, match=r"--before needs a date such as 2026-01-31, got '2026-13-01'"):
        seeds(before="2026-13-01")


def test_a_run_at_its_last_step_is_not_done_and_one_that_failed_says_why(make, store):
    for seed, failed in ((0, None), (1, "broke")):
        changed(
            make("r/a", seed, failed=failed),
            "setup.json",
            steps=200,
            selection={"monitor": "accuracy", "mode": "max"},
        )
    cells = {row[1]: row[2:4] for row in render_runs_table(store).rows}
    assert cells == {"0": ("interrupted 99 %", "0.5000 (val.)"), "1": ("failed 99 %", "NonFiniteLoss: broke")}


def test_orders_of_runs():
    rows = [
        Row("b", "b", 2, State.FAILED, {}, {}, step=50, steps=100, started="2"),
        Row("a", "a", 3, State.COMPLETE, {}, {"test/x": 0.5}, "x", train_s=5.0, step=0, steps=10, started="1", finished="9"),
        Row("c", "c", 1, State.RUNNING, {}, {}, so_far=0.7, train_s=2.0, step=10, steps=100, finished="8"),
    ]  # fmt: skip
    orders = {
        None: "bac", "name": "abc", "-name": "cba", "seed": "cba", "state": "abc", "value": "acb", "-value": "cab", "time": "cab",
        "progress": "cba",
        "-progress": "bca", "started": "abc", "-finished": "acb",
    }  # fmt: skip
    assert {by: "".join(row.key for row in sorted_rows(rows, by)) for by in orders} == orders
