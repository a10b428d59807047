"""Runs at work elsewhere, as ranks or on nodes, have their bars from what they record."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tutelage.engine import progress
from tutelage.jobs import watched
from tutelage.runs.json_lines import MetricsWriter
from tutelage.runs.records import write_json
from tutelage.runs.store import Store, short


@pytest.fixture
def planned(tmp_path):
    """A run that is planned, and its plan as far as a watch looks at it."""
    config = {"name": "far/away", "seed": 3, "runs_dir": str(tmp_path), "fit": {"max_steps": None}}
    run = Store(tmp_path).for_config(config)
    return run, SimpleNamespace(name="far/away", identity=run.identity, config=config)


def record(run, *steps):
    write_json(run.path / "setup.json", {"steps": 200, "selection": {"monitor": "accuracy", "mode": "max"}})
    with MetricsWriter(run.path / "metrics.jsonl") as writer:
        for step in steps:
            writer.write(
                {"step": step, "train_s": step / 4, "train/loss": 1 / step, "validation/accuracy": step / 200}
            )
        writer.write(
            {"step": steps[-1] + 10, "train_s": (steps[-1] + 10) / 4, "train/loss": 0.125}
        )  # a row without validation


def test_a_run_says_by_its_records_how_far_it_is(planned):
    run, plan = planned
    assert watched.status_of(run) is None
    run.begin(plan.config, {})
    assert watched.status_of(run) is None  # it loads
    record(run, 20, 40)
    said = watched.status_of(run)
    assert (said.title, said.step, said.steps) == (short(run.key) + " seed 3", 50, 200)
    assert (said.rate, said.seconds, said.loss, said.metric, said.value) == (
        4.0,
        12.5,
        0.125,
        "accuracy",
        0.2,
    )
    (run.path / "metrics.jsonl").write_text("torn")
    assert watched.status_of(run) is None


def test_a_bar_is_there_while_its_run_is_at_work_and_goes_with_it(planned, monkeypatch):
    run, plan = planned
    monkeypatch.setattr(watched, "EVERY_S", -1)
    watch = watched.Watch()
    watch.look([(4, plan)])  # nothing is shown here
    with progress.board(3) as board:
        run.begin(plan.config, {})
        record(run, 20)
        watch.look([(4, plan)])
        assert not board._at_work  # interrupted: nobody holds it
        with run.lock():
            watch.look([(4, plan)])
            assert board._at_work[4].step == 30
        watch.look([(4, plan)])
        assert not board._at_work
        for number in range(20):
            board.show(progress.Status(f"run {number}", 1, 2), number)
        lines = board.lines(200)
        assert len(lines) == 2 + progress.MOST_BARS and lines[-1] == "and 12 more at work"


def test_ranks_below_a_launcher_are_shown_by_who_started_them(planned, monkeypatch):
    run, plan = planned
    monkeypatch.setattr(watched, "EVERY_S", 0.01)
    shown = []

    class Parent:
        def show(self, status, worker=0):
            shown.append(status)

        def clear(self, worker=0):
            shown.append(None)

    monkeypatch.setattr(progress, "_current", Parent())
    run.begin(plan.config, {})
    record(run, 20)
    with run.lock(), watched.ranks_shown(plan):
        assert progress.QUIET in watched.os.environ
        while not shown:
            pass
    assert progress.QUIET not in watched.os.environ and shown[0].step == 30
